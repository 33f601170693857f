"""What a measurement ran on, and whether the machine was quiet meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, cores, memory and system: what a figure must be read with."""
    cpuinfo = _read("/proc/cpuinfo")
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    memory = next(
        (line.split()[1] for line in _read("/proc/meminfo").splitlines() if "MemTotal" in line), "0"
    )
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": int(memory) * 1024,
        "system": f"{platform.system()} {platform.release()}",
    }


class OtherLoad:
    """Cores that processes other than `ours` keep busy, measured between two looks at /proc.

    None where there is no /proc.
    """

    def __init__(self, ours: Iterable[int]) -> None:
        self._ours = tuple(ours)
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._last = self._look()

    def cores(self) -> float | None:
        """Mean number of cores that others used since the last call."""
        before, self._last = self._last, self._look()
        if before is None or self._last is None:
            return None
        wall, busy, ours = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, (busy - ours) / self._ticks / max(wall, 1e-9))

    def _look(self) -> tuple[float, float, float] | None:
        fields = _read("/proc/stat").split("\n", 1)[0].split()
        if not fields:
            return None
        user, nice, system, _, _, irq, softirq, steal = (float(field) for field in fields[1:9])
        ours = sum(self._process_ticks(process) for process in self._ours)
        return time.monotonic(), user + nice + system + irq + softirq + steal, ours

    @staticmethod
    def _process_ticks(process: int) -> float:
        fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
        return sum(
            float(field) for field in fields[11:15]
        )  # user and system time, and the same of dead children


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
