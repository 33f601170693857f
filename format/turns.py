"""Threads that read, and one that moves on what they read: never both at once."""

from __future__ import annotations

import os
import weakref
from functools import cache
from threading import Event, Lock, get_ident
from types import TracebackType


class Reading:
    """A context in which what is read stays as it is. One thread may not enter it again inside."""

    def __init__(self) -> None:
        self.door = Lock()  # closed by who moves on
        self.threads: set[int] = set()  # by their identity: one that an interrupt left here harms only itself
        self.has_left = Event()
        self.is_awaited = False
        _all().add(self)

    def __enter__(self) -> None:
        with self.door:
            self.threads.add(get_ident())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.threads.discard(get_ident())
        if self.is_awaited:
            self.has_left.set()


class Moving:
    """A context in which no other thread is inside `reading`, and none enters it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __enter__(self) -> None:
        reading = self._reading
        reading.door.acquire()
        reading.is_awaited = True
        while reading.threads.difference((get_ident(),)):
            reading.has_left.wait(0.01)  # one who left just before we waited has not told us
            reading.has_left.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.is_awaited = False
        self._reading.door.release()


@cache
def _all() -> weakref.WeakSet[Reading]:
    """Every one of this process. In a forked child the other threads are gone, whatever they were at."""
    os.register_at_fork(after_in_child=_begin_anew)
    return weakref.WeakSet()


def _begin_anew() -> None:
    for reading in _all():
        reading.door = Lock()
        reading.threads.clear()
        reading.has_left = Event()
        reading.is_awaited = False
