"""Deflated bytes made whole: what zlib takes is taken, with the same bytes; what it refuses is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from rlcli.datasets import inflating
from rlcli.datasets.inflating import Inflated, InflateError, Wrapper, inflate

WINDOW_BITS: dict[Wrapper, int] = {"zlib": 15, "gzip": 31, "raw": -15}
WRAPPERS = sorted(WINDOW_BITS)


def values(rng: random.Random) -> Iterator[bytes]:
    """Of every kind: nothing, noise, few letters, long runs, repeats from afar, typical of numbers."""
    yield b""
    yield b"a"
    yield rng.randbytes(3000)
    yield b"abc" * 400
    yield bytes(70_000)
    yield bytes(rng.choices(b"acgt", k=3000))
    yield bytes(min(255, int(rng.expovariate(0.1))) for _ in range(4000))
    noise = rng.randbytes(32_768)
    yield noise + noise[:500]


def streams(rng: random.Random) -> list[tuple[Wrapper, bytes]]:
    """Of all levels, strategies and windows."""
    found: list[tuple[Wrapper, bytes]] = []
    for data in values(rng):
        for level in (0, 1, 6, 9):
            for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED):
                wrapper = rng.choice(WRAPPERS)
                bits = WINDOW_BITS[wrapper] - rng.randrange(7) * (1 if WINDOW_BITS[wrapper] > 0 else -1)
                packing = zlib.compressobj(level, zlib.DEFLATED, bits, rng.randrange(1, 10), strategy)
                stream = packing.compress(data)
                if rng.random() < 0.3:
                    stream += packing.flush(rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]))
                    stream += packing.compress(data[:100])
                found.append((wrapper, stream + packing.flush()))
    return found


def changed(stream: bytes, rng: random.Random) -> bytes:
    """As it is, cut, with flipped bits, another head or end, or more bytes after it."""
    data, way = bytearray(stream), rng.randrange(6)
    if way == 1:
        del data[rng.randrange(len(data)) :]
    elif way == 2:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 3:
        data += rng.randbytes(rng.randrange(1, 20))
    elif way == 4:
        data[rng.randrange(min(len(data), 12))] = rng.randrange(256)
    elif way == 5:
        data[-rng.randrange(1, min(len(data), 9) + 1)] ^= 1 << rng.randrange(8)
    return bytes(data)


def by_zlib(data: bytes, wrapper: Wrapper) -> tuple[bytes, bytes] | None:
    """The bytes and those after the stream; None for what is no whole stream."""
    stream = zlib.decompressobj(WINDOW_BITS[wrapper])
    try:
        out = stream.decompress(data)
    except zlib.error:
        return None
    return (out, stream.unused_data) if stream.eof else None


def by_pieces(data: bytes, wrapper: Wrapper, piece: int, size: int, *, members: bool = False) -> bytes | None:
    file = io.BytesIO(data)
    stream = Inflated(lambda most: file.read(min(most, piece)), wrapper, members=members)
    try:
        out = b""
        while block := stream.read(size):
            out += block
    except InflateError:
        return None
    return out if stream.complete else None


def sums(out: bytes) -> tuple[bytes, bytes]:
    return struct.pack(">I", zlib.adler32(out)), struct.pack("<II", zlib.crc32(out), len(out))


@pytest.mark.parametrize("seed", range(4))
def test_the_same_bytes_as_zlib_or_both_refuse(seed: int) -> None:
    rng = random.Random(seed)
    known = streams(rng)
    for _ in range(600):
        wrapper, stream = rng.choice(known)
        stream = changed(stream, rng)
        expected = by_zlib(stream, wrapper)
        piece, size = rng.choice([(7, 100), (1000, 1 << 20), (1 << 20, 4096)])
        whole = None
        with contextlib.suppress(InflateError):
            whole = inflate(stream, wrapper, 1 << 20)
        pieced = by_pieces(stream, wrapper, piece, size)
        if expected is not None:
            assert whole == pieced == expected[0]
        elif whole is not None and wrapper != "raw":  # codes that zlib refuses, but what the checksum says
            assert stream.find(sums(whole)[wrapper == "gzip"]) > 0


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_stream_that_is_cut_anywhere_is_refused(wrapper: Wrapper) -> None:
    packing = zlib.compressobj(wbits=WINDOW_BITS[wrapper])
    stream = packing.compress(bytes(range(250)) * 3) + packing.flush()
    for end in range(len(stream)):
        with pytest.raises(InflateError):
            inflate(stream[:end], wrapper, 1000)
        assert by_pieces(stream[:end], wrapper, 5, 1000) is None
    assert inflate(stream + b"more", wrapper, 750) == bytes(range(250)) * 3


@pytest.mark.parametrize("wrapper", ["zlib", "gzip"])
def test_no_flipped_bit_changes_a_byte(wrapper: Wrapper) -> None:
    data = b"values that are guarded by a checksum" * 3
    packing = zlib.compressobj(wbits=WINDOW_BITS[wrapper])
    stream = packing.compress(data) + packing.flush()
    for bit in range(8 * len(stream)):
        flipped = bytearray(stream)
        flipped[bit // 8] ^= 1 << bit % 8
        for read in (lambda data: inflate(data, wrapper, 1000), lambda data: by_pieces(data, wrapper, 9, 50)):
            with contextlib.suppress(InflateError):
                assert read(bytes(flipped)) in (data, None)


def test_every_header_of_zlib_is_taken_or_refused_as_zlib_does() -> None:
    data = b"hello, hello"
    body = zlib.compress(data)[2:]
    for head in range(1 << 16):
        stream = head.to_bytes(2, "big") + body
        expected = by_zlib(stream, "zlib")
        found = None
        with contextlib.suppress(InflateError):
            found = inflate(stream, "zlib", 100)
        assert found == (None if expected is None else data)


@pytest.mark.parametrize("seed", range(2))
def test_every_flag_of_gzip_is_taken_or_refused_as_zlib_does(seed: int) -> None:
    rng = random.Random(seed)
    data = b"hello, hello" * 20
    body = gzip.compress(data)[10:]
    for flags in range(256):
        head = bytes([31, 139, 8, flags]) + rng.randbytes(6)
        if flags & 4:
            extra = rng.randbytes(rng.choice([0, 1, 300]))
            head += struct.pack("<H", len(extra)) + extra
        for _ in range((flags >> 3 & 1) + (flags >> 4 & 1)):
            head += bytes(rng.choices(range(1, 256), k=rng.choice([0, 1, 20]))) + b"\0"
        if flags & 2:
            head += struct.pack("<H", zlib.crc32(head) & 0xFFFF ^ rng.choice([0, 0, 1]))
        expected = by_zlib(head + body, "gzip")
        for piece in (1, 3, 1 << 20):
            assert by_pieces(head + body, "gzip", piece, 50) == (None if expected is None else data)


def test_a_gzip_header_without_end_is_refused() -> None:
    endless = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (4 << 20)
    with pytest.raises(InflateError, match="header"):
        Inflated(io.BytesIO(endless).read, "gzip").read(1)


def test_members_of_gzip_follow_one_another_where_they_may() -> None:
    parts = [b"one", b"", b"two" * 100_000, b"three"]
    data = b"".join(map(gzip.compress, parts))
    for piece in (1, 11, 1 << 20):
        assert by_pieces(data, "gzip", piece, 1000, members=True) == b"".join(parts)
        assert by_pieces(data, "gzip", piece, 1000) == b"one"
        assert by_pieces(data[:-9], "gzip", piece, 1000, members=True) is None
        assert by_pieces(data + b"rest", "gzip", piece, 1000, members=True) is None


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_bomb_makes_no_more_than_was_asked_for(wrapper: Wrapper) -> None:
    packing = zlib.compressobj(9, wbits=WINDOW_BITS[wrapper])
    bomb = b"".join(packing.compress(bytes(1 << 20)) for _ in range(64)) + packing.flush()
    tracemalloc.start()
    try:
        with pytest.raises(InflateError, match="more than 100,000 bytes"):
            inflate(bomb, wrapper, 100_000)
        stream = Inflated(io.BytesIO(bomb).read, wrapper)
        room = bytearray(b"x" * 300_000)
        assert stream.readinto(memoryview(room)) == len(room)
        assert room == bytes(300_000)
        assert not stream.complete
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_exactly_the_limit_is_a_whole_stream(wrapper: Wrapper) -> None:
    for size in (0, 1, inflating._OUTPUT - 1, inflating._OUTPUT, inflating._OUTPUT + 1):
        data = random.Random(size).randbytes(size)
        packing = zlib.compressobj(wbits=WINDOW_BITS[wrapper])
        stream = packing.compress(data) + packing.flush()
        assert inflate(stream, wrapper, size) == data
        assert by_pieces(stream, wrapper, 1000, size + 1) == data
        if size:
            with pytest.raises(InflateError):
                inflate(stream, wrapper, size - 1)
