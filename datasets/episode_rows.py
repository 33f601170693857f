"""The rows of HDF5 files with one group per episode; `episode_groups.py` has looked through them before.

Alignment: a row has an observation, the action applied to it, and the reward for that. The next observation
is stored, or the following row's; of an episode's last row it is unknown where the file has neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.ahead import InTurn
from rlcli.datasets.contract import Advance, End, LayoutMismatch, Part, Piece, Report, Request
from rlcli.datasets.episode_groups import Layout, Scan, is_below
from rlcli.datasets.hdf5_groups import EpisodeGroup
from rlcli.datasets.mapping import storable
from rlcli.datasets.opened import Opened, equal_bits, nest, renamed, spec_of
from rlcli.datasets.parts import num_rows
from rlcli.datasets.slicing import slices
from rlcli.errors import CorruptError, InputError
from rlcli.format.keys import Key
from rlcli.format.schema import MAX_VALUE_BYTES, Column, Heap, Schema, heap_column, ted_schema
from rlcli.format.specs import spec_from_json

REWARD: Key = ("next", "reward")
EPISODE: Key = ("info", "episode")
DEMO: Key = (*EPISODE, "demo")
ALIGNMENT = "same row: observation, the action applied to it, the reward for that"


@dataclass(frozen=True)
class Group:
    """One episode: where it is, what belongs to it beside its own arrays, and the seed if it is known.

    `truncated` is told of its end; None: a flag of the last row says so, or that it did not terminate.
    """

    group: EpisodeGroup
    extra: Mapping[Key, Any]
    seed: int | None = None
    cut: bool = False
    truncated: bool | None = None


class GroupSource(Opened):
    """Episodes of one or more files. See `contract.Source`; a piece is an episode.

    `open_group` gives the group of a name, which has so many steps. `keys` are told ones; arrays in `hidden`
    are no columns. `rank` is the place of a column among the others.
    """

    def __init__(
        self,
        scan: Scan,
        layout: Layout,
        open_group: Callable[[str, int], Group],
        extra: list[Column],
        request: Request,
        *,
        where: Path,
        files: Sequence[Path],
        keys: Mapping[str, Key] | None = None,
        env: Mapping[str, Any] | None = None,
        hidden: Collection[str] = (),
        rank: Mapping[Key, int] | None = None,
    ) -> None:
        if not scan.names:
            raise InputError(f"{where}: has no episode with a step", path=where)
        self.scan, self.layout, self.open_group = scan, layout, open_group
        self.fallback = not any(is_below(key, layout.observation) for key in scan.found)
        self.observed = layout.fallback if self.fallback and layout.fallback else layout.observation
        observed = {key: f for key, f in scan.found.items() if is_below(key, self.observed)}
        if states := {key: f for key, f in observed.items() if f.where == "state"}:
            observed = states  # what some episodes only have is no observation
        self.varies = any(-1 in f.shape for f in observed.values())
        self.observes = () if self.varies else tuple(observed)
        self.has_final = bool(states and self.observes) or scan.has_final
        if not observed:
            told = ", ".join(key for key in scan.found if not key.startswith("@"))
            raise InputError(f"{where}: no observations ({layout.observation}); it has {told}", path=where)
        self.keys = self._keys(request.mapping, keys or {}, hidden, where)
        self.following = {key: f for key, f in scan.found.items() if is_below(key, layout.following)}
        self._check_following(where)
        self.derives = request.derive or not self.following
        self.rewarded = layout.reward in scan.found
        columns = [self._column(name, key) for name, key in self.keys.items()]
        schema = self._schema(columns, extra, rank or {})
        report = Report(remarks=list(scan.remarks))
        report.lossy += [f"{name}: {why}; left out" for name, why in scan.left_out.items()]
        if scan.empty:
            report.remarks.append(f"{scan.empty:,} episodes have no steps")
        if not self.rewarded:
            report.remarks.append("the source has no rewards; they are 0")
        if self.varies:
            report.remarks.append(f"the source has no observations, and {self.observed} of different widths")
        elif self.fallback:
            report.remarks.append(f"the source has no observations; {self.observed} stand for them")
        if not self.derives:
            report.remarks.append(
                "next observations differ from the following rows inside episodes; all are stored"
            )
        state = ("derived" if self.derives else "stored") if self.following else "absent"
        report.details = {"next_observation": "final" if self.has_final else state, "alignment": ALIGNMENT}
        super().__init__(
            schema=schema,
            spec=spec_of(schema.given, env, request.env_id),
            record={
                "alignment": ALIGNMENT,
                "columns": {name: list(key) for name, key in self.keys.items()},
                "original": {n: [f.dtype, list(f.shape)] for n, f in scan.found.items()},
                "absent": [] if self.rewarded else ["reward"],
                "observation": self.observed,
            },
            report=report,
            files=files,
            pieces=[
                Piece(name, rows * schema.row_bytes, rows, 1)
                for name, rows in zip(scan.names, scan.rows, strict=True)
            ],
            plan={"scan": scan.to_json()},
        )
        self._begun = InTurn(self._begin, len(scan.names))
        self._numbers = {piece.name: number for number, piece in enumerate(self.pieces)}

    # -- columns -----------------------------------------------------------------------------------------

    def _keys(
        self, given: Mapping[str, str], told: Mapping[str, Key], hidden: Collection[str], where: Any
    ) -> dict[str, Key]:
        """The key of every array that is a column by itself; next observations follow from observations."""
        layout = self.layout
        names = [n for n in self.scan.found if n not in hidden and not is_below(n, layout.following)]
        keys: dict[str, Key] = {}
        for name in names:
            found = self.scan.found[name]
            if name == layout.reward:
                continue
            if name in told:
                keys[name] = told[name]
            elif name in self.observes:
                keys[name] = ("observation", *_rest(name, self.observed))
            elif is_below(name, layout.action):
                keys[name] = ("action", *_rest(name, layout.action))
            elif found.where == "attribute":
                keys[name] = (*EPISODE, *storable(name[1:]))
            elif found.where == "episode":
                keys[name] = (*EPISODE, "arrays", *storable(name))
            else:
                keys[name] = ("info", *storable(name))
        kept = {name: key for name, key in renamed(keys, given, where).items() if key is not None}
        if self.scan.inexact:
            kept[layout.reward] = ("source", *storable(layout.reward))
        return kept

    def _column(self, name: str, key: Key) -> Column:
        found = self.scan.found[name]
        limit = MAX_VALUE_BYTES
        if found.dtype == "text":
            return heap_column(key, Heap("text"))
        everywhere = found.count == len(self.scan.names)
        if (found.where in ("row", "state") and -1 not in found.shape) or (everywhere and not found.shape):
            return Column(key, found.dtype, found.shape)
        return heap_column(key, Heap("array", limit=limit), found.dtype, (-1, *found.shape[1:]))

    def _check_following(self, where: Any) -> None:
        top = self.layout.following
        if not self.following or top is None:
            return
        observed = {n: f for n, f in self.scan.found.items() if is_below(n, self.observed)}
        ours = {n.removeprefix(self.observed): (f.dtype, f.shape) for n, f in observed.items()}
        theirs = {n.removeprefix(top): (f.dtype, f.shape) for n, f in self.following.items()}
        if ours != theirs:
            odd = sorted(name.strip("/") for name, _ in ours.items() ^ theirs.items())
            raise InputError(f"{where}: {top} and {self.observed} differ in {', '.join(odd)}", path=where)

    def _schema(self, columns: list[Column], extra: list[Column], rank: Mapping[Key, int]) -> Schema:
        texts = [c for c in columns if c.is_text and len(c.key) > 1]
        heaps = [c for c in columns if c.key[0] in ("observation", "action") and c.heap is not None]
        if odd := [column for column in heaps if column not in texts]:
            raise InputError(f"{'/'.join(odd[0].key)} is not one array per step")
        spec = spec_of(columns, None, None)
        others = [c for c in columns if c.key[0] not in ("observation", "action") or c in heaps]
        return ted_schema(
            spec_from_json(spec["observation"]),
            spec_from_json(spec["action"]),
            extra=sorted([*others, *extra], key=lambda c: (rank.get(c.key, len(rank)), c.key)),
            next_observation="derived" if self.derives else "plain",
        )

    # -- rows --------------------------------------------------------------------------------------------

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one episode in slices.

        Raises `LayoutMismatch` when next observations were to be derived and are not the following rows.
        """
        noted, first, others = self._begun(self._numbers[piece.name])
        for part in itertools.chain([first], others):
            yield part
            advance(num_rows(part.columns) * self.schema.row_bytes)
        report.add(noted)

    def close(self) -> None:
        """Reads no more. Call it before the files are closed."""
        self._begun.close()

    def _begin(self, number: int) -> tuple[Report, Part, Iterator[Part]]:
        """An episode whose first part was read."""
        report = Report()
        parts = self._checked(number, report)
        return report, next(parts), parts

    def _checked(self, number: int, report: Report) -> Iterator[Part]:
        rows = self.scan.rows[number]
        found = self.open_group(self.scan.names[number], rows)
        with hdf5.damage(found.group.path, f"{found.group.name}:"):
            yield from self._parts(found, rows, report)

    def _parts(self, found: Group, rows: int, report: Report) -> Iterator[Part]:
        group = found.group
        constant = {**found.extra, **self._constants(group)}
        observed = {
            n: k for n, k in self.keys.items() if k[0] == "observation" and self.scan.found[n].dtype != "text"
        }
        following = {n: self._next_name(n) for n in observed if self.following}
        has_next = all(name in group.arrays for name in following.values()) and bool(following)
        per_row = [n for n, k in self.keys.items() if k not in constant]
        pending: dict[str, Any] = {}
        for start, stop in slices(0, rows, self.slice_rows()):
            columns: dict[Key, Any] = {}
            for name in per_row:
                columns[self.keys[name]] = self._read(group, name, start, stop)
            columns[REWARD] = self._reward(group, start, stop)
            then = {n: self._read(group, f, start, stop) for n, f in following.items()} if has_next else {}
            if not self.derives:
                if not has_next:
                    raise InputError(f"{group.path}: {group.name} has no {self.layout.following}")
                columns |= {("next", *observed[name]): values for name, values in then.items()}
            elif has_next:
                for name, values in then.items():
                    now = columns[observed[name]]
                    if not equal_bits(values[:-1], now[1:]) or (
                        name in pending and not equal_bits(pending[name], now[:1])
                    ):
                        raise LayoutMismatch
                    pending[name] = values[-1:].copy()
            for key, value in constant.items():
                column = self.schema.by_key[key]
                columns[key] = (
                    [value] * (stop - start)
                    if column.heap
                    else np.full((stop - start, *column.shape), value, column.numpy)
                )
            end = self._end(found, rows, observed, then, report) if stop == rows else None
            yield Part(columns, end)

    def _end(
        self, found: Group, rows: int, observed: Mapping[str, Key], then: Mapping[str, Any], report: Report
    ) -> End:
        """Terminated or truncated if the last row's flags say so; flags on earlier rows end nothing."""
        final = None
        if then:
            final = nest({observed[name]: values[-1] for name, values in then.items()})
        elif self.has_final:
            last = {k: self._read(found.group, n, rows, rows + 1)[0] for n, k in observed.items()}
            final = nest(last)
        terminated, truncated = (
            name in self.scan.found and bool(np.any(self._read(found.group, name, rows - 1, rows) != 0))
            for name in (self.layout.done, self.layout.truncated)
        )
        if self.layout.done in self.scan.found:
            report.repaired += not terminated and not truncated
        truncated = truncated or not terminated if found.truncated is None else found.truncated
        return End(terminated, truncated, found.cut, final, found.seed)

    def _constants(self, group: EpisodeGroup) -> dict[Key, Any]:
        """What an episode has once: attributes and arrays of another length; empty where it has none."""
        values: dict[Key, Any] = {}
        for name, key in self.keys.items():
            found = self.scan.found[name]
            if found.where in ("row", "state"):
                continue
            is_attribute = found.where == "attribute"
            name = name[1:] if is_attribute else name
            there = name in (group.attributes if is_attribute else group.arrays)
            if found.dtype == "text":
                values[key] = ""
                if there and is_attribute:
                    raw = np.asarray(group.attributes[name]).reshape(-1).tolist()[0]
                    values[key] = hdf5.text_of(raw, group.group)
                elif there:
                    values[key] = group.arrays[name].texts(0, 1)[0]
                continue
            if there:
                value = group.attributes[name] if is_attribute else group.arrays[name].whole()
                array = np.asarray(value, found.dtype)
            else:
                array = np.zeros((0, *found.shape[1:]), found.dtype)
            values[key] = np.atleast_1d(array) if self.schema.by_key[key].heap else array
        return values

    def _reward(self, group: EpisodeGroup, start: int, stop: int) -> Any:
        if not self.rewarded:
            return np.zeros((stop - start, 1), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return self._read(group, self.layout.reward, start, stop).astype(np.float32).reshape(-1, 1)

    def _read(self, group: EpisodeGroup, name: str, start: int, stop: int) -> Any:
        array = group.arrays[name]
        found = self.scan.found[name]
        if found.dtype == "text":
            return array.texts(start, stop)
        shape = array.shape[1:] if -1 in found.shape else found.shape
        if stop > array.shape[0] or array.size // max(1, array.shape[0]) != np.prod(shape):
            raise CorruptError(f"{group.path}: {array.name} has changed since it was looked through")
        return array.read(start, stop).astype(found.dtype, copy=False).reshape(-1, *shape)

    def _next_name(self, name: str) -> str:
        return f"{self.layout.following}{name.removeprefix(self.observed)}"


def _rest(name: str, top: str) -> Key:
    rest = name.removeprefix(top).strip("/")
    return storable(rest) if rest else ()
