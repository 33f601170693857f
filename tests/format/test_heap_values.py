"""Values of heap columns and their bytes: exact both ways, lying sizes refused before anything is decoded."""

from __future__ import annotations

import io
import struct
import tracemalloc
from contextlib import suppress
from typing import Any

import lz4.frame
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rlcli.format import heap
from rlcli.format.heap import Encoded
from rlcli.format.schema import Column, Heap, heap_column

CODECS = ("none", "zstd", "lz4")
TEXT = heap_column(("prompt",), Heap("text"))
IMAGE = heap_column(("image",), Heap("array", "png"), "uint8", (5, 7, 3))


def _array(rng: np.random.Generator, column: Column) -> Any:
    shape = [int(rng.integers(4)) if n < 0 else n for n in column.shape]
    if column.dtype == "complex64":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(column.numpy)
    return rng.integers(0, 2 if column.dtype == "bool" else 120, shape).astype(column.numpy)


@pytest.mark.parametrize("codec", CODECS)
@given(text=st.text(), data=st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_text_and_bytes_come_back(codec: Any, text: str, data: bytes) -> None:
    for kind, value in (("text", text), ("bytes", data)):
        column = heap_column(("x",), Heap(kind, codec))  # type: ignore[arg-type]
        stored = heap.encode(column, value)
        assert heap.decode(column, stored) == value
        assert heap.encode(column, Encoded(stored)) == stored, "as it came"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "dtype", sorted({"bool", "int8", "uint16", "bfloat16", "int64", "float64", "complex64"})
)
def test_arrays_come_back(codec: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for shape in ((), (3,), (-1,), (-1, 2)):
        column = heap_column(("x",), Heap("array", codec), dtype, shape)
        for _ in range(5):
            value = _array(rng, column)
            found = heap.decode(column, heap.encode(column, value))
            assert (found.dtype, found.shape) == (value.dtype, value.shape)
            assert found.tobytes() == value.tobytes()
            assert found.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("uint8", (4, 6)), ("uint8", (4, 6, 1)), ("uint8", (4, 6, 3)), ("uint8", (4, 6, 4)), ("uint16", (4, 6))],
)
def test_png_is_exact(dtype: str, shape: tuple[int, ...]) -> None:
    column = heap_column(("x",), Heap("array", "png"), dtype, shape)
    value = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    assert np.array_equal(heap.decode(column, heap.encode(column, value)), value)


@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 3)])
def test_jpeg_is_stored_as_it_came_and_decoded_as_pillow_does(shape: tuple[int, ...]) -> None:
    column = heap_column(("x",), Heap("array", "jpeg"), "uint8", shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for options in ({"quality": 30}, {"quality": 90, "progressive": True}, {"quality": 75, "optimize": True}):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", **options)
        assert heap.encode(column, out.getvalue()) == out.getvalue()
        expected = np.array(Image.open(io.BytesIO(out.getvalue())))
        assert np.array_equal(heap.decode(column, out.getvalue()), expected)
    smooth = np.full(shape, 77, np.uint8)
    assert np.abs(heap.decode(column, heap.encode(column, smooth)).astype(int) - 77).max() <= 1


def test_a_palette_is_decoded_to_its_colours() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8))
    out = io.BytesIO()
    image.quantize(4).save(out, "PNG")
    found = heap.decode(IMAGE, heap.encode(IMAGE, out.getvalue()))
    assert np.array_equal(found, np.array(image.quantize(4).convert("RGB")))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (TEXT, 3),
        (TEXT, "\ud800"),
        (heap_column(("x",), Heap("bytes")), "text"),
        (heap_column(("x",), Heap("bytes", "none", 3)), b"four"),
        (heap_column(("x",), Heap("text", "zstd", 3)), "four"),
        (IMAGE, np.zeros((5, 7, 4), np.uint8)),
        (IMAGE, np.zeros((5, 7, 3), np.int64)),
        (IMAGE, b"not a PNG"),
        (heap_column(("x",), Heap("array"), "int32", (-1, 2)), np.zeros((3, 3), np.int32)),
        (heap_column(("x",), Heap("array"), "int32", (-1, 2)), np.int32(3)),
        (heap_column(("x",), Heap("array"), "int32", (-1, 2)), bytes(12)),
        (heap_column(("x",), Heap("bytes", "zstd")), Encoded(b"raw")),
        (heap_column(("x",), Heap("bytes", "lz4")), Encoded(b"raw")),
    ],
)
def test_values_that_do_not_fit_are_refused(column: Column, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        heap.encode(column, value)


def _zstd_claiming(size: int, data: bytes) -> bytes:
    """A frame whose header says 8 bytes of content size."""
    return struct.pack("<IBQ", 0xFD2FB528, 0xE0, size) + zstandard.compress(data)[6:]


@pytest.mark.parametrize(
    ("column", "data"),
    [
        (heap_column(("x",), Heap("bytes", "zstd", 1000)), zstandard.compress(bytes(1 << 24))),
        (heap_column(("x",), Heap("bytes", "zstd", 1000)), _zstd_claiming(1 << 40, b"a" * 900)),
        (heap_column(("x",), Heap("bytes", "zstd", 1000)), _zstd_claiming(10, b"a" * 900)),
        (heap_column(("x",), Heap("bytes", "zstd", 1000)), zstandard.compress(b"a") + b"behind"),
        (
            heap_column(("x",), Heap("bytes", "zstd")),
            zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 99),
        ),
        (heap_column(("x",), Heap("bytes", "lz4", 1000)), lz4.frame.compress(bytes(1 << 24))),
        (heap_column(("x",), Heap("bytes", "lz4")), lz4.frame.compress(b"a" * 99, store_size=False)),
        (heap_column(("x",), Heap("bytes", "lz4")), lz4.frame.compress(b"a" * 99) + b"behind"),
        (heap_column(("x",), Heap("bytes", "lz4")), lz4.frame.compress(b"a" * 9999)[:-9]),
        (heap_column(("x",), Heap("array", "zstd"), "int32", (3,)), zstandard.compress(bytes(16))),
        (heap_column(("x",), Heap("array"), "int32", (-1,)), bytes(7)),
        (heap_column(("x",), Heap("text")), b"\xff"),
        (heap_column(("x",), Heap("text", "none", 2)), b"abc"),
        (IMAGE, heap.encode(IMAGE, np.zeros((5, 7, 3), np.uint8))[:-30]),
    ],
)
def test_lying_sizes_are_refused_without_their_memory(column: Column, data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            heap.decode(column, data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ["zstd", "lz4", "png", "jpeg"])
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=120, deadline=None)
def test_damaged_values_are_an_error_or_a_value_of_the_right_size(
    codec: Any, at: int, bit: int, cut: bool
) -> None:
    column = heap_column(("x",), Heap("array", codec), "uint8", (16, 16, 3))
    data = bytearray(heap.encode(column, np.arange(768, dtype=np.uint8).reshape(16, 16, 3)))
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    with suppress(ValueError):
        assert heap.decode(column, bytes(data)).shape == (16, 16, 3)
