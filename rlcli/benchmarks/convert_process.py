"""Conversions that `rl bench convert` measures: calls here, and processes that are told apart in memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcli.errors import InputError
from rlcli.pipeline.benchmark import Memory
from rlcli.pipeline.convert import convert

_SLICE = 64 << 20  # bytes that a worker may hold if its episodes are smaller


@dataclass
class Conversion:
    """A conversion to a place that `prepare` makes free."""

    source: Path
    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def call(self) -> None:
        convert(self.source, self.path, yes=True, **self.options)

    @property
    def arguments(self) -> list[str]:
        """What `rl` is called with to do the same."""
        told = [f"--{name}={value}" for name, value in self.options.items()]
        return ["convert", str(self.source), str(self.path), "--yes", *told]

    def command(self) -> None:
        """The same by a process of its own."""
        subprocess.run([sys.executable, "-m", "rlcli", *self.arguments], capture_output=True, check=True)

    def memory(self, episode_bytes: int, name: str = "") -> Memory:
        """Of a process that does it; `episode_bytes` are those of an episode's rows."""
        self.prepare()
        with tempfile.TemporaryDirectory(prefix="rl-bench-") as folder:
            modules = str(Path(folder) / "modules")
            peak, seconds = _usage(_WORK, modules, *self.arguments)
            imports, _ = _usage(_IMPORT, modules)
        return Memory(name, peak, imports, max(_SLICE, episode_bytes), seconds)


def _usage(script: str, *arguments: str) -> tuple[int, float]:
    """Bytes at the peak and processor seconds of the Python that runs the script, or of its largest child."""
    command = [sys.executable, "-c", script, *arguments]
    watched = [sys.executable, "-I", "-S", "-c", _WATCH, *command]
    done = subprocess.run(watched, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        raise InputError(f"{' '.join(arguments)} failed: {(done.stderr.splitlines() or ['no reason'])[-1]}")
    kilobytes, seconds = json.loads(done.stdout)
    return int(kilobytes) << 10, float(seconds)


#: Runs a command from a small process: the peak that is told of one includes that of whoever started it.
_WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print([usage.ru_maxrss, usage.ru_utime + usage.ru_stime])
sys.exit(code)
"""
#: `rl` with the arguments; the modules that it imported go to a file.
_WORK = """
import atexit, json, sys
file = sys.argv.pop(1)
atexit.register(lambda: open(file, "w").write(json.dumps(list(sys.modules))))
from rlcli.__main__ import main
main()
"""
#: Imports the modules that a file names, in their order.
_IMPORT = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""
