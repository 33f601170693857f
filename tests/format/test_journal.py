"""Journal records: what is written is read, and what is not right is not."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli.format.journal import CUT, HAS_FINAL, NO_SEED, RECORD, Episode, Journal, Packer

UUID, BOOT = "0f" * 16, "ab" * 16


def _journal(alloc: int = 100, first: int = 10) -> Journal:
    return Journal(3, UUID, first, alloc)


def _bytes(*, seal: bool = True) -> bytes:
    packer = Packer(3)
    records = [
        packer.header(UUID, BOOT, 5),
        packer.rows(0, 4, 111, 222, 333, False),
        packer.episode(Episode(6, 9, 2.5, 17, NO_SEED, HAS_FINAL | CUT)),
        packer.episode(Episode(15, 1, -1.0, 18, 9, HAS_FINAL)),
        packer.rows(4, 2, 2**64 - 1, 222, 0, True),
    ]
    return b"".join(records) + (packer.seal(6, 2, 2, 1, 8) if seal else b"")


def test_a_record_is_64_bytes_as_the_specification_lays_out() -> None:
    record = Packer(3).header(UUID, BOOT, 5)
    assert len(record) == RECORD
    assert record[:8] == b"RLJ1\x00\x00\x03\x00"
    assert record[16:32].hex() == UUID
    assert record[32:48].hex() == BOOT
    assert struct.unpack("<Q", record[48:56]) == (5,)
    assert struct.unpack("<II", record[56:]) == (0, zlib.crc32(record[:60]))


def test_what_is_written_is_read() -> None:
    journal = _journal()
    assert journal.feed(_bytes()) is None
    assert (journal.boot, journal.generation, journal.sealed_by) == (BOOT, 5, 8)
    assert (journal.rows, journal.finals, journal.offset) == (6, 2, 6 * RECORD)
    assert journal.episodes[0] == Episode(6, 9, 2.5, 17, NO_SEED, HAS_FINAL | CUT)
    assert [(c.first, c.rows, c.hash, c.tag, c.durable) for c in journal.commits] == [
        (0, 4, 111, 333, False),
        (4, 2, 2**64 - 1, 0, True),
    ]
    assert [(c.finals_before, c.finals) for c in journal.commits] == [(0, 0), (0, 2)]


@given(cuts=st.lists(st.integers(0, 6), max_size=5))
@settings(deadline=None)
def test_growing_in_any_steps_is_reading_at_once(cuts: list[int]) -> None:
    data, journal = _bytes(), _journal()
    for cut in [*sorted(cuts), 6]:
        assert journal.feed(data[journal.offset : cut * RECORD]) is None
    whole = _journal()
    whole.feed(data)
    assert journal == whole


@pytest.mark.parametrize("length", range(0, 6 * RECORD, 13))
def test_a_cut_journal_is_a_shorter_one(length: int) -> None:
    journal = _journal()
    reason = journal.feed(_bytes()[:length])
    assert (reason is not None) == (length % RECORD != 0)
    assert journal.rows == (6 if length >= 5 * RECORD else 4 if length >= 2 * RECORD else 0)
    assert len(journal.episodes) == (2 if length >= 5 * RECORD else 0)


def test_every_flipped_bit_ends_the_journal_there() -> None:
    data = _bytes()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        journal = _journal()
        assert journal.feed(bytes(flipped)) is not None
        assert journal.offset <= bit // 8 // RECORD * RECORD


def _reseal(record: bytes) -> bytes:
    body = record[:60]
    return body + struct.pack("<I", zlib.crc32(body))


def _refused(*records: bytes, **options: int) -> str:
    reason = _journal(**options).feed(b"".join(records))
    assert reason is not None
    return reason


def test_records_that_contradict_are_refused() -> None:
    def start() -> tuple[Packer, bytes]:
        packer = Packer(3)
        return packer, packer.header(UUID, BOOT, 1)

    packer, header = start()
    assert "belongs to dataset" in _refused(Packer(3).header("00" * 16, BOOT, 1))
    assert "does not continue" in _refused(Packer(4).header(UUID, BOOT, 1))
    assert "rows 1 to" in _refused(header, packer.rows(1, 2, 0, 0, 0, False))
    packer, header = start()
    assert "rows 0 to 101" in _refused(header, packer.rows(0, 101, 0, 0, 0, False))
    packer, header = start()
    assert "uncovered" in _refused(
        header, packer.episode(Episode(10, 5, 0, 0, 0, 0)), packer.rows(0, 4, 0, 0, 0, False)
    )
    packer, header = start()
    assert "cannot be" in _refused(
        header, packer.episode(Episode(3, 7, 0, 0, 0, 0))
    )  # ends before the segment
    packer, header = start()
    assert "cannot be" in _refused(
        header, packer.episode(Episode(10, 3, 0, 0, 0, 0)), packer.episode(Episode(12, 3, 0, 0, 0, 0))
    )
    packer, header = start()
    assert "seals" in _refused(header, packer.seal(1, 0, 0, 0, 2))
    packer, header = start()
    assert "does not continue" in _refused(
        header, packer.seal(0, 0, 0, 0, 2), packer.rows(0, 1, 0, 0, 0, False)
    )
    packer, header = start()
    unknown = bytearray(packer.rows(0, 1, 0, 0, 0, False))
    unknown[4] = 9
    assert "unknown kind" in _refused(header, _reseal(bytes(unknown)))
    packer, header = start()
    packer.rows(0, 1, 0, 0, 0, False)
    assert "does not continue" in _refused(header, packer.rows(1, 1, 0, 0, 0, False))


def test_episodes_may_end_with_rows_that_are_committed() -> None:
    packer = Packer(3)
    journal = _journal()
    data = packer.header(UUID, BOOT, 1) + packer.rows(0, 5, 0, 0, 0, False)
    data += packer.episode(Episode(2, 13, 0, 0, 0, 0)) + packer.rows(5, 0, 0, 0, 0, False)
    assert journal.feed(data) is None
    assert (journal.rows, len(journal.episodes)) == (5, 1)
