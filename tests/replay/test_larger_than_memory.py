"""A dataset that does not fit: the system hears of reads at random, and what is read is what is resident."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box
from rlcli.format.writer import Writer
from rlcli.replay import source
from rlcli.replay.uniform import Uniform

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")

ROWS, SIDE = 2000, 4096  # 16 KiB an observation, 32 MiB in all


def mapped(path: Path) -> list[dict[str, str]]:
    """The fields of /proc/self/smaps for every map of a file of the observations below `path`."""
    maps: list[dict[str, str]] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if " " in name:
            maps.append({"file": line.split(maxsplit=5)[-1]})
        else:
            maps[-1][name] = value.strip()
    return [found for found in maps if str(path) in found["file"] and "finals" not in found["file"]]


def resident(path: Path) -> int:
    return sum(int(found["Rss"].split()[0]) * 1024 for found in mapped(path))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    schema = ted_schema(Box((SIDE,)), Box((1,)))
    spec = {"env": None, "observation": Box((SIDE,)).to_json(), "action": Box((1,)).to_json()}
    path = tmp_path / "large"
    writer = Writer.create(path, schema, spec=spec, lineage={"op": "test"}, durability="process")
    with writer:
        for start in range(0, ROWS, 200):
            columns = {c.key: np.zeros((200, *c.shape), c.numpy) for c in schema.plain}
            columns["step",] = np.arange(200)
            columns["episode",] += start // 200
            columns["is_init",][0] = True
            columns["observation",] += np.arange(start, start + 200, dtype=np.float32)[:, None]
            writer.write(0, columns)
            final = {("observation",): np.zeros(SIDE, np.float32)}
            writer.end_episode(0, terminated=False, truncated=True, final=final, seed=None)
    return path


def test_reads_at_random_are_told_where_memory_is_short(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, told in [(1 << 40, False), (ROWS * SIDE * 4, True)]:
        monkeypatch.setattr(source, "allowed_bytes", lambda allowed=allowed: allowed)
        with Dataset.open(large) as dataset:
            batch = Uniform(dataset).sample(64)
            assert np.array_equal(batch["observation"][:, 0] % 200, batch["step"].reshape(-1))
            flags = [found["VmFlags"].split() for found in mapped(large)]
            assert flags
            assert all(("rr" in of) == told for of in flags)
        del dataset, batch


def test_only_what_is_read_is_resident(large: Path) -> None:
    with Dataset.open(large, check="none") as dataset:
        sampler = Uniform(dataset, [("observation",)])
        for _ in range(2):
            sampler.sample(4)  # each row takes its pages with at most a huge page around them
            assert 4 * SIDE <= resident(large) <= ROWS * SIDE * 4 // 2
            dataset.release()
            assert resident(large) == 0
