"""LeRobot datasets v2.0, v2.1 and v3.0: Parquet rows and MP4 videos, read without the lerobot package.

Rows of an `episode_index` are an episode, in the order of the files. Features keep their names, nested at the
dots; `task_index` and `subtask_index` become the texts they stand for. The observation after an episode's
last row is nowhere: that next observation is unknown. `next.success` at the last row means terminated;
without it `next.done` does, unless it is true at the end of every episode, where it says no more than that
the episode ended (`done` tells otherwise). Videos are decoded to uint8 pixels, the frame at an episode's
first time and those after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets.contract import Advance, Comparison, End, Part, Piece, Report, Request, Seen
from rlcli.datasets.json_files import read_object
from rlcli.datasets.lerobot_columns import REWARD, WORDS, Stored, plan_columns
from rlcli.datasets.lerobot_compare import compare_output
from rlcli.datasets.lerobot_export import ExportOptions, export
from rlcli.datasets.lerobot_hints import HINTS, cut_of, hints_of
from rlcli.datasets.lerobot_meta import INFO, Meta, find, read_info, read_meta
from rlcli.datasets.lerobot_rows import DataRows
from rlcli.datasets.lerobot_scan import Scan, scan
from rlcli.datasets.lerobot_tables import Tables
from rlcli.datasets.lerobot_videos import Cameras
from rlcli.datasets.rooms import Rooms
from rlcli.datasets.slicing import slice_rows, slices
from rlcli.errors import CorruptError, InputError, RLError
from rlcli.format.dataset import Dataset

__all__ = ["ExportOptions", "LeRobotSource", "Options", "compare", "detect", "export", "open_source"]


@dataclass(frozen=True)
class Options:
    """What `--set` may say when reading LeRobot."""

    cameras: str = opt("", "Videos to read, by comma; all if empty, none for -.")
    video: Literal["pixels", "png", "jpeg"] = opt(
        "pixels", "How frames are stored: as they are decoded, or encoded one by one (jpeg loses some)."
    )
    missing_videos: Literal["error", "cameras", "episodes"] = opt(
        "error", "Where a video file is missing: stop, leave out that camera, or those episodes."
    )
    done: Literal["auto", "terminated", "truncated"] = opt(
        "auto", "What next.done at the last row of an episode means where nothing else says it."
    )


def detect(path: Path) -> Seen:
    """Whether `path` is a LeRobot dataset: `meta/info.json` with a version, or a damaged one beside data."""
    root = find(path)
    if root is None:
        return Seen(False, f"no {INFO} there")
    try:
        info = read_object(root / INFO)
    except RLError as err:
        return Seen((root / "data").is_dir(), err.message)
    if "codebase_version" not in info:
        return Seen(False, f"{root / INFO} has no codebase_version")
    return Seen(True, f"LeRobot {info['codebase_version']} dataset, {info.get('total_episodes')} episodes")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[LeRobotSource]:
    """The dataset at `path`; numbers of all rows are looked through unless `request.plan` has what they say.

    Raises `InputError` for missing files, `CorruptError` for damage, `IncompatibleError` for older versions.
    """
    root = find(path)
    if root is None:
        raise InputError(f"{path}: not a LeRobot dataset, no {INFO} there", path=path)
    tables = Tables()
    meta = read_meta(root, read_info(root), tables)
    source = LeRobotSource(meta, tables, request, options)
    try:
        yield source
    finally:
        source.close()


def compare(path: Path, dataset: Dataset, advance: Advance) -> Comparison | None:
    """How an output of ours differs from its dataset, but for what LeRobot cannot hold; None for a source."""
    root = find(path)
    told = dataset.extra.get("source") if isinstance(dataset.extra, dict) else None
    is_source = isinstance(told, dict) and told.get("path") == str(path.absolute())
    if root is None or is_source or HINTS not in read_info(root):
        return None
    with open_source(path, Request(), Options(cameras="-")) as source:
        return compare_output(source, dataset, advance)


class LeRobotSource:
    """An opened dataset; its pieces are episodes. See `contract.Source`."""

    def __init__(self, meta: Meta, tables: Tables, request: Request, options: Options) -> None:
        self.meta, self.tables, self.options = meta, tables, options
        self.scan = Scan(**request.plan) if request.plan else scan(meta, tables)
        self.plan = self.scan.to_json()
        self.report = Report(lossy=list(self.scan.lossy), remarks=[*meta.remarks, *self.scan.remarks])
        self.episodes = {entry[0]: entry for entry in self.scan.episodes}
        self._cameras = Cameras(
            meta, self.episodes, self.report, wanted=options.cameras, missing=options.missing_videos
        )
        cameras = self._cameras.names
        self._rooms = Rooms()  # for frames
        hints = hints_of(meta.info)
        features = [name for name in meta.features if name not in meta.cameras or name in cameras]
        shapes = {camera: self._cameras.column(camera, options.video) for camera in cameras}
        columns = plan_columns(features, self.scan, shapes, meta.words, request, hints)
        self.stored, self.schema = columns.stored, columns.schema
        self.report.lossy += columns.lossy
        self.spec: dict[str, Any] = {
            **hints.spec,
            "env": hints.env if request.env_id is None else {"id": request.env_id},
            "observation": hints.spec_of("observation", columns.observation).to_json(),
            "action": hints.spec_of("action", columns.action).to_json(),
        }
        self.cut = cut_of(meta.info)
        self.meaning = self._meaning()
        self._tell()
        self._cameras.compare_spans()
        self.record = {
            "info": {name: value for name, value in meta.info.items() if name != "rl"},
            **{
                f"{key[-1]}s": [[number, text] for number, text in meta.words[name].items()]
                for name, key in WORDS.items()
                if name in meta.words
            },
            "columns": {item.name: list(item.column.key) for item in self.stored},
            "done": self.meaning,
            "alignment": "same row: observation, the action applied to it, the reward for that",
        }
        self.files = [
            *meta.files,
            *(meta.root / name for name in self.scan.files),
            *(meta.root / name for name in self._cameras.paths()),
        ]
        stored = (item.name for item in self.stored if item.form != "video")
        flags = (name for name in self.scan.columns if name.startswith("next."))
        self._data = DataRows(meta.root, tables, list(dict.fromkeys([*stored, *flags])))

    def close(self) -> None:
        self._cameras.close()
        self._data.close()

    # -- what it is ------------------------------------------------------------------------------------

    def _meaning(self) -> str:
        """What says that an episode terminated: `terminated`, `success`, `done` or nothing."""
        names = self.scan.columns
        if "next.terminated" in names:
            return "terminated"
        if "next.done" in names and self.options.done != "auto":
            return "done" if self.options.done == "terminated" else "nothing"
        if "next.success" in names:
            return "success"
        if "next.done" in names and not all(self.scan.done_at_ends):
            return "done"
        return "nothing"

    def _tell(self) -> None:
        report = self.report
        if "next.reward" not in self.scan.columns:
            report.remarks.append("the source has no rewards; they are 0")
        report.details |= {
            "version": self.meta.version,
            "fps": self.meta.fps,
            "cameras": self._cameras.names,
            "tasks": len(self.meta.words.get("task_index", ())),
            "terminated_by": self.meaning,
        }

    @cached_property
    def pieces(self) -> list[Piece]:
        """One per episode."""
        return [
            Piece(str(number), (stop - start) * self._row_bytes, stop - start, 1)
            for number, _, start, stop in self.episodes.values()
        ]

    @property
    def _row_bytes(self) -> int:
        """Decoded bytes of a row, pictures as pixels."""
        return self.schema.row_bytes + sum(
            int(np.prod(item.column.shape)) * item.column.numpy.itemsize
            for item in self.stored
            if item.column.heap is not None and item.form in ("video", "encoded")
        )

    # -- its rows --------------------------------------------------------------------------------------

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one episode in slices; a row group of the file is in memory."""
        number, file, first, last = self.episodes[int(piece.name)]
        length = last - first
        frames = {
            item.name: self._cameras.frames(item.name, number, length)
            for item in self.stored
            if item.form == "video"
        }
        for start, stop in slices(0, length, slice_rows(self._row_bytes)):
            rows = self._data.read(self.scan.files[file], first + start, first + stop)
            where = f"{self.meta.root / self.scan.files[file]}"
            columns: dict[Any, Any] = {}
            for item in self.stored:
                if item.form == "video":
                    taken = islice(frames[item.name], stop - start)
                    columns[item.column.key] = self._gathered(item, taken, stop - start)
                else:
                    columns[item.column.key] = item.rows(
                        rows.column(item.name).combine_chunks(), self.tables, f"{where}: {item.name}",
                        self.meta.root, self.meta.words,
                    )  # fmt: skip
            columns.setdefault(REWARD, np.zeros((stop - start, 1), np.float32))
            end = self._end(number, rows, stop - start - 1, where) if stop == length else None
            yield Part(columns, end)
            advance((stop - start) * self._row_bytes)

    def _gathered(self, item: Stored, frames: Iterator[NDArray[Any]], count: int) -> Any:
        """Frames as rows of a column: one array, or a list of them for a heap."""
        column = item.column
        if column.heap is not None:
            return [np.ascontiguousarray(_fitting(item, frame)) for frame in frames]
        out = self._rooms.take(item.name, count, column.shape, column.numpy)
        for row, frame in enumerate(frames):
            out[row] = _fitting(item, frame)
        return out

    def _end(self, episode: int, rows: Any, row: int, where: str) -> End:
        def flag(name: str) -> bool:
            if name not in rows.column_names:
                return False
            values = self.tables.values(rows.column(name).combine_chunks(), f"{where}: {name}")
            return bool(np.asarray(values[row]).any())

        terminated = self.meaning != "nothing" and flag(f"next.{self.meaning}")
        cut = episode in self.cut
        return End(terminated, flag("next.truncated") or not (terminated or cut), cut=cut)


def _fitting(item: Stored, frame: NDArray[Any]) -> NDArray[Any]:
    if frame.shape != item.column.shape or frame.dtype != item.column.numpy:
        raise CorruptError(
            f"{item.name}: a frame {frame.dtype}{list(frame.shape)}, others are {list(item.column.shape)}"
        )
    return frame
