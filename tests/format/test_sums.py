"""Sums of bytes as they are appended are those of the whole file."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from rlcli.format import sums
from rlcli.format.heap_file import HeapWriter
from rlcli.format.schema import Heap, heap_column


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [sums.BLOCK], [sums.BLOCK - 1, 2], [5, 3 * sums.BLOCK, 0, 7], [2 * sums.BLOCK]]
)
def test_growing_sums_are_those_of_the_file(sizes):
    rng = np.random.default_rng(0)
    parts = [rng.bytes(size) for size in sizes]
    growing = sums.Growing()
    for part in parts:
        growing.add(part)
    data = b"".join(parts)
    total = growing.total()
    assert (total.bytes, total.blocks) == (len(data), sums.of_bytes(data).blocks)
    assert total.content == xxhash.xxh3_128_hexdigest(data)


def test_only_values_that_follow_each_other_share_bytes_unless_they_are_text(tmp_path):
    pictures = HeapWriter(heap_column(("x",), Heap("bytes")), tmp_path / "x.heap")
    texts = HeapWriter(heap_column(("y",), Heap("text")), tmp_path / "y.heap")
    values = [b"aa", b"aa", b"b", b"aa", b""]
    assert pictures.add(values)[0].tolist() == [0, 0, 2, 3, 5]
    assert texts.add(values)[0].tolist() == [0, 0, 2, 0, 3]
    assert (tmp_path / "x.heap").read_bytes() == b"aabaa"
    pictures.close()
    texts.close()
