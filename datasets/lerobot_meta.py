"""What a LeRobot dataset says about itself: `meta/info.json`, tasks, and where episodes are said to be.

Versions 2.0 and 2.1 have a file per episode and JSON lines; 3.0 has many episodes per file and Parquet. What
the metadata say is compared with the rows, which are right where they differ.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rlcli.datasets.json_files import read_object
from rlcli.datasets.lerobot_tables import Tables
from rlcli.errors import CorruptError, IncompatibleError, InputError

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
_PLACE = re.compile(r"\{(\w+)(?::0?(\d{1,2})d?)?\}")
_MAX_SECONDS = 1e9  # of a video
_MAX_LINES = 1 << 24


@dataclass(frozen=True)
class Span:
    """Where the frames of an episode of a camera are: a file below the root, and their first second."""

    path: str
    seconds: float


@dataclass
class Meta:
    """The metadata of a dataset. `lengths` and `spans` (by camera) are by episode, where they are told;
    `words` are texts by number, of the column that has the numbers.
    """

    root: Path
    info: dict[str, Any] = field(repr=False)
    words: dict[str, dict[int, str]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)
    spans: dict[str, dict[int, Span]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        return str(self.info["codebase_version"])

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.info["features"]
        return found

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def cameras(self) -> list[str]:
        """The features that are videos."""
        return [name for name, feature in self.features.items() if feature["dtype"] == "video"]

    def video_path(self, camera: str, **places: int) -> str:
        """The path of a video below the root, by the template in `info.json`."""
        template = self.info.get("video_path")
        if not isinstance(template, str):
            raise InputError(f"{self.root / INFO}: {camera} is a video, but there is no video_path")
        return filled(template, self.root, video_key=camera, **places)


def find(path: Path) -> Path | None:
    """The root of the LeRobot dataset at `path`, None if there is none."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / INFO).is_file() and (folder == path or path.name in ("meta", "data", "info.json")):
            return folder
    return None


def read_info(root: Path) -> dict[str, Any]:
    """`info.json`, checked. Raises `InputError`, `CorruptError`, `IncompatibleError` for other versions."""
    path = root / INFO
    info = read_object(path)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise IncompatibleError(
            f"{path}: LeRobot {version}, known are {', '.join(VERSIONS)}",
            hint="lerobot's own scripts convert older datasets",
            path=path,
        )
    try:
        if not 0 < float(info["fps"]) < 1e6:
            raise ValueError(f"{info['fps']} frames per second")
        for name, feature in info["features"].items():
            feature["shape"] = [int(n) for n in feature["shape"]]
            if any(n < 0 for n in feature["shape"]) or not isinstance(feature["dtype"], str) or not name:
                raise ValueError(f"the feature {name!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CorruptError(f"{path}: malformed: {err!r}", path=path) from err
    return info


def read_meta(root: Path, info: dict[str, Any], tables: Tables) -> Meta:
    """All metadata of the dataset at `root`."""
    meta = Meta(root, info, files=[root / INFO])
    if meta.version == "v3.0":
        if not _read_words(meta, tables, "task"):
            meta.remarks.append(f"{root}/meta/tasks.parquet is missing; tasks have numbers only")
        _read_words(meta, tables, "subtask")
        for path in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
            meta.files.append(path)
            _read_episodes(meta, tables, path)
    else:
        meta.words["task_index"] = {
            number: str(text) for number, text in _lines(meta, "tasks.jsonl", "task_index", "task")
        }
        lengths = _lines(meta, "episodes.jsonl", "episode_index", "length")
        meta.lengths = {number: length for number, length in lengths if isinstance(length, int)}
    return meta


def filled(template: str, root: Path, **places: int | str) -> str:
    """A path template of `info.json` with numbers in its places. Raises `CorruptError` if it leads out of
    the dataset or names a place that there is none.
    """

    def put(found: re.Match[str]) -> str:
        value = places.get(found[1])
        if value is None:
            raise CorruptError(f"{root / INFO}: its path {template!r} has an unknown place {found[1]!r}")
        return str(value) if isinstance(value, str) else f"{value:0{int(found[2] or 0)}d}"

    return inside(_PLACE.sub(put, template), root)


def inside(path: str, root: Path) -> str:
    """`path` if it stays below the root of the dataset. Raises `CorruptError` otherwise."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\x00" in path or "{" in path:
        raise CorruptError(f"{root}: the path {path!r} leads out of the dataset", path=root)
    return path


def _lines(meta: Meta, name: str, number: str, value: str) -> list[tuple[int, Any]]:
    """The number and a value of each object of a JSON lines file below `meta`."""
    path = meta.root / "meta" / name
    if not path.is_file():
        meta.remarks.append(f"{path} is missing")
        return []
    meta.files.append(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in lines if line.strip()]
        return [(int(entry[number]), entry[value]) for entry in told]
    except (ValueError, OverflowError, RecursionError) as err:
        raise CorruptError(f"{path}: damaged JSON: {err}", path=path) from err
    except (KeyError, TypeError) as err:
        raise CorruptError(f"{path}: a line without {number} and {value}", path=path) from err


def _read_words(meta: Meta, tables: Tables, what: str) -> bool:
    """Tasks or subtasks; whether their file is there. pandas makes the texts the index of the table."""
    path = meta.root / "meta" / f"{what}s.parquet"
    if not path.is_file():
        return False
    meta.files.append(path)
    columns = tables.columns(path)
    names = next((columns[n] for n in (what, "__index_level_0__", "index") if n in columns), None)
    if names is None or f"{what}_index" not in columns:
        raise CorruptError(f"{path}: no {what}s and {what}_index, found {', '.join(columns)}", path=path)
    numbers = tables.integers(columns[f"{what}_index"], path).tolist()
    meta.words[f"{what}_index"] = dict(zip(numbers, map(str, names.to_pylist()), strict=True))
    return True


def _read_episodes(meta: Meta, tables: Tables, path: Path) -> None:
    places = ("chunk_index", "file_index", "from_timestamp")
    wanted = [f"videos/{camera}/{place}" for camera in meta.cameras for place in places]
    columns = tables.columns(path, ["episode_index", "length", *wanted])
    if "episode_index" not in columns:
        raise CorruptError(f"{path}: no episode_index", path=path)
    numbers = tables.integers(columns["episode_index"], path).tolist()
    if "length" in columns:
        meta.lengths |= dict(zip(numbers, tables.integers(columns["length"], path).tolist(), strict=True))
    for camera in meta.cameras:
        told = [columns.get(f"videos/{camera}/{place}") for place in places]
        if any(column is None or column.null_count for column in told):
            continue
        spans = meta.spans.setdefault(camera, {})
        chunks, files = (tables.integers(column, path).tolist() for column in told[:2])
        seconds = tables.numbers(told[2], path).tolist()
        for number, chunk, file, second in zip(numbers, chunks, files, seconds, strict=True):
            if not abs(second) < _MAX_SECONDS:
                raise CorruptError(f"{path}: {camera}: episode {number} is at second {second}", path=path)
            where = meta.video_path(camera, chunk_index=chunk, file_index=file)
            spans[number] = Span(where, float(second))
