"""Values of any length and the bytes that stand for them in a heap. SPEC.md section 14.

Decoders are imported when a value needs one: storing values that are encoded already needs none. Every size
is compared with the schema before anything is decoded.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from rlcli.errors import MissingExtraError
from rlcli.format import heap_headers
from rlcli.format.schema import Column, Heap
from rlcli.format.values import booleans

Array = np.ndarray[Any, Any]
JPEG_QUALITY = 95


class Encoded(bytes):
    """A value in its column's codec, stored and handed out as it came.

    For values of text and arrays plain `bytes` mean the same; of bytes, they are the value itself.
    """


def encode(column: Column, value: str | bytes | memoryview | Array) -> bytes | memoryview:
    """The bytes stored for a value of a heap column.

    `Encoded`, or bytes where values are text or arrays, are stored as they came, once their header fits the
    schema. A read-only view of bytes stands for them and is kept, not copied. Raises `TypeError` or
    `ValueError` for a value that does not fit the column.
    """
    heap = _heap_of(column)
    if isinstance(value, memoryview):
        value = value if value.readonly and value.format == "B" and value.contiguous else bytes(value)
    if isinstance(value, Encoded) or (isinstance(value, bytes | memoryview) and heap.value != "bytes"):
        check_size(column, value)
        return value if isinstance(value, memoryview) else bytes(value)
    if heap.codec in ("png", "jpeg"):
        return _encode_image(column, heap.codec, _array(column, value))
    raw = _raw_bytes(column, heap, value)
    if len(raw) > heap.limit:
        raise ValueError(f"{_name(column)}: a value of {len(raw)} bytes, at most {heap.limit} are allowed")
    if not raw:
        return raw
    if heap.codec == "zstd":
        compressor = _zstandard(column).ZstdCompressor(write_content_size=True)
        return bytes(compressor.compress(raw))
    if heap.codec == "lz4":
        return bytes(_lz4(column).compress(raw, store_size=True))
    return raw


def decode(column: Column, data: bytes) -> Any:
    """The value of a heap column that stored bytes stand for: `str`, `bytes` or an array (a copy).

    Raises `ValueError` if they are malformed or contradict the schema, before memory beyond the column's
    limit is used.
    """
    heap = _heap_of(column)
    size = check_size(column, data)
    if heap.codec in ("png", "jpeg"):
        return _decode_image(column, heap.codec, data)
    raw = data if heap.codec == "none" or not data else _decompress(column, heap.codec, data, size)
    if heap.value == "bytes":
        return raw
    if heap.value == "text":
        return str(raw, "utf-8")
    return np.frombuffer(raw, column.numpy).reshape(column.shape).copy()


def missing(column: Column) -> Any:
    """What stands for an unknown value: empty text, no bytes, an array of zeros with an open axis of 0."""
    heap = _heap_of(column)
    if heap.value == "array":
        return np.zeros([max(n, 0) for n in column.shape], column.numpy)
    return "" if heap.value == "text" else b""


def check_size(column: Column, data: bytes | memoryview) -> int:
    """The decoded size of stored bytes, as they declare it. Raises `ValueError` unless it fits the schema."""
    heap = _heap_of(column)
    if heap.codec in ("png", "jpeg"):
        found = heap_headers.png(data) if heap.codec == "png" else heap_headers.jpeg(data)
        channels = column.shape[2] if len(column.shape) == 3 else 1
        expected = (column.shape[0], column.shape[1], channels, 8 * column.numpy.itemsize)
        if found != expected:
            raise ValueError(f"an image of {tuple(found)} (height, width, channels, bits), not {expected}")
        return math.prod(column.shape) * column.numpy.itemsize
    if heap.codec == "none" or not data:
        size = len(data)
    else:
        size = heap_headers.zstd(data) if heap.codec == "zstd" else heap_headers.lz4(data)
    if size > heap.limit:
        raise ValueError(f"a value of {size} bytes, at most {heap.limit} are allowed")
    if heap.value == "array":
        item = math.prod(n for n in column.shape if n > 0) * column.numpy.itemsize
        if size % item if -1 in column.shape else size != item:
            raise ValueError(f"{size} bytes are no {column.dtype} array {list(column.shape)}")
    return size


def _heap_of(column: Column) -> Heap:
    if column.heap is None:
        raise TypeError(f"{_name(column)} has no heap")
    return column.heap


def _name(column: Column) -> str:
    return f"column {'/'.join(column.key)}"


def _array(column: Column, value: Any) -> Array:
    array = np.asarray(value)
    shape = (array.shape[0], *column.shape[1:]) if column.shape[:1] == (-1,) and array.ndim else column.shape
    if array.dtype != column.numpy or array.shape != shape:
        raise ValueError(
            f"{_name(column)} is {array.dtype}{array.shape}, expected {column.dtype}{column.shape}"
        )
    return booleans(np.ascontiguousarray(array))


def _raw_bytes(column: Column, heap: Heap, value: Any) -> bytes | memoryview:
    if heap.value == "array":
        return _array(column, value).tobytes()
    if heap.value == "text" and isinstance(value, str):
        return value.encode()
    if heap.value == "bytes" and isinstance(value, bytes | bytearray | memoryview):
        return value if isinstance(value, memoryview) else bytes(value)
    raise TypeError(f"{_name(column)} holds {heap.value}, not {type(value).__name__}")


def _decompress(column: Column, codec: str, data: bytes, size: int) -> bytes:
    """Exactly `size` bytes out of exactly one frame, or `ValueError`."""
    if codec == "zstd":
        zstandard = _zstandard(column)
        try:
            raw = bytes(zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False))
        except zstandard.ZstdError as err:
            raise ValueError(f"the Zstandard frame is damaged: {err}") from err
    else:
        decompressor = _lz4(column).LZ4FrameDecompressor()
        try:
            raw = bytes(decompressor.decompress(data, max_length=size + 1))
        except RuntimeError as err:
            raise ValueError(f"the LZ4 frame is damaged: {err}") from err
        if not decompressor.eof or decompressor.unused_data:
            raise ValueError("the LZ4 frame is cut, too long, or followed by something")
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes, the frame declares {size}")
    return raw


def _encode_image(column: Column, codec: str, array: Array) -> bytes:
    image = _pillow(column)
    flat = array.reshape(array.shape[:2]) if array.shape[2:] == (1,) else array
    out = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if codec == "jpeg" else {}
    image.fromarray(flat).save(out, codec.upper(), **options)
    return out.getvalue()


def _decode_image(column: Column, codec: str, data: bytes) -> Array:
    image = _pillow(column)
    channels = column.shape[2] if len(column.shape) == 3 else 1
    mode = "I;16" if column.dtype == "uint16" else {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    try:
        with image.open(io.BytesIO(data), formats=[codec.upper()]) as opened:
            opened.load()
            converted = opened if opened.mode == mode else opened.convert(mode)
            pixels = np.array(converted, column.numpy)
    except (OSError, SyntaxError, ValueError, EOFError, image.DecompressionBombError) as err:
        raise ValueError(f"the {codec.upper()} image is damaged: {err}") from err
    return pixels.reshape(column.shape)


def _pillow(column: Column) -> Any:
    try:
        from PIL import Image
    except ImportError as err:
        raise MissingExtraError("pillow", "images", needed_for=_name(column)) from err
    return Image


def _zstandard(column: Column) -> Any:
    try:
        import zstandard
    except ImportError as err:
        raise MissingExtraError("zstandard", "compress", needed_for=_name(column)) from err
    return zstandard


def _lz4(column: Column) -> Any:
    try:
        import lz4.frame as lz4_frame
    except ImportError as err:
        raise MissingExtraError("lz4", "compress", needed_for=_name(column)) from err
    return lz4_frame
