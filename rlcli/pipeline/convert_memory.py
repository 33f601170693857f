"""The memory of a process that only converts."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE = 1 << 18  # bytes


def free_at_once() -> None:
    """What is freed goes back to the system: a conversion holds what a slice needs, not what many once did.

    Large pieces are then asked of the system each time, which glibc stops doing for sizes that it has seen
    freed, and Arrow's own allocator never does. To be called before Arrow is imported.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
