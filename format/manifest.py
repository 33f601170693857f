"""What a manifest says: one generation of a dataset, checked before it is believed. SPEC.md section 4."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format import parsed, strictjson
from rlcli.format.schema import Schema

FORMAT = [1, 0]
FEATURES = frozenset({"derived", "heap", "window"})
_STREAM = re.compile(r"w([0-9]{2,5})")
_SEGMENT = re.compile(r"(w[0-9]{2,5})-([0-9]{12})(\.[0-9]{1,6})?")
_HEX = re.compile(r"[0-9a-f]{64}")
MAX_SEGMENTS = 65_536
MAX_ROWS = 1 << 40  # of a stream, those that have left it too
MAX_SEGMENT_BYTES = 1 << 46  # of its columns: half of the addresses that a process has
_OPEN_COUNTS = ("stream", "first", "alloc")
_SEALED_COUNTS = (*_OPEN_COUNTS, "rows", "episodes", "finals", "bytes")
_OWN = frozenset(
    [
        "magic",
        "format",
        "dataset",
        "generation",
        "oldest",
        "parent",
        "features",
        "kind",
        "window",
        "schema",
        "spec",
        "lineage",
        "extra",
        "streams",
        "segments",
        "check",
    ]
)


@dataclass(frozen=True)
class Segment:
    """A manifest's entry. The counts and digests are those of a sealed segment; an open one has none."""

    name: str
    stream: int
    first: int
    alloc: int
    sealed: bool = False
    rows: int = 0
    episodes: int = 0
    finals: int = 0
    bytes: int = 0
    sums: str = ""
    content: str = ""

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": self.name, "stream": self.stream, "first": self.first, "alloc": self.alloc,
            "state": "sealed" if self.sealed else "open",
        }  # fmt: skip
        if self.sealed:
            entry |= {
                "rows": self.rows, "episodes": self.episodes, "finals": self.finals, "bytes": self.bytes,
                "sums": self.sums, "content": self.content,
            }  # fmt: skip
        return entry

    @cached_property
    def encoded(self) -> strictjson.Encoded:
        """As it stands in the file of every generation that lists it."""
        return strictjson.Encoded.item(self.to_json())


@dataclass(frozen=True)
class Manifest:
    """One generation of a dataset. `window` is how many rows each stream keeps; None for a log, which keeps
    all.
    """

    dataset: str
    generation: int
    parent: dict[str, Any] | None
    schema: Schema
    spec: dict[str, Any]
    lineage: list[dict[str, Any]]
    extra: dict[str, Any]
    streams: tuple[dict[str, Any], ...]
    segments: tuple[Segment, ...] = ()
    window: int | None = None
    unknown: dict[str, Any] = field(default_factory=dict)
    ro_compat: tuple[str, ...] = ()
    compat: tuple[str, ...] = ()
    sha256: str = ""
    format: tuple[int, int] = (FORMAT[0], FORMAT[1])  # stays what it is until `upgrade`

    def to_json(self) -> dict[str, Any]:
        return self._members(self.schema.to_json(), [segment.to_json() for segment in self.segments])

    def to_file(self) -> dict[str, Any]:
        """`to_json`, in part encoded already."""
        return self._members(self.schema.encoded, [segment.encoded for segment in self.segments])

    def _members(self, schema: Any, segments: list[Any]) -> dict[str, Any]:
        kind: dict[str, Any] = {"kind": "log"}
        if self.window is not None:
            kind = {"kind": "window", "window": {"rows": self.window}}
        return {
            "magic": "rl-manifest",
            "format": list(self.format),
            "dataset": self.dataset,
            "generation": self.generation,
            "oldest": 1,
            "parent": self.parent,
            "features": {
                "incompat": self.incompat,
                "ro_compat": list(self.ro_compat),
                "compat": list(self.compat),
            },
            **kind,
            "schema": schema,
            "spec": self.spec,
            "lineage": self.lineage,
            "extra": self.extra,
            "streams": list(self.streams),
            "segments": segments,
            **self.unknown,
        }

    @property
    def incompat(self) -> list[str]:
        """The features that a reader must know."""
        found = list(self.schema.features)
        return found if self.window is None else [*found, "window"]

    @property
    def replaced(self) -> frozenset[str]:
        """Names of sealed segments in whose place recoveries put a copy with one more episode end."""
        lists = [entry.get("shortened") for entry in self.lineage if entry.get("op") == "recover"]
        return frozenset(
            name for found in lists if isinstance(found, list) for name in found if isinstance(name, str)
        )

    @property
    def retired(self) -> frozenset[str]:
        """Names of segments that recoveries and rewinds took out of the dataset."""
        entries = [entry for entry in self.lineage if entry.get("op") in ("recover", "rewind")]
        lists = [entry.get(what) for entry in entries for what in ("dropped", "shortened")]
        return frozenset(
            name for found in lists if isinstance(found, list) for name in found if isinstance(name, str)
        )

    def next(self, **changes: Any) -> Manifest:
        """The following generation with some fields changed."""
        parent = {"generation": self.generation, "sha256": self.sha256}
        return replace(self, generation=self.generation + 1, parent=parent, sha256="", **changes)


def stream_id(number: int) -> str:
    return f"w{number:02d}"


def is_segment_name(name: str) -> bool:
    return _SEGMENT.fullmatch(name) is not None


def stream_of(segment: str) -> int:
    """The number of the stream that a segment of this name belongs to."""
    return int(segment.partition("-")[0][1:])


def parse(data: bytes, path: object, dataset: str, generation: int) -> Manifest:
    """The manifest in the bytes of a file; `path` is for messages."""
    return _parsed(hashlib.sha256(data).hexdigest(), data, path, dataset, generation)


@parsed.once
def _parsed(sha256: str, data: bytes, path: object, dataset: str, generation: int) -> Manifest:
    value = strictjson.checked(data, path, "rl-manifest")
    check_format(value, path)
    try:
        if (value["dataset"], value["generation"]) != (dataset, generation):
            raise CorruptError(f"{path}: belongs to another dataset or generation", path=path)
        unknown = set(value["features"]["incompat"]) - FEATURES
        if unknown or value["kind"] not in ("log", "window"):
            what = ", ".join(sorted(unknown)) or f"kind {value['kind']!r}"
            raise IncompatibleError(f"{path}: needs {what}, which this release does not know; upgrade rl")
        manifest = Manifest(
            dataset=dataset,
            generation=generation,
            parent=value["parent"],
            schema=_schema(json.dumps(value["schema"])),
            spec=value["spec"],
            lineage=value["lineage"],
            extra=value["extra"],
            streams=tuple(value["streams"]),
            segments=tuple(_segment(entry) for entry in value["segments"]),
            window=value["window"]["rows"] if value["kind"] == "window" else None,
            unknown={k: v for k, v in value.items() if k not in _OWN},
            ro_compat=tuple(value["features"]["ro_compat"]),
            compat=tuple(value["features"]["compat"]),
            sha256=sha256,
            format=(value["format"][0], value["format"][1]),
        )
        _check_structure(manifest, value["features"]["incompat"])
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CorruptError(f"{path}: malformed ({err!r})", path=path) from err
    return manifest


def is_rewound(then: Manifest, now: Manifest) -> bool:
    """Rows were taken back on purpose after the generation `then`, and others may have their numbers."""
    return any(entry.get("op") == "rewind" for entry in now.lineage[len(then.lineage) :])


def check_format(value: dict[str, Any], path: object) -> None:
    version = value.get("format")
    if not isinstance(version, list) or len(version) != 2 or version[0] != FORMAT[0]:
        raise IncompatibleError(f"{path}: format {version}, this release reads {FORMAT[0]}.x; upgrade rl")


@lru_cache(maxsize=16)
def _schema(text: str) -> Schema:
    """A process opens many datasets of few schemas."""
    return Schema.from_json(json.loads(text))


def _segment(entry: dict[str, Any]) -> Segment:
    state = entry["state"]
    if state not in ("open", "sealed"):
        raise ValueError(f"segment state {state!r}")
    sealed = state == "sealed"
    values = [entry[name] for name in (_SEALED_COUNTS if sealed else _OPEN_COUNTS)]
    if not all(type(n) is int and n >= 0 for n in values):
        raise ValueError(f"segment counts {values}")
    stream, first, alloc = values[:3]
    if not sealed:
        return Segment(entry["name"], stream, first, alloc)
    hashes = entry["sums"], entry["content"]
    if not all(_HEX.fullmatch(digest) for digest in hashes):
        raise ValueError(f"segment digests {hashes}")
    rows, episodes, finals, size = values[3:]
    return Segment(entry["name"], stream, first, alloc, True, rows, episodes, finals, size, *hashes)


def _is_count(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


def _check_structure(manifest: Manifest, features: list[str]) -> None:
    for number, stream in enumerate(manifest.streams):
        match = _STREAM.fullmatch(stream["id"])
        if match is None or stream["id"] != stream_id(number):
            raise ValueError(f"stream {number} is called {stream['id']!r}")
        owner = stream.get("owner")
        if owner is not None and not (isinstance(owner, dict) and _is_count(owner.get("pid"), 1 << 31)):
            raise ValueError(f"the owner of stream {number} must be null or an object with a process number")
    if not isinstance(manifest.spec, dict) or not isinstance(manifest.extra, dict):
        raise ValueError("spec and extra must be objects")
    env = manifest.spec.get("env")
    if env is not None and not (isinstance(env, dict) and isinstance(env.get("id"), str)):
        raise ValueError("spec.env must be null or an object with an id")
    if not isinstance(manifest.lineage, list) or not all(isinstance(e, dict) for e in manifest.lineage):
        raise ValueError("lineage must be a list of objects")
    if manifest.window is not None and not (_is_count(manifest.window, 1 << 53) and manifest.window):
        raise ValueError(f"a window of {manifest.window!r} rows")
    if set(features) != set(manifest.incompat):
        raise ValueError(f"features {features}, but kind and schema need {manifest.incompat}")
    if len(manifest.segments) > MAX_SEGMENTS:
        raise ValueError(f"{len(manifest.segments):,} segments")
    before: Segment | None = None
    for segment in manifest.segments:
        match = _SEGMENT.fullmatch(segment.name)
        if match is None or segment.stream >= len(manifest.streams):
            raise ValueError(f"segment {segment.name!r} of stream {segment.stream}")
        if (match.group(1), int(match.group(2))) != (stream_id(segment.stream), segment.first):
            raise ValueError(f"segment {segment.name!r} begins at row {segment.first}")
        joins = 0
        if before is not None and before.stream == segment.stream:
            if not before.sealed:
                raise ValueError(f"segment {before.name} is open and not the last")
            joins = before.first + before.rows
        elif before is not None and before.stream > segment.stream:
            raise ValueError("segments are not ordered by stream")
        elif manifest.window is not None:
            joins = segment.first  # what was before it has left the window
        if segment.first != joins or segment.alloc == 0 or segment.rows > segment.alloc:
            raise ValueError(f"segment {segment.name} does not join the one before, or its rows exceed alloc")
        if segment.first + segment.alloc > MAX_ROWS:
            raise ValueError(f"segment {segment.name} ends at row {segment.first + segment.alloc}")
        if segment.alloc * manifest.schema.row_bytes > MAX_SEGMENT_BYTES:
            raise ValueError(f"segment {segment.name} of {segment.alloc} rows is too long to be mapped")
        if segment.sealed and segment.rows == 0:
            raise ValueError(f"segment {segment.name} is sealed without rows")
        before = segment
