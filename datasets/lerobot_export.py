"""Writing LeRobot v3.0 with pyarrow and PyAV: Parquet files of many episodes, videos, and all metadata.

Pictures are written as pictures, which loses nothing, or as videos where asked. A row has no next
observation there, so final observations are lost, and the report says so. An entry `rl` of `info.json`, which
others ignore, keeps the spec and the keys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets import lerobot_stats
from rlcli.datasets.contract import Advance, Report
from rlcli.datasets.lerobot_columns import TASK
from rlcli.datasets.lerobot_hints import HINTS
from rlcli.datasets.lerobot_layout import Feature, Layout, lay_out
from rlcli.datasets.plain_export import lost_seeds
from rlcli.datasets.rlds_encode import png
from rlcli.datasets.video import VideoWriter
from rlcli.errors import InputError, ResourceError, RLError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.plugins import require

_CHUNK = 1000  # files per folder
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_FRAMES = 64  # decoded at once


@dataclass(frozen=True)
class ExportOptions:
    """What `--set` may say when writing LeRobot."""

    cameras: Literal["image", "video"] = opt("image", "Pictures as PNG in the rows, or as videos (lossy).")
    codec: Literal["av1", "h264"] = opt("av1", "Of videos.")
    quality: int = opt(30, "Constant rate factor of videos; less is better and larger.", ge=0, le=63)
    fps: float = opt(0.0, "Rows per second; as it came, or 30.", ge=0.0)
    task: str = opt("", "The task of rows that have none.")
    robot_type: str = opt("", "What acted; as it came if empty.")
    data_mb: int = opt(100, "A new Parquet file begins after so many MB.", ge=1)
    video_mb: int = opt(200, "A new video file begins after so many MB.", ge=1)


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """Write `dataset` to the new folder `out`; the numbers of an episode and 64 frames are in memory.

    Raises `IncompatibleError` for columns that cannot be named, `ResourceError` when the disk is full.
    """
    if not dataset.num_episodes:
        raise InputError(f"{dataset.path}: has no episodes", path=dataset.path)
    report = Report()
    layout = lay_out(dataset, options.cameras, report)
    fps = options.fps or float(layout.told.get("fps") or 30)
    if not options.fps and not layout.told.get("fps"):
        report.remarks.append("rows per second are unknown; 30 is written (--set fps=…)")
    writer = _Writer(dataset, layout, out, options, fps)
    try:
        for index in range(dataset.num_episodes):
            writer.episode(index)
            advance(int(dataset.episodes.length[index]) * dataset.schema.row_bytes)
        writer.close()
        _write_info(dataset, layout, out, options, fps, writer)
    except OSError as err:
        raise ResourceError(f"{out}: cannot be written: {err.strerror or err}", path=out) from err
    finally:
        writer.abandon()
    _tell(dataset, layout, report)
    return report


class _Writer:
    """The open files of a dataset, and what their metadata will say."""

    def __init__(
        self, dataset: Dataset, layout: Layout, out: Path, options: ExportOptions, fps: float
    ) -> None:
        self.arrow = require("pyarrow", "lerobot", needed_for="writing LeRobot")
        self.parquet = require("pyarrow.parquet", "lerobot", needed_for="writing LeRobot")
        self.dataset, self.layout, self.out, self.options, self.fps = dataset, layout, out, options, fps
        self.words: dict[str, dict[str, int]] = {"task_index": {}}  # the number of each text
        self.stats: dict[str, list[lerobot_stats.Stats]] = {item.name: [] for item in layout.features}
        self.entries: list[dict[str, Any]] = []
        self.rows = 0
        self.has_task = TASK in dataset.schema.by_key
        self._data: Any = None
        self._data_file = -1
        self._data_bytes = 0
        self._videos: dict[str, tuple[int, VideoWriter]] = {}
        self.schema = self.arrow.schema(
            [
                self.arrow.field(item.name, self._type(item))
                for item in layout.features
                if item.form != "video"
            ]
        )

    def episode(self, index: int) -> None:
        """Append an episode."""
        start, length = int(self.dataset.episodes.start[index]), int(self.dataset.episodes.length[index])
        entry: dict[str, Any] = {"episode_index": index, "length": length}
        arrays, tasks = [], self._tasks(start, length)
        stats: dict[str, lerobot_stats.Stats] = {}
        for item in self.layout.features:
            if item.form == "video":
                stats[item.name] = self._video(item, start, length, entry)
            elif item.form == "image":
                array, stats[item.name] = self._images(item, start, length)
                arrays.append(array)
            elif item.form == "text":
                arrays.append(self.arrow.array([str(x) for x in self._read(item, start, length)]))
            else:
                values = self._numbers(item, index, start, length, tasks)
                stats[item.name] = lerobot_stats.of_numbers(values)
                arrays.append(self._arrow_array(values))
        self._write_rows(arrays, entry)
        here = set(tasks.tolist())
        entry["tasks"] = [task for task, number in self.words["task_index"].items() if number in here]
        entry |= {"dataset_from_index": self.rows, "dataset_to_index": self.rows + length}
        for name, found in stats.items():
            self.stats[name].append(found)
            entry |= {f"stats/{name}/{kind}": value.tolist() for kind, value in found.items()}
        self.entries.append({**entry, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        self.rows += length

    def close(self) -> None:
        """Finishes all files and writes the metadata of episodes and tasks."""
        self._close_data()
        for _, video in self._videos.values():
            video.close()
        self._videos = {}
        folder = self.out / "meta" / "episodes" / "chunk-000"
        folder.mkdir(parents=True)
        self.parquet.write_table(self.arrow.Table.from_pylist(self.entries), folder / "file-000.parquet")
        for name, numbers in self.words.items():
            texts = list(numbers)
            table = self.arrow.table({name: list(range(len(texts))), "__index_level_0__": texts})
            table = table.replace_schema_metadata({"pandas": json.dumps(_pandas(name))})
            self.parquet.write_table(table, self.out / "meta" / f"{name.removesuffix('_index')}s.parquet")

    def abandon(self) -> None:
        """Closes what an error left open."""
        if self._data is not None:
            self._data.close()
        for _, video in self._videos.values():
            with suppress(RLError):
                video.close()

    # -- rows ------------------------------------------------------------------------------------------

    def _type(self, item: Feature) -> Any:
        arrow = self.arrow
        if item.form == "text":
            return arrow.string()
        if item.form == "image":
            return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        kind = arrow.from_numpy_dtype(np.dtype(item.dtype))
        if item.shape == (1,):
            return kind
        if len(item.shape) == 1:
            return arrow.list_(kind, item.shape[0])
        for _ in item.shape:
            kind = arrow.list_(kind)
        return kind

    def _read(self, item: Feature, start: int, length: int) -> Any:
        assert item.column is not None
        return self.dataset.read(item.column.key, start, start + length)

    def _numbers(
        self, item: Feature, index: int, start: int, length: int, tasks: NDArray[np.int64]
    ) -> NDArray[Any]:
        """The rows of a feature of numbers, `[n]` for a single one."""
        if item.form == "words":
            assert item.column is not None
            values = self._words(item.name, item.column.key, start, length)
        elif item.column is not None:
            values = np.asarray(self._read(item, start, length))
        elif item.form == "flag":
            values = self._flags(item.name, start, length)
        else:
            step = np.arange(length)
            values = {
                "timestamp": step / self.fps,
                "frame_index": step,
                "episode_index": np.full(length, index),
                "index": self.rows + step,
                "task_index": tasks,
            }[item.name]
        shape = (length,) if item.shape == (1,) else (length, *item.shape)
        return values.astype(item.dtype, copy=False).reshape(shape)

    def _flags(self, name: str, start: int, length: int) -> NDArray[Any]:
        kept = self.dataset.schema.by_key.get(("source", *name.split(".")))
        key = kept.key if kept is not None else tuple(name.split("."))
        values: NDArray[Any] = np.asarray(self.dataset.read(key, start, start + length)) != 0
        if kept is None and name == "next.done":
            values[-1] = True
        return values

    def _tasks(self, start: int, length: int) -> NDArray[np.int64]:
        """The number of each row's task."""
        if not self.has_task:
            tasks = self.words["task_index"]
            return np.full(length, tasks.setdefault(self.options.task, len(tasks)))
        return self._words("task_index", TASK, start, length)

    def _words(self, name: str, key: Key, start: int, length: int) -> NDArray[np.int64]:
        """The number of each row's text in the table for the feature `name`."""
        known = self.words.setdefault(name, {})
        index, table = self.dataset.text(key, np.arange(start, start + length))
        return np.asarray([known.setdefault(str(text), len(known)) for text in table], np.int64)[index]

    def _arrow_array(self, values: NDArray[Any]) -> Any:
        arrow = self.arrow
        array = arrow.array(np.ascontiguousarray(values).reshape(-1))
        for axis in range(values.ndim - 1, 0, -1):
            if values.ndim == 2:
                return arrow.FixedSizeListArray.from_arrays(array, values.shape[1])
            count = int(np.prod(values.shape[:axis]))
            offsets = np.arange(count + 1, dtype=np.int32) * values.shape[axis]
            array = arrow.ListArray.from_arrays(offsets, array)
        return array

    def _write_rows(self, arrays: Sequence[Any], entry: dict[str, Any]) -> None:
        batch = self.arrow.record_batch(list(arrays), schema=self.schema)
        if self._data is not None and self._data_bytes + batch.nbytes > self.options.data_mb << 20:
            self._close_data()
        if self._data is None:
            self._data_file += 1
            place = _place(self._data_file)
            path = self.out / _DATA_PATH.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = self.parquet.ParquetWriter(path, self.schema)
        self._data.write_batch(batch)
        self._data_bytes += batch.nbytes
        entry |= {f"data/{name}": number for name, number in _place(self._data_file).items()}

    def _close_data(self) -> None:
        if self._data is not None:
            self._data.close()
        self._data, self._data_bytes = None, 0

    # -- pictures --------------------------------------------------------------------------------------

    def _images(self, item: Feature, start: int, length: int) -> tuple[Any, lerobot_stats.Stats]:
        """The pictures of an episode as they are stored, and their statistics."""
        column, encoded = item.column, []
        assert column is not None
        if column.heap is not None and column.heap.codec in ("png", "jpeg"):
            stored = self.dataset.encoded(column.key, np.arange(start, start + length))
            encoded = [bytes(data or b"") for data in stored]
        else:
            for low in range(start, start + length, _FRAMES):
                high = min(low + _FRAMES, start + length)
                encoded += [png(np.asarray(frame)) for frame in self.dataset.read(column.key, low, high)]
        paths = [f"frame-{number:06d}.png" for number in range(length)]
        array = self.arrow.StructArray.from_arrays(
            [self.arrow.array(encoded, self.arrow.binary()), self.arrow.array(paths)], ["bytes", "path"]
        )
        return array, self._picture_stats(item, start, length)

    def _video(self, item: Feature, start: int, length: int, entry: dict[str, Any]) -> lerobot_stats.Stats:
        number, video = self._videos.get(item.name, (-1, None))
        if video is not None and video.num_bytes > self.options.video_mb << 20:
            video.close()
            video = None
        if video is None:
            number += 1
            path = self.out / _VIDEO_PATH.format(video_key=item.name, **_place(number))
            path.parent.mkdir(parents=True, exist_ok=True)
            options = self.options
            video = VideoWriter(path, self.fps, codec=options.codec, quality=options.quality)
            self._videos[item.name] = (number, video)
        first = video.frames
        for low in range(start, start + length, _FRAMES):
            for frame in self._read(item, low, min(_FRAMES, start + length - low)):
                video.add(np.asarray(frame))
        entry |= {f"videos/{item.name}/{name}": value for name, value in _place(number).items()}
        entry[f"videos/{item.name}/from_timestamp"] = first / self.fps
        entry[f"videos/{item.name}/to_timestamp"] = video.frames / self.fps
        return self._picture_stats(item, start, length)

    def _picture_stats(self, item: Feature, start: int, length: int) -> lerobot_stats.Stats:
        rows = start + lerobot_stats.sampled(length)
        return lerobot_stats.of_pictures([np.asarray(self._read(item, row, 1)[0]) for row in rows.tolist()])


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // _CHUNK, "file_index": number % _CHUNK}


def _write_info(
    dataset: Dataset, layout: Layout, out: Path, options: ExportOptions, fps: float, writer: _Writer
) -> None:
    """`meta/info.json` and `meta/stats.json`."""
    known = layout.told.get("features", {})
    features = {}
    for item in layout.features:
        video = None
        if item.form == "video":
            height, width, channels = item.shape
            video = {
                "video.height": height, "video.width": width, "video.codec": options.codec,
                "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps,
                "video.channels": channels, "has_audio": False,
            }  # fmt: skip
        features[item.name] = item.described(known.get(item.name, {}), video)
    has_videos = any(item.form == "video" for item in layout.features)
    info = {
        "codebase_version": "v3.0",
        "robot_type": options.robot_type or layout.told.get("robot_type"),
        "total_episodes": len(writer.entries),
        "total_frames": writer.rows,
        "total_tasks": len(writer.words["task_index"]),
        "chunks_size": _CHUNK,
        "data_files_size_in_mb": options.data_mb,
        "video_files_size_in_mb": options.video_mb,
        "fps": int(fps) if fps == int(fps) else fps,
        "splits": {"train": f"0:{len(writer.entries)}"},
        "data_path": _DATA_PATH,
        "video_path": _VIDEO_PATH if has_videos else None,
        "features": features,
        HINTS: {
            "spec": dataset.spec,
            "columns": {name: list(key) for name, key in layout.columns.items()},
            "scalars": layout.scalars,
            "cut": np.flatnonzero(dataset.episodes.cut).tolist(),
        },
    }
    stats = {
        name: {kind: value.tolist() for kind, value in lerobot_stats.joined(parts).items()}
        for name, parts in writer.stats.items()
        if parts
    }
    for name, value in (("info.json", info), ("stats.json", stats)):
        (out / "meta" / name).write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


def _tell(dataset: Dataset, layout: Layout, report: Report) -> None:
    """What is lost goes to the report."""
    episodes = dataset.episodes
    if finals := int(np.asarray(episodes.has_final).sum()):
        report.lossy.append(f"{finals:,} final observations are not written: LeRobot has no place for them")
    report.lossy += lost_seeds(dataset)
    for item in layout.features:
        if item.form == "video":
            report.lossy.append(f"{item.name}: frames are compressed as video")
    report.details["features"] = [item.name for item in layout.features]


def _pandas(name: str) -> dict[str, Any]:
    """So that pandas makes the texts the index of the table, as lerobot expects."""
    return {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
             "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": "int64", "numpy_type": "int64",
             "metadata": None},
            {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode",
             "numpy_type": "object", "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": ""},
        "pandas_version": "2.0",
    }  # fmt: skip
