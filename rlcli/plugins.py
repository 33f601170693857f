"""Names to objects: the user's own `module:attribute`, and packages that may be missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rlcli.errors import InputError, MissingExtraError, RLError, UsageError, nearest


def is_reference(name: str) -> bool:
    """Whether `name` has the form `module:attribute` (and is not a path)."""
    module, separator, attribute = name.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(separator) and all(part.isidentifier() for part in parts)


def load_module(name: str) -> ModuleType:
    """The module `name`. The working directory is searched too, as with `python -m`.

    Raises `UsageError` if there is none, `InputError` if it fails to import.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is not None and (name == err.name or name.startswith(err.name + ".")):
            message = f"there is no module {name!r} (the working directory was searched too)"
            raise UsageError(message) from err
        raise InputError(f"importing {name!r} failed: {err}") from err
    except Exception as err:  # foreign code: whatever it raises is shown in one line
        raise InputError(f"importing {name!r} failed: {type(err).__name__}: {err}") from err


def load_reference(name: str) -> Any:
    """The object that `module:attribute` names.

    Raises what `load_module` raises, and `UsageError` if the module has no such attribute.
    """
    module_name, _, attribute = name.partition(":")
    target: Any = load_module(module_name)
    for part in attribute.split("."):
        if not hasattr(target, part):
            names = [known for known in dir(target) if not known.startswith("_")]
            raise UsageError(f"module {module_name!r} has no attribute {attribute!r}; {nearest(part, names)}")
        target = getattr(target, part)
    return target


def explain(err: BaseException, what: str) -> InputError:
    """One line for what foreign code raised, and where."""
    traceback = err.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = ""
    if traceback is not None:
        where = f" at {Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}"
    return InputError(f"{what} failed: {type(err).__name__}: {err}{where}")


@contextmanager
def foreign(what: str | Callable[[], str]) -> Iterator[None]:
    """Whatever the code of `what` raises inside is an `InputError` of one line; our own errors pass.

    A function gives the name when it is needed: where every step counts.
    """
    try:
        yield
    except (RLError, MemoryError):
        raise
    except (Exception, SystemExit) as err:
        raise explain(err, what if isinstance(what, str) else what()) from err


def require(package: str, extra: str, *, needed_for: str) -> Any:
    """The imported optional package, or `MissingExtraError` (exit 6) with the install line."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, needed_for=needed_for)
    return importlib.import_module(package)
