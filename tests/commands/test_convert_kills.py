"""`rl convert --jobs` with real processes: killed workers and conversions, Ctrl-C, and going on from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import ExitCode
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.pipeline.convert import convert
from tests.datasets import rlds_files

SHARDS, EPISODES, LENGTH = 6, 60, 256
ROWS = SHARDS * EPISODES * LENGTH
SMALL_PARTS = """
import sys
from rlcli.main import run
from rlcli.pipeline import convert_parts
convert_parts._GROUP_BYTES = 1
sys.exit(run(sys.argv[1:]))
"""
# A worker is at work on its part for ever, as a file tells; this process makes its second part only then, and
# takes no part before it makes it.
STUCK_WORKER = """
import sys, time
from pathlib import Path
from rlcli.datasets.rlds import RLDSSource
from rlcli.main import run
from rlcli.pipeline import convert_parts, convert_tasks, convert_workers
RLDSSource.ahead_bytes = 0
at_work = Path(sys.argv.pop(1))
convert_parts._GROUP_BYTES = 1
convert_workers._WORKER = (
    "import time; from pathlib import Path; from rlcli.pipeline import convert_tasks; "
    f"convert_tasks.make_part = lambda *_: (Path({str(at_work)!r}).touch(), time.sleep(3600)); "
    + convert_workers._WORKER
)
make = convert_tasks.make_part
def make_beside_a_worker(*part):
    make(*part)
    while not at_work.exists():
        time.sleep(0.001)
convert_tasks.make_part = make_beside_a_worker
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RLDS folder of six shards; row r observes r."""
    path = tmp_path_factory.mktemp("in") / "toy"
    last = np.arange(LENGTH) == LENGTH - 1

    def episode(number: int) -> dict[str, Any]:
        state = np.zeros((LENGTH, 16), np.float32)
        state[:, 0] = np.arange(LENGTH) + LENGTH * number
        return {
            "steps/is_first": np.arange(LENGTH) == 0,
            "steps/is_last": last,
            "steps/is_terminal": last,
            "steps/observation/state": state,
            "steps/action": state[:, :1],
            "steps/reward": state[:, 0],
        }

    observation = rlds_files.group(state=rlds_files.tensor("float32", 16))
    rest = {"action": rlds_files.tensor("float32", 1), "reward": rlds_files.tensor("float32")}
    tree = rlds_files.episodes_tree({**rlds_files.FLAGS, "observation": observation, **rest})
    shards = [[episode(EPISODES * shard + number) for number in range(EPISODES)] for shard in range(SHARDS)]
    return rlds_files.write_rlds(path, tree, {"train": shards})


@pytest.fixture
def started(source: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A conversion to `tmp_path / "ds"` that has a finished part and works on others."""
    command = [sys.executable, "-c", SMALL_PARTS, "convert", str(source), str(tmp_path / "ds"), "--jobs", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(tmp_path.glob(".ds.convert/part-*.json")) and process.poll() is None:
        time.sleep(0.001)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a conversion has started."""
    pid = process.pid
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def goes_on(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume` makes the dataset that an unbroken conversion makes, and tidies up."""
    monkeypatch.setattr("rlcli.pipeline.convert_parts._GROUP_BYTES", 1)
    assert list(out.parent.glob(".ds.convert/part-*.json"))
    again = convert(source, out, resume=True, check=True)
    assert again["digest"] == convert(source, out.with_name("unbroken"))["digest"]
    assert sorted(os.listdir(out.parent)) == ["ds", "unbroken"]
    assert verify(out) == []
    with Dataset.open(out) as dataset:
        assert np.array_equal(dataset.read(("observation", "state"))[:, 0], np.arange(ROWS))


def test_ctrl_c_stops_all_and_resume_goes_on(source, started, tmp_path, monkeypatch):
    children = workers(started)
    assert children
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=300)
    assert (started.returncode, out) == (ExitCode.INTERRUPTED, "")
    assert "--resume" in err
    assert not any(map(is_alive, children))
    assert sorted(os.listdir(tmp_path)) == [".ds.convert"]
    goes_on(source, tmp_path / "ds", monkeypatch)


def test_a_killed_worker_stops_the_conversion_and_finished_parts_stay(source, tmp_path, monkeypatch):
    at_work, out = tmp_path / "at_work", tmp_path / "in" / "ds"
    out.parent.mkdir()
    command = [sys.executable, "-c", STUCK_WORKER, at_work, "convert", source, out, "--jobs", "2"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        while not (at_work.exists() and list(out.parent.glob(".ds.convert/part-*.json"))):
            assert process.poll() is None
            time.sleep(0.001)
        for worker in workers(process):
            os.kill(worker, signal.SIGKILL)
        _, err = process.communicate(timeout=300)
    assert process.returncode == ExitCode.RESOURCE
    assert "killed by signal 9" in err
    assert "--resume" in err
    assert "Traceback" not in err
    goes_on(source, out, monkeypatch)


def test_workers_of_a_killed_conversion_end_and_resume_goes_on(source, started, tmp_path, monkeypatch):
    children = workers(started)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    while any(map(is_alive, children)):  # they notice when they tell their progress
        time.sleep(0.01)
    goes_on(source, tmp_path / "ds", monkeypatch)


@pytest.mark.parametrize("kind", ["dataset", "file"])
def test_what_killed_conversions_left_is_removed_later(kind, source, tmp_path):
    """An hour later, so that another that is at work keeps its own."""
    out = tmp_path / ("ds" if kind == "dataset" else "ds.hdf5")
    if kind == "file":
        convert(source, tmp_path / "ours", episodes="0:2")
    left = [tmp_path / f".{out.name}.tmp-{'0' * 32}", tmp_path / f".{out.name}.tmp-{'1' * 32}"]
    inner = tmp_path / f"..{out.name}.tmp-{'2' * 32}.tmp-{'3' * 32}"  # killed while a dataset was created
    for path in (left[0], inner):
        path.mkdir()
        (path / "file").write_text("")
    left[1].write_text("")
    young = tmp_path / f".{out.name}.tmp-{'4' * 32}"
    young.write_text("")
    for path in (left[0] / "file", inner / "file", *left, inner):
        os.utime(path, (1, 1))
    convert(
        source if kind == "dataset" else tmp_path / "ours",
        out,
        **({"episodes": "0:2"} if kind == "dataset" else {}),
    )
    assert not any(path.exists() for path in (*left, inner))
    assert young.exists()


def test_a_worker_whose_conversion_was_killed_ends_without_a_word():
    program = "from rlcli.pipeline.convert_worker import _Told; _Told().say({'bytes': 1})"
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(write)
    assert ended.stderr == ""
    assert ended.returncode == 1
