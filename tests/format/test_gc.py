"""Garbage: what kills leave is removed, what anybody still needs is not."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, InputError
from rlcli.format.dataset import Dataset
from rlcli.format.gc import collect_garbage
from rlcli.format.layout import SegmentPaths
from rlcli.format.locks import WriterLock
from rlcli.format.mutable import SideColumn
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

ORPHAN = "w00-000000999999"


def _copy_as_orphan(path: Path, name: str = ORPHAN) -> None:
    """The files of the first segment under another name."""
    source, target = SegmentPaths(path, Dataset.open(path).segments[0].name), SegmentPaths(path, name)
    for before, after in zip(source.parts, target.parts, strict=True):
        if before.is_dir():
            shutil.copytree(before, after)
        elif before.exists():
            shutil.copy(before, after)


def _age(path: Path, seconds: float) -> None:
    for folder, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            found = os.stat(Path(folder) / name)
            os.utime(Path(folder) / name, (found.st_atime, found.st_mtime - seconds))


def test_orphans_go_and_everything_else_stays(tmp_path: Path) -> None:
    model = m.small(tmp_path / "ds")
    before = m.tree_hashes(tmp_path / "ds")
    _copy_as_orphan(tmp_path / "ds")
    added = set(m.tree_hashes(tmp_path / "ds")) - set(before)
    report = collect_garbage(tmp_path / "ds", grace_seconds=0)
    assert report.freed_bytes >= sum(512 for _ in added)
    assert all(ORPHAN in name for name in report.removed)
    assert report.kept == []
    assert m.tree_hashes(tmp_path / "ds") == before
    m.check(Dataset.open(tmp_path / "ds"), model)
    assert collect_garbage(tmp_path / "ds", grace_seconds=0).removed == []


def test_young_orphans_stay(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    _copy_as_orphan(tmp_path / "ds")
    assert collect_garbage(tmp_path / "ds").kept == [ORPHAN]
    _age(tmp_path / "ds", 3500)
    assert collect_garbage(tmp_path / "ds").kept == [ORPHAN]
    _age(tmp_path / "ds", 200)
    assert collect_garbage(tmp_path / "ds").removed


def test_a_living_writers_unpublished_segment_stays(tmp_path: Path) -> None:
    schema = m.schema_of(m.FLAT)
    row = {c.key: np.ones((1, *c.shape), c.numpy) for c in schema.plain}
    alone = Writer.create(tmp_path / "ds", schema, spec={}, lineage={})
    alone.write(0, row)  # its segment is made, not published
    assert collect_garbage(tmp_path / "ds", grace_seconds=-1).removed == []
    shared = Writer.create(tmp_path / "shared", schema, spec={}, lineage={}, share=True)
    shared.write(0, row)
    other = Writer.join(tmp_path / "shared", lineage={})
    other.write(0, row)
    assert len(collect_garbage(tmp_path / "shared", grace_seconds=-1).kept) == 2
    other._lock.close()  # as when it is killed
    report = collect_garbage(tmp_path / "shared", grace_seconds=-1)
    assert report.kept == ["w00-000000000000"]
    assert {name.split("/")[-1].removesuffix(".log") for name in report.removed} == {"w01-000000000000"}
    shared.commit()
    shared.close()
    assert verify(tmp_path / "shared", deep=True) == []
    alone.close()


def test_evidence_of_a_missing_manifest_stays(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    m.small(path)
    newest = sorted((path / "manifests").iterdir())[-1]
    before = set(os.listdir(path / "journal"))
    newest.unlink()
    with pytest.raises(CorruptError, match="missing"):
        Dataset.open(path)
    report = collect_garbage(path, grace_seconds=-1)
    assert report.removed == []
    assert set(os.listdir(path / "journal")) == before
    with pytest.raises(CorruptError, match="missing"):
        Dataset.open(path)


def test_damaged_manifests_are_not_judged_by(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    _copy_as_orphan(tmp_path / "ds")
    newest = sorted((tmp_path / "ds" / "manifests").iterdir())[-1]
    newest.write_bytes(newest.read_bytes().replace(b"rows", b"rowz"))
    before = m.tree_hashes(tmp_path / "ds")
    with pytest.raises(CorruptError):
        collect_garbage(tmp_path / "ds", grace_seconds=-1)
    assert m.tree_hashes(tmp_path / "ds") == before
    with pytest.raises(InputError):
        collect_garbage(tmp_path)


def test_killed_creations_go_and_living_ones_stay(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    for suffix in ("dead", "alive", "empty"):
        (tmp_path / f".ds.tmp-{suffix}").mkdir()
        if suffix != "empty":
            shutil.copytree(tmp_path / "ds", tmp_path / f".ds.tmp-{suffix}", dirs_exist_ok=True)
    (tmp_path / ".other.tmp-dead").mkdir()
    lock = WriterLock.exclusive(tmp_path / ".ds.tmp-alive")
    assert collect_garbage(tmp_path / "ds").removed == []
    _age(tmp_path, 4000)
    collect_garbage(tmp_path / "ds")
    assert sorted(os.listdir(tmp_path)) == [".ds.tmp-alive", ".other.tmp-dead", "ds"]
    lock.close()


def test_what_a_creation_inside_a_creation_left_goes(tmp_path: Path) -> None:
    """A dataset that is made of others is created within the hidden folder that becomes it."""
    m.small(tmp_path / "ds")
    (tmp_path / "..ds.tmp-outer.tmp-inner").mkdir()
    _age(tmp_path, 4000)
    (tmp_path / "..ds.tmp-outer.tmp-young").mkdir()
    collect_garbage(tmp_path / "ds")
    assert sorted(os.listdir(tmp_path)) == ["..ds.tmp-outer.tmp-young", "ds"]


def test_a_new_dataset_sweeps_its_place_first(tmp_path: Path) -> None:
    (tmp_path / ".ds.tmp-old").mkdir()
    (tmp_path / ".ds.tmp-young").mkdir()
    os.utime(tmp_path / ".ds.tmp-old", (0, 0))
    m.create(tmp_path / "ds").writer.writer.abort()
    assert sorted(os.listdir(tmp_path)) == [".ds.tmp-young", "ds"]


@pytest.mark.parametrize("folder", ["segments", "journal", "manifests", "mutable", "mutable/hits"])
def test_nothing_is_made_or_removed_through_a_link(tmp_path: Path, folder: str) -> None:
    """A folder that leads into another dataset has files that this one's manifest does not name."""
    m.small(tmp_path / "other", steps=300)
    m.small(tmp_path / "ds", steps=40)
    for name in ("ds", "other"):
        with Dataset.open(tmp_path / name) as dataset:
            column = SideColumn.open(dataset, "hits")
            column.write(dataset.row_ids(np.arange(dataset.num_rows)), np.ones(dataset.num_rows))
            column.close()
    shutil.rmtree(tmp_path / "ds" / folder)
    (tmp_path / "ds" / folder).symlink_to(tmp_path / "other" / folder)
    before = m.tree_hashes(tmp_path / "other")
    for act in (
        lambda path: collect_garbage(path, grace_seconds=0),
        recover,
        lambda path: Writer.append(path, lineage={}),
        lambda path: Writer.join(path, lineage={}),
    ):
        with pytest.raises(CorruptError, match=f"{folder}: a symbolic link"):
            act(tmp_path / "ds")
    assert m.tree_hashes(tmp_path / "other") == before


def test_a_killed_writers_segment_is_not_closed_through_a_link(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", spec=m.NESTED)
    m.fill(model, 40)
    model.writer.flush()
    model.writer.writer.abort()
    shutil.copytree(tmp_path / "ds", tmp_path / "other")
    inside = Path("segments") / "w00-000000000000" / "next"
    shutil.rmtree(tmp_path / "ds" / inside)
    (tmp_path / "ds" / inside).symlink_to(tmp_path / "other" / inside)
    before = m.tree_hashes(tmp_path / "other")
    with pytest.raises(CorruptError, match="next: a symbolic link"):
        recover(tmp_path / "ds")
    assert m.tree_hashes(tmp_path / "other") == before
