"""Pictures in RLDS: what an encoded one says it is, and its pixels.

Two decoders of JPEG disagree by up to 17 grey levels: TensorFlow's default is the fast integer DCT, everyone
else's is the accurate one. Accurate is ours; `fast` gives TensorFlow's pixels bit for bit.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import struct
import zlib
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.features import MAX_ELEMENT_BYTES
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format import heap_headers
from rlcli.plugins import require

Dct = Literal["accurate", "fast"]


class Picture(NamedTuple):
    """What an encoded picture says of itself; `codec` is `other` for what is neither JPEG nor PNG."""

    codec: str
    height: int
    width: int
    channels: int
    bits: int


def look(name: str, data: bytes) -> Picture:
    """The header of an encoded picture. Raises `CorruptError` if it is none."""
    for codec, header in (("jpeg", heap_headers.jpeg), ("png", heap_headers.png)):
        try:
            return Picture(codec, *header(data))
        except ValueError:
            continue
    with _opened(name, data) as image:
        bands = {"P": 3, "1": 1}.get(image.mode, len(image.getbands()))
        return Picture("other", image.height, image.width, bands, 16 if image.mode == "I;16" else 8)


def decode(name: str, data: bytes, shape: tuple[int, int, int], dtype: str, dct: Dct) -> NDArray[Any]:
    """The pixels `[height, width, channels]` as uint8, uint16 or float32.

    Grey pictures become colour ones and the reverse where `shape` says so, as TensorFlow does. float32 is the
    four bytes of each pixel of an RGBA picture. Raises `CorruptError` for damage or another size.
    """
    found = look(name, data)
    if (found.height, found.width) != shape[:2]:
        raise CorruptError(
            f"{name}: a picture of {found.height}x{found.width}, expected {shape[0]}x{shape[1]}"
        )
    if math.prod(shape) > MAX_ELEMENT_BYTES:
        raise IncompatibleError(f"{name}: a picture of {shape[0]}x{shape[1]} is too large")
    if found.codec == "jpeg" and dtype == "uint8":
        return _jpeg(name, data, shape, dct)
    if dtype == "float32":
        return _pixels(name, data, "RGBA").reshape(*shape[:2], 4).view(np.float32)
    if dtype == "uint16" and (shape[2] != 1 or found.channels != 1):
        raise IncompatibleError(f"{name}: pictures of 16 bits and {shape[2]} channels are not supported")
    mode = "I;16" if dtype == "uint16" else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(shape[2])
    if mode is None:
        raise IncompatibleError(f"{name}: pictures of {shape[2]} channels are not supported")
    return _pixels(name, data, mode).astype(dtype, copy=False).reshape(shape)


def _jpeg(name: str, data: bytes, shape: tuple[int, int, int], dct: Dct) -> NDArray[Any]:
    space = {1: "GRAY", 3: "RGB", 4: "RGBA"}.get(shape[2])
    if dct == "fast" or importlib.util.find_spec("simplejpeg") is not None:
        simplejpeg = require("simplejpeg", "images", needed_for="dct=fast")
        if space is not None:
            try:
                pixels: NDArray[Any] = simplejpeg.decode_jpeg(data, colorspace=space, fastdct=dct == "fast")
                return pixels.reshape(shape)
            except ValueError as err:  # it is strict about what Pillow forgives
                if dct == "fast":
                    raise CorruptError(f"{name}: the JPEG picture is damaged: {err}") from err
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(shape[2], "RGB")
    return _pixels(name, data, mode).reshape(shape)


def _pixels(name: str, data: bytes, mode: str) -> NDArray[Any]:
    with _opened(name, data) as image:
        try:
            return np.asarray(image if image.mode == mode else image.convert(mode))
        except _DAMAGE as err:
            raise CorruptError(f"{name}: the picture is damaged: {err}") from err


def _opened(name: str, data: bytes) -> Any:
    require("PIL", "images", needed_for="decoding pictures")
    image = importlib.import_module("PIL.Image")
    try:
        return image.open(io.BytesIO(data))
    except (*_DAMAGE, image.DecompressionBombError) as err:
        raise CorruptError(f"{name}: {len(data):,} bytes that are no picture") from err


_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
