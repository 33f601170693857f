"""The native row path against slow references: python-xxhash, `struct` records, numpy's own checks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli import _native
from rlcli.format import sums
from rlcli.format.journal import Journal, Packer

Array = np.ndarray[Any, Any]


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    found = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT) for n in range(3)]
    yield found
    for fd in found:
        os.close(fd)


def _writer(
    fds: list[int], row_bytes: list[int], tail: _native.JournalTail | None = None, fd: int = -1
) -> _native.ColumnWriter:
    return _native.ColumnWriter(fds, row_bytes, tail or _native.JournalTail(0), fd)


def _reference(columns: list[bytes], others: bytes = b"") -> int:
    digests = b"".join(xxhash.xxh3_64_digest(column) for column in columns)
    return xxhash.xxh3_64_intdigest(digests + others)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 300), st.integers(900, 1100), st.integers(2000, 5000)), max_size=6),
    st.data(),
)
def test_the_hash_is_that_of_the_bytes_however_they_come(sizes: list[int], data: st.DataObject) -> None:
    rng = np.random.default_rng(sum(sizes))
    parts = [rng.integers(0, 256, size, np.uint8) for size in sizes]
    writer = _writer([-1], [1])
    for part in parts:
        writer.hash([part], len(part))
    others = data.draw(st.binary(max_size=40))
    assert writer.digest(others) == _reference([b"".join(part.tobytes() for part in parts)], others)
    assert writer.digest(b"") == _reference([b""]), "it begins anew"


def test_every_short_length() -> None:
    data = np.random.default_rng(0).integers(0, 256, 1100, np.uint8)
    writer = _writer([-1], [1])
    for size in range(len(data)):
        writer.hash([data[:size]], size)
        assert writer.digest(b"") == _reference([data[:size].tobytes()]), size


def test_rows_land_where_they_belong(fds: list[int]) -> None:
    writer = _writer(fds, [8, 12, 1])
    columns: list[Array] = [np.arange(5), np.ones((5, 3), np.float32), np.zeros((5, 1), bool)]
    writer.write(columns, 5, 2)
    for fd, column, row_bytes in zip(fds, columns, (8, 12, 1), strict=True):
        assert os.pread(fd, 1000, 0) == bytes(2 * row_bytes) + column.tobytes()
    assert writer.digest(b"") == _reference([column.tobytes() for column in columns])


def test_a_commit_is_the_record_that_the_specification_says(fds: list[int]) -> None:
    dataset, boot = "0123456789abcdef" * 2, "ab" * 16
    packer = Packer(7)
    header = packer.header(dataset, boot, 1)
    os.pwrite(fds[0], header, 0)
    tail = _native.JournalTail(7)
    tail.sequence, tail.crc, tail.size = packer.sequence, packer.crc, 64
    writer = _writer(fds[1:2], [8], tail, fds[0])
    rows = np.arange(3)
    writer.write([rows], 3, 0)
    writer.commit(b"", b"xyz", 3, (1 << 64) - 1, True)
    found = os.pread(fds[0], 1000, 64)
    time_ns = int.from_bytes(found[40:48], "little")
    expected = packer.rows(0, 3, _reference([rows.tobytes()], b"xyz"), time_ns, (1 << 64) - 1, True)
    assert found == expected
    assert (tail.crc, tail.sequence) == (packer.crc, packer.sequence)
    assert (tail.size, tail.committed) == (128, 3)
    journal = Journal(7, dataset, 0, 10)
    assert journal.feed(header + found) is None
    assert journal.rows == 3


@settings(max_examples=60, deadline=None)
@given(
    row_bytes=st.sampled_from([1, 3, 64, 5000]),
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    resumed=st.integers(0, 5),
    room=st.integers(0, 300),
)
def test_the_sums_are_those_of_the_file(
    row_bytes: int, counts: list[int], resumed: int, room: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(row_bytes)
    fd = os.open(tmp_path_factory.mktemp("sums") / "column", os.O_RDWR | os.O_CREAT)
    try:
        writer, at = _writer([fd], [row_bytes]), 0
        for number, count in enumerate(counts):
            if number == resumed:  # as if another process had written what is there
                writer = _writer([fd], [row_bytes])
                writer.resume(0, os.pread(fd, at * row_bytes, 0))
            writer.write([rng.integers(0, 256, (count, row_bytes), np.uint8)], count, at)
            at += count
        os.ftruncate(fd, (at + room) * row_bytes)
        data = os.pread(fd, (at + room) * row_bytes, 0)
        found = sums.of_column(writer, 0, fd, len(data), at * row_bytes)
        assert (found.bytes, found.blocks) == (len(data), sums.of_bytes(data).blocks)
        assert found.content == xxhash.xxh3_128_hexdigest(data[: at * row_bytes])
    finally:
        os.close(fd)


def test_sums_of_a_file_that_is_too_small_are_refused() -> None:
    writer = _writer([-1], [1])
    writer.hash([np.zeros(300, np.uint8)], 300)
    with pytest.raises(ValueError, match="more than the file"):
        writer.sums(0, 299)
    for call in (lambda: writer.sums(1, 300), lambda: writer.resume(1, b"")):
        with pytest.raises(IndexError, match="column"):
            call()


def test_an_error_of_the_disk_has_its_number(fds: list[int]) -> None:
    writer = _writer([fds[0], -1], [8, 8])
    with pytest.raises(OSError, match="descriptor") as caught:
        writer.write([np.arange(2), np.arange(2)], 2, 0)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="descriptor"):
        writer.commit(b"", b"", 3, 4, False)


@pytest.mark.parametrize(
    ("arrays", "rows"),
    [
        ([np.arange(4)], 2),
        ([np.arange(4), np.arange(4)], 4),
        ([], 0),
        ([np.arange(8)[::2]], 4),
        ([np.arange(4, dtype=np.int32)], 4),
    ],
)
def test_arrays_that_are_not_the_rows_are_refused(fds: list[int], arrays: list[Array], rows: int) -> None:
    with pytest.raises(ValueError, match="array"):
        _writer(fds[:1], [8]).write(arrays, rows, 0)
    assert os.pread(fds[0], 10, 0) == b""


def test_the_quick_check_takes_only_what_is_exactly_right() -> None:
    check = _native.RowCheck([("a",), ("b", "c")], [np.dtype("float32"), np.dtype("bool")], [(2,), ()])
    right: dict[Any, Any] = {("b", "c"): np.zeros(3, bool), ("a",): np.zeros((3, 2), np.float32)}
    taken = check.take(right)
    assert taken is not None
    assert (taken[0][0] is right["a",], taken[0][1] is right["b", "c"], taken[1]) == (True, True, 3)
    wrong: list[dict[Any, Any]] = [
        {},
        {("a",): right["a",]},
        {**right, ("d",): right["a",]},
        {("a",): right["a",], ("d",): right["b", "c"]},
        {**right, ("a",): np.zeros((3, 2))},
        {**right, ("a",): np.zeros((3, 2), ">f4")},
        {**right, ("a",): np.zeros((3, 3), np.float32)},
        {**right, ("a",): np.zeros((4, 2), np.float32)},
        {**right, ("a",): np.zeros((2, 3), np.float32).T},
        {**right, ("a",): np.zeros(6, np.float32)},
        {**right, ("a",): [[0.0, 0.0]] * 3},
        {**right, ("b", "c"): np.bool_(True)},
        {**right, ("b", "c"): np.array(True)},
    ]
    for columns in wrong:
        assert check.take(columns) is None
