"""Minari datasets (Farama Foundation): hdf5, arrow and parquet, read without the minari package.

An episode of T steps has T+1 observations: each step's next observation is the one that follows, the last
one is the final observation. Some published datasets have T of them (Minari#199): there the last next
observation is unknown. Values of `infos` come with every observation, or with every step only: the first
become `info/…` (with the observation) and `next/info/…` (with the one after the step), the second `info/…`.
Rewards are float64 there and float32 here; where that changes one, all are kept as `source/rewards` too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.datasets.contract import Advance, End, NoOptions, Part, Piece, Report, Request, Seen
from rlcli.datasets.mapping import storable
from rlcli.datasets.minari_columns import ATTRIBUTES, REWARD, TOPS, attributes_text, plan_columns
from rlcli.datasets.minari_export import ExportOptions, export
from rlcli.datasets.minari_files import MAIN_FILE, METADATA, ArrowStorage, Storage
from rlcli.datasets.minari_hdf5 import HDF5Storage
from rlcli.datasets.minari_metadata import HINTS, Found, cut_of, find, hints_of, local_names, spec_of
from rlcli.datasets.minari_scan import Scan, extra_attributes, scan
from rlcli.datasets.minari_shares import joined, share_of, shares_of
from rlcli.datasets.minari_spaces import Leaf, leaves_of, read_space, text_space, without_bounds
from rlcli.datasets.opened import nest
from rlcli.errors import IncompatibleError, InputError, UsageError, nearest
from rlcli.format.keys import Key

__all__ = [
    "ExportOptions", "MinariSource", "detect", "export", "fetch", "look", "open_source", "plan", "shares",
]  # fmt: skip

_PART_BYTES = 64 << 20


def detect(path: Path) -> Seen:
    """Whether `path` is a Minari dataset, the `data` folder in it, or a folder around it."""
    found = find(path)
    if found is None:
        return Seen(False, f"no {METADATA} of Minari there")
    return Seen(True, f"Minari dataset {found.name}, {found.format}, {found.total('episodes')} episodes")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[MinariSource]:
    """The dataset at `path`, its episodes looked through once unless `request.plan` says what they hold.

    Raises `InputError` where files or arrays are missing, `CorruptError` for damage.
    """
    found = _found(path)
    leaves = leaves_in(found)
    with open_storage(found, leaves) as storage:
        yield MinariSource(path, found, leaves, storage, request)


def shares(path: Path, request: Request, options: NoOptions) -> int:
    """Into how many shares a first look is worth cutting, by what the metadata say. See `contract.Shared`."""
    return shares_of(_found(path).total("episodes") or 0)


def look(path: Path, request: Request, options: NoOptions, share: int, shares: int) -> list[Any]:
    """Where the episodes of a share are, and what was seen of them. See `contract.Shared`."""
    found = _found(path)
    leaves = leaves_in(found)
    with open_storage(found, leaves) as storage:
        storage.episodes = share_of(storage.episodes, share, shares)
        where = storage.where(storage.episodes[0]) if storage.episodes else str(path)
        return [where, scan(storage, leaves, cut_of(found.metadata)).to_json()]


def plan(looks: Sequence[Any]) -> dict[str, Any]:
    """The plan that the looks of all shares make. See `contract.Shared`."""
    return joined([(where, Scan.from_json(seen)) for where, seen in looks]).to_json()


def _found(path: Path) -> Found:
    found = find(path)
    if found is None:
        raise InputError(f"{path}: not a Minari dataset, no {METADATA} there", path=path)
    return found


def fetch(name: str, request: Request, advance: Advance) -> Path:
    """The dataset of that name where Minari keeps them: `MINARI_DATASETS_PATH`, or `~/.minari/datasets`.

    Raises `UsageError` with the nearest name if it is not there; nothing is downloaded.
    """
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
    known = local_names(root)
    if name not in known:
        raise UsageError(
            f"no Minari dataset {name!r} in {root}; {nearest(name, known) if known else 'there is none'}",
            hint=f"minari download {name}",
        )
    return root / name


class MinariSource:
    """An opened dataset; its pieces are episodes. See `contract.Source`."""

    def __init__(
        self, path: Path, found: Found, leaves: dict[str, Leaf], storage: Storage, request: Request
    ) -> None:
        self.storage = storage
        self.scan = (
            Scan.from_json(request.plan) if request.plan else scan(storage, leaves, cut_of(found.metadata))
        )
        self.plan = self.scan.to_json()
        self.cut = cut_of(found.metadata)
        if not self.scan.episodes:
            raise InputError(f"{path}: has no episode with a step", path=path)
        self._episodes = {episode.number: episode for episode in self.scan.episodes}
        self.columns = plan_columns(leaves, self.scan, request, hints_of(found.metadata))
        self._paths = {item.path for item in self.columns.stored}
        self.schema = self.columns.schema
        self.files = [found.file, *(file for file in storage.files if file != found.file)]
        self.report = Report(
            repaired=self.scan.repaired,
            lossy=[*self.scan.lossy, *self.columns.lossy],
            remarks=list(self.scan.remarks),
        )
        observation, action = self.columns.observation, self.columns.action
        self.spec = spec_of(found.metadata, request, observation, action, self.report.remarks)
        self.record = self._record(found, leaves)
        self._tell(found, request)

    def _tell(self, found: Found, request: Request) -> None:
        """What a user should know before a row is read."""
        report, episodes = self.report, self.scan.episodes
        short = sum(episode.steps == episode.observations for episode in episodes)
        report.details |= {
            "dataset_id": found.name,
            "data_format": found.format,
            "env": (self.spec["env"] or {}).get("id"),
            "episodes_without_final_observation": short,
            "episodes_without_steps": self.scan.without_steps,
        }
        if any(item.column.heap is not None and item.form == "encoded" for item in self.columns.stored):
            report.remarks.append("pictures stay JPEG, as they are stored (--images decode makes pixels)")
        steps = sum(episode.steps for episode in episodes)
        for what, there in (("episodes", len(self.storage.episodes)), ("steps", steps)):
            told = found.total(what)
            if told not in (None, there):
                report.remarks.append(f"{found.file} says {told:,} {what}, {there:,} are there")

    def _record(self, found: Found, leaves: dict[str, Leaf]) -> dict[str, Any]:
        metadata = {
            name: value
            for name, value in found.metadata.items()
            if name not in ("observation_space", "action_space", HINTS)
        }
        return {
            "metadata": json.loads(json.dumps(metadata, default=str)),
            "spaces": {top: without_bounds(space) for top, space in spaces_in(found).items()},
            "columns": self.columns.keys,
            "stored": {path: values.stored for path, values in self.scan.leaves.items()},
            "infos": {path: [values.align, values.stored] for path, values in self.scan.infos.items()},
            "attributes": {name: list(column.key) for name, column in self.columns.attributes.items()},
            "rewards": self.scan.rewards,
            "alignment": "same row: observation, the action applied to it, the reward for that",
        }

    @cached_property
    def pieces(self) -> list[Piece]:
        """One per episode."""
        size = self._row_bytes
        return [Piece(str(e.number), e.steps * size, e.steps, 1) for e in self.scan.episodes]

    @property
    def _row_bytes(self) -> int:
        """Decoded bytes of a row, pictures as pixels."""
        pictures = sum(math.prod(item.column.shape) for item in self.columns.stored if item.form == "encoded")
        return self.schema.row_bytes + pictures

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The steps of one episode, at most 64 MiB at a time."""
        number = int(piece.name)
        storage, episode = self.storage, self._episodes[number]
        steps = episode.steps
        there = storage.paths(number)
        rewards = np.asarray(storage.read(number, "rewards", 0, steps)).reshape(-1)
        others: dict[str, Any] = {}
        if self.columns.attributes or self.scan.has_others:
            others = extra_attributes(storage.attributes(number), number, rewards)
        for path in self._paths.difference(there):
            report.count(f"absent {path}")
        step = max(1, _PART_BYTES // max(1, self._row_bytes))
        for start in range(0, steps, step):
            stop = min(start + step, steps)
            columns = {
                item.column.key: item.rows(storage, number, start, stop)
                if item.path in there
                else item.absent(stop - start)
                for item in self.columns.stored
            }
            with np.errstate(over="ignore"):
                columns[REWARD] = rewards[start:stop].astype(np.float32).reshape(-1, 1)
            columns |= self._attributes(others, stop - start)
            end = None
            if stop == steps:
                final = self._final(number, steps) if episode.observations > steps else None
                cut = number in self.cut
                truncated = episode.truncated or not (episode.terminated or cut)
                end = End(episode.terminated, truncated, cut, final, episode.seed)
            yield Part(columns, end)
            advance((stop - start) * self._row_bytes)

    def _attributes(self, told: dict[str, Any], size: int) -> dict[Key, Any]:
        """Columns of the episode's attributes."""
        columns: dict[Key, Any] = {}
        for name, column in self.columns.attributes.items():
            if column.heap is not None:
                columns[column.key] = [str(told[name])] * size
                continue
            value = np.asarray(told[name], column.numpy)
            columns[column.key] = np.repeat(value[None], size, axis=0)
        if self.scan.has_others:
            rest = {name: value for name, value in told.items() if name not in self.columns.attributes}
            columns[ATTRIBUTES] = [attributes_text(rest)] * size
        return columns

    def _final(self, episode: int, row: int) -> Any:
        """The observation after the last step, as `End.final` takes it."""
        return nest(
            {
                item.column.key: item.rows(self.storage, episode, row, row + 1)[0]
                for item in self.columns.stored
                if item.column.key[0] == "observation" and item.path.startswith("observations")
            }
        )


def spaces_in(found: Found) -> dict[str, dict[str, Any]]:
    """The spaces that the metadata hold, by `observation` and `action`."""
    return {
        top: read_space(found.metadata[f"{top}_space"], f"{found.file}: {top}_space")
        for top in TOPS.values()
        if found.metadata.get(f"{top}_space") is not None
    }


def leaves_in(found: Found) -> dict[str, Leaf]:
    """Path -> leaf of both spaces; a space that is missing is made up of what is stored."""
    spaces = spaces_in(found)
    leaves: dict[str, Leaf] = {}
    for top, name in TOPS.items():
        if name in spaces:
            for leaf in leaves_of(spaces[name]):
                leaves["/".join((top, *leaf.path))] = leaf
        else:
            with open_storage(found, leaves) as storage:
                leaves |= _guessed(storage, top)
    return leaves


def open_storage(found: Found, leaves: Iterable[str]) -> Storage:
    """The episodes of a dataset. Raises `IncompatibleError` for a format that Minari does not have."""
    if found.format == "hdf5":
        return HDF5Storage(found.folder / MAIN_FILE)
    if found.format in ("arrow", "parquet"):
        return ArrowStorage(found.folder, found.format, leaves)
    raise IncompatibleError(f"{found.file}: unknown data_format {found.format!r}", path=found.file)


def _guessed(storage: Storage, top: str) -> dict[str, Leaf]:
    """A leaf for every array of the first episode below `top`, without bounds."""
    leaves = {}
    for episode in storage.episodes[:1]:
        for path, item in storage.fields(episode).items():
            if path.split("/")[0] == top:
                names = tuple(path.split("/")[1:])
                if item.kind == "text":
                    space: dict[str, Any] = text_space()
                else:
                    space = {"type": "Box", "dtype": item.dtype, "shape": list(item.shape)}
                leaves[path] = Leaf(names, storable("/".join(names)) if names else (), space)
    return leaves
