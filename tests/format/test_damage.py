"""Any flipped bit, cut file or deleted file is noticed, by name; and opening never changes a byte."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, InputError, RLError
from rlcli.format import generations, strictjson
from rlcli.format.dataset import Dataset
from rlcli.format.keys import path_of
from rlcli.format.verify import verify


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sealed dataset with several segments, nested keys, finals and unknown next observations."""
    path = tmp_path_factory.mktemp("sound") / "ds"
    m.small(path, spec=m.NESTED, num_streams=1, steps=40, segment_rows=24)
    assert verify(path, deep=True) == []
    return path


def _files(path: Path) -> list[Path]:
    return [file for file in sorted(path.rglob("*")) if file.is_file()]


def _assert_noticed(path: Path, file: Path, *, is_read: bool = True) -> None:
    """`verify` names the file, reading raises, and neither changes anything.

    A reader goes back no further than the newest manifest's parent; older ones are for `verify` alone, and so
    is what is not `is_read`.
    """
    before = m.tree_hashes(path)
    name = file.relative_to(path).as_posix()
    named = False
    try:
        problems = verify(path)
        named = any(name == p.file or name in p.message for p in problems)
    except RLError as err:
        named = name in err.message
    assert named, name
    is_old = file.exists() and file.parent.name == "manifests"
    if not is_read or (is_old and int(file.stem) < generations.published(path)[-1] - 1):
        m.read_everything(path)
    else:
        with pytest.raises(RLError):
            m.read_everything(path)
    assert m.tree_hashes(path) == before


def test_every_deleted_file_is_noticed(sound: Path) -> None:
    for file in _files(sound):
        data = file.read_bytes()
        file.unlink()
        _assert_noticed(sound, file)
        file.write_bytes(data)
    assert verify(sound, deep=True) == []


def test_every_flipped_bit_is_noticed(sound: Path) -> None:
    """Of columns a reader leaves out what is behind the last row, which it hands to nobody."""
    rng = random.Random(0)
    with Dataset.open(sound) as dataset:
        stored = {
            sound / "segments" / segment.name / path_of(column.key): segment.rows * column.row_bytes
            for segment in dataset.segments
            for column in dataset.schema.plain
        }
    for file in _files(sound):
        data = file.read_bytes()
        positions = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(4))}
        for position in positions:
            flipped = bytearray(data)
            flipped[position] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            _assert_noticed(sound, file, is_read=position < stored.get(file, len(data)))
        file.write_bytes(data)
    m.read_everything(sound)


def test_every_cut_file_is_noticed(sound: Path) -> None:
    rng = random.Random(1)
    for file in _files(sound):
        data = file.read_bytes()
        for length in {0, len(data) - 1, rng.randrange(len(data))}:
            file.write_bytes(data[:length])
            _assert_noticed(sound, file)
        file.write_bytes(data + b"\0")
        _assert_noticed(sound, file)
        file.write_bytes(data)
    m.read_everything(sound)


def test_opening_and_reading_changes_nothing(sound: Path) -> None:
    before = m.tree_hashes(sound)
    times = {file: file.stat().st_mtime_ns for file in _files(sound)}
    m.read_everything(sound)
    m.read_everything(sound, single_range=False)
    verify(sound, deep=True)
    assert m.tree_hashes(sound) == before
    assert {file: file.stat().st_mtime_ns for file in _files(sound)} == times


def test_damage_is_told_with_block_rows_and_episodes(tmp_path: Path) -> None:
    model = m.small(tmp_path / "ds", num_streams=1, steps=60)
    segment = sorted((tmp_path / "ds" / "segments").iterdir())[1]
    column = segment / "observation.memmap"
    data = bytearray(column.read_bytes())
    data[12] ^= 4
    column.write_bytes(data)
    (problem,) = verify(tmp_path / "ds")
    assert problem.file == f"segments/{segment.name}/observation.memmap"
    assert problem.block == 0
    assert problem.rows == (32, 60)
    assert set(problem.episodes) == {step.episode for step in model.streams[0][32:60]}
    with Dataset.open(tmp_path / "ds") as dataset:
        with pytest.raises(CorruptError, match=r"observation\.memmap: block 0"):
            dataset.read(("observation",), 33, 34)
        assert len(dataset.read(("observation",), 0, 30)) == 30
        assert len(dataset.read(("action",))) == 60


def test_links_and_folders_are_not_columns(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "ds")
    column = next(iter(sorted((tmp_path / "ds" / "segments").iterdir()))) / "action.memmap"
    column.rename(tmp_path / "elsewhere")
    column.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match=r"action\.memmap: not a regular file"):
        m.read_everything(tmp_path / "ds")
    column.unlink()
    column.mkdir()
    with pytest.raises(CorruptError, match=r"action\.memmap: not a regular file"):
        m.read_everything(tmp_path / "ds")


def test_what_is_no_dataset_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError):
            Dataset.open(path)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(InputError):
        Dataset.open(tmp_path / "file")


def test_a_lost_newest_manifest_of_a_running_writer_is_noticed(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds")
    m.fill(model, 20)
    model.writer.flush()
    newest = sorted((tmp_path / "ds" / "manifests").iterdir())[-1]
    newest.unlink()
    with pytest.raises(CorruptError, match=newest.name):
        Dataset.open(tmp_path / "ds")
    assert [problem.file for problem in verify(tmp_path / "ds")] == [f"manifests/{newest.name}"]
    model.writer.writer.abort()


def test_an_open_dataset_that_is_damaged_is_not_read(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", m.NESTED, num_streams=2)
    m.fill(model, 60)
    model.writer.flush()
    m.fill(model, 60)
    model.writer.flush()
    model.writer.writer.abort()
    path = tmp_path / "ds"
    rng = random.Random(3)
    itemsize = {"speed": 8, "action": 8, "image": 6}
    for file in _files(path):
        data = file.read_bytes()
        committed = itemsize.get(file.stem, 1) * 40 if file.suffix == ".memmap" else len(data)
        for position in (0, rng.randrange(min(committed, len(data)))):
            flipped = bytearray(data)
            flipped[position] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            assert verify(path), file
            if file.name != "meta.json":  # our reader needs none, and the seal writes it anew
                with pytest.raises(RLError):
                    m.read_everything(path)
        file.write_bytes(data)
    m.check(Dataset.open(path), model)


def test_a_manifest_numbered_far_away_is_noticed_at_once(sound: Path) -> None:
    """A reader that listed the missing numbers would run out of memory."""
    stray = sound / "manifests" / f"{10**19:020d}.json"
    stray.write_bytes(generations.path_of(sound, 1).read_bytes())
    missing = generations.path_of(sound, generations.published(sound)[-2] + 1)
    _assert_noticed(sound, missing)
    stray.unlink()


def test_an_open_segment_with_the_journal_of_a_sealed_one_is_noticed(tmp_path: Path) -> None:
    """Its seal record names a generation that is there; waiting for a newer one would never end."""
    path = tmp_path / "ds"
    model = m.create(path, num_streams=1, segment_rows=8)
    for _ in range(20):
        model.add(0)
    model.writer.flush()
    model.writer.writer.abort()
    sealed, _, last = sorted((path / "journal").iterdir())
    last.write_bytes(sealed.read_bytes())
    with pytest.raises(CorruptError, match=last.name):
        Dataset.open(path)
    assert [problem.file for problem in verify(path)] == [f"journal/{last.name}"]


@pytest.mark.parametrize("change", ["bytes", "files"])
def test_sums_and_manifest_that_are_hashed_but_do_not_agree(sound: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(sound, tmp_path / "ds")
    path = generations.path_of(tmp_path / "ds", generations.published(sound)[-1])
    value = json.loads(path.read_bytes())
    entry = value["segments"][0]
    sums = tmp_path / "ds" / "sums" / f"{entry['name']}.json"
    if change == "bytes":
        entry["bytes"] += 1
    else:
        sums.write_bytes(json.dumps({**json.loads(sums.read_bytes()), "files": 100}).encode())
        entry["sums"] = hashlib.sha256(sums.read_bytes()).hexdigest()
    path.write_bytes(strictjson.dump_checked(value))
    _assert_noticed(tmp_path / "ds", sums)


@pytest.mark.parametrize("folder", ["manifests", "segments", "segments/w00-000000000000/next"])
def test_verify_names_a_folder_that_is_a_link(sound: Path, tmp_path: Path, folder: str) -> None:
    shutil.copytree(sound, tmp_path / "ds")
    shutil.rmtree(tmp_path / "ds" / folder)
    (tmp_path / "ds" / folder).symlink_to(sound / folder)
    assert [problem.file for problem in verify(tmp_path / "ds")] == [folder]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lineage", [1]),
        ("lineage", {}),
        ("owner", 7),
        ("owner", {"host": "h", "pid": -1, "boot": "b"}),
        ("owner", {"host": "h", "pid": 1 << 40, "boot": "b"}),
        ("spec", {"env": 7}),
        ("spec", {"env": {"library": "gymnasium"}}),
    ],
)
def test_a_hashed_manifest_with_values_of_the_wrong_kind_is_corrupt(
    sound: Path, tmp_path: Path, name: str, value: object
) -> None:
    shutil.copytree(sound, tmp_path / "ds")
    path = generations.path_of(tmp_path / "ds", generations.published(sound)[-1])
    content = json.loads(path.read_bytes())
    (content["streams"][0] if name == "owner" else content)[name] = value
    path.write_bytes(strictjson.dump_checked(content))
    _assert_noticed(tmp_path / "ds", path)
