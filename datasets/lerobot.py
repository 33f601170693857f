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
from functools import cache, cached_property
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
from rlcli.datasets.lerobot_meta import INFO, Meta, Span, find, read_info, read_meta
from rlcli.datasets.lerobot_scan import Scan, scan
from rlcli.datasets.lerobot_tables import Tables
from rlcli.datasets.rooms import Rooms
from rlcli.datasets.slicing import slice_rows, slices
from rlcli.datasets.video import Video
from rlcli.errors import CorruptError, InputError, RLError, UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column, Heap, heap_column

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
        self.cameras = self._cameras()
        self._leave_out_missing()
        self._videos: dict[str, Video] = {}
        self._rooms = Rooms()  # for frames
        self._held: tuple[str, int, Any] = ("", -1, None)
        self._opened: tuple[str, Any] = ("", None)
        self._stops: NDArray[np.int64] = np.zeros(0, np.int64)  # of its row groups
        hints = hints_of(meta.info)
        features = [name for name in meta.features if name not in meta.cameras or name in self.cameras]
        shapes = {camera: self._video_column(camera) for camera in self.cameras}
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
        self._compare_spans()
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
        videos = {self._span(c, n).path for c in self.cameras for n in self.episodes}
        self.files = [
            *meta.files,
            *(meta.root / name for name in self.scan.files),
            *(meta.root / name for name in sorted(videos)),
        ]

    def close(self) -> None:
        for video in self._videos.values():
            video.close()
        if self._opened[1] is not None:
            self._opened[1].close()

    # -- videos ----------------------------------------------------------------------------------------

    def _cameras(self) -> list[str]:
        told = [name for name in self.options.cameras.split(",") if name]
        if told in ([], ["-"]):
            chosen = [] if told else self.meta.cameras
        else:
            for name in told:
                if name not in self.meta.cameras:
                    raise UsageError(f"no camera {name!r}; {nearest(name, self.meta.cameras)}")
            chosen = told
        self.report.lossy += [f"{c} is left out, as asked" for c in self.meta.cameras if c not in chosen]
        return list(chosen)

    def _span(self, camera: str, episode: int) -> Span:
        """Where the frames of an episode are. Raises `InputError` if nothing says it."""
        meta = self.meta
        if meta.version == "v3.0":
            try:
                return meta.spans[camera][episode]
            except KeyError:
                raise InputError(
                    f"{meta.root}/meta/episodes: no place of the video {camera} of episode {episode}",
                    path=meta.root,
                ) from None
        chunk = episode // max(1, int(meta.info.get("chunks_size") or 1000))
        return Span(meta.video_path(camera, episode_chunk=chunk, episode_index=episode), 0.0)

    def _leave_out_missing(self) -> None:
        """Missing files are an error, or what the user said."""
        is_there = cache(Path.is_file)
        missing = [
            (camera, episode, path)
            for camera in self.cameras
            for episode in self.episodes
            if not is_there(path := self.meta.root / self._span(camera, episode).path)
        ]
        if not missing:
            return
        files = sorted({path for _, _, path in missing})
        more = f" and {len(files) - 1:,} more videos are" if len(files) > 1 else " is"
        if self.options.missing_videos == "error":
            raise InputError(
                f"{files[0]}{more} missing",
                hint="--set missing_videos=cameras leaves out these cameras, =episodes these episodes",
                path=files[0],
            )
        if self.options.missing_videos == "cameras":
            lost = {camera for camera, _, _ in missing}
            self.cameras = [camera for camera in self.cameras if camera not in lost]
            self.report.lossy += [f"{camera} is left out: files are missing" for camera in sorted(lost)]
            return
        for number in {episode for _, episode, _ in missing}:
            _, _, start, stop = self.episodes.pop(number)
            self.report.dropped += stop - start
            self.report.count("episodes_without_video")
        if not self.episodes:
            raise InputError(
                f"{files[0]}{more} missing, so that no episode has all its videos", path=files[0]
            )

    def _video_column(self, camera: str) -> Column:
        """The column for frames of a camera, without its key; the first file tells their size."""
        with Video(self.meta.root / self._span(camera, next(iter(self.episodes))).path) as video:
            look = video.look
        declared = self.meta.features[camera]["shape"]
        if sorted(declared) != sorted(look.shape):
            self.report.remarks.append(f"{camera} has frames {list(look.shape)}, info.json says {declared}")
        if abs(look.fps - self.meta.fps) > 0.01 * self.meta.fps:
            self.report.remarks.append(f"{camera} has {look.fps:g} frames per second, rows {self.meta.fps:g}")
        if self.options.video == "pixels" or (self.options.video == "jpeg" and look.dtype != "uint8"):
            return Column(("observation",), look.dtype, look.shape)
        limit = max(1 << 26, int(np.prod(look.shape)) * 2)
        if self.options.video == "jpeg":
            self.report.lossy.append(f"{camera}: frames are compressed again, as JPEG")
        return heap_column(("observation",), Heap("array", self.options.video, limit), look.dtype, look.shape)

    def _frames(self, camera: str, episode: int, count: int) -> Iterator[NDArray[Any]]:
        span = self._span(camera, episode)
        path = self.meta.root / span.path
        video = self._videos.get(camera)
        if video is None or video.path != path:
            if video is not None:
                video.close()
            self._videos[camera] = video = Video(path)
        return video.read(span.seconds, self.meta.fps, count)

    def _compare_spans(self) -> None:
        """Episodes of a file should follow each other without gaps; where they do not, that is said."""
        if self.meta.version != "v3.0":
            return
        for camera in self.cameras:
            ends: dict[str, float] = {}
            wrong = []
            spans = sorted(
                ((self._span(camera, n), n) for n in self.episodes), key=lambda s: (s[0].path, s[0].seconds)
            )
            for span, number in spans:
                expected = ends.get(span.path)
                if expected is not None and abs(span.seconds - expected) * self.meta.fps > 0.5:
                    wrong.append(number)
                _, _, start, stop = self.episodes[number]
                ends[span.path] = span.seconds + (stop - start) / self.meta.fps
            if wrong:
                self.report.remarks.append(
                    f"{camera}: frames of {len(wrong)} episodes do not follow those before, first {wrong[0]}"
                )

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
            "cameras": self.cameras,
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
            item.name: self._frames(item.name, number, length) for item in self.stored if item.form == "video"
        }
        for start, stop in slices(0, length, slice_rows(self._row_bytes)):
            rows = self._rows(file, first + start, first + stop)
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

    def _rows(self, file: int, start: int, stop: int) -> Any:
        """An Arrow table of rows of a data file; one row group stays in memory."""
        name = self.scan.files[file]
        path = self.meta.root / name
        if self._opened[0] != name:
            if self._opened[1] is not None:
                self._opened[1].close()
            self._opened = (name, self.tables.open(path))
            told = self._opened[1].metadata
            sizes = [told.row_group(number).num_rows for number in range(told.num_row_groups)]
            if min(sizes, default=0) < 0 or sum(sizes) != told.num_rows:
                raise CorruptError(f"{path}: damaged Parquet: row groups and rows disagree", path=path)
            self._stops = np.cumsum(sizes, dtype=np.int64)
        opened, parts = self._opened[1], []
        wanted = list(dict.fromkeys(item.name for item in self.stored if item.form != "video"))
        wanted += [n for n in self.scan.columns if n.startswith("next.") and n not in wanted]
        wanted = wanted or ["episode_index"]  # a table without columns has no rows
        there = opened.schema_arrow.names
        if lost := [name for name in wanted if name not in there]:
            raise InputError(f"{path}: no column {lost[0]}, which other files have", path=path)
        first = int(np.searchsorted(self._stops, start, side="right"))
        for group in range(first, len(self._stops)):
            at = int(self._stops[group - 1]) if group else 0
            if at >= stop:
                break
            if self._held[:2] != (name, group):
                self._held = ("", -1, None)
                with self.tables.damage(path):
                    table = opened.read_row_group(group, columns=wanted, use_threads=False)
                    table.validate(full=True)
                self._held = (name, group, table)
            low = max(start - at, 0)
            parts.append(self._held[2].slice(low, stop - at - low))
        table = self.tables.arrow.concat_tables(parts)
        if len(table) != stop - start:
            raise CorruptError(f"{path}: {len(table):,} rows where {stop - start:,} were", path=path)
        return table


def _fitting(item: Stored, frame: NDArray[Any]) -> NDArray[Any]:
    if frame.shape != item.column.shape or frame.dtype != item.column.numpy:
        raise CorruptError(
            f"{item.name}: a frame {frame.dtype}{list(frame.shape)}, others are {list(item.column.shape)}"
        )
    return frame
