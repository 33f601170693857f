"""The files a conversion reads: sizes and hashes for the lineage, and whether they changed meanwhile."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlcli.datasets.regular import open_regular
from rlcli.errors import InputError

_LISTED = 1024  # more files than this are told by one hash over the list of their hashes
_BLOCK = 1 << 20

State = tuple[int, int, int]  # of a file: bytes, time of its last change, inode


class Fingerprint:
    """Sizes, times and inodes of files, so that a change while they are read is noticed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.state = self._look()

    def check(self) -> None:
        """Raises `InputError` that names a file that changed."""
        for path, before, now in zip(self.files, self.state, self._look(), strict=True):
            if before != now:
                raise InputError(f"{path}: changed while it was converted", path=path)

    def _look(self) -> list[State]:
        return [_state(path.stat()) for path in self.files]


class Hashes:
    """SHA-256 of a source's files, found out by threads beside other work.

    They begin with the files at `src`, before anybody knows which of them are read; `tell` says that. Leaving
    the block ends them. `check` is called often and may raise.
    """

    def __init__(self, src: Path, check: Callable[[], None]) -> None:
        self._src = src
        self._check = check
        self._lock = threading.Lock()
        self._waiting = _files_at(src)
        self._taken: set[Path] = set()
        self._told: frozenset[Path] | None = None
        self._found: dict[Path, tuple[State, str]] = {}
        self._is_over = False
        self._num_threads = min(4, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(self._num_threads)
        self._work: list[Future[None]] = []
        self._begin()

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._pool.shutdown()

    def tell(self, files: Sequence[Path]) -> Fingerprint:
        """These are the files that are read, from now on."""
        with self._lock:
            self._told = frozenset(files)
            self._waiting = iter(files)
        self._begin()
        return Fingerprint(files)

    def parents(self, files: Fingerprint) -> list[dict[str, Any]]:
        """Lineage entries of what was read: file, bytes, sha256, each.

        Of more than 1,024 files there is one entry: the folder, their number and bytes, and the SHA-256 of
        the text that `sha256sum` would print for them, sorted by path relative to the folder.
        """
        for work in self._work:
            work.result()
        sizes, digests = [size for size, _, _ in files.state], []
        for path, state in zip(files.files, files.state, strict=True):
            if self._found.get(path, (None,))[0] != state:  # it was not there yet, or was another
                self._hash(path)
            digests.append(self._found[path][1])
        if len(files.files) <= _LISTED:
            told = zip(files.files, sizes, digests, strict=True)
            return [
                {"file": str(path.absolute()), "bytes": size, "sha256": digest} for path, size, digest in told
            ]
        base = self._src if self._src.is_dir() else self._src.parent
        paths = zip(files.files, digests, strict=True)
        lines = sorted(f"{digest}  {os.path.relpath(path, base)}\n" for path, digest in paths)
        lines.sort(key=lambda line: line[66:])
        digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        entry = {"folder": str(base.absolute()), "files": len(lines), "bytes": sum(sizes), "sha256": digest}
        return [entry]

    def _begin(self) -> None:
        self._work += [self._pool.submit(self._hash_all) for _ in range(self._num_threads)]

    def _hash_all(self) -> None:
        while (path := self._next()) is not None:
            with suppress(OSError, InputError):  # who needs it will see
                self._hash(path)

    def _next(self) -> Path | None:
        with self._lock:
            path = next((path for path in self._waiting if path not in self._taken), None)
            if path is not None:
                self._taken.add(path)
            return path

    def _hash(self, path: Path) -> None:
        digest = hashlib.sha256()
        block = memoryview(bytearray(_BLOCK))
        with open_regular(path, 0) as stream:
            state = _state(os.fstat(stream.fileno()))
            while count := os.readv(stream.fileno(), [block]):
                self._check()
                if self._is_over or not (self._told is None or path in self._told):
                    return
                digest.update(block[:count])
        self._found[path] = state, digest.hexdigest()


def _files_at(path: Path) -> Iterator[Path]:
    """The file, or all files in the folder and those below, as they are asked for."""
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            if (file := Path(folder, name)).is_file():
                yield file


def _state(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ino
