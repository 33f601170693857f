"""Pictures in RLDS: what an encoded one says it is, and its pixels.

Two decoders of JPEG disagree by up to 17 grey levels: TensorFlow's default is the fast integer DCT, everyone
else's is the accurate one. Accurate is ours; `fast` gives TensorFlow's pixels bit for bit.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import struct
import zlib
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def decode(name: str, data: bytes, out: NDArray[Any], dct: Dct) -> None:
    """Writes the pixels to `out`, `[height, width, channels]` of uint8, uint16 or float32.

    Grey pictures become colour ones and the reverse where `out` says so, as TensorFlow does. float32 is the
    four bytes of each pixel of an RGBA picture. Raises `CorruptError` for damage or another size.
    """
    found = look(name, data)
    height, width, channels = out.shape
    if (found.height, found.width) != (height, width):
        raise CorruptError(f"{name}: a picture of {found.height}x{found.width}, expected {height}x{width}")
    if found.codec == "jpeg" and out.dtype == np.uint8 and _jpeg(name, data, out, dct):
        return
    if out.dtype == np.float32:
        out[...] = _pixels(name, data, "RGBA").reshape(height, width, 4).view(np.float32)
        return
    if out.dtype == np.uint16 and (channels != 1 or found.channels != 1):
        raise IncompatibleError(f"{name}: pictures of 16 bits and {channels} channels are not supported")
    mode = "I;16" if out.dtype == np.uint16 else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise IncompatibleError(f"{name}: pictures of {channels} channels are not supported")
    out[...] = _pixels(name, data, mode).reshape(out.shape)


def _jpeg(name: str, data: bytes, out: NDArray[Any], dct: Dct) -> bool:
    """Decodes with libjpeg-turbo at once into `out`; False where that is for Pillow to do."""
    space = {1: "GRAY", 3: "RGB", 4: "RGBA"}.get(out.shape[2])
    simplejpeg = _simplejpeg()
    if dct == "fast" and simplejpeg is None:
        require("simplejpeg", "images", needed_for="dct=fast")
    if simplejpeg is None or space is None:
        return False
    try:
        simplejpeg.decode_jpeg(data, colorspace=space, fastdct=dct == "fast", buffer=out)
    except ValueError as err:  # it is strict about what Pillow forgives
        if dct == "fast":
            raise CorruptError(f"{name}: the JPEG picture is damaged: {err}") from err
        return False
    return True


@functools.cache
def _simplejpeg() -> Any:
    """The package, None if it is not installed."""
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


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
