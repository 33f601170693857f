"""Manifests: numbered, immutable, put-if-absent. The highest number is the dataset. SPEC.md section 4."""

from __future__ import annotations

import hashlib
import json
import re
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, IncompatibleError, InputError, ResourceError
from rlcli.format import bulk, files, parsed, strictjson
from rlcli.format.location import Inside
from rlcli.format.schema import Schema

FORMAT = [1, 0]
FEATURES = frozenset({"derived", "heap", "window"})
CHAIN = 64
_NUMBERS = re.compile(r"(?:\A|/)([0-9]{20})\.json(?=/|\Z)")  # of names with a / between them
_STREAM = re.compile(r"w([0-9]{2,5})")
_SEGMENT = re.compile(r"(w[0-9]{2,5})-([0-9]{12})(\.[0-9]{1,6})?")
_HEX = re.compile(r"[0-9a-f]{64}")
MAX_BYTES = 1 << 26
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


def name_of(generation: int) -> str:
    """Where a generation is inside its dataset."""
    return f"manifests/{generation:020d}.json"


def path_of(root: Path, generation: int) -> Path:
    return root / name_of(generation)


class GenerationTaken(CorruptError):
    """Another writer has published under the same number."""


def publish(
    root: Path, manifest: Manifest, *, durable: bool, before_link: Callable[[], None] | None = None
) -> Manifest:
    """Writes a manifest as a new generation and returns it with its SHA-256.

    `before_link` runs when the temporary file is there and the number is not: seals append their
    record then. Raises `GenerationTaken` if the number is: another writer was at work; `ResourceError`, with
    nothing done, if no reader would accept so large a manifest.
    """
    if len(manifest.segments) > MAX_SEGMENTS:
        raise _too_large(root, f"{len(manifest.segments):,} segments, at most {MAX_SEGMENTS:,} are allowed")
    if any(segment.first + segment.alloc > MAX_ROWS for segment in manifest.segments):
        raise ResourceError(f"{root}: a stream has at most {MAX_ROWS:,} rows", path=root)
    data = put(root, manifest.generation, manifest.to_file(), durable=durable, before_link=before_link)
    return replace(manifest, sha256=hashlib.sha256(data).hexdigest())


def put(
    root: Path,
    generation: int,
    value: dict[str, Any],
    *,
    durable: bool,
    before_link: Callable[[], None] | None = None,
) -> bytes:
    """`publish` of a manifest as JSON; returns the bytes of its file."""
    data = strictjson.dump_checked(value)
    if len(data) > MAX_BYTES:
        raise _too_large(root, f"a manifest of {len(data):,} bytes, at most {MAX_BYTES:,} are allowed")
    temporary = root / "manifests" / f".tmp-{generation}-{uuids.uuid4().hex}"
    target = path_of(root, generation)
    with files.told_as(target, temporary):
        files.write_new(temporary, data, durable=durable)
        if before_link is not None:
            if durable:
                files.sync_folder(root / "manifests")  # a seal record must not outlive what excuses it
            before_link()
        try:
            files.link_new(temporary, target)
        except (FileExistsError, FileNotFoundError) as err:
            if not files.is_same(temporary, target):  # a server's answer may be lost, and it be asked again
                files.remove(temporary)
                if not files.exists(target):
                    raise
                # Who has taken the number may have removed the temporary of a writer that was dead to it.
                what = "exists already; two writers were at work"
                raise GenerationTaken(f"{target}: {what}", path=target) from err
        if durable:
            files.sync_folder(root / "manifests")
        files.remove(temporary)
    return data


def _too_large(root: Path, what: str) -> ResourceError:
    return ResourceError(f"{root}: {what}", hint="rl buffer compact joins segments", path=root)


def load_identity(root: Path) -> dict[str, Any]:
    """`dataset.json`. Raises `InputError` if `root` is no dataset, `CorruptError` if it is damaged."""
    try:
        [data] = bulk.read_whole(root, ["dataset.json"])
        return parse_identity(data, Inside(root, "dataset.json"))
    except CorruptError:
        path = root / "dataset.json"
        if not files.exists(root):
            raise InputError(f"{root}: no such dataset", path=root) from None
        if not files.exists(path) and not (root / "manifests").is_dir():
            raise InputError(f"{root}: not a dataset (no dataset.json)", path=root) from None
        raise


def parse_identity(data: bytes, path: object) -> dict[str, Any]:
    """`dataset.json` from its bytes; `path` is for messages."""
    return dict(_identity(hashlib.sha256(data).hexdigest(), data, path))


@parsed.once
def _identity(sha256: str, data: bytes, path: object) -> dict[str, Any]:
    value = strictjson.checked(data, path, "rl-dataset")
    _check_format(value, path)
    if value.get("byteorder") != "little" or not re.fullmatch("[0-9a-f]{32}", str(value.get("uuid"))):
        raise CorruptError(f"{path}: uuid or byteorder is malformed", path=path)
    return value


def generations(root: Path) -> list[int]:
    """The published generations, ascending."""
    return [int(number) for number in _NUMBERS.findall("/".join(bulk.names(root, "manifests")))]


def check_without_gap(root: Path, numbers: list[int]) -> None:
    """Raises `CorruptError` naming the first generation that is not there, or that cannot be.

    A folder that is listed while names are added may show a later one without an earlier one; so what was not
    listed is asked for.
    """
    expected = 1
    for found in numbers:
        while expected < found and files.exists(path_of(root, expected)):
            expected += 1
        if found != expected:
            path = path_of(root, min(found, expected))
            what = "missing" if found > expected else "generations begin at 1"
            raise CorruptError(f"{path}: {what}", path=path)
        expected += 1


def temporary_exists(root: Path, generation: int) -> bool:
    prefix = f".tmp-{generation}-"
    return any(name.startswith(prefix) for name in files.names(root / "manifests"))


def load(root: Path, dataset: str, generation: int) -> Manifest:
    """One generation, checked by itself. Raises `CorruptError` or `IncompatibleError`, naming the file."""
    path = path_of(root, generation)
    return parse(files.read(path), path, dataset, generation)


def parse(data: bytes, path: object, dataset: str, generation: int) -> Manifest:
    """The manifest in the bytes of a file; `path` is for messages."""
    return _parsed(hashlib.sha256(data).hexdigest(), data, path, dataset, generation)


@parsed.once
def _parsed(sha256: str, data: bytes, path: object, dataset: str, generation: int) -> Manifest:
    value = strictjson.checked(data, path, "rl-manifest")
    _check_format(value, path)
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


def load_newest(root: Path, dataset: str, *, chain: int = CHAIN) -> Manifest:
    """The newest generation, with the hashes of the last `chain` ones checked. Never falls back to an older
    one.
    """
    numbers = generations(root)
    if not numbers:
        raise CorruptError(f"{root / 'manifests'}: no manifest", path=root / "manifests")
    check_without_gap(root, numbers)
    names = [name_of(generation) for generation in numbers[:-3:-1]]
    first, *further = bulk.read_whole(root, names)
    newest = parse(first, Inside(root, names[0]), dataset, numbers[-1])
    parent = newest.parent
    for generation in numbers[-2 : -chain - 1 : -1]:
        data = further.pop() if further else files.read(path_of(root, generation))
        if parent != {"generation": generation, "sha256": hashlib.sha256(data).hexdigest()}:
            path = path_of(root, generation)
            raise CorruptError(
                f"{path}: SHA-256 differs from what generation {generation + 1} says", path=path
            )
        if generation > numbers[-1] - chain + 1 or generation == 1:
            parent = strictjson.load(data, path_of(root, generation)).get("parent")
    if numbers[-1] <= chain and parent is not None:
        path = path_of(root, 1)
        raise CorruptError(f"{path}: the first generation has a parent", path=path)
    return newest


def advance(root: Path, known: Manifest) -> Manifest:
    """The newest generation, found from one that was the newest before: each in between is checked."""
    while files.exists(path_of(root, known.generation + 1)):
        following = load(root, known.dataset, known.generation + 1)
        if following.parent != {"generation": known.generation, "sha256": known.sha256}:
            path = path_of(root, known.generation)
            raise CorruptError(
                f"{path}: SHA-256 differs from what generation {following.generation} says", path=path
            )
        known = following
    return known


def still_lists(root: Path, known: Manifest, segment: Segment) -> bool:
    """The newest generation, found from a `known` one, has the same entry: its files must all be there."""
    return segment in advance(root, known).segments


def is_rewound(then: Manifest, now: Manifest) -> bool:
    """Rows were taken back on purpose after the generation `then`, and others may have their numbers."""
    return any(entry.get("op") == "rewind" for entry in now.lineage[len(then.lineage) :])


def _check_format(value: dict[str, Any], path: object) -> None:
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
