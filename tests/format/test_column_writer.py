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
from rlcli.format.journal import Episode, Journal, Packer

Array = np.ndarray[Any, Any]


@pytest.fixture
def fds(tmp_path: Path) -> Iterator[list[int]]:
    found = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT) for n in range(3)]
    yield found
    for fd in found:
        os.close(fd)


def _writer(
    fds: list[int],
    row_bytes: list[int],
    tail: _native.JournalTail | None = None,
    fd: int = -1,
    *,
    others: int = 0,
    rows: int = 0,
    alloc: int = 1 << 40,
) -> _native.ColumnWriter:
    return _native.ColumnWriter(fds, row_bytes, tail or _native.JournalTail(0), fd, others, rows, alloc)


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
    num_others = data.draw(st.integers(0, 5))
    writer = _writer([-1], [1], others=num_others)
    for part in parts:
        writer.hash([part], len(part))
    nothing = num_others * xxhash.xxh3_64_digest(b"")
    others = data.draw(st.sampled_from([b"", bytes(range(8 * num_others))]))
    assert writer.digest(others) == _reference(
        [b"".join(part.tobytes() for part in parts)], others or nothing
    )
    assert writer.digest(b"") == _reference([b""], nothing), "it begins anew"
    assert writer.rows == sum(sizes)


def test_digests_of_others_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="eight bytes"):
        _writer([-1], [1], others=1).digest(b"xyz")


def test_every_short_length() -> None:
    data = np.random.default_rng(0).integers(0, 256, 1100, np.uint8)
    writer = _writer([-1], [1])
    for size in range(len(data)):
        writer.hash([data[:size]], size)
        assert writer.digest(b"") == _reference([data[:size].tobytes()]), size


def test_rows_land_where_they_belong(fds: list[int]) -> None:
    writer = _writer(fds, [8, 12, 1], rows=2)
    columns: list[Array] = [np.arange(5), np.ones((5, 3), np.float32), np.zeros((5, 1), bool)]
    writer.write(columns, 5)
    assert (writer.rows, writer.has_new_rows) == (7, True)
    for fd, column, row_bytes in zip(fds, columns, (8, 12, 1), strict=True):
        assert os.pread(fd, 1000, 0) == bytes(2 * row_bytes) + column.tobytes()
    assert writer.digest(b"") == _reference([column.tobytes() for column in columns])


def test_a_commit_is_the_record_that_the_specification_says(fds: list[int]) -> None:
    dataset, boot = "0123456789abcdef" * 2, "ab" * 16
    packer, tail = Packer(7), Packer(7)  # the reference, and the one that is also written natively
    header = packer.header(dataset, boot, 1)
    assert tail.header(dataset, boot, 1) == header
    os.pwrite(fds[0], header, 0)
    writer = _writer(fds[1:2], [8], tail, fds[0], others=1)
    rows = np.arange(3)
    writer.write([rows], 3)
    writer.commit((1 << 64) - 1, True)
    nothing = xxhash.xxh3_64_digest(b"")
    found = os.pread(fds[0], 1000, 64)
    hash_ = _reference([rows.tobytes()], nothing)
    assert found == packer.rows(0, 3, hash_, _time(found), (1 << 64) - 1, True)
    episode = Episode(0, 3, 0.5, 0, 0, 0)
    writer.commit_all(5, False, tail.episode(episode), b"12345678")
    assert os.pread(fds[0], 64, 128) == packer.episode(episode)
    found = os.pread(fds[0], 1000, 192)
    assert found == packer.rows(3, 0, _reference([b""], b"12345678"), _time(found), 5, False)
    assert (tail.size, tail.committed, writer.has_new_rows) == (256, 3, False)
    journal = Journal(7, dataset, 0, 10)
    assert journal.feed(header + os.pread(fds[0], 64, 64)) is None
    assert journal.rows == 3


def _time(record: bytes) -> int:
    return int.from_bytes(record[40:48], "little")


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
                writer = _writer([fd], [row_bytes], rows=at)
                writer.resume(0, os.pread(fd, at * row_bytes, 0))
            writer.write([rng.integers(0, 256, (count, row_bytes), np.uint8)], count)
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
        writer.write([np.arange(2), np.arange(2)], 2)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="descriptor"):
        writer.commit(4, False)


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
        _writer(fds[:1], [8]).write(arrays, rows)
    assert os.pread(fds[0], 10, 0) == b""


def test_rows_that_find_no_room_are_refused(fds: list[int]) -> None:
    writer = _writer(fds[:1], [8], rows=2, alloc=5)
    with pytest.raises(ValueError, match="room"):
        writer.write([np.arange(4)], 4)
    writer.write([np.arange(3)], 3)
    assert os.pread(fds[0], 100, 0) == bytes(16) + np.arange(3).tobytes()


def test_only_rows_that_are_exactly_right_go_the_quick_way(fds: list[int]) -> None:
    quick = _native.QuickRows([("a",), ("b", "c")], [np.dtype("float32"), np.dtype("bool")], [(2,), ()], 0)
    writer, rewards = _writer(fds[:2], [8, 1], alloc=6), _native.RewardSum(1.0)
    right: dict[Any, Any] = {("b", "c"): np.ones(3, bool), ("a",): np.ones((3, 2), np.float32)}
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
        {**right, ("b", "c"): np.array([1, 0, 2], np.uint8).view(bool)},
        {("b", "c"): np.ones(7, bool), ("a",): np.ones((7, 2), np.float32)},
    ]
    for columns in wrong:
        assert quick.write(columns, writer, rewards) == -1
        assert (writer.rows, rewards.take_each([0])) == (0, [1.0])
        rewards = _native.RewardSum(1.0)
    empty = {("a",): np.zeros((0, 2), np.float32), ("b", "c"): np.zeros(0, bool)}
    assert quick.write(empty, writer, rewards) == 0
    assert quick.write(right, writer, rewards) == 3
    again = {("a",): np.full((3, 2), 2, np.float32), ("b", "c"): np.zeros(3, bool)}  # in another order
    assert quick.write(again, writer, rewards) == 3
    assert os.pread(fds[0], 100, 0) == right["a",].tobytes() + again["a",].tobytes()
    assert os.pread(fds[1], 100, 0) == b"\1\1\1\0\0\0"
    assert rewards.take_each([0]) == [1 + 6 + 12]
    assert quick.write(right, writer, rewards) == -1, "it is full"


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    rest=st.integers(0, 3000),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_returns_are_sums_in_order(counts: list[int], rest: int, dtype: type) -> None:
    rng = np.random.default_rng(sum(counts))
    parts = [
        (rng.standard_normal(count) * 10.0 ** rng.integers(-3, 9, count)).astype(dtype) for count in counts
    ]
    rest = min(rest, counts[-1])
    rewards = _native.RewardSum(0.25)
    for part in parts:
        rewards.add(part)
    total, values = 0.25, np.concatenate(parts).astype(np.float64).tolist()
    for value in values[: len(values) - rest]:
        total += value
    assert rewards.take_each([rest]) == [total]
    total = 0.0
    for value in values[len(values) - rest :]:
        total += value
    assert rewards.take_each([0]) == [total]


def test_what_is_no_reward_is_refused() -> None:
    rewards = _native.RewardSum()
    with pytest.raises(TypeError, match="float"):
        rewards.add(np.arange(3))
    with pytest.raises(ValueError, match="contiguous"):
        rewards.add(np.zeros(8)[::2])
    rewards.add(np.ones(3))
    with pytest.raises(ValueError, match="last write"):
        rewards.take_each([4])
