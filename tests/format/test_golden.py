"""Every dataset that a release ever wrote reads as it did then, with our reader and with one made from

SPEC.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

sys.path.insert(0, str(Path(__file__).parent))
import independent_reader
import model as m

from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

GOLDEN = Path(__file__).parent.parent / "golden"
NAMES = [path.name.removesuffix(".expected.json") for path in sorted(GOLDEN.glob("*.expected.json"))]


def _expected(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    return value


def test_there_are_golden_datasets_and_they_are_small() -> None:
    assert {"v1-dtypes", "v1-derived", "v1-killed", "v1-recovered"} <= set(NAMES)
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()) < 200_000


@pytest.mark.parametrize("single_range", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_our_reader_agrees(name: str, single_range: bool) -> None:
    expected = _expected(name)
    with Dataset.open(GOLDEN / name, single_range=single_range) as dataset:
        assert dataset.stream_rows == expected["rows"]
        assert (dataset.state, dataset.digest) == (expected["state"], expected["digest"])
        assert dataset.unknown_next.tolist() == expected["unknown_next"]
        assert {k: v.tolist() for k, v in vars(dataset.episodes).items()} == expected["episodes"]
        for key, column in expected["columns"].items():
            array = dataset.read(tuple(key.split("/")))
            assert list(array.shape) == column["shape"]
            assert xxhash.xxh3_128_hexdigest(array.tobytes()) == column["xxh3_128"]
    assert verify(GOLDEN / name, deep=True) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_reader_agrees(name: str) -> None:
    expected = _expected(name)
    found = independent_reader.read(GOLDEN / name)
    assert (found["rows"], found["digest"]) == (expected["rows"], expected["digest"])
    assert found["unknown_next"] == expected["unknown_next"]
    for field, values in expected["episodes"].items():
        assert [episode[field.rstrip("_")] for episode in found["episodes"]] == values
    for key, column in expected["columns"].items():
        array = found["columns"][tuple(key.split("/"))]
        assert list(array.shape) == column["shape"]
        assert xxhash.xxh3_128_hexdigest(array.tobytes()) == column["xxh3_128"]


def test_the_independent_reader_is_independent_and_short() -> None:
    source = Path(independent_reader.__file__).read_text()
    assert len(source.splitlines()) <= 200
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"numpy", "xxhash"}


@pytest.mark.parametrize("name", NAMES)
def test_the_independent_reader_checks_hashes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    shutil.copytree(GOLDEN / name, path)
    rng = np.random.default_rng(0)
    for file in sorted((path / "segments").rglob("*.memmap"))[::7]:
        data = bytearray(file.read_bytes())
        if not any(data) or name == "v1-killed":
            continue
        data[int(rng.integers(len(data)))] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError):
            independent_reader.read(path)
        shutil.rmtree(path)
        shutil.copytree(GOLDEN / name, path)
    independent_reader.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_writing_goes_on_where_an_old_release_stopped(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    shutil.copytree(GOLDEN / name, path)
    for folder in path.iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # as in a clone
    before = sum(_expected(name)["rows"])
    with Writer.append(path, lineage={"op": "more"}) as writer:
        columns = {c.key: np.ones((3, *c.shape), c.numpy) for c in writer.schema.plain}
        writer.write(0, columns)
    assert Dataset.open(path).num_rows == before + 3
    assert verify(path, deep=True) == []
    independent_reader.read(path)


def test_the_script_still_makes_what_it_made(tmp_path: Path) -> None:
    script = GOLDEN / "make.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    for name in NAMES:
        assert json.loads((tmp_path / f"{name}.expected.json").read_text()) == _expected(name)


def test_random_datasets_read_the_same_with_both(tmp_path: Path) -> None:
    for seed in range(3):
        path = tmp_path / str(seed)
        m.small(path, spec=m.NESTED, seed=seed, steps=100)
        found = independent_reader.read(path)
        with Dataset.open(path) as dataset:
            assert found["digest"] == dataset.digest
            for column in dataset.schema.columns:
                assert np.array_equal(found["columns"][column.key], dataset.read(column.key))
