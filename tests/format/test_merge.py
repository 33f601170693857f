"""Merging by link: equal rows and digests, shared bytes that nobody writes again, refusals that say why."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import CorruptError, IncompatibleError, UsageError
from rlcli.format import files, folders, sharing, strictjson
from rlcli.format.copying import all_episodes, copy_episodes
from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.merge import Merged, rechain
from rlcli.format.merge import merge as merge_datasets
from rlcli.format.schema import Column, Schema
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

LINEAGE = {"op": "merge"}
COLUMNS = (
    Column(("observation",), "float32", (3,)),
    Column(("next", "observation"), "float32", (3,), "derived", ("observation",)),
    Column(("next", "reward"), "float32", (1,)),
    Column(("episode",), "int64"),
)


def fill(
    path: Path,
    lengths: list[list[int]],
    *,
    seed: int = 0,
    columns: tuple[Column, ...] = COLUMNS,
    spec: dict[str, Any] | None = None,
    close: bool = True,
    tail: int = 0,
) -> Writer:
    """A stream per list, an episode per number; every other one has a final. `tail` rows stay unfinished."""
    rng = np.random.default_rng(seed)
    writer = Writer.create(
        path, Schema(columns), spec=spec or {}, lineage={"op": "test"}, num_streams=len(lengths),
        segment_rows=16, durability="process",
    )  # fmt: skip
    for stream, steps in enumerate(lengths):
        for index, length in enumerate([*steps, tail]):
            if not length:
                continue
            values = {
                column.key: rng.integers(0, 99, (length, *column.shape)).astype(column.numpy)
                for column in columns
                if column.encoding == "plain"
            }
            values["episode",] = np.full(length, writer.next_episode)
            writer.write(stream, values)
            if index < len(steps):
                final = {("observation",): rng.normal(size=3).astype("float32")} if index % 2 else None
                writer.end_episode(
                    stream, terminated=bool(index % 2), truncated=not index % 2, final=final, seed=index
                )
            writer.commit()
    if close:
        writer.close()
    return writer


def merge(sources: list[Path], out: Path, **options: Any) -> Merged:
    return merge_datasets([Dataset.open(path) for path in sources], out, **options)


def same_rows(merged: Dataset, sources: list[Dataset]) -> None:
    """The rows of the sources, one after the other, in every column."""
    row = 0
    for source in sources:
        for column in source.schema.columns:
            np.testing.assert_array_equal(
                merged.read(column.key, row, row + source.num_rows), source.read(column.key)
            )
        row += source.num_rows
    assert merged.num_rows == row


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the SHA-256 of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_merge_has_the_rows_episodes_and_content_digests_of_its_sources(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20, 7], [40]])
    fill(tmp_path / "b", [[3, 3]], seed=1)
    report = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)
    a, b, m = (Dataset.open(tmp_path / name) for name in "abm")
    same_rows(m, [a, b])
    assert m.stream_rows == [32, 40, 6]
    assert [s.content for s in m.segments] == [s.content for s in (*a.segments, *b.segments)]
    assert (m.state, m.lineage, m.generation) == ("sealed", [LINEAGE], 1)
    for name in ("length", "return_", "terminated", "truncated", "cut", "has_final", "seed", "number"):
        expected = np.concatenate([getattr(a.episodes, name), getattr(b.episodes, name)])
        np.testing.assert_array_equal(getattr(m.episodes, name), expected)
    np.testing.assert_array_equal(m.unknown_next, np.concatenate([a.unknown_next, b.unknown_next + 72]))
    assert verify(tmp_path / "m", deep=True) == []
    assert (report.rows, report.episodes, report.streams, report.copied_rows) == (78, 6, 3, 0)


def test_a_merge_shares_every_file_but_journals_sums_and_manifest(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20]])
    report = merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    own = {"journal", "sums", "manifests", "dataset.json"}
    for path in (tmp_path / "m").rglob("*"):
        if path.is_file():
            relative = path.relative_to(tmp_path / "m")
            assert path.stat().st_nlink == (1 if relative.parts[0] in own else 2), relative
    assert report.files["link"] > 0
    assert report.files["copy"] == report.files["reflink"] == 0


def test_appending_to_a_merged_dataset_leaves_its_sources_unchanged(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20]])
    fill(tmp_path / "b", [[9]], seed=1)
    before = contents(tmp_path / "a") | {f"b/{k}": v for k, v in contents(tmp_path / "b").items()}
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)
    source = Dataset.open(tmp_path / "a")
    with Writer.append(tmp_path / "m", lineage={"op": "append"}) as writer:
        for stream in range(2):
            copy_episodes(source, source.episodes, np.arange(2), writer, stream, renumber=True)
    assert contents(tmp_path / "a") | {f"b/{k}": v for k, v in contents(tmp_path / "b").items()} == before
    assert verify(tmp_path / "m", deep=True) == []


@pytest.mark.parametrize("name", ["a", "m"])
def test_a_rewind_of_either_leaves_the_other_unchanged(name: str, tmp_path: Path) -> None:
    """Where a sealed segment must become shorter, a copy takes its place; so the shared file stays."""
    fill(tmp_path / "a", [[5, 20]])
    merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    other = tmp_path / ("m" if name == "a" else "a")
    before = contents(other)
    Writer.append(tmp_path / name, lineage={"op": "rewind"}, rewind=[7]).close()
    assert contents(other) == before
    assert verify(other, deep=True) == verify(tmp_path / name, deep=True) == []
    assert Dataset.open(tmp_path / name).num_rows == 7


def test_sources_may_go_after_a_merge(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20]])
    digest = Dataset.open(tmp_path / "a").digest
    merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    folders.remove_tree(tmp_path / "a")
    assert verify(tmp_path / "m", deep=True) == []
    assert Dataset.open(tmp_path / "m").digest == digest


@pytest.mark.parametrize("tail", [0, 4])
def test_what_a_live_writer_has_committed_is_copied(tail: int, tmp_path: Path) -> None:
    writer = fill(tmp_path / "a", [[5, 20, 3], [2]], close=False, tail=tail)
    report = merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    before = contents(tmp_path / "m")
    a, m = Dataset.open(tmp_path / "a"), Dataset.open(tmp_path / "m")
    same_rows(m, [a])
    assert m.stream_rows == [28 + tail, 2 + tail]
    assert report.cut_episodes == (2 if tail else 0)
    assert report.copied_rows == 28 - 16 + tail + 2 + tail
    assert m.episodes.cut.sum() == report.cut_episodes
    for stream in range(2):
        writer.write(stream, {c.key: np.zeros((30, *c.shape), c.numpy) for c in m.schema.plain})
    writer.close()
    assert contents(tmp_path / "m") == before
    assert verify(tmp_path / "m", deep=True) == []


def test_an_unfinished_episode_that_fills_its_segment_is_cut_in_a_copy(tmp_path: Path) -> None:
    writer = fill(tmp_path / "a", [[10]], close=False, tail=6)
    before = contents(tmp_path / "a")
    report = merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    assert contents(tmp_path / "a") == before
    assert (report.copied_rows, report.cut_episodes) == (16, 1)
    assert verify(tmp_path / "m", deep=True) == []
    writer.abort()


def test_dedup_keeps_the_first_of_equal_episodes(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20], [4]])
    fill(tmp_path / "b", [[3, 6]], seed=1)
    sources = [tmp_path / name for name in "abab"]
    report = merge(sources, tmp_path / "m", lineage=LINEAGE, dedup=True)
    m = Dataset.open(tmp_path / "m")
    found = [episode_digest(m, m.episodes, index) for index in range(m.num_episodes)]
    expected = [
        episode_digest(source, source.episodes, index)
        for source in map(Dataset.open, sources[:2])
        for index in range(source.num_episodes)
    ]
    assert found == expected
    assert (report.episodes, report.dropped_episodes, report.dropped_rows) == (5, 5, 38)
    assert report.copied_rows == 0  # of the first two nothing is left out, of the last two nothing is left
    assert m.stream_rows == [25, 4, 9]


def test_dedup_copies_a_dataset_that_loses_an_episode(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20, 4]])
    a = Dataset.open(tmp_path / "a")
    with Writer.create(tmp_path / "b", a.schema, spec={}, lineage=LINEAGE, segment_rows=16) as writer:
        copy_episodes(a, a.episodes, np.array([1, 1, 0]), writer, 0, renumber=True)
    report = merge([tmp_path / "b", tmp_path / "a"], tmp_path / "m", lineage=LINEAGE, dedup=True)
    m = Dataset.open(tmp_path / "m")
    assert m.episodes.length.tolist() == [20, 5, 4]
    assert (report.dropped_episodes, report.copied_rows) == (3, 29)
    assert verify(tmp_path / "m", deep=True) == []


def test_columns_in_another_order_are_copied(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]])
    fill(tmp_path / "b", [[20, 3]], columns=(COLUMNS[3], *COLUMNS[:3]), seed=1)
    report = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)
    a, b, m = (Dataset.open(tmp_path / name) for name in "abm")
    same_rows(m, [a, b])
    assert (m.schema, report.copied_rows) == (a.schema, 23)
    assert verify(tmp_path / "m", deep=True) == []


def test_every_difference_of_columns_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]])
    other = (Column(("observation",), "float64", (4,)), *COLUMNS[2:], Column(("action",), "int64"))
    fill(tmp_path / "b", [[5]], columns=other)
    with pytest.raises(IncompatibleError) as caught:
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)
    for words in (
        "column observation is float32 [3] in the first and float64 [4] in the second",
        "column next/observation is only in the first",
        "column action is only in the second",
    ):
        assert words in caught.value.message
    assert not (tmp_path / "m").exists()


def test_how_a_column_is_stored_is_a_difference(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]])
    stored = (*COLUMNS[:1], Column(("next", "observation"), "float32", (3,)), *COLUMNS[2:])
    fill(tmp_path / "b", [[5]], columns=stored)
    words = r"next/observation is float32 \[3\], derived from observation in the first and float32"
    with pytest.raises(IncompatibleError, match=words):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)


def test_a_difference_of_specs_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]], spec={"action": {"low": -1, "type": "box"}})
    fill(tmp_path / "b", [[5]], spec={"action": {"low": -2, "type": "box"}})
    with pytest.raises(IncompatibleError, match=r"spec\.action\.low is -1 in the first and -2 in the second"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)


def test_a_damaged_journal_or_a_replaced_column_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]])
    journal = next((tmp_path / "a" / "journal").iterdir())
    data = bytearray(journal.read_bytes())
    data[70] ^= 1
    journal.write_bytes(data)
    with pytest.raises(CorruptError):
        merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    fill(tmp_path / "b", [[5]])
    column = next((tmp_path / "b" / "segments").glob("*/observation.memmap"))
    column.rename(tmp_path / "elsewhere")
    column.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError):
        merge([tmp_path / "b"], tmp_path / "m", lineage=LINEAGE)
    assert not (tmp_path / "m").exists()


def test_a_sums_file_that_names_a_path_outside_is_refused(tmp_path: Path) -> None:
    """Whoever writes a whole dataset can make every hash right."""
    fill(tmp_path / "a", [[5]])
    (tmp_path / "secret").write_bytes(b"x")
    path = next((tmp_path / "a" / "sums").iterdir())
    value = json.loads(path.read_bytes())
    value["files"]["segments/w00-000000000000/../../../secret"] = {"bytes": 1, "blocks": ["0" * 16]}
    path.write_bytes(strictjson.dump(value))
    newest = max((tmp_path / "a" / "manifests").iterdir())
    manifest = json.loads(newest.read_bytes())
    manifest["segments"][0]["sums"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest["segments"][0]["bytes"] += 1
    del manifest["check"]
    newest.write_bytes(strictjson.dump_checked(manifest))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptError):
        merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_column_is_still_found_after_a_merge(tmp_path: Path) -> None:
    """Rows are not read by a merge; their hashes go with them."""
    fill(tmp_path / "a", [[5]])
    column = next((tmp_path / "a" / "segments").glob("*/observation.memmap"))
    data = bytearray(column.read_bytes())
    data[0] ^= 1
    column.write_bytes(data)
    merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    assert [problem.file for problem in verify(tmp_path / "m")] == [
        "segments/w00-000000000000/observation.memmap"
    ]
    with pytest.raises(CorruptError):
        Dataset.open(tmp_path / "m").read(("observation",))


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5, 20]])

    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE, advance=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_nothing_to_merge_and_an_output_that_exists_are_usage_errors(tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]])
    with pytest.raises(UsageError):
        merge([], tmp_path / "m", lineage=LINEAGE)
    with pytest.raises(UsageError, match="exists already"):
        merge([tmp_path / "a"], tmp_path / "a", lineage=LINEAGE)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_links_are_refused_files_are_copied_with_their_holes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "a", [[5]])

    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    real = files.link_new
    monkeypatch.setattr(files, "link_new", lambda s, t: real(s, t) if "manifests" in str(t) else refuse(s, t))
    report = merge([tmp_path / "a"], tmp_path / "m", lineage=LINEAGE)
    assert report.files["link"] == 0
    assert report.files["copy"] + report.files["reflink"] > 0
    assert verify(tmp_path / "m", deep=True) == []
    assert Dataset.open(tmp_path / "m").digest == Dataset.open(tmp_path / "a").digest


def test_a_copy_of_a_sparse_file_is_equal_and_sparse(tmp_path: Path) -> None:
    size = 16 << 20
    with open(tmp_path / "a", "wb") as stream:
        stream.truncate(size)
        stream.seek(4 << 20)
        stream.write(b"x" * 5000)
    way = sharing.share(tmp_path / "a", tmp_path / "b", size, link=False)
    assert way in ("copy", "reflink")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").stat().st_blocks <= (tmp_path / "a").stat().st_blocks + 16


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-64], lambda d: d[64:], lambda d: b""])
def test_only_a_whole_sealed_journal_is_chained_anew(damage: Any, tmp_path: Path) -> None:
    fill(tmp_path / "a", [[5]])
    data = next((tmp_path / "a" / "journal").iterdir()).read_bytes()
    with pytest.raises(CorruptError):
        rechain(damage(data), "0" * 32, "0" * 32, 1)


def test_all_episodes_adds_what_is_unfinished(tmp_path: Path) -> None:
    writer = fill(tmp_path / "a", [[5], [2]], close=False, tail=3)
    dataset = Dataset.open(tmp_path / "a")
    table = all_episodes(dataset)
    assert table.start.tolist() == [0, 5, 8, 10]
    assert table.length.tolist() == [5, 3, 2, 3]
    assert table.cut.tolist() == [False, True, False, True]
    rewards = dataset.read(("next", "reward")).reshape(-1).astype(np.float64)
    assert table.return_.tolist() == [rewards[s : s + n].sum() for s, n in ((0, 5), (5, 3), (8, 2), (10, 3))]
    writer.abort()
