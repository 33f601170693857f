"""Plain files, whatever the container: named arrays with one value per row. The reading half.

A container is a `Table` (`plain_table.py`); what its arrays mean is `mapping.py`'s business; here rows become
episodes:

* `episode` numbers or `episode_ends` say where episodes end; without these the flags do. An end without a
  flag is truncated. Rows after the last end are an unfinished episode: kept, marked truncated and cut.
* What our standard columns do not give back bit for bit (float64 rewards, flags inside an episode, `done`)
  is kept beside them as `("source", …)`.
* Next observations that equal the following rows are derived; others are stored. Where there are none, or
  `next_valid` says so, the next observation of an episode's last row is unknown.
* A source without rewards gets zeros, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.ahead import ahead
from rlcli.datasets.contract import Advance, Ends, LayoutMismatch, Part, Piece, Report, Request
from rlcli.datasets.mapping import LEFT_OUT, recognised, roles_of, storable
from rlcli.datasets.opened import differing_rows, env_of, equal_bits
from rlcli.datasets.plain_export import dtype_of, is_unobserved, rank_of, seeds_of, told_keys
from rlcli.datasets.plain_pictures import check_alike, heap_of, pixels
from rlcli.datasets.plain_scan import Scan, look_through
from rlcli.datasets.plain_specs import specs_of
from rlcli.datasets.plain_table import Arrays, Table
from rlcli.datasets.rooms import Rooms
from rlcli.datasets.slicing import slice_rows
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.keys import DTYPES, Key
from rlcli.format.schema import Column, Heap, Schema, heap_column, ted_schema

_PIECE_BYTES = 64 << 20


@dataclass
class _Kept:
    """Which of a table's fields become columns, and the names of those that cannot."""

    names: list[str] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)


class PlainSource:
    """An opened table with its meaning. See `contract.Source`."""

    def __init__(self, table: Table, request: Request) -> None:
        self.table = table
        request = _without_unreadable(table, request)
        table.rooms = Rooms()
        kept = _columns_of(table, request.mapping)
        odd = [*kept.lossy, *(f"{name} {reason}" for name, reason in table.unreadable.items())]
        if odd and not kept.names:
            raise InputError(f"{table.path}: has no arrays of numbers: {'; '.join(odd[:3])}", path=table.path)
        told = told_keys(table.metadata, [name for name in kept.names if name not in request.mapping])
        told |= {name: key for name, key in table.told.items() if name not in request.mapping}
        self.roles = roles_of(
            kept.names,
            request.mapping,
            told=told,
            confirmed=request.confirmed,
            where=table.path,
            replay_buffer=table.replay_buffer,
            texts=[name for name, found in table.fields.items() if found.dtype.kind == "O"],
            unobserved=is_unobserved(table.metadata),
            by_file=table.by_file,
        )
        self.num_rows = self._count_rows()
        self._leave_out_other_lengths(kept)
        self.files: Sequence[Path] = table.files
        self.slice_rows = self._slice_rows()
        self.scan = (
            Scan.from_json(request.plan)
            if request.plan
            else look_through(table, self.roles, self.num_rows, self.slice_rows)
        )
        self.plan: dict[str, Any] = {**self.scan.to_json(), "table": table.plan}
        self.seeds = seeds_of(table.metadata, len(self.scan.last_rows))
        self.next_names = {
            name: key
            for name, key in self.roles.below("next", "observation").items()
            if not self._is_text(name)
        }
        self._check_spaces()
        self.heaps = self._heaps(request)
        self.derived = request.derive or not self.next_names
        observation, action, told = specs_of(table, self.roles, self.scan)
        self.keys = self._stored_keys()
        self.schema: Schema = ted_schema(
            observation,
            action,
            extra=self._extra(),
            next_observation="derived" if self.derived else "plain",
            heaps={
                key: self.heaps[name]
                for name, key in self.roles.columns.items()
                if name in self.heaps and key[0] in ("observation", "action")
            },
        )
        self.spec: dict[str, Any] = {
            "env": env_of(request.env_id),
            "observation": observation.to_json(),
            "action": action.to_json(),
            **(told if request.env_id is None else {}),
        }
        self.record = self._record(kept)
        self.report = self._report(kept)
        self.row_bytes = sum(table.fields[name].row_bytes for name in self._read_names())
        self._ranges = self._piece_ranges()
        self.pieces: Sequence[Piece] = [
            Piece(f"rows {start}..{stop - 1}", (stop - start) * self.row_bytes, stop - start, episodes)
            for start, stop, episodes in self._ranges
        ]

    # -- what it is ------------------------------------------------------------------------------------

    def _count_rows(self) -> int:
        """The number of rows, in which all that has a meaning must agree."""
        needed = {
            **self.roles.below("action"),
            **self.roles.below("observation"),
            **self.roles.below("next", "observation"),
        }
        per_row = [name for role, name in self.roles.single.items() if role != "episode_ends"]
        lengths = {name: self.table.fields[name].rows for name in [*needed, *per_row]}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
            raise InputError(f"{self.table.path}: lengths disagree: {told}", path=self.table.path)
        rows = next(iter(lengths.values()))
        if rows == 0:
            raise InputError(f"{self.table.path}: has no rows", path=self.table.path)
        self.table.settle(list(lengths))
        return rows

    def _is_text(self, name: str) -> bool:
        return self.table.fields[name].dtype.kind == "O"

    def _check_spaces(self) -> None:
        """Observations and actions are numbers, parts of them perhaps text; so are next observations."""
        path, fields = self.table.path, self.table.fields
        spaces = {**self.roles.below("observation"), **self.roles.below("action")}
        for name, key in spaces.items():
            if self._is_text(name) and len(key) == 1:
                what = "bytes" if fields[name].is_bytes else "text"
                raise InputError(f"{path}: {name} holds {what}, expected numbers", path=path)
        observed = {
            key: fields[name]
            for name, key in self.roles.below("observation").items()
            if not self._is_text(name)
        }
        following = {key[1:]: fields[name] for name, key in self.next_names.items()}
        if following and following != observed:
            raise InputError(
                f"{path}: {', '.join(self.next_names)} and the observations differ in names, shape or dtype",
                path=path,
            )

    def _leave_out_other_lengths(self, kept: _Kept) -> None:
        for name in list(self.roles.columns):
            rows = self.table.fields[name].rows
            if rows != self.num_rows:
                del self.roles.columns[name]
                kept.lossy.append(f"{name} has {rows:,} values, not one per row; it is left out")

    def _slice_rows(self) -> int:
        rows = slice_rows(sum(f.row_bytes for f in self.table.fields.values()), self.table.slice_bytes)
        return max(1, rows - rows % self.table.chunk_rows) if rows > self.table.chunk_rows else rows

    def _stored_keys(self) -> dict[str, Key]:
        """Source key -> our key of every column whose values are taken as they are."""
        keys = {
            name: key
            for name, key in self.roles.columns.items()
            if not (self.derived and name in self.next_names)
        }
        for name in self.roles.single.values():
            if name in self.scan.inexact:
                keys[name] = ("source", *storable(name))
        return keys

    def _heaps(self, request: Request) -> dict[str, Heap]:
        """How pictures that stay encoded are stored; none where next ones are to be compared with them."""
        fields = self.table.fields
        if request.images == "decode" or any(fields[name].picture for name in self.next_names):
            return {}
        found = {name: heap_of(told) for name, field_ in fields.items() if (told := field_.picture)}
        return {name: heap for name, heap in found.items() if heap is not None}

    def _extra(self) -> list[Column]:
        extra = []
        rank = rank_of(self.table.metadata)
        for name, key in sorted(self.keys.items(), key=lambda pair: (rank.get(pair[1], len(rank)), pair[1])):
            found = self.table.fields[name]
            if self._is_text(name):
                extra.append(heap_column(key, Heap("bytes" if found.is_bytes else "text")))
            elif key[0] not in ("observation", "action") and key[:2] != ("next", "observation"):
                heap = self.heaps.get(name)
                encoding: Literal["heap", "plain"] = "plain" if heap is None else "heap"
                dtype = dtype_of(self.table.metadata, name, found.dtype)
                extra.append(Column(key, dtype, found.shape, encoding, heap=heap))
        return extra

    def _record(self, kept: _Kept) -> dict[str, Any]:
        singles = dict(self.roles.single.items())
        return {
            "layout": self.table.layout,
            "columns": {name: list(key) for name, key in self.roles.columns.items()},
            "roles": singles,
            "original": {
                name: [str(self.table.fields[name].dtype), list(self.table.fields[name].shape)]
                for name in [*self.roles.columns, *singles.values()]
            },
            "episode_ends": self.scan.rule,
            "absent": ["reward"] * ("reward" not in singles) + ["action"] * (not self.roles.below("action")),
            "other": dict(self.table.others),
        }

    def _report(self, kept: _Kept) -> Report:
        report = Report(repaired=self.scan.repaired, lossy=list(kept.lossy), remarks=list(self.table.remarks))
        report.lossy += [f"{name} {reason}; left out" for name, reason in self.table.unreadable.items()]
        if self.roles.left_out:
            report.lossy.append(f"{', '.join(self.roles.left_out)}: left out, as asked")
        if "reward" not in self.roles.single:
            report.remarks.append("the source has no rewards; they are 0")
        for top in ("observation", "action"):
            if not self.roles.below(top):
                report.remarks.append(f"the source has no {top}s")
        if self.scan.empty:
            report.remarks.append(f"{self.scan.empty:,} episodes have no steps")
        if self.next_names and not self.derived:
            report.remarks.append(
                "next observations differ from the following rows inside episodes; all are stored"
            )
        state = ("derived" if self.derived else "stored") if self.next_names else "absent"
        report.details = {
            "next_observation": state,
            "episode_ends": self.scan.rule,
            "env": (self.spec["env"] or {}).get("id"),
            "mapping": {name: "/".join(key) for name, key in self.roles.columns.items()}
            | {name: role for role, name in self.roles.single.items()},
        }
        return report

    # -- the rows --------------------------------------------------------------------------------------

    def _read_names(self) -> list[str]:
        names = [*self.keys, *self.next_names, *self.roles.single.values()]
        ends = self.roles.single.get("episode_ends")
        return [name for name in dict.fromkeys(names) if name != ends]

    def _piece_ranges(self) -> list[tuple[int, int, int]]:
        """`(first row, stop, episodes)`, cut where episodes end; one range if rows come in order only."""
        stops = self.scan.last_rows + 1
        if not self.table.can_seek:
            return [(0, self.num_rows, len(stops))]
        wanted = max(1, _PIECE_BYTES // max(1, self.row_bytes))
        ranges, start, before = [], 0, 0
        for number, stop in enumerate(stops.tolist()):
            if stop - start >= wanted or stop == self.num_rows:
                ranges.append((start, stop, number + 1 - before))
                start, before = stop, number + 1
        return ranges

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """Rows of the piece in slices.

        Raises `LayoutMismatch` when next observations were to be derived and do not equal the next rows.
        """
        low, high, _ = self._ranges[self.pieces.index(piece)]
        names = self._read_names()
        pending: Arrays | None = None
        ranges = list(self.table.slices(low, high, self.slice_rows))
        reads = (partial(self._read, names, start, stop) for start, stop in ranges)
        for (start, stop), arrays in zip(ranges, ahead(reads), strict=True):
            episodes = self.scan.within(start, stop)
            last = self.scan.last_rows[episodes] - start
            if self.derived and self.next_names:
                pending = self._check_shift(arrays, last, pending)
            yield Part(self._columns(arrays, stop - start), self._ends(arrays, last, episodes))
            advance(self.row_bytes * (stop - start))

    def _read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some fields, with pixels for what does not stay encoded."""
        arrays = self.table.read(names, start, stop)
        for name in names:
            if picture := self.table.fields[name].picture:
                what = f"{self.table.path}: {name} rows {start}..{stop - 1}"
                if name in self.heaps:
                    check_alike(arrays[name].tolist(), picture, what)
                else:
                    arrays[name] = pixels(arrays[name].tolist(), picture, what)
        return arrays

    def _columns(self, arrays: Arrays, rows: int) -> dict[Key, Any]:
        values: dict[Key, Any] = {}
        for name, key in self.keys.items():
            if arrays[name].dtype.kind == "O":
                values[key] = arrays[name].tolist()
            else:
                column = self.schema.by_key[key]
                values[key] = arrays[name].astype(column.numpy, copy=False).reshape(-1, *column.shape)
        reward = self.roles.single.get("reward")
        with np.errstate(over="ignore", invalid="ignore"):
            values["next", "reward"] = (
                np.zeros((rows, 1), np.float32)
                if reward is None
                else arrays[reward].astype(np.float32).reshape(-1, 1)
            )
        return values

    def _ends(self, arrays: Arrays, last: NDArray[np.int64], episodes: slice) -> Ends:
        """Of the episodes whose last rows these are; `last` counts from the slice's first row."""
        known = [bool(self.next_names)] * len(last)
        if self.next_names and (valid := self.roles.single.get("next_valid")) is not None:
            known = (arrays[valid].reshape(-1)[last] != 0).tolist()
        scan, final = self.scan, {key[1:]: arrays[name][last] for name, key in self.next_names.items()}
        terminated, truncated = scan.terminated[episodes].tolist(), scan.truncated[episodes].tolist()
        seeds = self.seeds[episodes] if self.seeds else None
        return Ends((last + 1).tolist(), terminated, truncated, scan.is_cut(episodes), known, final, seeds)

    def _check_shift(self, arrays: Arrays, ends: NDArray[np.int64], pending: Arrays | None) -> Arrays | None:
        """Next observations equal the following row's, bit for bit, except where an episode ends."""
        observed = {key: name for name, key in self.roles.below("observation").items()}
        size = len(next(iter(arrays.values())))
        for name, key in self.next_names.items():
            now, then = arrays[observed[key[1:]]], arrays[name]
            if pending is not None and not equal_bits(pending[name], now[:1]):
                raise LayoutMismatch
            if not np.isin(differing_rows(then[:-1], now[1:]), ends, assume_unique=True).all():
                raise LayoutMismatch
        if len(ends) and ends[-1] == size - 1:
            return None
        return {name: arrays[name][-1:].copy() for name in self.next_names}


def _without_unreadable(table: Table, request: Request) -> Request:
    """The request without what is left out because it is no field.

    Raises `IncompatibleError` where it has a meaning, rewards say.
    """
    mapping = dict(request.mapping)
    for name, reason in table.unreadable.items():
        meaning = LEFT_OUT if "/" in name else recognised(name) or LEFT_OUT
        if mapping.pop(name, meaning) != LEFT_OUT:
            raise IncompatibleError(
                f"{table.path}: {name} {reason}",
                hint=f"--map {name}={LEFT_OUT} leaves it out",
                path=table.path,
            )
    return replace(request, mapping=mapping)


def _columns_of(table: Table, given: Mapping[str, str]) -> _Kept:
    kept = _Kept()
    for name, found in table.fields.items():
        if (found.dtype.kind == "O" or str(found.dtype) in DTYPES) and all(n > 0 for n in found.shape):
            kept.names.append(name)
        elif name not in given:
            kept.lossy.append(f"{name} has {found.dtype} values, which cannot be stored; it is left out")
    return kept
