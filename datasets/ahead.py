"""Reading the next rows of a source while some are written: decoders and files leave Python's lock alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import Generic, TypeVar, cast

T = TypeVar("T")
_OVER = object()


def ahead(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
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


def next_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread takes the next one while one is in use, so that two are in memory."""
    for item in ahead(repeat(partial(next, items, _OVER))):
        if item is _OVER:
            return
        yield cast(T, item)


def grouped_ahead(items: Iterator[T], size: Callable[[T], int], enough: int) -> Iterator[T]:
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
