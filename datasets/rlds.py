"""RLDS and Open X-Embodiment: TensorFlow Datasets' folders of episodes, read without TensorFlow.

A record is an episode and a step is a row, in the files' order (which is TFDS' shuffle, not the order of
collection). In RLDS a step is an observation, the action applied to it, and the reward for that
(google-research/rlds, README): the same row holds all three, as ours do. At `is_last` only the observation
is valid by the letter, but most Open X datasets put a real action there. So `last_step=keep` keeps every step
as a row, the last with an unknown next observation; `drop` makes the last step the final observation of the
row before it; `auto` drops if all last steps are flagged and hold zeros where others do not.

`is_terminal` on the last step means terminated; an episode that ends without it is truncated. Flags that do
not follow from where records begin and end are kept as `("source", "is_last")` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlcli.config import opt
from rlcli.datasets import openx
from rlcli.datasets.contract import Advance, End, Part, Piece, Report, Request, Seen
from rlcli.datasets.example import decode_any
from rlcli.datasets.features import Field, label_names, read_features
from rlcli.datasets.opened import nest
from rlcli.datasets.rlds_columns import REWARD, SPLIT, mapped_keys, plan_columns
from rlcli.datasets.rlds_directory import Directory, Shard, find_folder, read_directory
from rlcli.datasets.rlds_export import ExportOptions, export
from rlcli.datasets.rlds_hints import Hints, read_hints
from rlcli.datasets.rlds_images import Dct
from rlcli.datasets.rlds_rows import Rows
from rlcli.datasets.rlds_runs import Decode, Run, at, runs
from rlcli.datasets.rlds_scan import Scan, Span, joined, scan
from rlcli.datasets.slicing import slice_rows
from rlcli.errors import CorruptError, InputError, RLError, UsageError

__all__ = [
    "ExportOptions", "Options", "RLDSSource", "detect", "export", "look", "open_source", "plan", "shares",
]  # fmt: skip

_PIECE_BYTES = 16 << 20
_SHARE_BYTES = 256 << 20  # of records; fewer are looked through faster than a process begins with them
_SHARES = 16


@dataclass(frozen=True)
class Options:
    """What `--set` may say when reading RLDS."""

    split: str = opt("", "Splits to read, e.g. train or train,val; all that are there if empty.")
    last_step: Literal["default", "keep", "drop", "auto"] = opt(
        "default",
        "The last step: a row, only the final observation, or which of them by what all of them hold; "
        "default is keep, and drop for what rl wrote so.",
    )
    allow_missing_shards: bool = opt(False, "Read the shards that are there and count the others.")
    dct: Literal["accurate", "fast"] = opt(
        "accurate", "How JPEG is decoded; fast gives TensorFlow's pixels (needs --images decode)."
    )
    preset: Literal["none", "openx"] = opt(
        "none",
        "Keys: as features are named, or what they are in well-known Open X datasets "
        "(observation/primary, secondary, wrist, language_instruction).",
    )


def detect(path: Path) -> Seen:
    """Whether `path` is an RLDS dataset: `features.json` with steps, and shards."""
    try:
        folder = find_folder(path)
        if folder is None:
            return Seen(False, "no features.json there")
        _, fields = read_features(folder / "features.json")
        if not _has_steps(fields):
            return Seen(False, "its features.json has no steps, so it holds no episodes")
        directory = read_directory(path)
    except (UsageError, CorruptError):
        raise
    except RLError as err:
        return Seen(False, err.message)
    shards = sum(map(len, directory.splits.values()))
    return Seen(
        True,
        f"RLDS dataset {directory.name} {directory.version}, {shards} {'shard' if shards == 1 else 'shards'}",
    )


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[RLDSSource]:
    """The dataset at `path`, every record looked through once unless `request.plan` says what they hold.

    Raises `InputError` for missing shards, `CorruptError` for damage, `UsageError` for unknown splits.
    """
    directory = read_directory(path)
    tree, fields = read_features(directory.folder / "features.json")
    if not _has_steps(fields):
        raise InputError(f"{directory.folder}: its features.json has no steps", path=directory.folder)
    if options.dct == "fast" and request.images != "decode":
        raise UsageError("dct=fast is about decoded pictures; add --images decode")
    yield RLDSSource(directory, tree, fields, request, options, decode_any if request.again else None)


def shares(path: Path, request: Request, options: Options) -> int:
    """Into how many shares a first look is worth cutting, by the sizes of shards. See `contract.Shared`."""
    shards = read_directory(path).select(options.split, options.allow_missing_shards)
    num_bytes = sum(shard.path.stat().st_size for shard in shards)
    return min(_SHARES, len(shards), num_bytes // _SHARE_BYTES)


def look(path: Path, request: Request, options: Options, share: int, shares: int) -> Any:
    """What the records of a share of the shards hold. See `contract.Shared`."""
    directory = read_directory(path)
    _, fields = read_features(directory.folder / "features.json")
    shards = directory.select(options.split, options.allow_missing_shards)
    first, stop = (number * len(shards) // shares for number in (share, share + 1))
    return scan(shards[first:stop], fields).to_json()


def plan(looks: Sequence[Any]) -> Any:
    """The plan that the looks of all shares make. See `contract.Shared`."""
    return joined([Scan.from_json(seen) for seen in looks]).to_json()


class RLDSSource:
    """An opened dataset; its pieces are shards, or parts of them. See `contract.Source`."""

    ahead_bytes = 4 << 20
    alignment = "same row: observation, the action applied to it, the reward for that"

    def __init__(
        self,
        directory: Directory,
        tree: Any,
        fields: tuple[Field, ...],
        request: Request,
        options: Options,
        decode: Decode | None = None,
    ) -> None:
        self.decode = decode
        self.directory = directory
        self.fields = fields
        self.shards = directory.select(options.split, options.allow_missing_shards)
        self.dct: Dct = options.dct
        self.report = Report()
        self.scan = Scan.from_json(request.plan) if request.plan else scan(self.shards, fields, decode)
        self.plan = self.scan.to_json()
        self._check_lengths(options)
        hints = read_hints(directory.folder)
        self.drops = self._drops(options.last_step, hints)
        splits = list(dict.fromkeys(shard.split for shard in self.shards))
        names = [item.name for item in fields]
        roles = openx.preset(directory.name, names, directory.folder) if options.preset == "openx" else {}
        self.columns = plan_columns(
            fields,
            self.scan,
            images=request.images,
            mapping=mapped_keys(fields, {**roles, **request.mapping}, directory.folder),
            hints=hints,
            with_split=len(splits) > 1,
        )
        self.with_split = len(splits) > 1
        self.schema = self.columns.schema
        self._followed = {column.of for column in self.schema.shifts}
        self.spec = self._spec(request, hints)
        self.report.lossy += self.columns.lossy
        self.report.remarks += [*self.columns.remarks, *openx.remarks(directory.name)]
        self.report.details |= {
            "splits": splits, "last_step": "drop" if self.drops else "keep", "images": request.images,
            "dct": options.dct if request.images == "decode" else None,
        }  # fmt: skip
        lost = sum(len(directory.missing.get(split, ())) for split in splits)
        self.report.details["missing_shards"] = lost
        if lost:
            self.report.remarks.append(f"{lost:,} shards are missing; their episodes are not in the result")
        self.record = self._record(tree, splits)
        self.files = [
            *sorted(directory.folder.glob("*.labels.txt")),
            *(path for name in ("dataset_info.json", "features.json", "rl.json")
              if (path := directory.folder / name).is_file()),
            *(shard.path for shard in self.shards),
        ]  # fmt: skip

    # -- what the source is --------------------------------------------------------------------------------

    def _check_lengths(self, options: Options) -> None:
        for shard, spans in zip(self.shards, self.scan.shards, strict=True):
            records = sum(span.records for span in spans)
            if shard.records is None or shard.records == records:
                continue
            message = f"{shard.path} has {records:,} records, dataset_info.json says {shard.records:,}"
            if records < shard.records and not options.allow_missing_shards:
                raise CorruptError(f"{message}; it was cut between two records", path=shard.path)
            self.report.remarks.append(message)

    def _drops(self, policy: str, hints: Hints) -> bool:
        if policy == "default":
            return hints.drop_last
        if policy == "auto":
            return self.scan.padded
        return policy == "drop"

    def _spec(self, request: Request, hints: Hints) -> dict[str, Any]:
        return {
            **hints.spec,
            "env": hints.env if request.env_id is None else {"id": request.env_id},
            "observation": self.columns.observation.to_json(),
            "action": self.columns.action.to_json(),
        }

    def _record(self, tree: Any, splits: list[str]) -> dict[str, Any]:
        labels = {
            item.name: names
            for item in self.fields
            if item.kind == "label" and (names := label_names(self.directory.folder, item)) is not None
        }
        return {
            "name": self.directory.name,
            "version": self.directory.version,
            "dataset_info": self.directory.info,
            "features": tree,
            "labels": labels,
            "splits": splits,
            "columns": self.columns.keys,
            "last_step": self.report.details["last_step"],
            "images": self.report.details["images"],
            "dct": self.report.details["dct"],
            "alignment": self.alignment,
        }

    @cached_property
    def pieces(self) -> list[Piece]:
        """Spans of a shard together; sizes are of rows as they are stored, heaps as large as the records."""
        return [
            Piece(f"{number:05d}", self._size(span, stop), self._rows(span), span.episodes)
            for number, (_, span, stop) in enumerate(self._ranges)
        ]

    @cached_property
    def _ranges(self) -> list[tuple[Shard, Span, int]]:
        """What is read alone: of a shard a span, and where it stops."""
        found = []
        for shard, spans in zip(self.shards, self.scan.shards, strict=True):
            held = spans[0]
            for span in spans[1:]:
                if self._size(held, span.start) >= _PIECE_BYTES:
                    found.append((shard, held, span.start))
                    held = span
                else:
                    held = held.and_(span)
            found.append((shard, held, shard.path.stat().st_size))
        return found

    def joined(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Those of a shard as one. See `contract.Joining`."""
        shards = [list(found) for _, found in groupby(pieces, lambda piece: self._ranges[int(piece.name)][0])]
        return [
            Piece(
                f"{found[0].name}-{found[-1].name}",
                sum(piece.num_bytes for piece in found),
                sum(piece.rows or 0 for piece in found),
            )
            for found in shards
        ]

    def _size(self, span: Span, stop: int) -> int:
        return max(stop - span.start, self._rows(span) * self.schema.row_bytes)

    def _rows(self, span: Span) -> int:
        return span.unpadded if self.drops else span.steps

    # -- its rows ------------------------------------------------------------------------------------------

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The episodes of one piece; a few records and slices of decoded rows are in memory."""
        first, _, last = piece.name.partition("-")
        (shard, span, _), (_, _, stop) = (self._ranges[int(number)] for number in (first, last or first))
        row_bytes = piece.num_bytes // max(1, piece.rows or 1)
        told = 0
        for part in self._parts(replace(shard, start=span.start, stop=stop), report):
            size = row_bytes * len(part.columns[REWARD])
            advance(size)
            told += size
            yield part
        advance(piece.num_bytes - told)

    def _parts(self, shard: Shard, report: Report) -> Iterator[Part]:
        stored = self.columns.stored
        wanted = {name: item.takes_small(name) for item in stored for name in item.field.names}
        wanted |= {"steps/is_last": True, "steps/is_terminal": True}
        for run in runs(shard, self.fields, wanted, self.decode):
            if run.num_steps:
                yield from self._episodes(shard, run, report)
            else:
                report.count("records_without_steps")

    def _episodes(self, shard: Shard, run: Run, report: Report) -> Iterator[Part]:
        step = slice_rows(self.schema.row_bytes)
        rows = Rows(run, self.columns.stored, step, self.dct)
        last, terminal = run.flag("is_last"), run.flag("is_terminal")
        begin = 0
        for record, behind in enumerate(run.ends.tolist()):
            is_last = last is not None and bool(last[behind - 1])
            terminated = terminal is not None and bool(terminal[behind - 1])
            drops = self.drops and is_last
            report.repaired += last is not None and not is_last
            report.dropped += drops
            if drops and behind - begin == 1:
                report.count("episodes_of_an_observation_alone")
            for name in rows.absent(record):
                report.count(f"absent {name}")
            stop = behind - drops
            for start in range(begin, stop, step):
                end = min(start + step, stop)
                with at(shard.path, run.positions[record]):
                    columns = rows.read(record, start, end)
                    final = self._final(rows, record) if drops and end == stop else None
                if REWARD not in columns:
                    columns[REWARD] = np.zeros((end - start, 1), np.float32)
                if self.with_split:
                    columns[SPLIT] = [shard.split] * (end - start)
                yield Part(columns, End(terminated, not terminated, final=final) if end == stop else None)
            begin = behind

    def _final(self, rows: Rows, record: int) -> Any:
        """The observation of a record's last step, as `End.final` takes it."""
        last = int(rows.run.ends[record]) - 1
        values = rows.read(record, last, last + 1)
        return nest({key: values[key][0] for key in self._followed if key in values})


def _has_steps(fields: tuple[Field, ...]) -> bool:
    return any(item.path[0] == "steps" and item.lengths for item in fields)
