"""Reading the next rows of a source while some are written: decoders and files leave Python's lock alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import Generic, TypeVar, cast

T = TypeVar("T")
_OVER = object()
_FEW_BYTES = 1 << 18  # which one thread makes sooner than several


def ahead(calls: Iterable[Callable[[], T]]) -> Generator[T]:
    """What `calls` return, in order; a thread makes the next result while one is in use.

    So two results are in memory. Raises what a call raises, in its turn.
    """
    with ThreadPoolExecutor(1) as pool:
        coming: Future[T] | None = None
        for call in calls:
            following = pool.submit(call)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def next_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items; a thread takes the next one while one is in use, so that two are in memory."""
    for item in ahead(repeat(partial(next, items, _OVER))):
        if item is _OVER:
            return
        yield cast(T, item)


def grouped_ahead(items: Iterator[T], size: Callable[[T], int], enough: int) -> Generator[T]:
    """The same items; a thread takes the next ones, of `enough` bytes together, while some are in use.

    An item is made in that thread, and must stay as it is when others are made.
    """

    def take() -> list[T]:
        taken: list[T] = []
        total = 0
        for item in items:
            taken.append(item)
            total += size(item)
            if total >= enough:
                break
        return taken

    for group in ahead(repeat(take)):
        if not group:
            return
        yield from group


class InTurn(Generic[T]):
    """Results of a call for 0 … count - 1, mostly asked for in this order: a thread makes the next meanwhile.

    No two calls run at once. `close` waits for the one that runs.
    """

    def __init__(self, call: Callable[[int], T], count: int) -> None:
        self._call, self._count = call, count
        self._pool = ThreadPoolExecutor(1)
        self._coming: tuple[int, Future[T]] | None = None

    def __call__(self, number: int) -> T:
        """The result for a number. Raises what the call raises."""
        if self._coming is None or self._coming[0] != number:
            self._coming = (number, self._pool.submit(self._call, number))
        found = self._coming[1].result()
        following = number + 1
        self._coming = None
        if following < self._count:
            self._coming = (following, self._pool.submit(self._call, following))
        return found

    def close(self) -> None:
        """Forgets what is not asked for yet."""
        self._pool.shutdown(cancel_futures=True)


class SideBySide:
    """The columns of a slice, read by as many threads as there are cores; whoever asks for them is one."""

    def __init__(self) -> None:
        self._others = max(1, len(os.sched_getaffinity(0)) - 1)
        self._pool = ThreadPoolExecutor(self._others)

    def __call__(self, calls: Mapping[str, Callable[[], T]], num_bytes: Mapping[str, int]) -> dict[str, T]:
        """What each call returns, by its name; those of many bytes begin first, so that no core waits long.

        Raises what a call raises when all are over.
        """
        waiting = sorted(calls, key=lambda name: -num_bytes[name])
        if len(calls) < 2 or sum(num_bytes[name] for name in calls) < _FEW_BYTES:
            return {name: call() for name, call in calls.items()}
        turns, found = iter(waiting), dict[str, T]()

        def work() -> None:
            for name in turns:  # Python's lock gives each name to one thread
                found[name] = calls[name]()

        others = [self._pool.submit(work) for _ in range(min(self._others, len(calls) - 1))]
        try:
            work()
        finally:
            for other in others:
                other.result()
        return {name: found[name] for name in calls}

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()
