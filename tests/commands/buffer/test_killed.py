"""The verbs that write, killed or on a full disk: inputs stay sound, and no half output appears."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify

VERBS = {
    "merge": ["merge", "a", "b", "-o", "out", "--copy"],
    "dedup": ["merge", "a", "b", "-o", "out", "--dedup"],
    "compact": ["compact", "a", "-o", "out"],
    "map": ["map", "a", "-o", "out", "--n-step", "3", "--gamma", "0.9"],
    "pack": ["pack", "a", "out"],
    "append": ["append", "a", "b"],
}


def count(folder: Path) -> int:
    """Files and folders below a folder in which others come and go."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_kill_leaves_inputs_sound_and_no_output(
    verb: str, fill: Callable[..., Any], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Killed when its first file appears, or a random number of further ones later."""
    rng = random.Random(verb)
    fill(tmp_path / "a", segment_rows=4)
    fill(tmp_path / "b", segment_rows=4, rows=(29, 31))
    digest = Dataset.open(tmp_path / "a").digest
    process = start(*VERBS[verb], cwd=tmp_path)
    wanted = rng.randrange(1, 60)
    known = count(tmp_path)
    while process.poll() is None and count(tmp_path) - known < wanted:
        pass
    process.kill()
    process.communicate()
    if verb == "append":
        with Dataset.open(tmp_path / "a") as dataset:
            assert dataset.num_rows in (60, 120)
    else:
        assert Dataset.open(tmp_path / "a").digest == digest
    assert verify(tmp_path / "a", deep=True) == []
    assert verify(tmp_path / "b", deep=True) == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a small disk")
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_full_disk_leaves_inputs_sound_and_nothing_else(
    verb: str,
    fill: Callable[..., Any],
    rl: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.chdir(disk)
        fill(disk / "a", segment_rows=64)
        fill(disk / "b", segment_rows=64, rows=(29, 33))
        names = sorted(path.name for path in disk.iterdir())
        blocks = os.statvfs(disk).f_bavail
        with open(disk / "ballast", "wb") as stream:
            stream.write(bytes(max(0, (blocks - 12) * os.statvfs(disk).f_bsize)))
        ended = rl(*VERBS[verb])
        (disk / "ballast").unlink()
        assert ended.code == 7
        assert sorted(path.name for path in disk.iterdir()) == names
        assert Dataset.open(disk / "a").num_rows == 60
        assert verify(disk / "a", deep=True) == verify(disk / "b", deep=True) == []
    finally:
        monkeypatch.undo()
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_with_its_code_and_leaves_nothing(
    signum: signal.Signals,
    fill: Callable[..., Any],
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    fill(tmp_path / "a", segment_rows=1)
    process = start("merge", *["a"] * 60, "-o", "new/out", "--copy", cwd=tmp_path)
    while process.poll() is None and not any((tmp_path / "new").glob(".out*/segments/*")):
        pass
    process.send_signal(signum)
    _, err = process.communicate()
    assert process.returncode == 128 + signum
    assert "nothing was written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
