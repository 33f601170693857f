"""Opening touches little, reading touches what it needs; rows keep their identities, snapshots open again."""

from __future__ import annotations

import os
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, InputError
from rlcli.format import generations
from rlcli.format.dataset import Dataset
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Discrete
from rlcli.format.stream_set import ROW_BITS
from rlcli.format.writer import Writer

CHECKS = pytest.mark.parametrize("check", ["touch", "none"])
EPISODE = 8  # rows


def _regular(path: Path, episodes: int = 24, **options: Any) -> m.Model:
    """One stream of sealed segments of two episodes each, every episode with its final."""
    model = m.create(path, num_streams=1, segment_rows=2 * EPISODE, chunk_rows=2 * EPISODE, **options)
    for row in range(episodes * EPISODE):
        model.add(0, end="truncated" if row % EPISODE == EPISODE - 1 else "no")
    model.writer.close()
    return model


def _keep_only(path: Path, segment: int) -> None:
    """Removes all files of all segments but one."""
    names = sorted(folder.name for folder in (path / "segments").iterdir())
    for number, name in enumerate(names):
        if number != segment:
            for folder in ("segments", "finals", "episodes"):
                shutil.rmtree(path / folder / name)
            (path / "sums" / f"{name}.json").unlink()
            (path / "journal" / f"{name}.log").unlink()


@CHECKS
def test_an_episode_needs_the_files_of_its_segment_only(tmp_path: Path, check: Any) -> None:
    model = _regular(tmp_path / "ds")
    _keep_only(tmp_path / "ds", 5)
    with Dataset.open(tmp_path / "ds", check=check) as dataset:
        assert dataset.num_rows == 24 * EPISODE
        assert dataset.num_episodes == 24
        for index in (10, 11):
            episode = dataset.episode(index)
            assert (episode.start, episode.stop, episode.stream) == (
                index * EPISODE,
                (index + 1) * EPISODE,
                0,
            )
            rows = dataset.read_rows(episode.start, episode.stop)
            steps = model.streams[0][episode.start : episode.stop]
            assert np.array_equal(rows["observation"], [step.observation for step in steps])
            assert np.array_equal(rows["next"]["observation"], [step.next_observation for step in steps])
            assert np.array_equal(dataset.gather(episode.rows)["action"], rows["action"])
        for touch in (
            lambda: dataset.episode(0),
            lambda: dataset.read(("action",), 3, 4),
            lambda: dataset.gather(np.array([80, 100])),
            lambda: dataset.episodes,
        ):
            with pytest.raises(CorruptError, match="missing"):
                touch()


@CHECKS
def test_a_run_inside_an_episode_needs_the_row_behind_it(tmp_path: Path, check: Any) -> None:
    """Of three segments: the next value of a segment's last row is the next segment's first row."""
    model = m.create(tmp_path / "ds", num_streams=1, segment_rows=8, chunk_rows=8)
    for row in range(24):
        model.add(0, end="truncated" if row == 23 else "no")
    model.writer.close()
    with Dataset.open(tmp_path / "ds", check=check) as dataset:
        found = dataset.read(("next", "observation"), 0, 8)
        assert np.array_equal(found, [step.next_observation for step in model.streams[0][:8]])
        chosen = np.array([7, 15, 23, 7])
        found = dataset.gather(chosen, [("next", "observation")])["next"]["observation"]
        assert np.array_equal(found, [model.streams[0][row].next_observation for row in chosen])
        assert (dataset.episode(0).start, dataset.episode(0).length) == (0, 24)


@CHECKS
def test_episode_agrees_with_the_table(tmp_path: Path, check: Any) -> None:
    m.small(tmp_path / "ds", steps=200, num_streams=3)
    with Dataset.open(tmp_path / "ds", check=check) as dataset:
        found = [dataset.episode(index) for index in range(dataset.num_episodes)]
        table = dataset.episodes
        assert [e.start for e in found] == table.start.tolist()
        assert [e.length for e in found] == table.length.tolist()
        assert [e.stream for e in found] == table.stream.tolist()
        for index in (-1, len(found)):
            with pytest.raises(IndexError, match=str(index)):
                dataset.episode(index)


def test_blocks_that_are_not_read_are_not_compared(tmp_path: Path) -> None:
    """A flipped bit is noticed by who reads its block, and by nobody else."""
    wide = ted_schema(m.FLAT, Discrete(4))
    writer = Writer.create(
        tmp_path / "ds", wide, spec={}, lineage={}, segment_rows=1 << 18, durability="process"
    )
    rows = 1 << 18
    columns = {c.key: np.zeros((rows, *c.shape), c.numpy) for c in wide.plain}
    columns["observation",] = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    writer.write(0, columns)
    writer.close()
    file = next((tmp_path / "ds" / "segments").iterdir()) / "observation.memmap"
    data = bytearray(file.read_bytes())
    data[(1 << 20) + 5] ^= 1  # of row 87381 + …
    file.write_bytes(data)
    row = (1 << 20) // 12
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",), 0, 1000)[-1, 0] == 2997
        assert dataset.read(("observation",), rows - 10)[0, 0] == 3 * (rows - 10)
        for _ in range(2):
            with pytest.raises(CorruptError, match="block 1 differs"):
                dataset.read(("observation",), row, row + 1)
        with pytest.raises(CorruptError, match="block 1 differs"):
            dataset.gather(np.array([3]), [("observation",)])
        assert len(dataset.gather(np.array([3]), [("action",)])["action"]) == 1


def test_a_first_small_read_is_proven_by_the_commits_of_its_rows(tmp_path: Path) -> None:
    """Of ten commits one is damaged: who reads others first need not know, who reads of it is told."""
    writer = Writer.create(tmp_path / "ds", ted_schema(m.FLAT, Discrete(4)), spec={}, lineage={})
    for start in range(0, 1000, 100):
        columns = {c.key: np.zeros((100, *c.shape), c.numpy) for c in writer.schema.plain}
        columns["observation",] += np.arange(start, start + 100)[:, None]
        writer.write(0, columns)
        writer.commit()
    writer.close()
    file = next((tmp_path / "ds" / "segments").iterdir()) / "observation.memmap"
    data = bytearray(file.read_bytes())
    data[550 * 12] ^= 1
    file.write_bytes(data)
    for start in (0, 480, 599, 900):
        with Dataset.open(tmp_path / "ds") as dataset:
            if start in (480, 599):  # partly in the sixth hundred
                with pytest.raises(CorruptError, match="block 0 differs"):
                    dataset.read(("observation",), start, start + 30)
                assert not dataset.read(("action",), start, start + 30).any(), "the others are whole"
            else:
                assert dataset.read(("observation",), start, start + 30)[:, 0].tolist() == [
                    *range(start, start + 30)
                ]


def test_opening_reads_no_file_of_a_sealed_segment(tmp_path: Path) -> None:
    _regular(tmp_path / "ds")
    for folder in ("segments", "finals", "episodes", "sums", "journal"):
        shutil.rmtree(tmp_path / "ds" / folder)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert (dataset.num_rows, dataset.num_episodes, dataset.state) == (24 * EPISODE, 24, "sealed")
        assert dataset.digest
        assert dataset.size_bytes > 0


def test_a_dataset_goes_with_its_last_reference(tmp_path: Path) -> None:
    """Maps and descriptors do not wait for the garbage collector."""
    _regular(tmp_path / "ds")
    dataset = Dataset.open(tmp_path / "ds")
    dataset.read_rows()
    dataset.gather(np.arange(10))
    table = weakref.ref(dataset._view.stream_set.table)
    del dataset
    assert table() is None


def test_released_memory_reads_the_same(tmp_path: Path) -> None:
    model = m.small(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        dataset.release()
        before = dataset.read_rows()
        dataset.release()
        after = dataset.read_rows()
        assert all(
            np.array_equal(a, b)
            for a, b in zip(m.flatten(before, ()).values(), m.flatten(after, ()).values(), strict=True)
        )
        m.check(dataset, model)


def test_release_gives_pages_back(tmp_path: Path) -> None:
    wide = ted_schema(m.FLAT, Discrete(4))
    writer = Writer.create(
        tmp_path / "ds", wide, spec={}, lineage={}, segment_rows=1 << 19, durability="process"
    )
    writer.write(0, {c.key: np.zeros((1 << 19, *c.shape), c.numpy) for c in wide.plain})
    writer.close()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")  # of files

    with Dataset.open(tmp_path / "ds", check="none") as dataset:
        total = dataset.num_rows * dataset.schema.row_bytes
        for key in dataset.schema.by_key:
            dataset.read(key)
        held = resident()
        dataset.release()
        assert held - resident() > total // 2


# Identities.


def test_of_one_stream_a_row_is_its_identity(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1)
    dataset = Dataset.open(tmp_path / "ds")
    rows = np.array([5, 0, 149, 5])
    assert dataset.row_ids(rows).tolist() == rows.tolist()
    assert dataset.rows_of(rows).tolist() == rows.tolist()
    for wrong in (-1, 150):
        with pytest.raises(IndexError, match="0 to 149"):
            dataset.row_ids(np.array([0, wrong]))


def test_identities_stay_when_logical_rows_move(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", num_streams=3, segment_rows=16)
    m.fill(model, 90)
    model.writer.flush()
    dataset = Dataset.open(tmp_path / "ds")
    rows = np.arange(dataset.num_rows)
    ids, values = dataset.row_ids(rows), dataset.read(("observation",))
    assert np.array_equal(dataset.rows_of(ids), rows)
    assert np.unique(ids >> ROW_BITS).tolist() == [0, 1, 2]
    m.fill(model, 200)
    model.writer.flush()
    dataset.refresh()
    moved = dataset.rows_of(ids)
    assert not np.array_equal(moved, rows)
    assert np.array_equal(dataset.gather(moved, [("observation",)])["observation"], values)
    later = np.array([2 << ROW_BITS | dataset.stream_rows[2], 3 << ROW_BITS, -1])
    assert dataset.rows_of(later).tolist() == [-1, -1, -1]
    assert dataset.rows_of(np.zeros(0, np.int64)).tolist() == []
    model.writer.writer.abort()


# Snapshots.


def _facts(dataset: Dataset) -> dict[str, Any]:
    table = dataset.episodes
    return {
        "snapshot": dataset.snapshot,
        "rows": {key: value.tobytes() for key, value in m.flatten(dataset.read_rows(), ()).items()},
        "episodes": {name: getattr(table, name).tobytes() for name in table.__dataclass_fields__},
        "unknown": dataset.unknown_next.tolist(),
        "digest": dataset.digest,
    }


@CHECKS
def test_every_snapshot_of_a_history_opens_again(tmp_path: Path, check: Any) -> None:
    """Also when its open segment was sealed, or its unfinished episode went on or was cut by a recovery."""
    path = tmp_path / "ds"
    model = m.create(path, num_streams=2, segment_rows=16, chunk_rows=5)
    seen = []

    def look() -> None:
        with Dataset.open(path, check=check) as dataset:
            seen.append(_facts(dataset))

    look()
    for count in (3, 20, 1, 40, 2):
        m.fill(model, count)
        model.writer.flush()
        look()
    model.writer.writer.abort()  # as if it had been killed
    writer = Writer.append(path, lineage={"op": "again"})
    look()
    from rlcli.format.episodes import EpisodeWriter

    model.writer = EpisodeWriter(writer, chunk_rows=5)
    for steps in model.streams:
        steps.clear()
    m.fill(model, 30)
    model.writer.close()
    look()
    for facts in seen:
        with Dataset.open(path, check=check, at=facts["snapshot"]) as dataset:
            assert _facts(dataset) == facts
            assert not dataset.refresh().is_changed
            rows = np.arange(dataset.num_rows)
            assert np.array_equal(dataset.rows_of(dataset.row_ids(rows)), rows)
    assert seen[5]["episodes"] != seen[6]["episodes"], "the recovery cut an episode"


def test_a_snapshot_whose_rows_were_taken_back_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    model = m.create(path, num_streams=1, segment_rows=16, chunk_rows=4)
    m.fill(model, 40)
    model.writer.flush()
    with Dataset.open(path) as dataset:
        at = dataset.snapshot
    model.writer.writer.abort()
    writer = Writer.append(path, lineage={"op": "again"}, rewind=[20])
    columns = {c.key: np.zeros((40, *c.shape), c.numpy) for c in writer.schema.plain}
    writer.write(0, columns)
    writer.close()
    with pytest.raises(InputError, match="not there any more"):
        Dataset.open(path, at=at)
    with Dataset.open(path, at={"generation": at["generation"], "rows": [16]}) as dataset:
        assert dataset.num_rows == 16, "what was kept is still that snapshot's"


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1)
    newest = generations.published(tmp_path / "ds")[-1]
    for at in (
        {"generation": 0, "rows": [1]},
        {"generation": 1, "rows": [-1]},
        {"generation": 1, "rows": [1], "starts": [2]},
    ):
        with pytest.raises(ValueError, match="no snapshot"):
            Dataset.open(tmp_path / "ds", at=at)
    for at in (
        {"generation": newest + 1, "rows": [1]},
        {"generation": newest, "rows": [151]},
        {"generation": 1, "rows": [1, 1]},
    ):
        with pytest.raises(InputError, match="not there any more"):
            Dataset.open(tmp_path / "ds", at=at)


@CHECKS
def test_a_first_small_read_equals_a_mapped_one(tmp_path: Path, check: Any) -> None:
    """Ranges of any place and length, each the first that is read of its segments, with every kind of end."""
    m.small(tmp_path / "ds", steps=120, num_streams=2, spec=m.NESTED)
    whole = m.flatten(Dataset.open(tmp_path / "ds").read_rows(), ())
    rng = np.random.default_rng(0)
    for _ in range(150):
        low, high = np.sort(rng.integers(0, 121, 2)).tolist()
        dataset = Dataset.open(tmp_path / "ds", check=check)
        for _ in range(2):
            found = m.flatten(dataset.read_rows(low, high), ())
            assert all(np.array_equal(found[key], whole[key][low:high]) for key in whole)


def test_a_first_small_read_names_a_file_of_the_wrong_size(tmp_path: Path) -> None:
    _regular(tmp_path / "ds")
    file = min((tmp_path / "ds" / "segments").iterdir()) / "action.memmap"
    os.truncate(file, file.stat().st_size - 1)
    with Dataset.open(tmp_path / "ds", check="none") as dataset:
        assert len(dataset.read(("observation",), 20, 30)) == 10
        with pytest.raises(CorruptError, match=r"action\.memmap: .* bytes, expected"):
            dataset.read_rows(0, 4)
