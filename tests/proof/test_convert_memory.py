"""2 GB sources are converted and checked within 512 MB: `pytest -m slow tests/proof/test_convert_memory.py`.

RLIMIT_DATA bounds what a process allocates (its heap and private maps, not the file pages it reads), and the
peak of resident memory, which counts mapped file pages too, is read afterwards.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import rlds_files

from rlcli.format.dataset import Dataset

LIMIT = 512 << 20
SIZE = 2 << 30
WIDTH, EPISODE, CHUNK = 64, 1000, 8192


def hdf5(path: Path) -> tuple[Path, int]:
    """A D4RL file of gzip chunks, 2 GiB decoded, all equal; next observations follow from the rows."""
    rows = SIZE // (WIDTH * 4 + 8 * 4 + 4 + 2) // CHUNK * CHUNK
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, shape in (("observations", (WIDTH,)), ("actions", (8,)), ("rewards", ())):
            chunk = (CHUNK, *shape)
            column = file.create_dataset(name, (rows, *shape), "f4", chunks=chunk, compression="gzip")
            data = zlib.compress(rng.integers(0, 100, chunk).astype("f4").tobytes(), 1)
            for start in range(0, rows, CHUNK):
                column.id.write_direct_chunk((start, *(0 for _ in shape)), data)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % EPISODE == EPISODE - 1
    return path, rows


def rlds(path: Path) -> tuple[Path, int]:
    """An RLDS folder of four shards, 2 GiB; every episode is the same."""
    last = np.arange(EPISODE) == EPISODE - 1
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "steps/is_first": np.arange(EPISODE) == 0,
        "steps/is_last": last,
        "steps/is_terminal": last,
        "steps/observation/state": rng.normal(size=(EPISODE, WIDTH)).astype("f4"),
        "steps/action": rng.normal(size=(EPISODE, 8)).astype("f4"),
        "steps/reward": np.ones(EPISODE, "f4"),
    }
    tree = rlds_files.episodes_tree(
        {
            **rlds_files.FLAGS,
            "observation": rlds_files.group(state=rlds_files.tensor("float32", WIDTH)),
            "action": rlds_files.tensor("float32", 8),
            "reward": rlds_files.tensor("float32"),
        }
    )
    episodes = SIZE // (EPISODE * (WIDTH + 9) * 4) // 4
    rlds_files.write_rlds(path, tree, {"train": [[values] * episodes] * 4})
    return path, 4 * episodes * EPISODE


@pytest.mark.slow
@pytest.mark.parametrize("make", [hdf5, rlds])
def test_two_gigabytes_in_half_a_gigabyte(make: Callable[[Path], tuple[Path, int]], tmp_path: Path) -> None:
    source, rows = make(tmp_path / "source")
    for name, options in (("plain", []), ("checked", ["--check"])):
        out = tmp_path / name
        command = [sys.executable, "-m", "rlcli", "convert", str(source), str(out), "--quiet", *options]
        process = subprocess.Popen(
            command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        print(f"{make.__name__}, {name}: {usage.ru_maxrss / 1024:.0f} MiB resident at most")
        assert process.returncode == 0
        assert usage.ru_maxrss * 1024 < LIMIT
        with Dataset.open(out) as dataset:
            assert dataset.num_rows == rows
