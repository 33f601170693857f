"""The step of `rl buffer map` that is the user's own function, `module:attribute`, of one episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlcli.datasets.opened import nest
from rlcli.errors import InputError, UsageError
from rlcli.format.keys import DTYPES, Key
from rlcli.format.schema import Column
from rlcli.pipeline.map_block import Array, Block, Layout
from rlcli.pipeline.map_columns import Blocks, Step
from rlcli.plugins import foreign, is_reference, load_reference

Function = Callable[[dict[str, Any]], Any]


def load(text: str, flag: str) -> Function:
    """The function that `module:attribute` names. Raises `UsageError` if it is none."""
    if not is_reference(text):
        raise UsageError(f"{flag}: {text!r} is not of the form module:attribute")
    found = load_reference(text)
    if not callable(found):
        raise UsageError(f"{flag}: {text} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def call(function: Function, name: str, columns: Mapping[Key, Array]) -> Any:
    """What the function returns for an episode; it gets copies, nested by key.

    Raises `InputError` with what it raised.
    """
    with foreign(name):
        return function(nest({key: values.copy() for key, values in columns.items()}, depth=0))


@dataclass
class Apply(Step):
    """The columns become those that `module:attribute` returns for each episode, `[rows, …]` each, nested.

    All episodes must give the same columns, as many rows as they had. None leaves the episode out.
    """

    text: str

    def fit(self, blocks: Blocks, layout: Layout) -> None:
        self._function = load(self.text, "--apply")
        self._found: dict[Key, Column] = {}
        for block in blocks():
            for columns, length in zip(block.episodes(), block.length.tolist(), strict=True):
                found = self._call(columns, length)
                if found is not None:
                    self._found = {key: _column(key, values) for key, values in found.items()}
                    return

    def plan(self, layout: Layout) -> None:
        if not self._found:
            raise InputError(f"{self.text} leaves out every episode")
        for key, column in self._found.items():
            known = layout.columns.get(key)
            same = known is not None and (known.numpy, known.shape) == (column.numpy, column.shape)
            self._found[key] = known if known is not None and (same or known.heap is not None) else column
        layout.columns = dict(self._found)
        layout.fits_env = False

    def apply(self, block: Block) -> None:
        parts: list[dict[Key, Array]] = []
        keep = []
        for columns, length in zip(block.episodes(), block.length.tolist(), strict=True):
            found = self._call(columns, length)
            keep.append(np.full(length, found is not None))
            if found is None:
                continue
            if found.keys() != self._found.keys():
                differ = ", ".join("/".join(key) for key in sorted(found.keys() ^ self._found.keys()))
                raise InputError(f"{self.text}: episodes differ in the columns {differ}")
            for key, values in found.items():
                column = self._found[key]
                if column.heap is None and (values.dtype, values.shape[1:]) != (column.numpy, column.shape):
                    raise InputError(
                        f"{self.text}: {'/'.join(key)} is {values.dtype}{list(values.shape[1:])}, in the "
                        f"first episode {column.dtype}{list(column.shape)}"
                    )
            parts.append(found)
        kept = block.keep(np.concatenate(keep))
        vars(block).update(vars(kept))
        block.columns = {
            key: np.concatenate([part[key] for part in parts])
            if parts
            else block.columns.get(key, np.zeros(0))
            for key in self._found
        }

    def _call(self, columns: Mapping[Key, Array], length: int) -> dict[Key, Array] | None:
        returned = call(self._function, self.text, columns)
        if returned is None:
            return None
        if not isinstance(returned, Mapping):
            raise InputError(f"{self.text} returned {type(returned).__name__}, expected a dict of columns")
        found = dict(_flat(returned, ()))
        for key, values in found.items():
            if len(values) != length:
                raise InputError(
                    f"{self.text}: {'/'.join(key)} has {len(values)} rows, the episode has {length}"
                )
        return found


def _flat(nested: Mapping[str, Any], prefix: Key) -> list[tuple[Key, Array]]:
    found = []
    for name, value in nested.items():
        key = (*prefix, str(name))
        found += (
            _flat(value, key) if isinstance(value, Mapping) else [(key, np.atleast_1d(np.asarray(value)))]
        )
    return found


def _column(key: Key, values: Array) -> Column:
    dtype = str(values.dtype)
    if dtype not in DTYPES:
        raise InputError(f"{'/'.join(key)} became {dtype}, which no dataset can hold")
    return Column(key, dtype, values.shape[1:])
