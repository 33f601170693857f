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
def test_sums_of_a_heap_are_those_of_its_file(sizes, tmp_path):
    rng = np.random.default_rng(0)
    parts = [rng.bytes(size) for size in sizes]
    heap = HeapWriter(heap_column(("x",), Heap("bytes")), tmp_path / "x.heap")
    hashes = []
    for part in parts:
        heap.add([part])
        hashes.append(heap.end.digest())
        heap.end.reset()
    data = b"".join(parts)
    total = heap.total()
    assert (total.bytes, total.blocks) == (len(data), sums.of_bytes(data).blocks)
    assert total.content == xxhash.xxh3_128_hexdigest(data)
    assert hashes == [xxhash.xxh3_64_digest(part) for part in parts]
    heap.close()


def test_values_of_any_number_and_size_are_appended_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    values = [rng.bytes(size) for size in (1, 0, 300_000, 5, 1 << 20, *rng.integers(0, 9000, 200).tolist())]
    heap = HeapWriter(heap_column(("x",), Heap("bytes")), tmp_path / "x.heap")
    off, length = (np.concatenate(found) for found in zip(heap.add(values[:7]), heap.add([]), strict=True))
    more = heap.add([memoryview(value) for value in values[6:]])
    off, length = np.concatenate([off, more[0]]), np.concatenate([length, more[1]])
    heap.close()
    data = (tmp_path / "x.heap").read_bytes()
    assert data == b"".join(values)
    told = [data[start : start + size] for start, size in zip(off.tolist(), length.tolist(), strict=True)]
    assert told == [*values[:7], *values[6:]]


def test_only_values_that_follow_each_other_share_bytes_unless_they_are_text(tmp_path):
    pictures = HeapWriter(heap_column(("x",), Heap("bytes")), tmp_path / "x.heap")
    texts = HeapWriter(heap_column(("y",), Heap("text")), tmp_path / "y.heap")
    values = [b"aa", b"aa", b"b", b"aa", b""]
    assert pictures.add(values)[0].tolist() == [0, 0, 2, 3, 5]
    assert texts.add(values)[0].tolist() == [0, 0, 2, 0, 3]
    assert (tmp_path / "x.heap").read_bytes() == b"aabaa"
    pictures.close()
    texts.close()
