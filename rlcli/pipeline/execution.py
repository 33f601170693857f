"""How updates are executed: eager or compiled, which matrix-product route, how many threads.

The choice is made once, when a run starts, from the configuration, the planned number of updates and cached
facts about the machine; the run saves it and `--resume` reuses it, because another would round differently.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from rlcli import _native
from rlcli.errors import UsageError

Compile = Literal["auto", "on", "off"]
Route = Literal["highest", "bf16x6", "medium"]
Matmul = Literal["auto", "highest", "bf16x6", "medium"]

# Measured on two-core machines: a compiled update saves 0.4 ms (DQN 2x64), 0.7 ms (BC 2x256) or 2 to 5 ms
# (SAC, IQL 2x256); the first compilation takes 10 to 25 s and one found in the cache 2 to 5 s.
COLD_UPDATES, COLD_UPDATES_LARGE = 50_000, 10_000
WARM_UPDATES, WARM_UPDATES_LARGE = 10_000, 2_000
LARGE = 256  # from this width on an update does enough to win compilation back sooner
WIDE = 128  # narrower layers gain nothing from threads or from another matrix product
EXACT = 1e-5  # largest error, relative to the largest entry, of a float32-level matrix product
FASTER = 1.15  # speed-up that makes another matrix-product route worth its choice


@dataclass(frozen=True)
class Execution:
    """One decision; `reason` is for people.

    `matmul` is torch's `float32_matmul_precision`, or `bf16x6`: that of `highest` on bfloat16 units.
    """

    compiled: bool
    matmul: Route
    threads: int
    reason: str

    def check(self) -> None:
        """Raises `UsageError` if it cannot be had on this machine."""
        if self.matmul == "bf16x6" and not self.compiled:
            raise UsageError(
                f"--matmul bf16x6 needs a compiled update: {self.reason}", hint="add --compile on"
            )
        if self.matmul == "bf16x6" and not _native.can_multiply():
            raise UsageError(
                "--matmul bf16x6 needs a CPU with AMX units",
                hint="use --matmul highest, or a machine that has them",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Execution:
        return cls(bool(value["compiled"]), value["matmul"], int(value["threads"]), str(value["reason"]))


def choose_execution(
    algorithm: ModuleType,
    nets: Any,
    config: Any,
    num_updates: int,
    *,
    compile: Compile = "auto",
    matmul: Matmul = "auto",
    threads: int | None = None,
) -> Execution:
    """The execution for a run of `num_updates`.

    `compile="auto"` compiles when the run is long enough to win the compilation back. `matmul="auto"` takes
    the fastest route that this machine's calibration found to have float32-level error, and only for wide
    layers. `threads` defaults to 1 for small networks and to what torch may use for wide ones.
    Raises `UsageError` when compilation is demanded and there is no C++ compiler, and for `bf16x6` in an
    eager run or on a CPU that cannot do it.
    """
    batch_size = int(getattr(config, "minibatch_size", 0) or config.batch_size)
    width = max(config.hidden, default=1)
    wide = width >= WIDE and batch_size >= WIDE
    if threads is None:
        threads = torch.get_num_threads() if wide else 1
    compiled, reason = _weigh_compilation(algorithm, nets, config, num_updates, compile)
    if matmul == "auto":
        matmul = calibrated_matmul(batch_size, width, threads, compiled=compiled) if wide else "highest"
    chosen = Execution(compiled, matmul, threads, reason)
    chosen.check()
    return chosen


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/rlcli` or `~/.cache/rlcli`: machine facts and compiled updates, safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rlcli"


def calibrated_matmul(batch_size: int, width: int, threads: int, *, compiled: bool) -> Route:
    """The route that multiplies `[batch_size, width] x [width, width]` fastest and as exactly as float32.

    Measured once per machine, torch version and size, then read from the cache. `medium` is float32-level on
    some CPUs; on those with bfloat16 units it really means bfloat16, and the error bound keeps it out. Those
    with AMX units have `bf16x6` instead, in compiled updates.
    """
    cpu = f"{platform.machine()} {cpu_model()} torch {torch.__version__}"
    key = f"{cpu} | {threads} threads | {batch_size}x{width}x{width}"
    path = cache_dir() / "products.json"
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        facts = {}
    if key not in facts:
        facts[key] = _measure_matmul(batch_size, width, threads)
        _write_quietly(path, json.dumps(facts, indent=1))
    chosen: Route = "highest"
    best = FASTER
    for route, fact in facts[key].items():
        possible = fact["error"] <= EXACT and (compiled or route != "bf16x6")
        if possible and fact["speedup"] >= best:
            chosen, best = route, fact["speedup"]
    return chosen


def compiled_marker(algorithm: ModuleType, nets: Any, config: Any) -> Path:
    """A file that exists once this very update was compiled on this machine, so its compilation is cached."""
    source = Path(str(algorithm.__file__)).read_bytes()
    identity = f"{algorithm.__name__} {torch.__version__} {cpu_model()} {nets!r} {config!r}".encode()
    return cache_dir() / "compiled" / hashlib.sha256(source + identity).hexdigest()[:32]


def mark_compiled(marker: Path) -> None:
    """Remember that the compilation is cached; a read-only cache is no error."""
    _write_quietly(marker, "")


def _weigh_compilation(
    algorithm: ModuleType, nets: Any, config: Any, num_updates: int, wanted: Compile
) -> tuple[bool, str]:
    if wanted == "off":
        return False, "compilation is switched off"
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        if wanted == "on":
            raise UsageError(
                f"--compile on needs a C++ compiler, {compiler!r} is not on the PATH",
                hint="install g++ or set CXX, or use --compile auto",
            )
        return False, f"no C++ compiler ({compiler!r}) to compile with"
    if wanted == "on":
        return True, "compilation is switched on"
    is_cached = compiled_marker(algorithm, nets, config).exists()
    is_large = max(config.hidden, default=1) >= LARGE
    if is_cached:
        needed = WARM_UPDATES_LARGE if is_large else WARM_UPDATES
    else:
        needed = COLD_UPDATES_LARGE if is_large else COLD_UPDATES
    state = "cached" if is_cached else "new"
    verdict = "pays" if num_updates >= needed else "does not pay"
    return num_updates >= needed, f"a {state} compilation {verdict} for {num_updates} updates (from {needed})"


def _measure_matmul(batch_size: int, width: int, threads: int) -> dict[Route, dict[str, float]]:
    """Each route's speed relative to `highest`, and its largest error relative to the largest entry."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(batch_size, width, generator=generator)
    right = torch.randn(width, width, generator=generator)
    exact = left.double() @ right.double()
    routes: dict[Route, Callable[[], Tensor]] = {
        "highest": lambda: left @ right,
        "medium": lambda: left @ right,
    }
    if _native.can_multiply():
        routes["bf16x6"] = lambda: torch.from_numpy(_native.multiply(left.numpy(), right.numpy()))
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    seconds: dict[Route, list[float]] = {route: [] for route in routes}
    error: dict[Route, float] = {}
    try:
        torch.set_num_threads(threads)
        for _ in range(40):  # the least of many short times, whatever else the machine does
            for route, multiply in routes.items():
                torch.set_float32_matmul_precision("medium" if route == "medium" else "highest")
                error[route] = float((multiply() - exact).abs().max() / exact.abs().max())
                start = time.perf_counter()
                for _ in range(4):
                    multiply()
                seconds[route].append(time.perf_counter() - start)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.set_num_threads(before[1])
    least = {route: min(times) for route, times in seconds.items()}
    return {
        route: {"speedup": least["highest"] / least[route], "error": error[route]}
        for route in routes
        if route != "highest"
    }


def cpu_model() -> str:
    """The processor's name and numbers, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    return " ".join(named.get(name, "") for name in ("model name", "cpu family", "model"))


def _write_quietly(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        return  # the cache only saves time
