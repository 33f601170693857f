"""Arrays that rows are copied into again and again, by whoever draws the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.keys import Key
from rlcli.format.view import View


class Bound:
    """An array `[B, *shape]` for each of some stored columns of a view, looked up and checked once."""

    def __init__(self, view: View, keys: tuple[Key, ...], out: Sequence[np.ndarray[Any, Any]]) -> None:
        self._view = view
        self._numbers = tuple(view.stream_set.numbers[key] for key in keys)
        self._out = out
        self._table: _native.RowMap | None = None
        self._target: _native.Target | None = None
        self._seen = -1

    def target(self) -> _native.Target | None:
        """The arrays for native code, to be filled with any rows that are there now; None while rows have to
        be compared with their hashes before they are read.
        """
        view = self._view
        if self._seen != view.changes:
            if view.checker is not None and not view.ready.issuperset(self._numbers):
                return None
            streams = view.stream_set
            if self._table is not streams.table:
                self._table = streams.table
                self._target = self._table.bind(self._numbers, self._out)
            self._seen = view.changes
        return self._target
