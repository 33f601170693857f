"""Every dataset that a release ever wrote reads as it did then, with our reader and with one from SPEC.md.

`tests/golden/SHA256SUMS` names every byte that must stay.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
import independent_reader
import make
import model as m

from rlcli.errors import CorruptError, RLError
from rlcli.format import heap, semantics
from rlcli.format.dataset import Dataset
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = [path.name.removesuffix(".expected.json") for path in sorted(GOLDEN.glob("*.expected.json"))]
BAD: dict[str, dict[str, Any]] = json.loads((GOLDEN / "bad" / "expected.json").read_text())


def _expected(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    return value


def _copy(name: str, to: Path) -> Path:
    shutil.copytree(GOLDEN / name, to, symlinks=True)
    return to


def test_no_golden_byte_is_lost_or_changed() -> None:
    """Deleting or changing one fails here; new ones are added with their hashes."""
    wanted = (GOLDEN / "SHA256SUMS").read_text()
    found = make.hashes(GOLDEN)
    assert found.splitlines() == wanted.splitlines()
    known = {line.split("  ")[1].split("/")[0] for line in wanted.splitlines()}
    assert set(NAMES) | {"bad"} == known
    digest = hashlib.sha256("".join(line for line in wanted.splitlines(True) if "  v1-d" in line).encode())
    assert digest.hexdigest() == FIRST_RELEASE, "the list itself is not to be shortened"


#: Of the hashes of the first golden datasets, `v1-derived` and `v1-dtypes`.
FIRST_RELEASE = "7cacd1d131dbca3ae63de55949d886281d7a7a85db8e740b187bb024aa307d8d"


def test_there_is_one_per_feature_and_they_are_small() -> None:
    kinds = {"dtypes", "derived", "killed", "recovered", "heaps", "heap-open", "stacks", "window"}
    assert {f"v1-{kind}" for kind in kinds} <= set(NAMES)
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 800_000
    entries = [entry for name in NAMES for entry in _expected(name)["schema"]["columns"]]
    assert {"plain", "derived", "heap"} == {entry["encoding"] for entry in entries}
    assert {"shift", "stack"} == {entry["op"] for entry in entries if "op" in entry}
    heaps = {(entry["value"], entry["codec"]) for entry in entries if entry["encoding"] == "heap"}
    assert heaps >= {(v, c) for v in ("bytes", "array") for c in ("none", "zstd", "lz4")}
    assert heaps >= {("text", "none"), ("array", "png"), ("array", "jpeg")}
    dtypes = {entry["dtype"] for entry in _expected("v1-dtypes")["schema"]["columns"]}
    assert len(dtypes) == 14


@pytest.mark.parametrize("single_range", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_our_reader_agrees(name: str, single_range: bool) -> None:
    expected = _expected(name)
    assert make.expectation(GOLDEN / name) == expected
    with Dataset.open(GOLDEN / name, single_range=single_range) as dataset:
        assert dataset.stream_rows == expected["rows"]
        dataset.read_rows()
        rows = np.arange(dataset.num_rows)[::-1]
        for key, values in m.flatten(dataset.gather(rows), ()).items():
            again = dataset.read(key)[::-1]
            pairs = zip(values, again, strict=True)
            assert all(np.array_equal(one, other) for one, other in pairs), key
    assert verify(GOLDEN / name, deep=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_reader_agrees(name: str) -> None:
    assert independent_reader.answer(GOLDEN / name) == _expected(name)


@pytest.mark.parametrize("name", BAD)
def test_damaged_datasets_are_the_error_they_are(name: str) -> None:
    with pytest.raises(RLError) as caught:
        _read_and_verify(GOLDEN / "bad" / name)
    assert int(caught.value.code) == BAD[name]["exit"]
    assert "\n" not in str(caught.value)
    assert independent_reader.answer(GOLDEN / "bad" / name) == {"error": BAD[name]["error"]}


def _read_and_verify(path: Path) -> None:
    m.read_everything(path)
    if problems := verify(path, deep=True):
        raise CorruptError(problems[0].message)


def test_values_of_heaps_decode_to_what_was_encoded() -> None:
    """The bytes are in the expectations; here is what they mean, worked out from how they were made."""
    with Dataset.open(GOLDEN / "v1-heaps") as dataset:
        text = dataset.read(("observation", "text"))
        assert text[:5].tolist() == ["", "go left", "zurück ←", "go left", ""]
        following = dataset.read(("next", "observation", "text"))
        assert following[[0, 4, 9, 10]].tolist() == ["go left", "end 4", "end 9", ""]
        rng = np.random.default_rng(3)
        for t in range(11):
            for stream in range(2):
                row = 11 * stream + t
                pixels = rng.integers(0, 256, (2, 3, 3)).astype(np.uint8)
                assert np.array_equal(dataset.read(("observation", "image"), row, row + 1)[0], pixels)
                for codec in ("none", "zstd", "lz4"):
                    value = rng.bytes(t % 3 * 4)
                    assert dataset.read(("b", codec), row, row + 1)[0] == value
                    array = np.frombuffer(value, np.int16).reshape(-1, 2)
                    assert np.array_equal(dataset.read(("a", codec), row, row + 1)[0], array)
        ramp = np.arange(64).reshape(8, 8) * 3
        assert np.abs(dataset.read(("a", "jpeg"))[0].astype(int) - ramp).max() < 24


@pytest.mark.parametrize("name", ["v1-heaps", "v1-stacks", "v1-window"])
def test_what_they_say_makes_sense(name: str) -> None:
    report = semantics.check(Dataset.open(GOLDEN / name))
    assert report.errors == []


def test_compressors_agree_with_the_golden_frames() -> None:
    with Dataset.open(GOLDEN / "v1-heaps") as dataset:
        for codec in ("zstd", "lz4"):
            column = dataset.schema.column(("b", codec))
            assert heap.decode(column, heap.encode(column, b"some bytes")) == b"some bytes"


def test_the_independent_reader_is_independent_and_short() -> None:
    source = Path(independent_reader.__file__).read_text()
    assert len(source.splitlines()) <= 300
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"numpy", "xxhash"}


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_reader_checks_hashes(name: str, tmp_path: Path) -> None:
    path = _copy(name, tmp_path / name)
    rng = np.random.default_rng(0)
    files = [*sorted(path.glob("segments/**/*.memmap"))[::7], *sorted(path.glob("heaps/**/*.heap"))[::5]]
    for file in files:
        whole = file.read_bytes()
        if not any(whole) or (name in ("v1-killed", "v1-heap-open") and "segments" in file.parts):
            continue
        data = bytearray(whole)
        at = 3 if name == "v1-heap-open" else int(rng.integers(len(data)))
        data[at] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError):
            independent_reader.read(path)
        file.write_bytes(whole)
    independent_reader.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_writing_goes_on_where_an_old_release_stopped(name: str, tmp_path: Path) -> None:
    path = _copy(name, tmp_path / name)
    before = Dataset.open(path).stream_rows
    with Writer.append(path, lineage={"op": "more"}) as writer:
        columns: dict[Any, Any] = {}
        for column in writer.schema.given:
            if column.heap is None:
                columns[column.key] = np.ones((3, *column.shape), column.numpy)
            else:
                columns[column.key] = [make.JPEG if column.heap.codec == "jpeg" else heap.missing(column)] * 3
        writer.write(0, columns)
    assert Dataset.open(path).stream_rows == [before[0] + 3, *before[1:]]
    assert verify(path, deep=True) == []
    independent_reader.read(path)


def test_the_script_still_makes_what_it_made(tmp_path: Path) -> None:
    script = GOLDEN / "make.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    for name in NAMES:
        assert json.loads((tmp_path / f"{name}.expected.json").read_text()) == _expected(name)


def test_random_datasets_read_the_same_with_both(tmp_path: Path) -> None:
    schema = ted_schema(Box((3,)), Discrete(4))
    for seed in range(3):
        path = tmp_path / str(seed)
        m.small(path, spec=m.NESTED, seed=seed, steps=100)
        assert independent_reader.answer(path) == make.expectation(path)
        window = tmp_path / f"window {seed}"
        m.small(window, schema=schema, seed=seed, steps=200, window=int(30 + 7 * seed))
        assert independent_reader.answer(window) == make.expectation(window)
