"""Outputs appear whole or not at all, and what killed processes left goes with the next attempt."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from rlcli import console
from rlcli.errors import InputError, ResourceError, UsageError
from rlcli.pipeline.outputs import publish, publish_all, refuse_existing, unfinished


def test_an_output_takes_its_name_and_made_folders_stay(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "out"
    with unfinished(out) as temporary:
        temporary.write_text("x")
        publish(temporary, out)
    assert out.read_text() == "x"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("late", ["a", "b"])
def test_all_outputs_take_their_names_or_none_does(late: str, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    with unfinished(outs[0]) as first, unfinished(outs[1]) as second:
        for temporary in (first, second):
            temporary.mkdir()
        made = list(zip((first, second), outs, strict=True))
        (tmp_path / late).write_text("it came late")
        with pytest.raises(UsageError, match="exists already"):
            publish_all(made)
        assert all(temporary.is_dir() for temporary in (first, second))
        (tmp_path / late).unlink()
        publish_all(made)
    assert sorted(tmp_path.iterdir()) == outs


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_unfinished_is_removed_with_made_folders(is_folder: bool, tmp_path: Path) -> None:
    with unfinished(tmp_path / "new" / "out") as temporary:
        if is_folder:
            (temporary / "inside").mkdir(parents=True)
        else:
            temporary.write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_even_if_it_comes_late(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with unfinished(out) as temporary:
        temporary.write_text("x")
        out.symlink_to("nowhere")
        with pytest.raises(UsageError, match="exists already"):
            publish(temporary, out)
    assert os.readlink(out) == "nowhere"


def test_a_file_in_the_way_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"), unfinished(tmp_path / "file" / "out"):
        pass


def test_old_leftovers_of_killed_processes_are_removed_and_young_ones_are_not(tmp_path: Path) -> None:
    for name in ("old", "young"):
        (tmp_path / f".out.tmp-{name}" / "segments").mkdir(parents=True)
    for path in (tmp_path / ".out.tmp-old" / "segments", tmp_path / ".out.tmp-old"):
        os.utime(path, (time.time() - 7200,) * 2)
    with unfinished(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".out.tmp-young"]


def test_sigterm_leaves_nothing(tmp_path: Path) -> None:
    def make() -> None:
        with unfinished(tmp_path / "new" / "out") as temporary:
            temporary.write_text("half")
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        make()
    assert ended.value.code == 143
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_handles_sigterm_still_does(tmp_path: Path) -> None:
    with console.interruptible() as stop, unfinished(tmp_path / "out"):
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested == signal.SIGTERM


def test_a_full_disk_names_the_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ResourceError, match=f"^{out}: No space"), unfinished(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write does, which has no name


@pytest.mark.parametrize("name", ["data/out", "data/segments/w07-0", "data/../data/a/b", "link/out"])
def test_no_output_lies_in_a_dataset(name: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    (tmp_path / "data" / "dataset.json").write_text("{}")
    (tmp_path / "link").symlink_to("data")
    with pytest.raises(UsageError, match="inside the dataset"):
        refuse_existing(tmp_path / name)
    refuse_existing(tmp_path / "data-out")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_folder_of_somebody_else_is_not_looked_into(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        refuse_existing(tmp_path / "out")  # the attempt to make it tells what is wrong, by its name
    finally:
        os.seteuid(0)
