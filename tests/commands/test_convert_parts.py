"""`rl convert` with --jobs, --resume, --episodes, --limit, --drop-invalid-last: what is read, what stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlcli.datasets.contract import NoOptions, Piece, Report, Request
from rlcli.datasets.parts import alone
from rlcli.errors import BusyError, CorruptError, ExitCode, Interrupted, ResourceError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.main import run
from rlcli.pipeline import convert_parts, convert_tasks, convert_workers
from rlcli.pipeline.convert import convert
from rlcli.pipeline.convert_job import Job
from rlcli.pipeline.convert_rows import Selection

EPISODES, LENGTH = 12, 5


@pytest.fixture
def source(tmp_path) -> Path:
    """A plain HDF5 file of 12 episodes of 5 rows; row r of episode e observes 10 e + r."""
    folder = tmp_path / "in"
    folder.mkdir()
    number = np.repeat(np.arange(EPISODES), LENGTH)
    step = np.tile(np.arange(LENGTH), EPISODES)
    with h5py.File(folder / "x.h5", "w") as file:
        file["obs"] = (10 * number + step).astype("f4").reshape(-1, 1)
        file["actions"] = np.ones((EPISODES * LENGTH, 1), "f4")
        file["rewards"] = step.astype("f4")
        file["episode_id"] = number
    return folder / "x.h5"


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """Pieces of three episodes, each a part of its own."""
    monkeypatch.setattr("rlcli.datasets.plain._PIECE_BYTES", 3 * LENGTH * 20)
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "ds"


def observed(path: Path) -> list[float]:
    with Dataset.open(path) as dataset:
        return dataset.read(("observation",), 0, dataset.num_rows).reshape(-1).tolist()


def left(out: Path) -> list[str]:
    return sorted(os.listdir(out.parent))


WHOLE = [float(10 * e + r) for e in range(EPISODES) for r in range(LENGTH)]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([1] * 511, [511]),  # MiB: less than two groups
        ([4] * 128, [128, 96, 72, 56, 52, 52, 56]),
        ([300] * 4, [300] * 4),  # a piece is never cut
        ([0, 800, 0, 0], [800, 0]),
        ([0], [0]),
        ([], []),
    ],
)
def test_groups_are_of_whole_pieces(sizes, groups):
    pieces = [Piece("", size << 20) for size in sizes]
    found = convert_parts.groups_of(pieces, Selection())
    assert [group.num_bytes >> 20 for group in found] == groups
    check_all_are_there(found, pieces)


@pytest.mark.parametrize("total", [129, 300, 1000, 5000, 1 << 17])
def test_groups_become_smaller_towards_the_end(total):
    pieces = [Piece("", 4 << 20)] * total
    found = convert_parts.groups_of(pieces, Selection())
    check_all_are_there(found, pieces)
    sizes = [group.num_bytes for group in found]
    largest = max(256 << 20, sizes[0])
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert len(sizes) <= 128
    assert all(size <= largest / 3 for size in sizes[-3:])
    assert min(sizes[:-1]) >= largest // 5 - (4 << 20)


def check_all_are_there(found, pieces) -> None:
    assert [group.start for group in found] == [0, *(group.stop for group in found)][: len(found)]
    assert not found or found[-1].stop == len(pieces)


@pytest.mark.usefixtures("small_parts")
def test_parts_make_the_same_rows_in_order_and_leave_nothing(source, out):
    report = convert(source, out, check=True)
    assert observed(out) == WHOLE
    assert (report["rows"], report["episodes"], report["unknown_next"]) == (60, 12, 12)
    assert left(out) == ["ds"]
    assert verify(out, deep=True) == []
    with Dataset.open(out) as dataset:
        assert len(dataset.stream_rows) == 4
        assert dataset.extra["source"]["sha256"] == report["source"]["sha256"]
        assert dataset.lineage[0]["parents"][0]["sha256"] == report["source"]["sha256"]


def test_any_number_of_processes_gives_the_same_dataset(source, out, small_parts, monkeypatch):
    """Parts are made from their tasks alone, in any order."""
    one = convert(source, out)
    monkeypatch.setattr(
        convert_workers.Crew, "make", lambda crew, job, tasks, source, *_: _make(job, tasks, source)
    )
    two = convert(source, out.with_name("two"), jobs=1)
    assert one["digest"] == two["digest"]


def _make(job, tasks, source) -> None:
    """Each task through its JSON, with the source opened anew, as a worker does; last part first."""
    for task in reversed(tasks):
        again = convert_tasks.Task.from_json(json.loads(json.dumps(task.to_json())))
        with Job.from_json(json.loads(json.dumps(job.to_json()))).opened(source.plan) as opened:
            assert list(convert_tasks.make_parts([again], opened, lambda count: None, lambda: None)) == [task]


def test_real_processes_make_parts(source, out, monkeypatch):
    """A source that makes two groups by itself is not small; here one piece is done twice."""
    groups_of = convert_parts.groups_of
    monkeypatch.setattr(convert_parts, "groups_of", lambda *a: groups_of(*a) * 2)
    report = convert(source, out, jobs=2)
    assert report["rows"] == 120
    assert observed(out) == WHOLE * 2


def test_an_error_in_a_process_is_raised_as_it_was(source, out, monkeypatch):
    with h5py.File(source, "a") as file:
        del file["obs"]
        data = file.create_dataset("obs", (60, 1), "f4", chunks=(60, 1), compression="gzip")
        data[:] = np.arange(60.0).reshape(-1, 1)
        where = data.id.get_chunk_info(0)
    raw = bytearray(source.read_bytes())
    raw[where.byte_offset + 4] ^= 0xFF
    source.write_bytes(raw)
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    groups_of = convert_parts.groups_of
    monkeypatch.setattr(convert_parts, "groups_of", lambda *a: groups_of(*a) * 2)
    with pytest.raises(CorruptError, match="obs rows"):
        convert(source, out, jobs=2)
    assert left(out) == []


@pytest.mark.usefixtures("small_parts")
def test_resume_goes_on_from_finished_parts(source, out, monkeypatch):
    made = []
    real = convert_tasks.make_part

    def stop_after_two(task, *arguments):
        if len(made) == 2:
            raise ResourceError("the disk is full")
        made.append(task.start)
        real(task, *arguments)

    monkeypatch.setattr(convert_tasks, "make_part", stop_after_two)
    with pytest.raises(ResourceError) as caught:
        convert(source, out)
    assert "--resume" in (caught.value.hint or "")
    assert left(out) == [".ds.convert"]
    with pytest.raises(UsageError, match="was stopped"):
        convert(source, out)
    with pytest.raises(UsageError, match="other options"):
        convert(source, out, resume=True, env_id="gymnasium:X-v0")
    monkeypatch.setattr(
        convert_tasks, "make_part", lambda task, *a: (made.append(task.start), real(task, *a))
    )
    convert(source, out, resume=True, check=True)
    assert made == [0, 1, 2, 3]
    assert observed(out) == WHOLE
    assert left(out) == ["ds"]


@pytest.mark.usefixtures("small_parts")
def test_a_resumed_dataset_is_the_one_of_an_unbroken_run(source, out):
    whole = convert(source, out)
    resumed = convert(source, out.with_name("again"), resume=True)
    assert whole["digest"] == resumed["digest"]


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_changed_is_not_gone_on_with(source, out, monkeypatch):
    real = convert_tasks.make_part

    def one_only(task, *arguments):
        if task.start:
            raise ResourceError("full")
        real(task, *arguments)

    monkeypatch.setattr(convert_tasks, "make_part", one_only)
    with pytest.raises(ResourceError):
        convert(source, out)
    os.utime(source, (1, 1))
    with pytest.raises(UsageError, match="another source"):
        convert(source, out, resume=True)


@pytest.mark.usefixtures("small_parts")
def test_a_signal_keeps_finished_parts_only(source, out, monkeypatch, capsys):
    real = convert_tasks.make_part

    def interrupted(task, *arguments):
        if task.start == 1:
            os.kill(os.getpid(), signal.SIGINT)
        real(task, *arguments)

    monkeypatch.setattr(convert_tasks, "make_part", interrupted)
    assert run(["convert", str(source), str(out)]) == ExitCode.INTERRUPTED
    assert "--resume" in capsys.readouterr().err
    assert left(out) == [".ds.convert"]
    assert sorted(os.listdir(out.parent / ".ds.convert")) == ["part-00000", "part-00000.json", "plan.json"]


@pytest.mark.usefixtures("small_parts")
def test_two_conversions_do_not_share_a_folder(source, out, monkeypatch):
    real = convert_tasks.make_part
    found = []

    def another(task, *arguments):
        if not found:
            found.append(None)
            with pytest.raises(BusyError):
                convert(source, out, resume=True)
        real(task, *arguments)

    monkeypatch.setattr(convert_tasks, "make_part", another)
    convert(source, out, resume=True)
    assert observed(out) == WHOLE


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(
    ("text", "first", "stop"), [("2:5", 2, 5), (":1", 0, 1), ("9:", 9, 12), ("7", 7, 8), ("4:99", 4, 12)]
)
def test_episodes_are_chosen_by_number(text, first, stop, parts, source, out, request):
    if parts:
        request.getfixturevalue("small_parts")
    report = convert(source, out, episodes=text, check=True)
    assert observed(out) == WHOLE[first * LENGTH : stop * LENGTH]
    assert report["episodes"] == stop - first


@pytest.mark.parametrize(
    ("limit", "cut"), [(1, True), (5, False), (7, True), (59, True), (60, False), (100, False)]
)
def test_a_limit_cuts_with_the_true_next_observation(limit, cut, source, out):
    report = convert(source, out, limit=limit, check=True)
    rows = min(limit, 60)
    assert observed(out) == WHOLE[:rows]
    with Dataset.open(out) as dataset:
        assert dataset.episodes.cut.tolist()[-1] == cut
        if cut:
            following = dataset.read(("next", "observation"), rows - 1, rows)
            assert following.reshape(-1).tolist() == [WHOLE[rows]]
    assert report["unknown_next"] == rows // LENGTH


def test_invalid_last_rows_are_left_out_and_counted(source, out):
    report = convert(source, out, drop_invalid_last=True, check=True)
    assert (report["rows"], report["dropped"], report["unknown_next"]) == (48, 12, 0)
    with Dataset.open(out) as dataset:
        assert dataset.episodes.length.tolist() == [LENGTH - 1] * EPISODES
        assert dataset.episodes.truncated.all()
        following = dataset.read(("next", "observation"), 0, 48).reshape(12, 4)
        assert following[:, -1].tolist() == [10.0 * e + 4 for e in range(EPISODES)]


def test_the_limit_of_memory_does_not_change_what_is_dropped(source, out, monkeypatch):
    """One row per slice: an episode's last row is known only when the next part comes."""
    monkeypatch.setattr("rlcli.datasets.slicing.SLICE_BYTES", 1)
    report = convert(source, out, drop_invalid_last=True, limit=10, check=True)
    assert report["dropped"] == 2
    assert observed(out) == [0.0, 1, 2, 3, 10, 11, 12, 13, 20, 21]


def test_an_ambiguous_mapping_is_printed_as_the_file_that_settles_it(tmp_path, out, capsys):
    np.savez(tmp_path / "x.npz", obs=np.ones((3, 2)), action=np.ones((3, 1)), reward=np.ones(3))
    assert run(["convert", str(tmp_path / "x.npz"), str(out)]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out.startswith("[map]\n")
    assert captured.err.count("\n") == 1
    (tmp_path / "map.toml").write_text(captured.out)
    assert (
        run(["convert", str(tmp_path / "x.npz"), str(out), "--mapping", str(tmp_path / "map.toml"), "-q"])
        == 0
    )
    assert run(["convert", str(tmp_path / "x.npz"), str(out) + "2", "--yes", "-q"]) == 0
    mapped = ["--map", "obs=observation", "--map", "action=action", "--map", "reward=-"]
    assert run(["convert", str(tmp_path / "x.npz"), str(out) + "3", "--json", *mapped]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["map"]["reward"] == "-"


def test_interrupted_means_resumable(source, out, small_parts, monkeypatch):
    monkeypatch.setattr(convert_tasks, "make_part", _raise_interrupted)
    with pytest.raises(Interrupted):
        convert(source, out)
    assert left(out) == []


def _raise_interrupted(*arguments) -> None:
    raise Interrupted(signal.SIGTERM, "stopped")


def test_rows_that_cannot_fit_are_refused_before_they_are_read(source, out, monkeypatch):
    usage = shutil.disk_usage(out.parent)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="100 are free"):
        convert(source, out)
    assert left(out) == []


def test_a_worker_is_told_where_episodes_end_and_does_not_look_through_the_source_again(source, monkeypatch):
    job = Job("hdf5", source, Request(confirmed=True), NoOptions(), Selection())
    with job.opened() as first:
        plan = json.loads(json.dumps(first.plan))
        monkeypatch.setattr("rlcli.datasets.plain.look_through", None)
        with job.opened(plan) as again:
            assert again.pieces == first.pieces
            ends = [
                [end for _, end in alone(each.parts(each.pieces[0], Report(), int))]
                for each in (first, again)
            ]
    assert ends[0] == ends[1]
    assert len(ends[0]) == EPISODES
