"""Rows that anyone can work out from their stream and their number in it, and readers who do.

What a dataset of such rows says is compared with arithmetic, never with what a writer remembers; so it can be
checked by any process, at any moment, whoever wrote it and however that ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column, Heap, Schema, heap_column, shift_column
from rlcli.format.writer import Writer

Array = np.ndarray[Any, Any]
ID, OBSERVATION, REWARD = ("id",), ("observation",), ("next", "reward")
NEXT, NOTE, NEXT_NOTE = ("next", "observation"), ("note",), ("next", "note")
EPISODE, STEP, PIXELS = ("episode",), ("step",), ("pixels",)
ROW_BITS = 40
MEAN_EPISODE = 11


class Violation(Exception):
    """A promise that was broken. `kind` is what is counted: wrong, hole or regression."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def require(holds: Any, kind: str, message: object) -> None:
    if not holds:
        raise Violation(kind, str(message))


def schema(*, heap: bool = False, pixels: bool = False) -> Schema:
    """A small one with finals, and if asked for with texts of any length and a column of half a kilobyte."""
    observation = Column(OBSERVATION, "float32", (3,))
    note = heap_column(NOTE, Heap("text", "none", 1 << 20))
    further = [note, shift_column(NEXT_NOTE, note)] if heap else []
    further += [Column(PIXELS, "uint8", (512,))] if pixels else []
    return Schema(
        (
            Column(ID, "int64"),
            observation,
            shift_column(NEXT, observation),
            Column(REWARD, "float32", (1,)),
            Column(EPISODE, "int64"),
            Column(STEP, "int64"),
            *further,
        )
    )


def mixed(ids: Array) -> Array:
    """64 well mixed bits of each identity (the finaliser of SplitMix64)."""
    x = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Array = x ^ (x >> np.uint64(31))
    return found


def observations(ids: Array) -> Array:
    bits = mixed(ids)
    parts = [(bits >> np.uint64(20 * k)) & np.uint64((1 << 20) - 1) for k in range(3)]
    return np.stack(parts, 1).astype(np.float32) + 1  # never zero, which stands for unknown


def pixels(ids: Array) -> Array:
    parts = [mixed(ids + k).view(np.uint8).reshape(-1, 8) for k in range(64)]
    return np.concatenate(parts, 1)


def rewards(ids: Array) -> Array:
    return ((mixed(ids) & np.uint64(1023)).astype(np.float32) / 64)[:, None]


def ends(ids: Array) -> Array:
    """Whether a row ends its episode by itself."""
    found: Array = mixed(ids) % np.uint64(MEAN_EPISODE) == 0
    return found


def note(id_: int) -> str:
    """Text of 0 to 3 repetitions; neighbours are now and then equal."""
    return f"row {id_ // 3}. " * (id_ // 3 % 4)


def identities(stream: int, low: int, high: int) -> Array:
    return np.arange(low, high, dtype=np.int64) + (stream << ROW_BITS)


class KnownWriter:
    """Writes the rows that belong next in each stream of a writer; `more` makes further columns of them."""

    def __init__(self, writer: Writer, more: Callable[[Array], dict[Any, Any]] | None = None) -> None:
        self.writer = writer
        self._more = more
        self._numbers: dict[int, int] = {}  # of the unfinished episodes, by position of their stream
        self._next = writer.next_episode

    def write(self, stream: int, rows: int) -> None:
        """Writes rows with the episode ends among them; commits nothing."""
        s = self.writer.streams[stream]
        low, start = s.rows, s.episode_start
        ids = identities(s.number, low, low + rows)
        at_end = np.flatnonzero(ends(ids)).tolist()
        number, begin = np.zeros(rows, np.int64), np.full(rows, start)
        done = 0
        for stop in [*(end + 1 for end in at_end), rows]:
            if done < stop:
                if stream not in self._numbers:
                    self._numbers[stream] = self._next
                    self._next += 1
                number[done:stop] = self._numbers[stream]
                begin[done:stop] = low + done if done else start
                if stop - 1 in at_end:
                    del self._numbers[stream]
            done = stop
        columns: dict[Any, Any] = {
            ID: ids,
            OBSERVATION: observations(ids),
            REWARD: rewards(ids),
            EPISODE: number,
            STEP: np.arange(low, low + rows) - begin,
        }
        heap = NOTE in self.writer.schema.by_key
        if heap:
            columns[NOTE] = [note(id_) for id_ in ids.tolist()]
        if PIXELS in self.writer.schema.by_key:
            columns[PIXELS] = pixels(ids)
        if self._more is not None:
            columns.update(self._more(ids))
        self.writer.write(stream, columns)
        for end in at_end:
            final: dict[Any, Any] = {OBSERVATION: -columns[OBSERVATION][end]}
            if heap:
                final[NOTE] = f"end of {ids[end]}"
            odd = bool(ids[end] & 1)
            self.writer.end_episode(
                stream, terminated=odd, truncated=not odd, final=final, number=int(number[end]),
                at=low + end + 1,
            )  # fmt: skip

    def commit(self, *, sync: bool = False) -> None:
        self.writer.commit(sync=sync)

    def close(self) -> None:
        """Cuts the unfinished episodes and seals."""
        for stream, number in self._numbers.items():
            self.writer.end_episode(stream, terminated=False, truncated=False, cut=True, number=number)
        self.writer.close()


def check_rows(dataset: Dataset, stream: int, low: int, high: int) -> int:
    """Compares stream rows `low … high`, which must all be there, with arithmetic; returns how many."""
    starts, stops = dataset.snapshot["starts"], dataset.stream_rows
    low = max(low, starts[stream])
    if low >= high:
        return 0
    counts = [stop - start for start, stop in zip(starts, stops, strict=True)]
    at = sum(counts[:stream]) - starts[stream]
    ids = identities(stream, low, high)
    found = dataset.read_rows(at + low, at + high)
    require(np.array_equal(found["id"], ids), "wrong", f"identities of stream {stream}, {low} to {high}")
    require(np.array_equal(found["observation"], observations(ids)), "wrong", f"observations {low} to {high}")
    require(np.array_equal(found["next"]["reward"], rewards(ids)), "wrong", f"rewards {low} to {high}")
    if "pixels" in found:
        require(np.array_equal(found["pixels"], pixels(ids)), "wrong", f"pixels {low} to {high}")
    unknown = dataset.unknown_next - at
    known = ~np.isin(np.arange(low, high), unknown)
    following = np.where(ends(ids)[:, None], -observations(ids), observations(ids + 1))
    same = (found["next"]["observation"] == following).all(1) | ~known
    require(same.all(), "wrong", f"next observations {low} to {high}: {low + np.flatnonzero(~same)}")
    if "note" in found:
        require(list(found["note"]) == [note(i) for i in ids.tolist()], "wrong", f"notes {low} to {high}")
        for i, end, text, is_known in zip(ids.tolist(), ends(ids), found["next"]["note"], known, strict=True):
            expected = (f"end of {i}" if end else note(i + 1)) if is_known else ""
            require(text == expected, "wrong", f"the next note of row {i}: {text!r}")
    return high - low


def check(dataset: Dataset) -> int:
    """Compares all rows and all episodes; returns the number of rows."""
    starts, stops = dataset.snapshot["starts"], dataset.stream_rows
    rows = sum(check_rows(dataset, s, starts[s], stops[s]) for s in range(len(stops)))
    table, step, number = dataset.episodes_all(), dataset.read(STEP), dataset.read(EPISODE)
    unknown = set(dataset.unknown_next.tolist())
    begin = 0  # the logical row of the stream's first
    for stream, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        chosen = table.stream == stream
        firsts, lengths = table.start[chosen] - begin + start, table.length[chosen]
        lasts = firsts + lengths - 1
        cut = table.cut[chosen]
        require((firsts[1:] == lasts[:-1] + 1).all(), "hole", f"episodes of stream {stream} do not join")
        if len(firsts) and start == 0:
            require(firsts[0] == 0, "hole", f"stream {stream} begins with episode row {firsts[0]}")
        by_itself = ends(identities(stream, start, stop))
        told = np.zeros(stop - start, bool)
        told[lasts[~cut] - start] = True
        open_end = lasts[-1] + 1 if len(lasts) else start
        require(not (told & ~by_itself).any(), "wrong", f"stream {stream} has an episode end that is none")
        missing = np.flatnonzero(by_itself[: open_end - start] & ~told[: open_end - start]) + start
        require(set(missing.tolist()) <= set(lasts[cut].tolist()), "hole", f"ends {missing} of {stream} lost")
        for first, last, is_cut, return_, which in zip(
            firsts, lasts, cut, table.return_[chosen], table.number[chosen], strict=True
        ):
            here = np.arange(max(first, start), last + 1)
            require(np.array_equal(step[begin + here - start], here - first), "wrong", "steps of an episode")
            require((number[begin + here - start] == which).all(), "wrong", "numbers of an episode")
            if first >= start or not is_cut:
                total = sum(rewards(identities(stream, first, last + 1))[:, 0].astype(np.float64).tolist())
                require(
                    return_ == total, "wrong", f"the return of rows {first} to {last}: {return_}, {total}"
                )
        allowed = {*lasts[cut].tolist(), stop - 1}
        mine = {row - begin + start for row in unknown if begin <= row < begin + stop - start}
        require(
            mine <= allowed, "hole", f"next values of rows {mine - allowed} of stream {stream} are unknown"
        )
        begin += stop - start
    return rows
