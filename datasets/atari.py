"""The DQN replay dataset (Agarwal et al., 2020) and other logs of Dopamine's circular replay.

Frames are stored once, unstacked. A log is a ring (`atari_logs.py`), and logs continue each other, so an
episode may begin in one and end in the next. `add` puts stack_size - 1 rows of zeros before every episode;
these are padding and left out. The next observation is the following row's; after a terminal it was never
stored. Old logs do not know truncation: an episode that was cut goes on with the next one there. Newer ones
have `episode_end_indices`. `invalid_range` are positions around the ring's end where frames cannot be stacked
across it; their rows are rows all the same.

What an agent stored beside frames, actions, rewards and terminals is kept below `info`.

Reading rows in their order is in `atari_rows.py`, the first look at the logs in `atari_scan.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets.atari_logs import NEEDED, Log, Span, find_logs, spans_of
from rlcli.datasets.atari_rows import KEPT_ROWS, Flags, Padding, Range, Rows, frames_at
from rlcli.datasets.atari_scan import look_through
from rlcli.datasets.contract import Advance, End, Part, Piece, Report, Request, Seen
from rlcli.datasets.mapping import no_mapping, storable
from rlcli.datasets.opened import Opened, env_of
from rlcli.errors import InputError, UsageError
from rlcli.format.keys import Key
from rlcli.format.schema import MAX_FRAMES, Column, Schema, stack_column, ted_schema
from rlcli.format.specs import Box, Discrete

_REWARD: Key = ("next", "reward")
ALIGNMENT = "same row: frame, the action taken on it, the clipped reward for that"


@dataclass(frozen=True)
class Options:
    """Reading Dopamine's logs."""

    frame_stack: int = opt(
        0, "Also declare observation_stack, the last so many frames; nothing is stored for it."
    )
    padding: int = opt(3, "Rows of zeros before every episode: stack_size - 1.")


def detect(path: Path) -> Seen:
    """Whether `path` is a folder of Dopamine's logs, or one with `replay_logs`."""
    logs = find_logs(path)
    if not logs:
        return Seen(False, "no Dopamine replay logs there")
    return Seen(True, f"Atari DQN replay, {len(logs)} {'log' if len(logs) == 1 else 'logs'}")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[AtariSource]:
    """The logs of a folder. Actions, rewards and terminals are looked through once.

    Raises `InputError` for missing files or lengths that disagree, `CorruptError` for damage.
    """
    if options.frame_stack and not 2 <= options.frame_stack <= MAX_FRAMES:
        raise UsageError(f"frame_stack is {options.frame_stack}, expected 2 to {MAX_FRAMES}")
    if options.padding < 0:
        raise UsageError(f"padding is {options.padding}, expected 0 or more")
    logs = find_logs(path)
    if not logs:
        raise InputError(f"{path}: no Dopamine replay logs there", path=path)
    for log in logs:
        if missing := [name for name in NEEDED if name not in log.files]:
            raise InputError(f"{path}: log {log.number} has no {', '.join(missing)}", path=path)
    no_mapping(request, path)
    yield AtariSource(path, logs, request, options)


class AtariSource(Opened):
    """Opened logs; a piece goes from the first episode that begins in a log to the first in the next."""

    def __init__(self, path: Path, logs: list[Log], request: Request, options: Options) -> None:
        self.logs, self.padding = logs, options.padding
        plan = dict(request.plan) if request.plan else look_through(logs)
        frame, dtype = tuple(plan["frame"]), plan["dtype"]
        self.spans = spans_of(plan["counts"], plan["capacities"], [log.number for log in logs])
        self.ends: list[NDArray[np.int64]] = []  # rows of the run that end an episode, per span
        self.terminals: list[NDArray[np.int64]] = []
        for span, ends, terminals in zip(self.spans, plan["ends"], plan["terminals"], strict=True):
            self.ends.append(_rows_at(span, ends))
            self.terminals.append(_rows_at(span, terminals))
        observation, action = Box(frame, dtype), Discrete(plan["actions"], dtype=plan["action"])
        columns = [Column(("source", "reward"), plan["reward"])] if plan["inexact"] else []
        self.extras: dict[str, Key] = {name: ("info", *storable(name)) for name in plan["extras"]}
        columns += [
            Column(self.extras[name], dtype, tuple(shape)) for name, (dtype, shape) in plan["extras"].items()
        ]
        schema = ted_schema(observation, action, extra=columns)
        if options.frame_stack:
            stack = stack_column(("observation_stack",), schema.by_key[("observation",)], options.frame_stack)
            schema = Schema((*schema.columns, stack))
        self.row_bytes: int = int(np.prod(frame, dtype=np.int64)) * np.dtype(dtype).itemsize
        self.ranges = self._cut()
        rows = sum(span.stop - span.start for span in self.spans)
        report = Report(remarks=list(plan["remarks"]), lossy=list(plan["lossy"]))
        if lost := sum(max(0, b.start - a.stop) for a, b in pairwise(self.spans)):
            report.remarks.append(f"{lost:,} rows between logs are in none of them; episodes are cut there")
        report.details = {"logs": len(logs), "rows_with_padding": rows, "alignment": ALIGNMENT}
        files = [log.files[name] for log in logs for name in sorted(log.files)]
        files += [log.extras[name] for log in logs for name in self.extras]
        super().__init__(
            schema=schema,
            spec={
                "env": env_of(request.env_id),
                "observation": observation.to_json(),
                "action": action.to_json(),
            },
            record={
                "alignment": ALIGNMENT,
                "logs": [log.number for log in logs],
                "add_count": plan["counts"],
                "capacity": plan["capacities"],
                "invalid_range": plan["invalid"],
                "columns": {"observation": ["observation"], "action": ["action"], "reward": list(_REWARD)}
                | {name: list(key) for name, key in self.extras.items()},
                "original": {"action": plan["action"], "reward": plan["reward"], "observation": dtype},
            },
            report=report,
            files=files,
            pieces=[
                Piece(f"rows {ranges[0].start}..{ranges[-1].stop - 1}", self._bytes_of(ranges))
                for ranges in self.ranges
            ],
            plan=plan,
        )

    def _bytes_of(self, ranges: list[Range]) -> int:
        return self.row_bytes * sum(each.stop - each.start for each in ranges)

    def _cut(self) -> list[list[Range]]:
        """The rows of every piece: a span goes on in the next one up to that one's first episode end."""
        pieces: list[list[Range]] = []
        current: list[Range] = []
        for number, span in enumerate(self.spans):
            if span.start == span.stop:
                continue
            follows = bool(current) and current[-1].stop == span.start
            ends = self.ends[number]
            first = int(ends[0]) + 1 if len(ends) else span.stop
            if follows:
                current.append(Range(span, span.start, first))
            if current and (not follows or first < span.stop or len(ends)):
                pieces.append(current)
                current = []
            begin = first if follows else span.start
            if begin < span.stop:
                current.append(Range(span, begin, span.stop))
        return [*pieces, current] if current else pieces

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one piece in slices, without padding."""
        ranges = self.ranges[self.pieces.index(piece)]
        last = ranges[-1].stop - 1
        padding = Padding(self.padding)
        before_end = self._is_begin(ranges[0])
        if not before_end:
            padding.left = self.padding  # the rows before are lost, and these may be padding still
        with ThreadPoolExecutor(1) as pool:
            ahead = {index: self._ahead(pool, each) for index, each in enumerate(ranges) if index}
            for index, each in enumerate(ranges):
                number = each.span.log
                rows = Rows(self.logs[number], each, self.extras, ahead.get(index))
                ends, terminals = self.ends[number], self.terminals[number]
                for start, frames, small, extras in rows.slices(self.row_bytes):
                    size = len(frames)
                    is_end = np.zeros(size, np.bool_)
                    low, high = np.searchsorted(ends, [start, start + size])
                    is_end[ends[low:high] - start] = True
                    idle = ~is_end & np.all([values == 0 for values in small.values()], axis=0)
                    begins = np.concatenate([[before_end], is_end[:-1]])
                    keep = padding.keep(frames, idle, np.flatnonzero(begins))
                    before_end = bool(is_end[-1])
                    columns = self._columns(frames, small, extras)
                    yield from self._split(start, keep, is_end, last, terminals, columns)
                    advance(size * self.row_bytes)
        report.dropped += padding.found
        report.count("padding_rows", padding.found)
        report.count("episodes_without_padding", padding.short)

    def _is_begin(self, first: Range) -> bool:
        """Whether an episode begins with the first row of a piece, as far as the logs tell."""
        return first.start == 0 or first.start > first.span.start

    def _ahead(self, pool: ThreadPoolExecutor, each: Range) -> Future[NDArray[Any]] | None:
        """The end of a ring that comes before its beginning, read while other rows are."""
        positions = list(each.span.ranges(each.start, each.stop))
        if len(positions) < 2 or positions[0][1] - positions[0][0] > KEPT_ROWS:
            return None
        return pool.submit(frames_at, self.logs[each.span.log].files["observation"], *positions[0])

    def _columns(
        self, frames: NDArray[Any], small: dict[str, NDArray[Any]], extras: dict[str, NDArray[Any]]
    ) -> dict[Key, NDArray[Any]]:
        columns: dict[Key, NDArray[Any]] = {
            ("observation",): frames,
            ("action",): small["action"],
            _REWARD: small["reward"].astype(np.float32).reshape(-1, 1),
        }
        if ("source", "reward") in self.schema.by_key:
            columns["source", "reward"] = small["reward"]
        return columns | {self.extras[name]: values for name, values in extras.items()}

    def _split(
        self,
        start: int,
        keep: Flags,
        is_end: Flags,
        last: int,
        terminals: NDArray[np.int64],
        columns: dict[Key, NDArray[Any]],
    ) -> Iterator[Part]:
        """The kept rows of a slice as parts, one per episode."""
        size = len(keep)
        stops = [*(np.flatnonzero(is_end) + 1).tolist()]
        if not stops or stops[-1] != size:
            stops.append(size)
        first = 0
        for stop in stops:
            rows = slice(first, stop)
            first = stop
            kept = keep[rows]
            if not kept.any():
                continue
            part = {key: values[rows] for key, values in columns.items()}
            if not kept.all():
                part = {key: values[kept] for key, values in part.items()}
            row = start + stop - 1
            end = None
            if is_end[stop - 1]:
                at = int(np.searchsorted(terminals, row))
                terminated = at < len(terminals) and int(terminals[at]) == row
                end = End(terminated, not terminated)
            elif row == last:
                end = End(False, True, cut=True)
            yield Part(part, end)


def _rows_at(span: Span, positions: list[int]) -> NDArray[np.int64]:
    """The rows of the run that are at these positions of the ring, in order."""
    at = np.asarray(positions, np.int64)
    begin = span.stop - span.capacity
    rows = np.sort(begin + (at - begin) % span.capacity)
    return rows[(rows >= span.start) & (rows < span.stop)]
