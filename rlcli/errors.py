"""Every error a user can cause, with the exit code it ends the process with.

What only a programmer can cause raises `ValueError` or `TypeError` and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Documented and stable: scripts branch on these numbers."""

    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    CORRUPT = 4
    INCOMPATIBLE = 5
    MISSING_EXTRA = 6
    RESOURCE = 7
    CONDITION_FALSE = 8
    BUSY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class RLError(Exception):
    """An error the user can act on: one line, an optional hint, an exit code.

    `detail` is shown as it is below the line: what the line is about, with a mark where it is wrong.
    """

    code = ExitCode.BUG

    def __init__(
        self, message: str, *, hint: str | None = None, path: object = None, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = None if path is None else str(path)
        self.detail = detail


class UsageError(RLError):
    """A wrong option, name, value or combination."""

    code = ExitCode.USAGE


class InputError(RLError):
    """An input that is missing, unreadable or not what it is said to be."""

    code = ExitCode.INPUT


class CorruptError(RLError):
    """Bytes that differ from what was committed: a digest, a length or the structure is wrong."""

    code = ExitCode.CORRUPT


class IncompatibleError(RLError):
    """Sound data that does not fit: spec, schema, format version."""

    code = ExitCode.INCOMPATIBLE


class MissingExtraError(RLError):
    """An optional dependency that is not installed."""

    code = ExitCode.MISSING_EXTRA

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            hint=f"pip install 'rlcli[{extra}]'",
        )


class ResourceError(RLError):
    """Disk, memory or an accelerator ran out."""

    code = ExitCode.RESOURCE


class ConditionFalse(RLError):
    """The command worked and the answer to the asked condition is no."""

    code = ExitCode.CONDITION_FALSE


class BusyError(RLError):
    """Another writer holds the artifact; try again later."""

    code = ExitCode.BUSY


class Interrupted(RLError):
    """SIGINT or SIGTERM arrived; everything committed is on disk and the work is resumable."""

    def __init__(self, signum: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = ExitCode(128 + signum)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A sentence fragment that proposes the closest choice, or lists them when few."""
    known = sorted(choices)
    lowered = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    if len(known) <= 12:
        return f"known: {', '.join(known)}"
    return f"{len(known)} are known"
