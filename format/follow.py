"""Following a dataset while it is written: polling with a back-off, until somebody says stop.

A follower takes no lock and leaves no trace; writers do not know of it. It survives that a writer is killed
and another one takes over: what was committed stays, and goes on. SPEC.md section 11.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from rlcli.format.dataset import Dataset
from rlcli.format.view import Refreshed


class Follower:
    """Iterates over what is new in a dataset: each `Refreshed` has rows that came or left.

    `dataset` stays the caller's: between two turns it is at the snapshot that was told last, and rows per
    stream never become fewer than they were. Between polls it sleeps, from `shortest` seconds on twice as
    long each time nothing is new, up to `longest`.

    The iteration ends, after a last look, when `stop` returns True, when nothing was new for `idle_seconds`,
    or with `until_sealed` when no writer has it open any more (a killed one still has).

    Raises what `Dataset.refresh` does.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        stop: Callable[[], bool] | None = None,
        idle_seconds: float | None = None,
        until_sealed: bool = False,
        shortest: float = 0.001,
        longest: float = 0.25,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < shortest <= longest:
            raise ValueError(f"shortest {shortest} and longest {longest} seconds between two looks")
        self.dataset = dataset
        self._stop = stop
        self._idle_seconds = idle_seconds
        self._until_sealed = until_sealed
        self._shortest = shortest
        self._longest = longest
        self._sleep = sleep
        self._clock = clock

    def __iter__(self) -> Iterator[Refreshed]:
        pause = self._shortest
        last = self._clock()
        while True:
            ends = self._ends(last)
            news = self.dataset.refresh()
            if news.is_changed:
                yield news
                pause, last = self._shortest, self._clock()
            elif ends:
                return
            else:
                self._sleep(pause)
                pause = min(2 * pause, self._longest)

    def _ends(self, last: float) -> bool:
        """Asked before a look: what came in between is still told."""
        if self._stop is not None and self._stop():
            return True
        if self._idle_seconds is not None and self._clock() - last >= self._idle_seconds:
            return True
        return self._until_sealed and self.dataset.state == "sealed"
