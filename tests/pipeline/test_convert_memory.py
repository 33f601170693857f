"""The memory of a process that only converts: one heap for all threads and for Arrow."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_THREADS = """
import ctypes, sys, threading
if sys.argv[1] == "shared":
    from rlcli.pipeline.convert_memory import share_one_heap
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fdopen.restype = ctypes.c_void_p
libc.fflush.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
begun = threading.Barrier(4)
def take():
    begun.wait()
    assert libc.malloc(100_000)
threads = [threading.Thread(target=take) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("how", ["shared", "own"])
def test_threads_share_one_heap(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", _THREADS, how], capture_output=True, text=True, check=True)
    heaps = done.stdout.count("<heap nr=")
    assert heaps == 1 if how == "shared" else heaps > 1


@pytest.mark.parametrize(("told", "expected"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_takes_memory_from_that_heap_unless_told_otherwise(told, expected, monkeypatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    if told:
        monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", told)
    script = """
from rlcli.pipeline.convert_memory import share_one_heap
share_one_heap()
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
