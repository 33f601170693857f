"""Who made an artifact, with what: the facts that every dataset, run and report records."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlcli import __version__

_PACKAGES = ("torch", "numpy", "gymnasium", "tensordict", "mujoco", "h5py")


def now() -> str:
    """The time in UTC, to the second, as RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """The command that runs, as a shell would take it again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of rl, Python and the installed packages that shape results. Imports none of them."""
    return {"rl": __version__, "python": platform.python_version(), **dict(_installed())}


@functools.cache  # each is a search of the path and a file parsed
def _installed() -> tuple[tuple[str, str], ...]:
    from importlib import metadata  # takes longer than most of rl

    found = []
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """`{"commit", "dirty"}` of the checkout around `folder` (the working directory), None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder or Path.cwd()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in 1 MiB blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
