"""A packed dataset is read in place as the folder that it was made of, and no damaged byte is handed out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli import main
from rlcli.errors import CorruptError, IncompatibleError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.merge import merge
from rlcli.format.pack import pack, read_entries
from rlcli.format.remote import Remote
from rlcli.format.verify import verify
from rlcli.format.writer import Writer
from rlcli.format.zipped import payload_offset


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _packed(folder: Path) -> tuple[m.Model, Path]:
    model = m.small(folder / "ds", num_streams=2)
    pack(folder / "ds", folder / "x.rlz")
    return model, folder / "x.rlz"


def test_it_says_what_the_folder_says(tmp_path: Path) -> None:
    model, path = _packed(tmp_path)
    before = path.read_bytes()
    with Dataset.open(path) as packed, Dataset.open(tmp_path / "ds") as folder:
        m.check(packed, model)
        assert packed.digest == folder.digest
        rows = np.random.default_rng(0).permutation(folder.num_rows)
        assert str(packed.gather(rows)) == str(folder.gather(rows))
        assert packed.path == path
    with Dataset.open(path, at=packed.snapshot) as again:
        m.check(again, model)
    assert path.read_bytes() == before


def _places(path: Path) -> dict[str, tuple[int, int]]:
    fd, at, found = os.open(path, os.O_RDONLY), 0, {}
    for entry in read_entries(fd, path):
        start = payload_offset(at, entry.name)
        found[entry.name] = start, entry.size
        at = start + entry.size
    os.close(fd)
    return found


def test_a_flipped_byte_is_never_handed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is read is right, or an error says which file is not; and `verify` finds it in either case."""
    model, path = _packed(tmp_path)
    whole, found = path.read_bytes(), 0
    for name, (start, size) in list(_places(path).items())[::7]:
        if not size:
            continue
        data = bytearray(whole)
        data[start + size // 2] ^= 1
        path.write_bytes(data)
        try:
            with Dataset.open(path, remote=Remote(cache=tmp_path / f"cache-{start}")) as dataset:
                m.check(dataset, model)
        except (CorruptError, IncompatibleError) as err:
            assert name in err.message  # noqa: PT017 - or there is none
            found += 1
        assert main.run(["buffer", "verify", str(path)]) == 4, name
    assert found > 2


@pytest.mark.parametrize("cut", [1, 22, 5000])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    _, path = _packed(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(CorruptError, match=r"x\.rlz: "):
        Dataset.open(path)


def test_it_is_merged_with_others_by_copying(tmp_path: Path) -> None:
    _, path = _packed(tmp_path)
    with Dataset.open(path) as packed, Dataset.open(tmp_path / "ds") as folder:
        url = Dataset.open(f"file://{tmp_path}/ds")
        merge([folder, packed, url], tmp_path / "out", lineage={"op": "merge"})
        rows = folder.num_rows
    assert verify(tmp_path / "out", deep=True) == []
    with Dataset.open(tmp_path / "out") as out, Dataset.open(tmp_path / "ds") as folder:
        for part in range(3):
            found = out.read_rows(part * rows, (part + 1) * rows, [("observation",), ("next", "reward")])
            assert str(found) == str(folder.read_rows(0, rows, [("observation",), ("next", "reward")]))


def test_nobody_writes_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = _packed(tmp_path)
    assert main.run(["buffer", "gc", str(path)]) == 2
    assert f"rl buffer unpack {path} -o COPY" in capsys.readouterr().err
    with pytest.raises((InputError, UsageError, CorruptError)):
        Writer.append(path, lineage={})


@pytest.mark.parametrize("verb", ["info", "head", "stats", "cat", "lineage", "verify"])
def test_verbs_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    _, path = _packed(tmp_path)
    assert main.run(["buffer", verb, str(path)]) == 0


def test_it_equals_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = _packed(tmp_path)
    assert main.run(["buffer", "diff", str(path), str(tmp_path / "ds")]) == 0
    assert capsys.readouterr().out.startswith("equal")
