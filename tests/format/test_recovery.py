"""Writers that die: what was committed is there, exactly, and writing goes on."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import killing
import model as m

from rlcli.errors import BusyError, CorruptError, UsageError
from rlcli.format import files, generations, recover
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.gc import collect_garbage
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

EPISODE = 7


def _add(writer: EpisodeWriter, stream: int, t: int) -> None:
    """Row t of a stream is a function of t, so that any prefix can be checked."""
    writer.add(
        stream,
        observation=np.full(3, t + 1000 * stream, np.float32),
        action=t % 4,
        reward=float(t),
        terminated=False,
        truncated=t % EPISODE == EPISODE - 1,
        next_observation=np.full(3, -t, np.float32) if t % EPISODE == EPISODE - 1 else None,
    )


def _write_for_ever(path: Path, published: Path) -> None:
    """Appends, tells after each commit how many rows are committed."""
    writer = EpisodeWriter(Writer.append(path, lineage={"op": "more"}, durability="process"), chunk_rows=64)
    rng = random.Random(0)
    with published.open("r+b") as told:
        rows = list(writer.writer.stream_rows)
        while True:
            for stream in range(2):
                for _ in range(rng.randrange(5)):
                    _add(writer, stream, rows[stream])
                    rows[stream] += 1
            writer.flush()
            told.seek(0)
            told.write(struct.pack("<2Q", *writer.writer.stream_rows))
            told.flush()


def _check_rows(dataset: Dataset) -> None:
    observation, step = dataset.read(("observation",)), dataset.read(("step",))
    following = dataset.read(("next", "observation"))
    unknown = set(dataset.unknown_next.tolist())
    start = 0
    for stream, rows in enumerate(dataset.stream_rows):
        t = np.arange(rows)
        part = slice(start, start + rows)
        assert np.array_equal(observation[part, 0], t + 1000 * stream)
        for row in range(rows):
            expected = -row if row % EPISODE == EPISODE - 1 else row + 1 + 1000 * stream
            assert following[start + row, 0] == (0 if start + row in unknown else expected)
        starts = np.flatnonzero(step[part] == 0)
        assert set(np.arange(0, rows, EPISODE)) - set(starts.tolist()) <= set(range(rows))
        start += rows


def test_forty_kills_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    path, published = tmp_path / "ds", tmp_path / "told"
    rng = random.Random(5)
    schema = m.schema_of(m.FLAT)
    Writer.create(path, schema, spec={}, lineage={}, num_streams=2, segment_rows=48).close()
    published.write_bytes(bytes(16))
    for _ in range(40):
        killing.fork_and_kill(lambda: _write_for_ever(path, published), delay=(0.002, 0.15), rng=rng)
        told = struct.unpack("<2Q", published.read_bytes())
        with Dataset.open(path) as dataset:
            assert all(found >= said for found, said in zip(dataset.stream_rows, told, strict=True))
            _check_rows(dataset)
    assert verify(path, deep=True) == []
    report = recover.recover(path)
    assert report.rows == dataset.num_rows
    with Dataset.open(path) as sealed:
        assert sealed.state == "sealed"
        assert sealed.num_rows == dataset.num_rows
        _check_rows(sealed)
    assert verify(path, deep=True) == []


def test_a_half_episode_is_cut_once(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", segment_rows=8)
    for _ in range(20):
        model.add(0)
    model.writer.flush()
    model.writer.writer.abort()
    report = recover.recover(tmp_path / "ds")
    assert (report.rows, report.cut_episodes) == (20, 1)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.episodes.cut.tolist() == [True]
    assert dataset.episodes.length.tolist() == [20]
    assert dataset.episodes.return_[0] == sum(np.float32(s.reward).astype(float) for s in model.streams[0])
    assert dataset.lineage[-1]["op"] == "recover"
    before = m.tree_hashes(tmp_path / "ds")
    assert recover.recover(tmp_path / "ds").is_clean
    assert m.tree_hashes(tmp_path / "ds") == before


def test_uncommitted_rows_are_gone(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", segment_rows=8, chunk_rows=4)
    for _ in range(10):
        model.add(0)
    model.writer.flush()
    columns = {c.key: np.zeros((3, *c.shape), c.numpy) for c in model.writer.writer.schema.plain}
    model.writer.writer.write(0, columns)
    model.writer.writer.abort()
    m.check(Dataset.open(tmp_path / "ds"), model, [10])
    with EpisodeWriter(Writer.append(tmp_path / "ds", lineage={"op": "more"})) as writer:
        writer.add(
            0,
            observation=[1, 2, 3],
            action=0,
            reward=0,
            terminated=True,
            truncated=False,
            next_observation=[4, 5, 6],
        )
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.num_rows == 11
    assert dataset.read(("next", "observation"), 9).tolist() == [[0, 0, 0], [4, 5, 6]]
    assert dataset.episodes.number.tolist() == [0, 1]
    assert verify(tmp_path / "ds", deep=True) == []


@pytest.mark.parametrize("cut", [1, 63, 65, 130])
def test_a_torn_journal_of_another_boot_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    model = m.create(tmp_path / "ds", durability="process")
    for _ in range(6):
        model.add(0)
        model.writer.flush()
    model.writer.writer.abort()
    journal = next((tmp_path / "ds" / "journal").iterdir())
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size - cut)
    if cut % 64:
        with pytest.raises(CorruptError, match=journal.name):
            Writer.append(tmp_path / "ds", lineage={})
    monkeypatch.setattr(files, "boot_id", lambda: "f" * 32)
    Writer.append(tmp_path / "ds", lineage={}).close()
    rows = 6 - -(-cut // 64)
    assert Dataset.open(tmp_path / "ds").num_rows == rows
    m.check(Dataset.open(tmp_path / "ds"), model, [rows])


def test_rows_lost_in_a_power_cut_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = m.create(tmp_path / "ds", durability="process")
    for _ in range(6):
        model.add(0)
        model.writer.flush()
    model.writer.writer.abort()
    column = next((tmp_path / "ds" / "segments").iterdir()) / "observation.memmap"
    with column.open("r+b") as file:
        file.seek(4 * 12)
        file.write(bytes(12))
    with pytest.raises(CorruptError):
        m.read_everything(tmp_path / "ds")
    monkeypatch.setattr(files, "boot_id", lambda: "f" * 32)
    Writer.append(tmp_path / "ds", lineage={}).close()
    m.check(Dataset.open(tmp_path / "ds"), model, [4])


TAKE_OVERS = pytest.mark.parametrize(
    "take_over",
    [
        recover.recover,
        lambda path: Writer.append(path, lineage={"op": "more"}),
        lambda path: Writer.append(path, lineage={"op": "more"}, rewind=[5]),
        lambda path: Writer.join(path, lineage={"op": "more"}),
    ],
    ids=["recover", "append", "rewind", "join"],
)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[min(40, len(data) - 1)] ^= 0x40
    path.write_bytes(data)


def _all_but_locks(path: Path) -> dict[str, tuple[int, str]]:
    return {name: found for name, found in m.tree_hashes(path).items() if not name.startswith("locks")}


@TAKE_OVERS
@pytest.mark.parametrize("boot", ["this", "another"])
def test_rows_that_differ_from_their_commit_are_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_over: Callable[[Path], object], boot: str
) -> None:
    """New hashes would prove a flipped bit right. After a power cut, too, if the commit was synced."""
    path = tmp_path / "ds"
    model = m.create(path, durability="commit", share=True)
    for _ in range(10):
        model.add(0)
    model.writer.flush()
    model.writer.writer.abort()
    _flip(path / "segments" / "w00-000000000000" / "observation.memmap")
    if boot == "another":
        monkeypatch.setattr(files, "boot_id", lambda: "f" * 32)
    before = _all_but_locks(path)
    with pytest.raises(CorruptError, match="stream rows 0 to 10 differ"):
        take_over(path)
    assert _all_but_locks(path) == before
    assert len(verify(path)) == 1


@TAKE_OVERS
@pytest.mark.parametrize("tree", ["segments", "episodes"])
def test_a_sealed_segment_is_proven_before_a_copy_takes_its_place(
    tmp_path: Path, tree: str, take_over: Callable[[Path], object]
) -> None:
    path = tmp_path / "ds"
    model = m.create(path, segment_rows=8, share=True)
    for step in range(10):
        model.add(0, end="terminated" if step == 3 else "no")
    model.writer.flush()
    model.writer.writer.abort()
    journal = path / "journal" / "w00-000000000008.log"
    journal.write_bytes(journal.read_bytes()[:64])  # rows 0 to 7 are left, all of them sealed
    for file in sorted((path / tree / "w00-000000000000").rglob("*.memmap")):
        sound = file.read_bytes()
        _flip(file)
        before = _all_but_locks(path)
        with pytest.raises(CorruptError, match=r"block 0 differs|differs from its hash|episode"):
            take_over(path)
        assert _all_but_locks(path) == before
        file.write_bytes(sound)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds")
    with pytest.raises(BusyError, match="another writer"):
        Writer.append(tmp_path / "ds", lineage={})
    with pytest.raises(BusyError):
        recover.recover(tmp_path / "ds")
    model.writer.close()
    Writer.append(tmp_path / "ds", lineage={}).close()
    with pytest.raises(UsageError, match="exists already"):
        m.create(tmp_path / "ds")


@pytest.mark.parametrize("keep", [0, 1, 5, 16, 17, 31, 40])
def test_rewind_then_the_same_steps_is_the_same_dataset(tmp_path: Path, keep: int) -> None:
    straight = EpisodeWriter(_create(tmp_path / "straight"))
    for t in range(40):
        _add(straight, 0, t)
        straight.flush()
    straight.close()

    broken = EpisodeWriter(_create(tmp_path / "broken"))
    for t in range(40):
        _add(broken, 0, t)
        broken.flush()
    broken.writer.abort()
    resumed = EpisodeWriter(Writer.append(tmp_path / "broken", lineage={"op": "resume"}, rewind=[keep]))
    assert resumed.num_steps == keep
    for t in range(keep, 40):
        _add(resumed, 0, t)
        resumed.flush()
    resumed.close()

    first, second = Dataset.open(tmp_path / "straight"), Dataset.open(tmp_path / "broken")
    for key in (c.key for c in first.schema.columns):
        assert np.array_equal(first.read(key), second.read(key)), key
    for name, values in vars(first.episodes).items():
        assert np.array_equal(values, getattr(second.episodes, name)), name
    assert verify(tmp_path / "broken", deep=True) == []


@pytest.mark.parametrize("keep", [5, 16, 33])
def test_a_rewound_dataset_that_is_closed_keeps_the_number_of_its_cut_episode(
    tmp_path: Path, keep: int
) -> None:
    writer = EpisodeWriter(_create(tmp_path / "ds"))
    for t in range(40):
        _add(writer, 0, t)
    writer.close()
    Writer.append(tmp_path / "ds", lineage={}, rewind=[keep]).close()
    with Dataset.open(tmp_path / "ds") as dataset:
        table, numbers = dataset.episodes, dataset.read(("episode",))
        assert table.length.sum() == keep
        assert table.number.tolist() == numbers[table.start].tolist()


def test_rewind_beyond_what_is_there_is_refused(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1)
    with pytest.raises(UsageError, match="150 rows"):
        Writer.append(tmp_path / "ds", lineage={}, rewind=[151])


def _create(path: Path) -> Writer:
    return Writer.create(
        path, m.schema_of(m.FLAT), spec={}, lineage={}, segment_rows=16, durability="process"
    )


def test_a_reader_beside_a_running_writer_sees_only_whole_commits(tmp_path: Path) -> None:
    path, published = tmp_path / "ds", tmp_path / "told"
    Writer.create(path, m.schema_of(m.FLAT), spec={}, lineage={}, num_streams=2, segment_rows=200).close()
    published.write_bytes(bytes(16))
    child = killing.Fork(lambda: _write_for_ever(path, published))
    try:
        with Dataset.open(path) as dataset:
            before, polls = dataset.stream_rows, 0
            while polls < 40 or dataset.num_rows < 600:
                polls += 1
                dataset.refresh()
                assert all(now >= then for now, then in zip(dataset.stream_rows, before, strict=True))
                before = dataset.stream_rows
                _check_rows(dataset)
                assert Dataset.open(path).num_rows >= dataset.num_rows
    finally:
        child.kill()


def test_a_copy_that_was_cut_before_its_newest_manifests(tmp_path: Path) -> None:
    """Its older manifests say everything is sealed; its newer segments say that something is missing."""
    path = tmp_path / "ds"
    model = m.small(path, num_streams=1)
    before, rows = generations.published(path)[-1], Dataset.open(path).num_rows
    for _ in range(2):
        with Writer.append(path, lineage={}, durability="process") as writer:
            more = m.Model(EpisodeWriter(writer), model.spec, model.rng)
            m.fill(more, 20)
            more.writer.flush()
    for number in generations.published(path)[before:]:
        generations.path_of(path, number).unlink()
    with pytest.raises(CorruptError, match="missing"):
        Dataset.open(path)
    with pytest.raises(CorruptError, match="missing"):
        Writer.append(path, lineage={})
    report = recover.recover(path)
    assert not report.is_clean
    assert report.missing[0] == before + 1
    dataset = Dataset.open(path)
    assert dataset.num_rows == rows == report.rows
    assert dataset.generation == report.generation == report.missing[-1]
    assert dataset.lineage[-1]["missing"] == report.missing
    m.check(dataset, model, [rows])
    assert verify(path, deep=True) == []
    assert recover.recover(path).is_clean
    assert collect_garbage(path, grace_seconds=-1).removed
    Writer.append(path, lineage={}).close()
    assert Dataset.open(path).num_rows == rows
