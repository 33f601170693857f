"""The DQN replay dataset (Agarwal et al., 2020) and other logs of Dopamine's circular replay.

Frames are stored once, unstacked. A log is a ring (`atari_logs.py`), and logs continue each other, so an
episode may begin in one and end in the next. `add` puts stack_size - 1 rows of zeros before every episode;
these are padding and left out. The next observation is the following row's; after a terminal it was never
stored. Old logs do not know truncation: an episode that was cut goes on with the next one there. Newer ones
have `episode_end_indices`. `invalid_range` are positions around the ring's end where frames cannot be stacked
across it; their rows are rows all the same.

Rows are in the order they were added, which needs the end of a file before its beginning: where a log
continues another one its observations are decompressed twice, the first time by a second thread.
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
from rlcli.datasets.atari_logs import NEEDED, GzArray, Log, Span, find_logs, read_all, read_indices, spans_of
from rlcli.datasets.contract import Advance, End, Part, Piece, Report, Request, Seen
from rlcli.datasets.mapping import no_mapping
from rlcli.datasets.opened import Opened, env_of, is_exact
from rlcli.datasets.slicing import slice_rows
from rlcli.errors import CorruptError, InputError, UsageError
from rlcli.format.keys import Key
from rlcli.format.schema import MAX_FRAMES, Column, Schema, stack_column, ted_schema
from rlcli.format.specs import Box, Discrete

Flags = NDArray[np.bool_]
_KEPT_ROWS = 64  # of a ring's end, which are read ahead by a thread
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
    return Seen(True, f"Atari DQN replay, {len(logs)} logs")


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


@dataclass(frozen=True)
class _Range:
    """Rows of one piece in one span."""

    span: Span
    start: int
    stop: int


class AtariSource(Opened):
    """Opened logs; a piece goes from the first episode that begins in a log to the first in the next."""

    def __init__(self, path: Path, logs: list[Log], request: Request, options: Options) -> None:
        self.logs, self.padding = logs, options.padding
        plan = dict(request.plan) if request.plan else _look_through(logs)
        frame, dtype = tuple(plan["frame"]), plan["dtype"]
        self.spans = spans_of(plan["counts"], plan["capacities"], [log.number for log in logs])
        self.ends: list[NDArray[np.int64]] = []  # rows of the run that end an episode, per span
        self.terminals: list[NDArray[np.int64]] = []
        for span, ends, terminals in zip(self.spans, plan["ends"], plan["terminals"], strict=True):
            self.ends.append(_rows_at(span, ends))
            self.terminals.append(_rows_at(span, terminals))
        observation, action = Box(frame, dtype), Discrete(plan["actions"], dtype=plan["action"])
        columns = [Column(("source", "reward"), plan["reward"])] if plan["inexact"] else []
        schema = ted_schema(observation, action, extra=columns)
        if options.frame_stack:
            stack = stack_column(("observation_stack",), schema.by_key[("observation",)], options.frame_stack)
            schema = Schema((*schema.columns, stack))
        self.row_bytes: int = int(np.prod(frame, dtype=np.int64)) * np.dtype(dtype).itemsize
        self.ranges = self._cut()
        rows = sum(span.stop - span.start for span in self.spans)
        report = Report(remarks=list(plan["remarks"]))
        if lost := sum(max(0, b.start - a.stop) for a, b in pairwise(self.spans)):
            report.remarks.append(f"{lost:,} rows between logs are in none of them; episodes are cut there")
        report.details = {"logs": len(logs), "rows_with_padding": rows, "alignment": ALIGNMENT}
        files = [log.files[name] for log in logs for name in sorted(log.files)]
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
                "columns": {"observation": ["observation"], "action": ["action"], "reward": list(_REWARD)},
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

    def _bytes_of(self, ranges: list[_Range]) -> int:
        return self.row_bytes * sum(each.stop - each.start for each in ranges)

    def _cut(self) -> list[list[_Range]]:
        """The rows of every piece: a span goes on in the next one up to that one's first episode end."""
        pieces: list[list[_Range]] = []
        current: list[_Range] = []
        for number, span in enumerate(self.spans):
            if span.start == span.stop:
                continue
            follows = bool(current) and current[-1].stop == span.start
            ends = self.ends[number]
            first = int(ends[0]) + 1 if len(ends) else span.stop
            if follows:
                current.append(_Range(span, span.start, first))
            if current and (not follows or first < span.stop or len(ends)):
                pieces.append(current)
                current = []
            begin = first if follows else span.start
            if begin < span.stop:
                current.append(_Range(span, begin, span.stop))
        return [*pieces, current] if current else pieces

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one piece in slices, without padding."""
        ranges = self.ranges[self.pieces.index(piece)]
        last = ranges[-1].stop - 1
        padding = _Padding(self.padding)
        before_end = self._is_begin(ranges[0])
        if not before_end:
            padding.left = self.padding  # the rows before are lost, and these may be padding still
        with ThreadPoolExecutor(1) as pool:
            ahead = {index: self._ahead(pool, each) for index, each in enumerate(ranges) if index}
            for index, each in enumerate(ranges):
                number = each.span.log
                rows = _Rows(self.logs[number], each, ahead.get(index))
                ends, terminals = self.ends[number], self.terminals[number]
                for start, frames, actions, rewards, flags in rows.slices(self.row_bytes):
                    size = len(frames)
                    is_end = np.zeros(size, np.bool_)
                    low, high = np.searchsorted(ends, [start, start + size])
                    is_end[ends[low:high] - start] = True
                    idle = (actions == 0) & (rewards == 0) & ~is_end & (flags == 0)
                    begins = np.concatenate([[before_end], is_end[:-1]])
                    keep = padding.keep(frames, idle, np.flatnonzero(begins))
                    before_end = bool(is_end[-1])
                    yield from self._split(start, keep, is_end, last, terminals, frames, actions, rewards)
                    advance(size * self.row_bytes)
        report.dropped += padding.found
        report.count("padding_rows", padding.found)
        report.count("episodes_without_padding", padding.short)

    def _is_begin(self, first: _Range) -> bool:
        """Whether an episode begins with the first row of a piece, as far as the logs tell."""
        return first.start == 0 or first.start > first.span.start

    def _ahead(self, pool: ThreadPoolExecutor, each: _Range) -> Future[NDArray[Any]] | None:
        """The end of a ring that comes before its beginning, read while other rows are."""
        positions = list(each.span.ranges(each.start, each.stop))
        if len(positions) < 2 or positions[0][1] - positions[0][0] > _KEPT_ROWS:
            return None
        return pool.submit(_frames_at, self.logs[each.span.log].files["observation"], *positions[0])

    def _split(
        self,
        start: int,
        keep: Flags,
        is_end: Flags,
        last: int,
        terminals: NDArray[np.int64],
        frames: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
    ) -> Iterator[Part]:
        """The kept rows of a slice as parts, one per episode."""
        size = len(frames)
        stops = [*(np.flatnonzero(is_end) + 1).tolist()]
        if not stops or stops[-1] != size:
            stops.append(size)
        first = 0
        for stop in stops:
            rows = slice(first, stop)
            first = stop
            columns: dict[Key, Any] = {
                ("observation",): frames[rows],
                ("action",): actions[rows],
                _REWARD: rewards[rows].astype(np.float32).reshape(-1, 1),
            }
            if ("source", "reward") in self.schema.by_key:
                columns["source", "reward"] = rewards[rows]
            kept = keep[rows]
            if not kept.any():
                continue
            if not kept.all():
                columns = {key: values[kept] for key, values in columns.items()}
            row = start + stop - 1
            end = None
            if is_end[stop - 1]:
                at = int(np.searchsorted(terminals, row))
                terminated = at < len(terminals) and int(terminals[at]) == row
                end = End(terminated, not terminated)
            elif row == last:
                end = End(False, True, cut=True)
            yield Part(columns, end)


Slice = tuple[int, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


class _Padding:
    """Finds rows of zeros at the beginnings of episodes, at most `limit` each."""

    def __init__(self, limit: int) -> None:
        self.limit, self.left = limit, 0
        self.found = self.short = 0

    def keep(self, frames: NDArray[Any], idle: Flags, begins: NDArray[np.int64]) -> Flags:
        """Which rows of a slice are no padding; `idle` may be, and episodes start at `begins`."""
        keep = np.ones(len(frames), np.bool_)
        for at, limit in [(0, self.left), *((int(begin), self.limit) for begin in begins)]:
            stop = at
            while stop < len(frames) and stop < at + limit and idle[stop] and not frames[stop].any():
                stop += 1
            keep[at:stop] = False
            self.found += stop - at
            self.left = at + limit - stop if stop == len(frames) else 0
            self.short += bool(limit) and not self.left and stop < at + limit
        return keep


class _Rows:
    """Rows of a range in the order they were added."""

    def __init__(self, log: Log, each: _Range, ahead: Future[NDArray[Any]] | None) -> None:
        self.log, self.each, self.ahead = log, each, ahead
        self.small = {name: read_all(log.files[name]) for name in ("action", "reward", "terminal")}

    def slices(self, row_bytes: int) -> Iterator[Slice]:
        """`(first row, frames, actions, rewards, terminals)`; a whole file's checksum is checked."""
        step = slice_rows(row_bytes)
        row = self.each.start
        for number, (low, high) in enumerate(self.each.span.ranges(self.each.start, self.each.stop)):
            if self.ahead is not None and number == 0:
                blocks: Iterator[NDArray[Any]] = iter([self.ahead.result()])
            else:
                is_own = self.each.stop == self.each.span.stop  # others read the rest of the file
                blocks = _ahead(_blocks(self.log.files["observation"], low, high, step, to_end=is_own))
            for frames in blocks:
                at = slice(low, low + len(frames))
                small = self.small
                yield row, frames, small["action"][at], small["reward"][at], small["terminal"][at]
                low += len(frames)
                row += len(frames)


def _blocks(path: Path, low: int, high: int, step: int, *, to_end: bool = True) -> Iterator[NDArray[Any]]:
    """Positions `low … high - 1` of a file; the rest is read too if the checksum at its end is wanted."""
    array = GzArray(path)
    try:
        array.skip(low)
        for start in range(low, high, step):
            yield array.read(min(step, high - start))
        if to_end:
            array.skip(array.shape[0] - high)
            array.finish()
    finally:
        array.close()


def _ahead(blocks: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The same blocks, each decompressed while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = pool.submit(next, blocks, None)
            yield block


def _frames_at(path: Path, low: int, high: int) -> NDArray[Any]:
    return np.concatenate(list(_blocks(path, low, high, _KEPT_ROWS)))


def _rows_at(span: Span, positions: list[int]) -> NDArray[np.int64]:
    """The rows of the run that are at these positions of the ring, in order."""
    at = np.asarray(positions, np.int64)
    begin = span.stop - span.capacity
    rows = np.sort(begin + (at - begin) % span.capacity)
    return rows[(rows >= span.start) & (rows < span.stop)]


def _look_through(logs: list[Log]) -> dict[str, Any]:
    """What all logs hold but the frames, as JSON."""
    told: dict[str, Any] = {
        "counts": [], "capacities": [], "ends": [], "terminals": [], "invalid": [], "remarks": [],
        "actions": 1, "inexact": False,
    }  # fmt: skip
    for log in logs:
        frames = GzArray(log.files["observation"])
        frames.close()
        small = {name: read_all(log.files[name]) for name in ("action", "reward", "terminal")}
        capacity = frames.shape[0] if frames.shape else 0
        for name, values in small.items():
            if values.shape != (capacity,) or capacity == 0 or values.dtype.kind not in "biuf":
                raise InputError(
                    f"{log.files[name]}: {values.dtype}{list(values.shape)}, expected one number for each of "
                    f"{capacity:,} frames",
                    path=log.files[name],
                )
        kind = {
            "frame": list(frames.shape[1:]), "dtype": str(frames.dtype),
            "action": str(small["action"].dtype), "reward": str(small["reward"].dtype),
        }  # fmt: skip
        if any(told.setdefault(name, value) != value for name, value in kind.items()):
            raise InputError(f"{frames.path}: {kind}, unlike the logs before", path=frames.path)
        count = _count(log, told["remarks"])
        terminals = np.flatnonzero(small["terminal"])
        told["counts"].append(count)
        told["capacities"].append(capacity)
        told["terminals"].append(terminals.tolist())
        told["ends"].append(sorted({*terminals.tolist(), *_episode_ends(log, capacity, told["remarks"])}))
        told["invalid"].append(_invalid(log))
        numbers = [each.number for each in logs[: len(told["counts"])]]
        span = spans_of(told["counts"], told["capacities"], numbers)[-1]
        actions, rewards = (_used(small[name], span) for name in ("action", "reward"))
        if actions.dtype.kind not in "iu" or actions.min(initial=0) < 0:
            raise CorruptError(f"{log.files['action']}: not whole numbers from 0", path=log.files["action"])
        told["actions"] = max(told["actions"], int(actions.max(initial=0)) + 1)
        told["inexact"] = told["inexact"] or not is_exact(rewards)
    return told


def _used(values: NDArray[Any], span: Span) -> NDArray[Any]:
    """The values of a log's rows; others were in logs before, or never written."""
    return np.concatenate([values[:0], *(values[slice(*at)] for at in span.ranges(span.start, span.stop))])


def _count(log: Log, remarks: list[str]) -> int | None:
    if "add_count" not in log.files:
        remarks.append(f"log {log.number} has no add_count; it is taken to be full")
        return None
    value = read_all(log.files["add_count"])
    if value.size != 1 or value.dtype.kind not in "iu" or not 0 <= int(value) < 1 << 60:
        raise CorruptError(f"{log.files['add_count']}: not a number of rows", path=log.files["add_count"])
    return int(value)


def _invalid(log: Log) -> list[int]:
    values = read_all(log.files["invalid_range"]).reshape(-1)[:64] if "invalid_range" in log.files else ()
    return [int(value) for value in values]


def _episode_ends(log: Log, capacity: int, remarks: list[str]) -> list[int]:
    """Positions of ends that newer logs tell; they may be truncations."""
    if "episode_end_indices" not in log.files:
        return []
    try:
        return [at for at in read_indices(log.files["episode_end_indices"]) if 0 <= at < capacity]
    except ValueError as err:
        remarks.append(f"log {log.number}: episode_end_indices is not read ({err})")
        return []
