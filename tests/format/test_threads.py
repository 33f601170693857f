"""Threads that share a reader: none of them is given what was not compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import CorruptError
from rlcli.format import checking
from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column, Schema
from rlcli.format.writer import Writer

BLOCK_ROWS = 1024  # of 1 KiB


def test_a_block_that_two_threads_compare_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds"
    schema = Schema((Column(("x",), "uint8", (1024,)),))
    with Writer.create(path, schema, spec={}, lineage={}, segment_rows=2 * BLOCK_ROWS) as writer:
        writer.write(0, {("x",): np.ones((2 * BLOCK_ROWS, 1024), np.uint8)})
    file = path / "segments" / "w00-000000000000" / "x.memmap"
    data = bytearray(file.read_bytes())
    data[-1] = 2  # in the second block
    file.write_bytes(data)
    dataset = Dataset.open(path)
    hexdigest = checking.xxhash.xxh3_64_hexdigest
    inside = False

    def beside(block: Any) -> str:
        """Another thread reads the same block while this one hashes it."""
        nonlocal inside
        if not inside:
            inside = True
            dataset.read(("x",), 0, BLOCK_ROWS)
        return hexdigest(block)

    monkeypatch.setattr(checking.xxhash, "xxh3_64_hexdigest", beside)
    dataset.read(("x",), 0, BLOCK_ROWS)
    assert inside
    with pytest.raises(CorruptError, match="block 1"):
        dataset.read(("x",), BLOCK_ROWS, 2 * BLOCK_ROWS)
