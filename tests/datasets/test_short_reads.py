"""A read may bring less than was asked for: sources are read on, and nothing is taken for damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads at a place bring at most 7 bytes."""
    pread, preadv = os.pread, os.preadv

    def some(fd: int, buffers: Any, offset: int) -> int:
        return preadv(fd, [memoryview(buffers[0])[:7]], offset)

    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 7), offset))
    monkeypatch.setattr(os, "preadv", some)


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(20, 3)).astype(np.float32),
        "actions": rng.normal(size=(20, 1)).astype(np.float32),
        "rewards": np.arange(20, dtype=np.float32),
        "terminals": np.arange(20) % 10 == 9,
    }


@pytest.mark.parametrize("kind", ["npz", "npz deflated", "hdf5 in chunks"])
def test_sources_are_read_on(kind: str, tmp_path: Path, short: None) -> None:
    path = tmp_path / ("x.npz" if "npz" in kind else "x.h5")
    if path.suffix == ".npz":
        (np.savez_compressed if "deflated" in kind else np.savez)(path, **arrays())
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays().items():
                file.create_dataset(name, data=values, chunks=True, compression="gzip")
    convert(path, tmp_path / "ds", yes=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        np.testing.assert_array_equal(dataset.read(("observation",)), arrays()["observations"])
