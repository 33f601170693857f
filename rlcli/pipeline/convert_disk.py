"""Rows on their way to the disk: it writes while others are still read, and is waited for once.

A dataset that grows under a hidden name owes nobody durability before it takes its own name. So its writer
syncs nothing (`process`, SPEC.md section 10). Every 64 MiB a thread has the disk begin with what there is; at
the end all files and folders are synced side by side, since a file system commits many at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from rlcli.format import files, folders

_STEP_BYTES = 64 << 20
_AT_ONCE = 8  # syncs that wait together
_GROWING = (".memmap", ".heap")  # what is large; small files come and go under other names


class ToDisk:
    """Brings the growing dataset `root` to the disk; leaving the block without an error waits for all of it.

    Raises what a sync raises, in `wrote` or at the end: after that the dataset must not be used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._waiting = 0  # bytes that nobody was told to write
        self._pool = ThreadPoolExecutor(1)
        self._task: Future[None] | None = None

    def wrote(self, count: int) -> None:
        """`count` bytes more are in the system's hands."""
        self._waiting += count
        if self._waiting < _STEP_BYTES or (self._task is not None and not self._task.done()):
            return
        self._take()
        self._waiting = 0
        self._task = self._pool.submit(self._begin)

    def _begin(self) -> None:
        for name in ("segments", "heaps"):
            for folder, _, found in os.walk(self.root / name):
                for file in found:
                    if file.endswith(_GROWING):
                        files.sync_path(Path(folder) / file)

    def _take(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def __enter__(self) -> ToDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if kind is None:
            self._take()
            sync_dataset(self.root)


def sync_dataset(root: Path) -> None:
    """Everything below `root` to the disk, names too."""
    found = [(Path(folder), [Path(folder, name) for name in names]) for folder, _, names in os.walk(root)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        _all(pool, files.sync_path, [file for _, inside in found for file in inside])
        _all(pool, folders.sync, [folder for folder, _ in found])


def _all(pool: ThreadPoolExecutor, sync: Callable[[Path], None], paths: Sequence[Path]) -> None:
    def some(first: int) -> None:
        for path in paths[first::_AT_ONCE]:
            sync(path)

    for done in [pool.submit(some, first) for first in range(min(_AT_ONCE, len(paths)))]:
        done.result()
