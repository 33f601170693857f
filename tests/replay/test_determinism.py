"""One snapshot and one seed give the same batches: on two threads, resumed, elsewhere, from any copy."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.merge import merge
from rlcli.format.pack import pack, unpack
from rlcli.pipeline.sampling import join_state, split_state
from rlcli.replay import SAMPLERS
from rlcli.replay.choice import make_sampler
from rlcli.replay.follow import Follow
from rlcli.replay.mixture import Mixture
from rlcli.replay.sampler import Sampler
from tests.replay.made_up import goals

LENGTHS = [9, 17, 5, 30, 12, 25, 8, 34]  # in turn of two streams
BATCH, TURNS = 36, 3
WIDTH = 4096  # a batch has more than a MiB, so that threads share it
CASES: dict[str, tuple[str, list[str]]] = {
    **{name: (name, []) for name in SAMPLERS},
    "slices": ("slices", ["length=4"]),
    "slices by episode": ("slices", ["length=6", "burn_in=2", "short=pad", "by=episode"]),
    "slices across": ("slices", ["length=6", "across=true"]),
    "prioritized-slices": ("prioritized-slices", ["length=4"]),
    "prioritized, distinct": ("prioritized", ["distinct=true"]),
    "prioritized, not stratified": ("prioritized", ["stratified=false"]),
    "hindsight, random": ("hindsight", ["strategy=random", "terminate=true"]),
    "top-return": ("top-return", ["share=0.4"]),
    "mixture": ("", []),
    "follow": ("", []),
}


def make(case: str, dataset: Dataset, seed: int = 5) -> Sampler:
    if case == "mixture":
        names = ("uniform", "hindsight")
        parts = [make_sampler(name, dataset, seed=seed + n) for n, name in enumerate(names)]
        return Mixture(parts, [0.7, 0.3], seed=seed)
    if case == "follow":
        return Follow(make_sampler("prioritized", dataset, seed=seed))
    name, sets = CASES[case]
    return make_sampler(name, dataset, sets=sets, seed=seed)


def turn(sampler: Sampler) -> str:
    """What the next batch is; where it has priorities, its rows get new ones."""
    batch = sampler.sample(BATCH)
    if "row" in batch:
        told: Any = sampler
        told.update(batch["row"], batch["row"] % 7 + 0.5)
    return digest(batch)


def digest(batch: Any) -> str:
    found = hashlib.sha256()

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name in sorted(node.keys() - {"episode"}):  # numbered by its writer
                walk(node[name], f"{path}/{name}")
        else:
            found.update(f"{path} {node.dtype} {node.shape} ".encode())
            found.update(np.ascontiguousarray(node).tobytes())

    walk(batch, "")
    return found.hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "a"
    goals(path, LENGTHS, width=WIDTH, num_streams=2).close()
    return path


def _merged(whole: Path, folder: Path) -> Path:
    with Dataset.open(whole) as dataset:
        merge([dataset], folder / "b", lineage={"op": "test"}, durable=False)
    return folder / "b"


def _merged_of_parts(whole: Path, folder: Path) -> Path:
    """One dataset per stream, then both in one."""
    parts = []
    for stream in range(2):
        numbers = range(stream, len(LENGTHS), 2)
        parts.append(
            goals(folder / f"part{stream}", [LENGTHS[n] for n in numbers], numbers=numbers, width=WIDTH)
        )
    merge(parts, folder / "b", lineage={"op": "test"}, durable=False)
    return folder / "b"


def _cut_elsewhere(whole: Path, folder: Path) -> Path:
    """The same rows in other segments."""
    goals(folder / "b", LENGTHS, width=WIDTH, num_streams=2, segment_rows=16).close()
    return folder / "b"


def _packed(whole: Path, folder: Path) -> Path:
    pack(whole, folder / "b.rlz")
    return folder / "b.rlz"


def _unpacked(whole: Path, folder: Path) -> Path:
    unpack(_packed(whole, folder), folder / "b")
    return folder / "b"


COPIES: dict[str, Callable[[Path, Path], Path]] = {
    "merged": _merged,
    "merged of parts": _merged_of_parts,
    "cut elsewhere": _cut_elsewhere,
    "packed": _packed,
    "unpacked": _unpacked,
}


@pytest.fixture(scope="module")
def datasets(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    found = {"as written": Dataset.open(whole), "two threads": Dataset.open(whole)}
    found["two threads"].set_threads(2)
    for name, copy in COPIES.items():
        found[name] = Dataset.open(copy(whole, tmp_path_factory.mktemp("copy")))
    assert len(found["cut elsewhere"].segments) > len(found["as written"].segments)
    return found


@pytest.mark.parametrize("case", CASES)
def test_one_snapshot_and_one_seed_give_the_same_batches(case: str, datasets: dict[str, Dataset]) -> None:
    found = {}
    for name, dataset in datasets.items():
        sampler = make(case, dataset)
        found[name] = [turn(sampler) for _ in range(TURNS)]
    assert len(set(found["as written"])) == TURNS
    assert found == dict.fromkeys(found, found["as written"])
    other = turn(make(case, datasets["as written"], seed=6))
    assert (other == found["as written"][0]) == (case == "consuming")  # which draws nothing


@pytest.mark.parametrize("case", CASES)
def test_a_state_that_was_written_down_goes_on_exactly(case: str, datasets: dict[str, Dataset]) -> None:
    unbroken = make(case, datasets["as written"])
    expected = [turn(unbroken) for _ in range(TURNS)]
    for stop in range(1, TURNS):
        broken = make(case, datasets["as written"])
        for _ in range(stop):
            turn(broken)
        facts, arrays = split_state(broken.state())
        resumed = make(case, datasets["unpacked"])
        resumed.load_state(join_state(json.loads(json.dumps(facts)), arrays))
        assert [turn(resumed) for _ in range(stop, TURNS)] == expected[stop:]


def test_another_process_draws_the_same(whole: Path, datasets: dict[str, Dataset]) -> None:
    program = (
        "import json, sys; from pathlib import Path\n"
        "from rlcli.format.dataset import Dataset\n"
        "from tests.replay.test_determinism import CASES, TURNS, make, turn\n"
        "dataset = Dataset.open(Path(sys.argv[1]))\n"
        "samplers = {case: make(case, dataset) for case in CASES}\n"
        "print(json.dumps({case: [turn(samplers[case]) for _ in range(TURNS)] for case in CASES}))"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(whole)], cwd=root, capture_output=True, text=True, check=True
    )
    samplers = {case: make(case, datasets["as written"]) for case in CASES}
    assert json.loads(done.stdout) == {
        case: [turn(sampler) for _ in range(TURNS)] for case, sampler in samplers.items()
    }
