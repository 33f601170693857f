"""Which foreign formats `rl convert` knows. A new format is one line here and one module beside it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rlcli.errors import InputError, UsageError, nearest
from rlcli.plugins import is_reference, load_reference

if TYPE_CHECKING:
    from rlcli.datasets.contract import ConverterModule


@dataclass(frozen=True)
class Converter:
    """A format: where its module is, which way it goes, what must be installed for it."""

    module: str
    help: str
    suffixes: tuple[str, ...] = ()  # of files that are written; reading goes by content
    reads: bool = True
    writes: bool = True
    extra: str | None = None  # the extra of `pip install 'rlcli[extra]'`, None if the base install has it


CONVERTERS = {
    "d4rl": Converter("rlcli.datasets.d4rl", "D4RL HDF5: one flat file of transitions", (".hdf5", ".h5")),
}


def load(name: str) -> ConverterModule:
    """The module of a format: a name of the table, or the user's own `module:attribute`.

    Raises `UsageError` with the nearest name for an unknown one.
    """
    if name in CONVERTERS:
        return cast("ConverterModule", importlib.import_module(CONVERTERS[name].module))
    if is_reference(name):
        return cast("ConverterModule", load_reference(name))
    raise UsageError(f"there is no format {name!r}; {nearest(name, CONVERTERS)}")


def recognise(path: Path) -> str:
    """The format of `path` by its content. Raises `InputError` that says what was found instead."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", path=path)
    reasons = []
    for name, converter in CONVERTERS.items():
        if converter.reads:
            reason = load(name).detect(path)
            if reason is None:
                return name
            reasons.append(f"{name}: {reason}")
    raise InputError(f"{path}: not a format that rl converts ({'; '.join(reasons)})", path=path)


def format_of_output(path: Path) -> str | None:
    """The format that writes files with this suffix, None for anything else (which is a dataset)."""
    for name, converter in CONVERTERS.items():
        if converter.writes and path.suffix.lower() in converter.suffixes:
            return name
    return None
