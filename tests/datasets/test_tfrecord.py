"""TFRecord framing: bytes made by hand, laws of the writer, damage that is named with file and offset."""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli.datasets import tfrecord
from rlcli.datasets.tfrecord import (
    MAX_RECORD_BYTES,
    Block,
    RecordWriter,
    masked_crc,
    read_blocks,
    read_records,
    sniff,
)
from rlcli.errors import CorruptError, InputError, RLError


def crc32c_slow(data: bytes) -> int:
    """Bit by bit, polynomial 0x1EDC6F41 reflected (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked_slow(data: bytes) -> int:
    crc = crc32c_slow(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(*payloads: bytes) -> bytes:
    """A file as the format's definition says, without the code under test."""
    out = b""
    for payload in payloads:
        length = struct.pack("<Q", len(payload))
        out += length + struct.pack("<I", masked_slow(length)) + payload
        out += struct.pack("<I", masked_slow(payload))
    return out


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def payloads(path: Path) -> list[bytes]:
    return [payload for _, payload in read_records(path)]


def test_checksum_of_the_rfc_vectors() -> None:
    assert crc32c_slow(bytes(32)) == 0x8A9136AA  # RFC 3720: 32 bytes of zeros
    assert crc32c_slow(b"\xff" * 32) == 0x62A8AB43
    for data in (b"", bytes(32), b"\xff" * 32, bytes(range(32))):
        assert masked_crc(data) == masked_slow(data)


def test_records_come_back_with_their_offsets(tmp_path: Path) -> None:
    path = write(tmp_path / "a", framed(b"one", b"", b"three"))
    assert list(read_records(path)) == [(0, b"one"), (19, b""), (35, b"three")]


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_written_files_are_read_back_and_recognised(tmp_path: Path, compression: str) -> None:
    records = [b"x" * 10, b"", bytes(3 << 20)]  # the last one compresses a thousandfold
    with RecordWriter(tmp_path / "a", compression) as writer:  # type: ignore[arg-type]
        for record in records:
            writer.write(record)
    assert writer.num_records == 3
    assert writer.num_bytes == sum(map(len, records)) + 48
    assert sniff(tmp_path / "a") == compression
    assert payloads(tmp_path / "a") == records


def test_written_bytes_are_those_of_the_definition(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a") as writer:
        writer.write(b"one")
        writer.write(b"three")
    assert (tmp_path / "a").read_bytes() == framed(b"one", b"three")


@pytest.mark.parametrize("size", [0x9C78, 0x0178, 0x088B1F])
def test_a_length_that_looks_like_a_compression_magic_is_a_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    with RecordWriter(path) as writer:
        writer.write(bytes(size))
    assert sniff(path) == "none"
    assert [len(payload) for payload in payloads(path)] == [size]


def test_gzip_members_may_follow_one_another(tmp_path: Path) -> None:
    path = write(tmp_path / "a", gzip.compress(framed(b"one")) + gzip.compress(framed(b"two")))
    assert payloads(path) == [b"one", b"two"]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert payloads(write(tmp_path / "a", b"")) == []
    assert payloads(write(tmp_path / "b", gzip.compress(b""))) == []
    assert sniff(tmp_path / "a") == "none"


def test_another_file_is_not_a_tfrecord_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"PK\x03\x04 something else entirely")
    assert sniff(path) is None
    with pytest.raises(CorruptError, match="neither gzip nor zlib"):
        payloads(path)
    assert sniff(write(tmp_path / "b", gzip.compress(b"plain text, not records"))) is None
    assert sniff(write(tmp_path / "c", b"\x78\x9c not zlib either")) is None


@pytest.mark.parametrize("cut", [5, 12, 20])
def test_damaged_gzip_is_told_from_another_file(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(random.Random(3).randbytes(99))
    with pytest.raises(CorruptError, match="ends at byte"):
        sniff(write(tmp_path / "a", whole[:cut]))
    with pytest.raises(CorruptError, match="gzip data is damaged"):
        sniff(write(tmp_path / "b", b"\x1f\x8b\x08 not gzip after all"))


def test_missing_files_and_folders_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError):
            payloads(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_named_with_file_and_offset(tmp_path: Path, compressed: bool) -> None:
    whole = framed(b"one", b"three")
    data = zlib.compress(whole) if compressed else whole
    for size in range(1, len(data)):
        path = write(tmp_path / "a", data[:size])
        if not compressed and size == 19:  # exactly one record
            assert payloads(path) == [b"one"]
            continue
        with pytest.raises(CorruptError, match=r"a: byte \d+: the file ends at byte"):
            payloads(path)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    whole = framed(b"one", b"three")
    for bit in range(len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match=r"byte (0|19)"):
            payloads(write(tmp_path / "a", bytes(data)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_compressed_files_end_in_a_clean_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(gzip.compress(framed(*(bytes([n]) * 50 for n in range(20)))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = write(tmp_path_factory.mktemp("fuzz") / "a", bytes(whole))
    with contextlib.suppress(CorruptError):
        assert payloads(path) == [bytes([n]) * 50 for n in range(20)]  # gzip's header has idle fields


def test_a_length_that_cannot_be_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    length = struct.pack("<Q", MAX_RECORD_BYTES + 1)
    header = length + struct.pack("<I", masked_slow(length))
    with pytest.raises(CorruptError, match="at most"):
        payloads(write(tmp_path / "a", header + bytes(100)))
    length = struct.pack("<Q", MAX_RECORD_BYTES)
    header = length + struct.pack("<I", masked_slow(length))
    for data in (header + bytes(100), gzip.compress(header + bytes(100))):
        with pytest.raises(CorruptError, match="the file ends at byte 112"):
            payloads(write(tmp_path / "a", data))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "a", b"mine")
    with pytest.raises(FileExistsError):
        RecordWriter(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine"


def told(records: Iterator[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], str]:
    """The records before an error, and what it says."""
    found = []
    try:
        for record in records:
            found.append(record)
    except RLError as err:
        return found, err.message
    return found, ""


SIZES = [0, 1, 7, 30, 60, 100, 136, 140, 160, 1000]


def of_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Records of each block, taken when the one after it was read already."""
    blocks = read_blocks(path)
    held: Block | None = None
    error: RLError | None = None
    while True:
        try:
            following = next(blocks, None)
        except RLError as err:
            following, error = None, err
        if held is not None:
            assert len(held.starts) == len(held.sizes) == len(held.positions) > 0
            for index, position in enumerate(held.positions):
                yield int(position), held.record(index)
        if following is None:
            break
        held = following
    if error is not None:
        raise error


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_blocks_hold_the_records_of_a_file_and_tell_its_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Records smaller and larger than a block, files that are whole, cut and flipped: one by one says so."""
    monkeypatch.setattr(tfrecord, "_ROOM", 160)
    monkeypatch.setattr(tfrecord, "_ALONE", 100)
    chance = random.Random(5)
    for number in range(60):
        path = tmp_path / str(number)
        with RecordWriter(path, compression) as writer:  # type: ignore[arg-type]
            for size in [1000, 1000, 60, 60, 1000] if number == 0 else chance.choices(SIZES, k=number % 20):
                writer.write(chance.randbytes(size))
        data = bytearray(path.read_bytes())
        assert told(of_blocks(path)) == told(read_records(path))
        if data:
            flipped = bytearray(data)
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            for damaged in (data[: chance.randrange(len(data))], flipped):
                path.write_bytes(damaged)
                assert told(of_blocks(path)) == told(read_records(path))


def test_a_record_that_says_it_is_larger_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    length = struct.pack("<Q", MAX_RECORD_BYTES)
    path = write(tmp_path / "a", framed(b"one") + length + struct.pack("<I", masked_slow(length)) + b"few")
    tracemalloc.start()
    with pytest.raises(CorruptError, match="byte 19: the file ends at byte 34 inside its record"):
        list(read_blocks(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
