"""What a container of named arrays offers: fields, and rows of them. `plain.py` makes episodes of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.contract import Request
from rlcli.datasets.plain_pictures import look_at, pixel_dtype, pixel_shape
from rlcli.datasets.rlds_images import Picture
from rlcli.datasets.rooms import Rooms
from rlcli.datasets.slicing import slices
from rlcli.format.keys import Key

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Field:
    """An array of a table: its native dtype (object for text), the shape of a row, and how many rows.

    Values with a `picture` are read as `bytes`, a picture each, of which dtype and shape are those of the
    pixels; with `is_bytes` they are `bytes` of anything.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    picture: Picture | None = None
    is_bytes: bool = False

    @staticmethod
    def of(values: NDArray[Any], rows: int) -> Field:
        """The field that has such values, of which there is one or more."""
        if values.dtype.kind == "O" and isinstance(values[0], bytes):
            return Field.of_bytes(values[0], rows)
        return Field(values.dtype, values.shape[1:], rows)

    def empty(self, rows: int) -> NDArray[Any]:
        """Room for values as they are read."""
        return np.empty(rows, object) if self.picture else np.empty((rows, *self.shape), self.dtype)

    @staticmethod
    def of_bytes(first: Any, rows: int) -> Field:
        """The field of `bytes` values, of which this is one."""
        if (picture := look_at(first)) is None:
            return Field(np.dtype(object), (), rows, is_bytes=True)
        return Field(pixel_dtype(picture), pixel_shape(picture), rows, picture)

    @property
    def row_bytes(self) -> int:
        """Decoded bytes of one row; a guess for text."""
        return int(np.prod(self.shape, dtype=np.int64)) * (
            64 if self.dtype.kind == "O" else self.dtype.itemsize
        )


def told_plan(request: Request) -> Mapping[str, Any] | None:
    """The `Table.plan` that comes back."""
    return request.plan.get("table") if request.plan else None


class Table(ABC):
    """An opened container.

    `fields` are its arrays that have rows, `others` small JSON values that are kept in the record, `metadata`
    what our own export left there. `chunk_rows` is a good number of rows to read at once (1 for any);
    `can_seek` says that rows can be read from anywhere at no cost; `layout` goes to the record. In a
    `replay_buffer` all arrays below `data/` have rows. `slice_bytes` are decoded at once, where a table
    holds so much beside them that fewer than usual are to be. `unreadable` are names of what is no field, and
    why; `told` keys of fields that their names do not say. `by_file`: no episode goes on in another file.
    `plan` is JSON that makes opening again cheap; it comes back in `told_plan`.
    """

    layout = ""
    can_seek = False
    replay_buffer = False
    slice_bytes: int | None = None
    by_file = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: Sequence[Path] = [path]
        self.fields: dict[str, Field] = {}
        self.others: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.remarks: list[str] = []
        self.unreadable: dict[str, str] = {}
        self.told: dict[str, Key] = {}
        self.plan: dict[str, Any] = {}
        self.file_ends: Sequence[int] = ()  # the rows before the end of each file, if `by_file`
        self.chunk_rows = 1
        self.rooms: Rooms | None = None  # where slices come one after the other

    def settle(self, names: Sequence[str]) -> None:
        """Is told the fields that have a value per row, before any is read."""
        return

    @abstractmethod
    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some fields, native-endian; with `rooms`, valid until the read after the next.

        Raises `CorruptError` for damage.
        """

    def slices(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `rows` that make up `start … stop - 1`, which cut what is decoded together as
        little as they can.
        """
        first = min(stop, (start // rows + 1) * rows)
        yield start, first
        yield from slices(first, stop, rows)

    def empty(self, name: str, rows: int) -> NDArray[Any]:
        """Room for rows of a field."""
        found = self.fields[name]
        if self.rooms is None or found.picture:
            return found.empty(rows)
        return self.rooms.take(name, rows, found.shape, found.dtype)
