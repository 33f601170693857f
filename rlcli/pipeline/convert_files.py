"""The files a conversion reads: sizes and hashes for the lineage, and whether they changed meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlcli.errors import InputError

_LISTED = 1024  # more files than this are told by one hash over the list of their hashes
_BLOCK = 1 << 20


def parents(src: Path, files: Sequence[Path], check: Callable[[], None]) -> list[dict[str, Any]]:
    """Lineage entries of what was read: file, bytes, sha256, each.

    Of more than 1,024 files there is one entry: the folder, their number and bytes, and the SHA-256 of the
    text that `sha256sum` would print for them, sorted by path relative to the folder. `check` is called
    often and may raise.
    """
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        futures = [pool.submit(_sha256, path, check) for path in files]
        try:
            digests = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    sizes = [path.stat().st_size for path in files]
    if len(files) <= _LISTED:
        told = zip(files, sizes, digests, strict=True)
        return [
            {"file": str(path.absolute()), "bytes": size, "sha256": digest} for path, size, digest in told
        ]
    base = src if src.is_dir() else src.parent
    lines = sorted(
        f"{digest}  {os.path.relpath(path, base)}\n" for path, digest in zip(files, digests, strict=True)
    )
    lines.sort(key=lambda line: line[66:])
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    entry = {"folder": str(base.absolute()), "files": len(files), "bytes": sum(sizes), "sha256": digest}
    return [entry]


@contextmanager
def hashing(
    src: Path, files: Sequence[Path], check: Callable[[], None]
) -> Iterator[Future[list[dict[str, Any]]]]:
    """What `parents` returns, found out while the block reads the same files; given up if it ends early."""
    is_over = False

    def stop_early() -> None:
        check()
        if is_over:
            raise _NobodyWaits

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(parents, src, files, stop_early)
        finally:
            is_over = True


class _NobodyWaits(Exception):
    """The hashes are of no use any more."""


class Fingerprint:
    """Sizes, times and inodes of files, so that a change while they are read is noticed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self.state = self._look()

    def check(self) -> None:
        """Raises `InputError` that names a file that changed."""
        for path, before, now in zip(self._files, self.state, self._look(), strict=True):
            if before != now:
                raise InputError(f"{path}: changed while it was converted", path=path)

    def _look(self) -> list[tuple[int, int, int]]:
        found = [path.stat() for path in self._files]
        return [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in found]


def _sha256(path: Path, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            check()
            digest.update(block)
    return digest.hexdigest()
