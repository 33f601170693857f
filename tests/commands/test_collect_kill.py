"""kill -9 at any moment of `rl collect`: no committed row is lost or wrong, and collecting goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("collect_kills.py")
KILLS = 100  # in each of two halves, which a parallel run shares out


@pytest.mark.parametrize("seed", [0, 1])
def test_two_hundred_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    """Creation, commits, seals, closing and recovery are hit; `collect_kills.check` says what is compared."""
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(KILLS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(report)
    assert report["kills"] == KILLS
    assert report["killed open"] > KILLS // 2
    assert report["rows_checked"] > 10_000
