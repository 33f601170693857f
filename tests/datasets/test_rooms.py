"""Memory that is used again is never that of the slice before."""

from __future__ import annotations

import numpy as np

from rlcli.datasets.rooms import Rooms


def test_a_slice_and_the_one_before_it_share_no_memory():
    rooms = Rooms()
    before = np.empty(0)
    for number, rows in enumerate([5, 5, 3, 5, 7, 2, 7]):
        room = rooms.take("x", rows, (2,), np.dtype("f4"))
        assert (room.shape, room.dtype) == ((rows, 2), np.float32)
        room[:] = number
        assert (before == number - 1).all()
        before = room
    assert rooms.take("x", 2, (3,), np.dtype("i8")).shape == (2, 3)


def test_memory_is_that_of_the_slice_before_the_last():
    rooms = Rooms()
    first, _, third = (rooms.take("x", 4, (), np.dtype("f8")) for _ in range(3))
    assert np.shares_memory(first, third)
