"""`rl buffer map`: a new dataset of the same episodes, its columns renamed, cast, computed or left out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.console import counts_text
from rlcli.errors import UsageError
from rlcli.format.copying import all_episodes, whole_segment_rows
from rlcli.format.dataset import Dataset
from rlcli.format.episode_table import Episodes
from rlcli.format.heap import missing
from rlcli.format.keys import Key
from rlcli.format.location import Location
from rlcli.format.schema import Column, Schema
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer_copy import lost_rows
from rlcli.pipeline.making import Making, lineage, making
from rlcli.pipeline.map_block import Array, Block, Layout, blocks
from rlcli.pipeline.map_columns import Cast, Normalise, Rename, Select, Step
from rlcli.pipeline.map_functions import Apply
from rlcli.pipeline.map_rewards import FLAGS, NStep, RelabelReward, RewardToGo, ScaleReward


@dataclass(frozen=True)
class Options:
    """The steps as `(flag, value)` in order, and what some of them need besides."""

    steps: Sequence[tuple[str, str]]
    gamma: float | None = None
    stats_from: Location | None = None


class _Broken(Exception):
    """A derived column that is no longer the next row's value."""

    def __init__(self, key: Key) -> None:
        super().__init__(key)
        self.key = key


def map_dataset(path: Location, out: Path, options: Options) -> dict[str, Any]:
    """Write the episodes of `path`, after all steps in order, to a new dataset at `out`; return a report.

    Next values that are derived stay so where they still are the next row's, which is checked bit by bit;
    else they are stored, and last rows whose next value is unknown are left out (`dropped_unknown_next`;
    `dropped_rows` counts these and what `--apply` left out; `lost_rows` those of episodes whose beginning a
    window no longer has).

    Raises `UsageError` for steps that do not fit, `InputError` for values that do not, `Interrupted`.
    """
    with Dataset.open(path) as source, making(out, source.num_rows, "map") as work:
        table = all_episodes(source)
        stored: set[Key] = set()
        while True:
            run = _Run(source, table, options, work, stored)
            try:
                dropped = run.write()
                break
            except _Broken as broken:
                stored.add(broken.key)
                shutil.rmtree(work.temporary)
        known = {column.key for column in source.schema.shifts}
        now_stored = ["/".join(c.key) for c in run.schema.given if c.key in known]
        return {
            **work.finish(),
            "source": str(path),
            "columns": [
                {"key": "/".join(c.key), "dtype": c.dtype, "shape": c.shape} for c in run.schema.columns
            ],
            "stored_next": now_stored,
            "dropped_rows": dropped,
            "lost_rows": source.num_rows - int(table.length.sum()),
            "dropped_unknown_next": run.dropped_unknown_next,
            "fits_env": run.layout.fits_env,
        }


class _Run:
    """One attempt, with the derived columns `stored` that turned out not to hold."""

    def __init__(
        self, source: Dataset, table: Episodes, options: Options, work: Making, stored: set[Key]
    ) -> None:
        self._source, self._table, self._work = source, table, work
        self._options = options
        self._done: list[Step] = []
        self.dropped_unknown_next = 0  # rows, of the last pass
        self.layout = Layout.of(source)
        self.layout.extra = {name: value for name, value in source.extra.items() if name != "segment_rows"}
        for step in _steps(options, source, work.advance):
            step.fit(self._blocks, self.layout)
            step.plan(self.layout)
            self._done.append(step)
        for key in stored & self.layout.columns.keys():
            self.layout.store(key)
        self.schema: Schema = self.layout.schema()
        self._spec = self.layout.spec(source)

    def _blocks(self) -> Iterator[Block]:
        self.dropped_unknown_next = 0
        for block in blocks(self._source, self._table):
            if self.layout.is_stored:
                whole, block = len(block), block.without_unknown()
                self.dropped_unknown_next += whole - len(block)
            if len(block):
                for step in self._done:
                    step.apply(block)
            if len(block):
                yield block
            self._work.advance(0)

    def write(self) -> int:
        """Writes the result; returns how many rows were left out. Raises `_Broken`."""
        source = self._source
        options = {"steps": [list(step) for step in self._options.steps], "gamma": self._options.gamma}
        entry = lineage("map", options, [source])
        if self._options.stats_from is not None:
            entry["options"]["stats_from"] = str(self._options.stats_from)
        written = 0
        with Writer.create(
            self._work.temporary, self.schema, spec=self._spec, lineage=entry, extra=self.layout.extra,
            num_streams=len(source.stream_rows),
        ) as writer:  # fmt: skip
            writer.segment_rows = whole_segment_rows(self.schema, source.num_rows)
            for block in self._blocks():
                self._add(writer, block)
                self._work.advance(len(block))
                written += len(block)
        return source.num_rows - written

    def _add(self, writer: Writer, block: Block) -> None:
        stream = int(self._table.stream[block.index[0]])
        _settle_flags(block)
        last = block.stop - 1
        inside = np.ones(len(block), np.bool_)
        inside[last] = False
        rows = np.flatnonzero(inside)
        for column in self.schema.shifts:
            following, own = block.columns[column.of or ()], block.columns[column.key]
            if not _same(own[rows], following[rows + 1]):
                raise _Broken(column.key)
        before = writer.streams[stream].rows
        writer.write(stream, {c.key: _known(c, block.columns[c.key]) for c in self.schema.given})
        for episode, index in enumerate(block.index.tolist()):
            final = None
            if self.schema.shifts and block.known[episode]:
                end = int(last[episode])
                final = {c.of or (): block.columns[c.key][end] for c in self.schema.shifts}
            seed = int(self._table.seed[index])
            writer.end_episode(
                stream,
                terminated=bool(block.terminated[episode]),
                truncated=bool(block.truncated[episode]),
                cut=bool(block.cut[episode]),
                final=final,
                seed=None if seed == -1 else seed,
                number=int(self._table.number[index]),
                at=before + int(last[episode]) + 1,
            )
        writer.commit()


def _known(column: Column, values: Array) -> Array:
    """Values to store: where a heap's next value is unknown, which only a terminated episode's is here, what
    stands for none; of other columns that is zero already.
    """
    if column.heap is None or not (values == np.array(None)).any():
        return values
    found = values.copy()
    for row in np.flatnonzero(values == np.array(None)):
        found[row] = missing(column)
    return found


def _settle_flags(block: Block) -> None:
    """The episode table says what the last rows say, and `done` what follows from the other two."""
    terminated, truncated, done = (block.columns.get(key) for key in FLAGS)
    last = block.stop - 1
    if terminated is not None and truncated is not None:
        block.terminated = terminated.reshape(len(block), -1)[last, 0].astype(np.bool_)
        block.truncated = truncated.reshape(len(block), -1)[last, 0].astype(np.bool_)
        block.cut = block.cut | ~(block.terminated | block.truncated)
        if done is not None:
            block.columns[FLAGS[2]] = (terminated | truncated).reshape(done.shape).astype(done.dtype)


def _same(a: Array, b: Array) -> bool:
    """Equal bit by bit, so that NaN equals itself and −0 differs from 0."""
    if a.dtype == object:
        return bool((a == b).all())
    return a.tobytes() == b.tobytes()


def _steps(options: Options, source: Dataset, advance: Callable[[int], None]) -> list[Step]:
    made: list[Step] = []
    flags = {flag for flag, _ in options.steps}
    if options.gamma is not None and "--n-step" not in flags:
        raise UsageError("--gamma is for --n-step", hint="--reward-to-go takes its own: --reward-to-go 0.99")
    if options.stats_from is not None and "--normalise" not in flags:
        raise UsageError("--stats-from is for --normalise")
    for flag, value in options.steps:
        match flag:
            case "--rename":
                made.append(Rename(value))
            case "--cast":
                made.append(Cast(value))
            case "--select" | "--exclude":
                made.append(Select(value, exclude=flag == "--exclude"))
            case "--normalise" | "--denormalise":
                made.append(Normalise(value, options.stats_from, undo=flag == "--denormalise"))
            case "--scale-reward":
                made.append(ScaleReward(_number(value, flag)))
            case "--relabel-reward":
                made.append(RelabelReward(value, source, advance))
            case "--reward-to-go":
                made.append(RewardToGo(_number(value, flag)))
            case "--n-step":
                if options.gamma is None:
                    raise UsageError("--n-step needs --gamma, the discount per step")
                if not value.isdecimal():
                    raise UsageError(f"--n-step: {value!r} is no whole number")
                made.append(NStep(int(value), options.gamma))
            case "--apply":
                made.append(Apply(value))
            case _:
                raise ValueError(f"no step {flag!r}")
    return made


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is no number") from None


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a mapping, a line each."""
    lines = [f"{counts_text(row=report['rows'], episode=report['episodes'])}, {report['seconds']:.2f} s"]
    if report["stored_next"]:
        lines.append(f"stored, as they are no longer the next row's: {', '.join(report['stored_next'])}")
    if unknown := report["dropped_unknown_next"]:
        rows = "1 last row" if unknown == 1 else f"{unknown:,} last rows"
        lines.append(f"{rows} left out: next values are stored, and what follows there is unknown")
    if others := report["dropped_rows"] - unknown - report["lost_rows"]:
        lines.append(f"{others:,} row{'s' if others > 1 else ''} left out by --apply")
    if report["lost_rows"]:
        lines.append(lost_rows(report["lost_rows"]))
    if not report["fits_env"]:
        lines.append("observations or actions are not the environment's any more; spec.env is empty")
    return lines
