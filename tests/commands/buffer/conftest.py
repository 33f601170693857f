"""A small dataset with two streams, several segments and derived columns, and `rl buffer` to run on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli import main
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box, Composite
from rlcli.format.writer import Writer

OBSERVATION = Composite({"position": Box((3,), "float32"), "image": Box((2, 2), "uint8", 0, 255)})
ACTION = Box((2,), "float32", -1.0, 1.0)
SPEC = {
    "env": {"library": "gymnasium", "id": "Test-v0", "kwargs": {"size": 2}, "max_episode_steps": 7},
    "observation": OBSERVATION.to_json(),
    "action": ACTION.to_json(),
    "reference_scores": {"min": 0.0, "max": 10.0},
}
LINEAGE = {"op": "test", "time": "2026-01-01T00:00:00Z", "command": "rl test it"}
EXTRA = [Column(("info", "speed"), "float64")]


def fill(
    path: Path, *, rows: tuple[int, int] = (30, 30), close: bool = True, segment_rows: int = 12
) -> Writer:
    """Two streams with episodes of 7 steps, reward 1, alternately terminated and truncated."""
    rng = np.random.default_rng(0)
    writer = Writer.create(
        path,
        ted_schema(OBSERVATION, ACTION, extra=EXTRA),
        spec=SPEC,
        lineage=LINEAGE,
        num_streams=2,
        segment_rows=segment_rows,
        durability="process",
    )
    episodes = EpisodeWriter(writer, chunk_rows=5)

    def observation() -> dict[str, Any]:
        return {"position": rng.normal(size=3), "image": rng.integers(0, 256, (2, 2))}

    for row in range(max(rows)):
        for stream in range(2):
            if row >= rows[stream]:
                continue
            if row % 7 == 0:
                episodes.begin(stream, row + stream)
            now, following = observation(), observation()
            episodes.add(
                stream,
                observation=now,
                action=rng.uniform(-1, 1, 2),
                reward=1.0,
                terminated=row % 14 == 6,
                truncated=row % 14 == 13,
                next_observation=following if row % 7 == 6 else None,
                info={"speed": float(row)},
            )
    episodes.flush()
    if close:
        episodes.close()
    return writer


@pytest.fixture(scope="session", name="fill")
def fill_fixture() -> Callable[..., Writer]:
    return fill


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "data"
    fill(path)
    return path


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    """A dataset that a test may damage."""
    return Path(shutil.copytree(sealed, tmp_path / "data"))


class Ended:
    """How a command ended: exit code and both streams."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert value["rl"] == 1
        return value


@pytest.fixture
def rl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main.run(["buffer", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Ended(code, out, err)

    return run


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    # The tests may run in the background of a shell, which then has them ignore SIGINT.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from rlcli.main import main; main()"
    command = [sys.executable, "-c", script, "buffer", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="session", name="start")
def start_fixture() -> Callable[..., subprocess.Popen[str]]:
    """`rl buffer …` as a process of its own."""
    return start
