"""Large datasets and fast windows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bounded
import sparse
import window_race

from rlcli.format.verify import verify

# Opens, reads rows here and there with their blocks compared, and says what that took of this process.
READER = """
import json, resource, sys, time
import numpy as np
from rlcli.format.dataset import Dataset
def seconds(): return (lambda u: u.ru_utime + u.ru_stime)(resource.getrusage(resource.RUSAGE_SELF))
begun = seconds()
dataset = Dataset.open(sys.argv[1])
opened = seconds() - begun
rows = np.random.default_rng(0).integers(0, dataset.num_rows, 20)
zero = all(not dataset.read(("pixels",), int(row), int(row) + 1).any() for row in rows)
# Not ru_maxrss, which a new process has from its parent.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
resident = int(peak.split()[1]) * 1024
print(json.dumps({"opened": opened, "rows": dataset.num_rows, "resident": resident, "zero": zero,
                  "bytes": dataset.size_bytes, "segments": len(dataset.segments)}))
"""


def test_a_terabyte_in_four_thousand_segments_opens_at_once(memory_path: Path) -> None:
    assert sparse.create(memory_path / "ds", 4000) > 10**12
    command = [sys.executable, "-c", READER, str(memory_path / "ds")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["segments"], found["rows"]) == (4000, 4000 * sparse.ALLOC)
    assert found["bytes"] > 10**12
    assert found["zero"]
    assert found["opened"] < 1  # of the processor; half of that is the manifest
    assert found["resident"] < 10**9


def test_sampling_needs_no_more_memory_than_there_is(tmp_path: Path) -> None:
    """Not in memory: files there could not make room. Without a control group only private memory is seen."""
    found = bounded.sample(tmp_path, limit=52 << 20, batches=20)
    assert found["bytes"] >= 10 * (52 << 20)
    assert found["wrong"] == 0
    assert found["growth"] < 4 << 20
    assert found["private"] < 48 << 20


def test_the_synthetic_dataset_is_a_sound_one(memory_path: Path) -> None:
    sparse.create(memory_path / "ds", 2)
    assert verify(memory_path / "ds", deep=True) == []


@pytest.mark.parametrize("check", ["touch", "none"])
def test_no_row_of_a_window_is_torn_or_replaced(memory_path: Path, check: Literal["touch", "none"]) -> None:
    counts = window_race.sample(memory_path, 200_000, check)
    assert counts["rows"] >= 200_000
    assert counts["overwritten"] >= 2 * window_race.WINDOW
