"""The inverse of `rlds_values.py`: values of a feature as an Example stores them."""

from __future__ import annotations

import importlib
import io
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.example import decode_strings
from rlcli.datasets.features import Field
from rlcli.plugins import require

Lists = dict[str, NDArray[Any] | list[bytes]]


def encoded(field: Field, values: Any) -> Lists:
    """What an Example holds for `values` of `field`, by name.

    `values` are one per element of the outermost sequence, or the only one in a sequence of one for a feature
    without: an array `[n, …]`, strings, byte strings, encoded or decoded pictures, arrays of a length each.
    """
    name = field.name
    if field.is_list:
        return _lists(field, values)
    if field.kind == "image":
        return {name: [_picture(field, value) for value in values]}
    if field.is_bytes:
        return {name: [value.encode() if isinstance(value, str) else bytes(value) for value in values]}
    if field.encoding != "none":
        return _packed(field, values)
    if len(field.lengths) > 1:
        lengths = np.array([len(value) for value in values], np.int64)
        flat = np.concatenate([_numbers(field, np.asarray(value)) for value in values])
        return {f"{name}/ragged_flat_values": flat, f"{name}/ragged_row_lengths_0": lengths}
    parts = [values] if isinstance(values, np.ndarray) else [np.asarray(value) for value in values]
    return {name: np.concatenate([_numbers(field, part) for part in parts])}


def _packed(field: Field, values: Any) -> Lists:
    """Arrays that are stored as their bytes, each of a sequence for itself."""
    name = field.name
    arrays = [each for value in values for each in value] if field.depth else values
    raw = [np.ascontiguousarray(array).tobytes() for array in arrays]
    packed = [zlib.compress(part) for part in raw] if field.encoding == "zlib" else raw
    if len(field.lengths) > 1:
        lengths = np.array([len(value) for value in values], np.int64)
        return {f"{name}/ragged_flat_values": packed, f"{name}/ragged_row_lengths_0": lengths}
    if not field.is_dynamic:
        return {name: packed}
    shapes = np.array([np.shape(array) for array in arrays], np.int64)
    return {f"{name}/value": packed, f"{name}/shape": shapes}


def _lists(field: Field, values: Sequence[Any]) -> Lists:
    """Several byte strings of each element: from JSON text, a `BytesList`, or decoded pictures."""
    inner = (
        *field.lengths[len(field.lengths) - field.depth :],
        *(field.shape if field.kind == "tensor" else ()),
    )
    absent = [b""] * math.prod(n or 0 for n in inner)
    found = [_unpacked(field, value) or absent for value in values]
    flat = [value for each in found for value in each]
    if len(field.lengths) < 2:
        return {field.name: flat}
    lengths = np.array([len(each) for each in found], np.int64)
    return {f"{field.name}/ragged_flat_values": flat, f"{field.name}/ragged_row_lengths_0": lengths}


def _unpacked(field: Field, value: Any) -> list[bytes]:
    if isinstance(value, str):
        return [each.encode() for each in json.loads(value or "[]")]
    if isinstance(value, bytes):
        return decode_strings(value)
    return [_picture(field, each) for each in value]


def png(pixels: NDArray[Any]) -> bytes:
    """A picture `[height, width, 1 to 4]` of uint8, or with one channel of uint16 or float32; lossless."""
    require("PIL", "images", needed_for="encoding pictures")
    image = importlib.import_module("PIL.Image")
    if pixels.dtype == np.float32:
        pixels = np.ascontiguousarray(pixels).view(np.uint8)
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    out = io.BytesIO()
    image.fromarray(np.ascontiguousarray(flat)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def is_rounded(field: Field, values: Any) -> bool:
    """Whether an Example cannot hold these numbers exactly: float64 that is no float32."""
    if field.dtype != "float64" or field.encoding != "none" or field.is_bytes:
        return False
    for value in values if isinstance(values, Sequence) else [values]:
        array = np.asarray(value)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = array.astype(np.float32).astype(np.float64)
        if not np.array_equal(rounded, array, equal_nan=True):
            return True
    return False


def _numbers(field: Field, values: NDArray[Any]) -> NDArray[Any]:
    flat = values.reshape(-1)
    if field.dtype == "bfloat16":
        return (flat.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if field.dtype.startswith("float"):
        with np.errstate(over="ignore", invalid="ignore"):
            return flat.astype(np.float32)
    return flat.view(np.int64) if flat.dtype == np.uint64 else flat.astype(np.int64)


def _picture(field: Field, value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return png(value.reshape(value.shape[0], value.shape[1], -1))
    return bytes(value)
