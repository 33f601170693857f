"""D4RL HDF5 files, both ways: one flat file whose rows are time steps (Fu et al., 2020).

Reading keeps every row and every value; what our standard columns cannot hold exactly goes to extra ones:

* `observations`, `actions` keep their dtype (replay-v1 files are float64).
* `rewards` become `("next", "reward")`, float32. Where that would lose a bit, `("source", "rewards")` holds
  the original too; antmaze's float64 zeros and ones lose nothing and get no second column. The same holds
  for `terminals` and `timeouts` with other values than 0 and 1, or that do not end an episode.
* `next_observations` are checked bit for bit against the following rows. Equal: they are derived and only
  the last of each episode is stored. Different anywhere: all are stored. Absent: the last row of an
  episode has an unknown next observation, which the dataset says; nothing is made up.
* `infos/x` is `("info", "x")`; a kitchen file's `infos`, the demonstration index, is `("info", "index")`.
* Everything else (metadata, policy weights, attributes, dtypes, shapes, chunks, filters) is kept in the
  record as an HDF5 image without rows, so that `export` makes the same file again.

Where episodes end is in `d4rl_episodes.py`, environments and reference scores are in `d4rl_envs.py`.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets import hdf5
from rlcli.datasets.ahead import ahead
from rlcli.datasets.contract import (
    Advance,
    Comparison,
    Ends,
    LayoutMismatch,
    Part,
    Piece,
    Report,
    Request,
    Seen,
)
from rlcli.datasets.d4rl_addresses import fetch
from rlcli.datasets.d4rl_compare import compare as compare_file
from rlcli.datasets.d4rl_envs import Environment, environment, from_file_name
from rlcli.datasets.d4rl_episodes import Rule, SliceEnds, Splitter
from rlcli.datasets.d4rl_export import export, write_file
from rlcli.datasets.d4rl_folder import D4RLFolder, files_of
from rlcli.datasets.d4rl_layout import STANDARD, Layout, NotD4RL, find_layout
from rlcli.datasets.d4rl_scan import ends_of, look_through
from rlcli.datasets.d4rl_specs import specs_of
from rlcli.datasets.mapping import no_mapping
from rlcli.datasets.opened import differing_rows, equal_bits
from rlcli.datasets.plain_export import METADATA
from rlcli.datasets.rooms import Rooms
from rlcli.errors import IncompatibleError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema, ted_schema
from rlcli.format.specs import Spec

__all__ = ["D4RLSource", "Options", "compare", "detect", "export", "fetch", "open_source", "write_file"]

_MAX_RECORD = 24 << 20  # bytes of what is not rows, compressed; it travels in each manifest


@dataclass(frozen=True)
class Options:
    """Reading D4RL files."""

    split: Literal["flags", "jump"] = opt(
        "flags",
        "Where episodes end: the flags, or jumps in position (antmaze, whose flags are out of step).",
    )


def detect(path: Path) -> Seen:
    """Whether `path` is an HDF5 file with D4RL's keys, or a folder of such files."""
    if path.is_dir():
        files = files_of(path)
        seen = detect(files[0]) if files else Seen(False, "not an HDF5 file")
        return Seen(True, f"folder of {len(files)} D4RL HDF5 files") if seen.matches else seen
    if not hdf5.is_hdf5(path):
        return Seen(False, "not an HDF5 file")
    with hdf5.reading(path) as file, hdf5.damage(path):
        if METADATA in file.attrs:
            return Seen(False, "an HDF5 file that rl wrote, not D4RL's")
        try:
            rows = f"{find_layout(file).num_rows:,} rows"
        except NotD4RL as err:
            return Seen(False, err.message)
        except InputError as err:
            rows = err.message  # it is one, and opening it says what is wrong
    return Seen(True, f"D4RL HDF5 file, {rows}")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[D4RLSource | D4RLFolder]:
    """The file, looked through once (flags, rewards, actions), so that its schema is known; or a folder.

    Raises `InputError` for missing keys or lengths that disagree, `CorruptError` for damage, `UsageError`
    for an unknown environment.
    """
    no_mapping(request, path, "--from hdf5 reads it as plain arrays")
    if not path.is_dir():
        with _opened(path, request, options) as source:
            yield source
        return
    files = files_of(path)
    if not files:
        raise InputError(f"{path}: no HDF5 files there", path=path)
    with ExitStack() as stack:
        sources = [stack.enter_context(_opened(file, request, options)) for file in files]

        def again(source: D4RLSource, inexact: set[str]) -> D4RLSource:
            return stack.enter_context(_opened(source.path, request, options, inexact))

        yield D4RLFolder(sources, again)


def compare(path: Path, dataset: Dataset, advance: Advance) -> Comparison | None:
    """How a file and the dataset differ, see `d4rl_compare`; None for a folder, which is read again."""
    return None if path.is_dir() else compare_file(path, dataset, advance)


@contextmanager
def _opened(
    path: Path, request: Request, options: Options, inexact: Collection[str] = ()
) -> Iterator[D4RLSource]:
    env = environment(request.env_id) if request.env_id else from_file_name(path.name)
    with hdf5.reading(path) as file:
        with hdf5.damage(path):
            try:
                layout = find_layout(file)
            except InputError as err:
                raise InputError(f"{path}: {err.message}", path=path) from err
        jump = options.split == "jump"
        yield D4RLSource(path, file, layout, env, jump=jump, derive=request.derive, inexact=inexact)


class D4RLSource:
    """An opened file: its schema, its spec, its rows as parts of episodes. See `contract.Source`."""

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        layout: Layout,
        env: Environment | None,
        *,
        jump: bool,
        derive: bool,
        inexact: Collection[str] = (),
    ) -> None:
        self.path = path
        self.layout = layout
        self.env = env
        self.num_rows = layout.num_rows
        self.row_bytes = sum(column.row_bytes for column in layout.columns.values())
        self.files: Sequence[Path] = [path]
        self.plan: dict[str, Any] = {}
        self.rule = Rule.choose(
            timeouts="timeouts" in layout.columns,
            index=layout.index is not None,
            max_episode_steps=env.max_episode_steps if env is not None else None,
            jump=jump,
        )
        if self.rule.jump and (
            "observations" not in layout.columns or np.prod(layout.columns["observations"].shape) < 2
        ):
            raise UsageError(f"{path}: --set split=jump needs flat observations that begin with a position")
        self.derived = derive or not layout.names("next_observations")
        self.scan = look_through(layout, self.rule)
        self.scan.inexact |= set(inexact)
        self.pieces: Sequence[Piece] = [
            Piece(path.name, self.row_bytes * self.num_rows, self.num_rows, self.scan.episodes)
        ]
        self._pending: dict[str, NDArray[Any]] | None = None
        observation, action, told = specs_of(file, layout, self.scan, env)
        self.keys = self._keys()
        self.schema = self._schema(observation, action)
        self.spec: dict[str, Any] = {
            "env": None if env is None else env.to_json(),
            "observation": observation.to_json(),
            "action": action.to_json(),
            **told,
        }
        if env is not None and env.reference is not None:
            self.spec["reference_scores"] = {"min": env.reference[0], "max": env.reference[1]}
        self.record = self._record(file)
        self.report = self._report()

    # -- the schema ------------------------------------------------------------------------------------

    def _keys(self) -> dict[str, Key]:
        """File key -> dataset key, one to one."""
        keys = dict(self.layout.keys)
        for name in self.scan.inexact:
            keys[name] = ("source", name)
        return keys

    def _schema(self, observation: Spec, action: Spec) -> Schema:
        extra = [
            Column(key, str(self.layout.columns[name].dtype), self.layout.columns[name].shape)
            for name, key in self.keys.items()
            if name.split("/")[0] not in STANDARD or key[0] == "source"
        ]
        return ted_schema(
            observation, action, extra=extra, next_observation="derived" if self.derived else "plain"
        )

    def _record(self, file: h5py.File) -> dict[str, Any]:
        with hdf5.damage(self.path):
            image = zlib.compress(hdf5.skeleton(file, self.layout.row_paths()))
        if len(image) > _MAX_RECORD:
            raise IncompatibleError(
                f"{self.path}: {len(image):,} compressed bytes besides the {self.num_rows:,} rows, "
                f"at most {_MAX_RECORD:,} can be kept; drop what is not needed from the file",
                path=self.path,
            )
        return {
            "format": "d4rl",
            "num_rows": self.num_rows,
            "prefixes": self.layout.prefixes,
            "columns": {name: list(key) for name, key in self.keys.items()},
            "episode_ends": self.rule.names(),
            "other": self.layout.others,
            "skeleton": base64.b64encode(image).decode("ascii"),
        }

    # -- the rows --------------------------------------------------------------------------------------

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """All rows in order, as parts of episodes; at most 64 MiB are in memory.

        Raises `LayoutMismatch` when next observations were to be derived and do not equal the next rows.
        """
        columns = self.layout.columns
        self._pending = None
        step = hdf5.slice_rows(list(columns.values()))
        splitter = Splitter(self.rule)
        slices = [(start, min(start + step, self.num_rows)) for start in range(0, self.num_rows, step)]
        rooms = Rooms()
        reads = (partial(hdf5.read_columns, columns, start, stop, rooms) for start, stop in slices)
        for (start, stop), arrays in zip(slices, ahead(reads), strict=True):
            ends = ends_of(self.layout, splitter, arrays, start, stop)
            if self.derived:
                self._check_shift(arrays, ends.rows)
            yield Part(self._columns(arrays), self._ends(arrays, ends))
            advance(self.row_bytes * (stop - start))

    def _columns(self, arrays: Mapping[str, NDArray[Any]]) -> dict[Key, Any]:
        values: dict[Key, NDArray[Any]] = {}
        for name, key in self.keys.items():
            column = self.schema.by_key[key]
            if column.encoding == "plain" and key[:2] not in _FLAGS:
                values[key] = arrays[name].astype(column.numpy, copy=False).reshape(-1, *column.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            values["next", "reward"] = arrays["rewards"].astype(np.float32).reshape(-1, 1)
        return values

    def _ends(self, arrays: Mapping[str, NDArray[Any]], found: SliceEnds) -> Ends:
        rows = found.rows
        cut = [False] * len(rows)
        cut[-1:] = [found.cut] * len(cut[-1:])
        final = {self.keys[name][1:]: arrays[name][rows] for name in self.layout.names("next_observations")}
        terminated, truncated = found.terminated[rows].tolist(), found.truncated[rows].tolist()
        return Ends((rows + 1).tolist(), terminated, truncated, cut, [bool(final)] * len(rows), final)

    def _check_shift(self, arrays: Mapping[str, NDArray[Any]], ends: NDArray[np.int64]) -> None:
        """Next observations equal the following row's, bit for bit, except where an episode ends."""
        names = self.layout.names("next_observations")
        following = {name: name.replace("next_observations", "observations", 1) for name in names}
        size = len(arrays["terminals"])
        inside = np.ones(size, np.bool_)
        inside[ends] = False
        for name, of in following.items():
            before = self._pending
            if before is not None and not equal_bits(before[name], arrays[of][:1]):
                raise LayoutMismatch
            if inside[differing_rows(arrays[name][:-1], arrays[of][1:])].any():
                raise LayoutMismatch
        self._pending = {name: arrays[name][-1:].copy() for name in names} if inside[-1] else None

    def _report(self) -> Report:
        has_next = bool(self.layout.names("next_observations"))
        scan = self.scan
        report = Report(repaired=scan.repaired)
        report.details = {
            "terminals": scan.terminals,
            "timeouts": scan.timeouts if "timeouts" in self.layout.columns else None,
            "next_observation": ("derived" if self.derived else "stored") if has_next else "absent",
            "episode_ends": self.rule.names(),
            "env": (self.spec["env"] or {}).get("id"),
            "reference_scores": self.spec.get("reference_scores"),
            "other": self.layout.others,
        }
        if has_next and not self.derived:
            report.remarks.append(
                "next observations differ from the following rows inside episodes; all are stored"
            )
        return report


_FLAGS = {("next", "terminated"), ("next", "truncated"), ("next", "reward")}
