"""Memory for slices of rows, used again: fresh memory costs about as much as the copy that fills it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLICES = 2  # one in use, one that is read meanwhile: see `ahead.py`


class Rooms:
    """Arrays for the columns of a slice. What one read is given is given again to the read after the next."""

    def __init__(self) -> None:
        self._held: dict[str, list[NDArray[Any]]] = {}  # of each column, the latest last

    def take(self, name: str, rows: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Room `[rows, *shape]` for a column, with anything in it. Call it once per column and slice."""
        held = self._held.setdefault(name, [])
        room = held.pop(0) if len(held) == _SLICES else None
        if room is None or len(room) < rows or (room.dtype, room.shape[1:]) != (dtype, shape):
            room = np.empty((rows, *shape), dtype)
        held.append(room)
        return room[:rows]
