"""What an encoded value says about its decoded size, read from its first bytes alone.

A reader compares it with the schema before anything is decoded, so that a small value cannot become a large
one. SPEC.md section 14. No decoder is needed here.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 6: 4}  # grey, RGB, palette (decoded as RGB), RGBA
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # DHT, JPG and DAC share the range of JPEG's frame headers
_ZSTD_MAGIC, _LZ4_MAGIC = 0xFD2FB528, 0x184D2204


class ImageHeader(NamedTuple):
    height: int
    width: int
    channels: int
    bits: int  # per channel


def png(data: bytes | memoryview) -> ImageHeader:
    """The header of a PNG image. Raises `ValueError` if it has none, or one that heaps do not hold."""
    if data[:8] != _PNG or data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("not a PNG image")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if colour not in _PNG_CHANNELS or (bits < 8 and colour != 3):
        raise ValueError(f"PNG colour type {colour} with {bits} bits is not storable")
    return ImageHeader(height, width, _PNG_CHANNELS[colour], max(bits, 8))


def jpeg(data: bytes | memoryview) -> ImageHeader:
    """The header of a JPEG image. Raises `ValueError` if it has none."""
    end = len(data) - 9
    at = 2 if data[:2] == b"\xff\xd8" else end
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return ImageHeader(height, width, channels, bits)
        elif marker == 0xDA:
            break
        else:
            at += 2 + max(2, data[at + 2] << 8 | data[at + 3])
    raise ValueError("not a JPEG image with a frame header")


def zstd(data: bytes | memoryview) -> int:
    """The content size that a Zstandard frame declares (RFC 8878, section 3.1.1.1). Raises `ValueError` if
    it declares none.
    """
    if len(data) < 6 or int.from_bytes(data[:4], "little") != _ZSTD_MAGIC:
        raise ValueError("not a Zstandard frame")
    descriptor = data[4]
    single = descriptor >> 5 & 1
    size_bytes = (single, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if descriptor & 0x08 or not size_bytes or len(data) < at + size_bytes:
        raise ValueError("the Zstandard frame does not declare its content size")
    return int.from_bytes(data[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)


def lz4(data: bytes | memoryview) -> int:
    """The content size that an LZ4 frame declares. Raises `ValueError` if it declares none."""
    if len(data) < 7 or int.from_bytes(data[:4], "little") != _LZ4_MAGIC:
        raise ValueError("not an LZ4 frame")
    flags = data[4]
    if flags >> 6 != 1 or not flags & 0x08 or len(data) < 15:
        raise ValueError("the LZ4 frame does not declare its content size")
    return int.from_bytes(data[6:14], "little")
