"""Encoded pictures in plain tables, JPEG or PNG: how they are told from other bytes, stored and decoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.rlds_images import Picture, decode
from rlcli.errors import CorruptError
from rlcli.format import heap_headers
from rlcli.format.schema import Heap

_MIN_LIMIT = 1 << 26
_CHANNELS = {"png": (1, 3, 4), "jpeg": (1, 3)}  # which heaps hold


def look_at(value: Any) -> Picture | None:
    """What an encoded picture says of itself, None for other values."""
    if not isinstance(value, bytes):
        return None
    for codec, header in (("jpeg", heap_headers.jpeg), ("png", heap_headers.png)):
        try:
            return Picture(codec, *header(value))
        except ValueError:
            continue
    return None


def pixel_dtype(picture: Picture) -> np.dtype[Any]:
    """That of the pixels."""
    return np.dtype(np.uint16 if picture.bits > 8 else np.uint8)


def pixel_shape(picture: Picture) -> tuple[int, int, int]:
    """Height, width and channels."""
    return picture.height, picture.width, picture.channels


def heap_of(picture: Picture) -> Heap | None:
    """How such pictures stay encoded, None where they cannot."""
    if picture.codec not in ("png", "jpeg") or picture.channels not in _CHANNELS[picture.codec]:
        return None
    size = math.prod(pixel_shape(picture)) * pixel_dtype(picture).itemsize
    return Heap("array", "png" if picture.codec == "png" else "jpeg", max(_MIN_LIMIT, size))


def check_alike(values: Iterable[bytes], picture: Picture, what: str) -> None:
    """Raises `CorruptError` for values that are no pictures of this kind and size."""
    for value in values:
        if (found := look_at(value)) != picture:
            told = f"a picture of {found.height}x{found.width}, {found.codec}" if found else "no picture"
            raise CorruptError(f"{what}: {told}, expected {picture.height}x{picture.width}, {picture.codec}")


def pixels(values: Sequence[bytes], picture: Picture, what: str) -> NDArray[Any]:
    """`[n, height, width, channels]`. Raises `CorruptError` for damage or pictures of another size."""
    out = np.empty((len(values), *pixel_shape(picture)), pixel_dtype(picture))
    for value, room in zip(values, out, strict=True):
        decode(what, value, room, "accurate")
    return out
