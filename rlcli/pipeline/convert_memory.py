"""The memory of a process that only converts."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_LARGE = 32 << 20  # bytes


def share_one_heap() -> None:
    """All threads, and Arrow, take memory from one heap: what one slice left is what the next one takes.

    Else each thread that ever read keeps a heap of its own, and Arrow another, each as large as it once was.
    Only pieces of 32 MiB are asked of the system each time: fresh memory costs about as much as the copy that
    fills it. To be called before Arrow is imported and threads begin.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)
