"""Gen-DGRL (Procgen): archives or folders of episodes, each a pickled dict of arrays in a `.npy` file.

The pickles are read without running anything (`safe_pickle.py`), the archives without extracting anything.
An episode has T + 1 `observations` and T `actions`, `rewards`, `dones`. Procgen begins anew by itself, so the
last observation may be the next episode's first. Compressed archives are read once from beginning to end, by
one thread; members of plain ones and files are read from anywhere.
"""

from __future__ import annotations

import io
import itertools
import lzma
import tarfile
import tokenize
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rlcli.datasets import safe_pickle
from rlcli.datasets.contract import Advance, End, NoOptions, Part, Piece, Report, Request, Seen
from rlcli.datasets.mapping import no_mapping, storable
from rlcli.datasets.opened import Opened, env_of
from rlcli.datasets.regular import open_regular
from rlcli.datasets.stopping import heeding
from rlcli.errors import CorruptError, IncompatibleError, InputError
from rlcli.format.keys import DTYPES, Key
from rlcli.format.schema import Column, Heap, heap_column, ted_schema
from rlcli.format.specs import Box, Discrete, Spec

ALIGNMENT = "same row: observation, the action applied to it, the reward for that; one observation more"
_RESET = "the last observation of an episode may be the first after it: Procgen begins anew by itself"
_NEEDED = ("observations", "actions", "rewards", "dones")
_PROCGEN_ACTIONS = 15
_MAX_MEMBER = 1 << 30
_LOOKED_AT = 10_000  # entries of a folder, to see what it is
_RATIO = 2000  # of decompressed to compressed bytes, beyond which nothing is data
_FILE: Key = ("info", "episode", "file")
Values = dict[str, NDArray[Any]]


def detect(path: Path) -> Seen:
    """Whether `path` is a tar archive whose first file is a `.npy`, or a folder with one of an object."""
    if path.is_dir():
        first = next(_files(path, _LOOKED_AT), None)
        if first is None or not _is_object(first):
            return Seen(False, "no .npy files of episodes there")
        return Seen(True, "Gen-DGRL folder of episodes")
    if not path.is_file() or not tarfile.is_tarfile(path):
        return Seen(False, "not a tar archive of episodes")
    with _reading(path) as archive:
        member = next((member for member in archive if member.isfile()), None)
        if member is None or not member.name.endswith(".npy"):
            return Seen(False, "not a tar archive of episodes")
    return Seen(True, "Gen-DGRL archive of episodes")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[GenDGRLSource]:
    """The archive or folder. Its first episode is read, of a plain archive all members' headers.

    Raises `InputError` for what is no archive of episodes, `CorruptError` for damage and for pickles that are
    not data.
    """
    if not path.is_dir() and not (path.is_file() and tarfile.is_tarfile(path)):
        raise InputError(f"{path}: not a tar archive", path=path)
    no_mapping(request, path)
    yield GenDGRLSource(path, request)


class GenDGRLSource(Opened):
    """An opened archive or folder: a piece is an episode of it, of a compressed archive all of them."""

    def __init__(self, path: Path, request: Request) -> None:
        self.path = path
        self.members = dict(request.plan["members"]) if request.plan else _members(path)
        first = self._first()
        if not first:
            raise InputError(f"{path}: has no .npy files", path=path)
        self.kinds = {key: (str(values.dtype), values.shape[1:]) for key, values in first.items()}
        rows = len(first["actions"])
        self.extra = {
            key: ("info", *storable(key))
            for key, values in first.items()
            if key not in _NEEDED and values.ndim and len(values) == rows
        }
        columns = [Column(key, *self.kinds[source]) for source, key in self.extra.items()]
        self.is_exact = self.kinds["rewards"][0] in ("float32", "float16", "uint8", "int8", "bool")
        if not self.is_exact:
            columns.append(Column(("source", "rewards"), self.kinds["rewards"][0]))
        observation = Box(self.kinds["observations"][1], self.kinds["observations"][0])
        dtype, shape = self.kinds["actions"]
        self.is_discrete = dtype in ("int32", "int64", "uint8") and shape == ()
        action: Spec = Box(shape, dtype)
        if self.is_discrete:
            action = Discrete(_PROCGEN_ACTIONS, dtype=dtype)
        lost = [key for key in first if key not in _NEEDED and key not in self.extra]
        whole = [Piece("all", path.stat().st_size)]
        super().__init__(
            schema=ted_schema(observation, action, extra=[*columns, heap_column(_FILE, Heap("text"))]),
            spec={
                "env": env_of(request.env_id),
                "observation": observation.to_json(),
                "action": action.to_json(),
            },
            record={
                "alignment": ALIGNMENT,
                "columns": {"observations": ["observation"], "actions": ["action"]},
                "original": {key: [dtype, list(shape)] for key, (dtype, shape) in self.kinds.items()},
                "axes": "CHW",
            },
            report=Report(
                lossy=[f"{key}: not one value per step; left out" for key in lost],
                remarks=[] if request.plan else [_RESET],
                details={"alignment": ALIGNMENT},
            ),
            files=[path / name for name in self.members] if path.is_dir() else [path],
            pieces=[Piece(name, size, None, 1) for name, (_, size) in self.members.items()] or whole,
            plan={"members": {name: list(place) for name, place in self.members.items()}},
        )

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one member, or of all; an episode is in memory."""
        if self.members:
            yield self._part(piece.name, self._read(piece.name), report)
            advance(piece.num_bytes)
            return
        told = 0
        with _reading(self.path) as archive:
            for name, values in _episodes(self.path, archive):
                yield self._part(name, values, report)
                at = min(int(archive.fileobj.tell()) if archive.fileobj else 0, piece.num_bytes)
                advance(max(0, at - told))
                told = max(told, at)
        advance(piece.num_bytes - told)

    def _first(self) -> Values:
        """The first episode, empty if there is none."""
        if self.members:
            return self._read(next(iter(self.members)))
        if self.path.is_dir():
            return {}
        with _reading(self.path) as archive:
            return next(_episodes(self.path, archive), ("", {}))[1]

    def _read(self, name: str) -> Values:
        """An episode of a plain archive or a folder."""
        start, size = self.members[name]
        with open_regular(self.path / name if self.path.is_dir() else self.path) as file:
            file.seek(start)
            data = file.read(size)
        if len(data) < size:
            raise CorruptError(f"{self.path}: {name} is cut short", path=self.path)
        return _values(self.path, name, data)

    def _part(self, name: str, values: Values, report: Report) -> Part:
        where = f"{self.path}: {name}"
        kinds = {key: (str(array.dtype), array.shape[1:]) for key, array in values.items()}
        for key in (*_NEEDED, *self.extra):
            if kinds.get(key) != self.kinds[key]:
                raise IncompatibleError(
                    f"{where}: {key} is {kinds.get(key, 'absent')}, in the first episode {self.kinds[key]}",
                    path=self.path,
                )
        rows = len(values["actions"])
        if self.is_discrete and not 0 <= int(values["actions"].min()) <= int(values["actions"].max()) < 15:
            raise IncompatibleError(f"{where}: actions beyond Procgen's 15", path=self.path)
        rewards = values["rewards"]
        columns: dict[Key, Any] = {
            ("observation",): values["observations"][:rows],
            ("action",): values["actions"],
            ("next", "reward"): rewards.astype(np.float32).reshape(-1, 1),
            _FILE: [name] * rows,
            **{key: values[source] for source, key in self.extra.items()},
        }
        if not self.is_exact:
            columns["source", "rewards"] = rewards
        terminated = bool(values["dones"][-1])
        early = int(np.count_nonzero(values["dones"][:-1]))
        if early:
            report.count("dones_inside_episodes", early)
        report.repaired += not terminated
        final = values["observations"][rows] if len(values["observations"]) > rows else None
        return Part(columns, End(terminated, not terminated, final=final))


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive as a stream. Turns what tarfile and the codecs say of broken bytes into `CorruptError`."""
    try:
        with tarfile.open(path, "r|*") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as err:
        raise CorruptError(f"{path}: damaged archive: {err}", path=path) from err
    except OSError as err:
        if err.errno is not None:
            raise
        raise CorruptError(f"{path}: damaged archive: {err}", path=path) from err


def _checked(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The `.npy` files of an archive. Raises `CorruptError` for names that leave it, links and bombs."""
    size = path.stat().st_size
    for member in heeding(archive):
        parts = PurePosixPath(member.name)
        if parts.is_absolute() or ".." in parts.parts or "\0" in member.name:
            raise CorruptError(f"{path}: a name that leaves the archive: {member.name[:80]!r}", path=path)
        if member.offset_data + member.size > _RATIO * size + _MAX_MEMBER:
            raise CorruptError(
                f"{path}: {member.name[:80]} is far more than {size:,} bytes become", path=path
            )
        if member.isdir():
            continue
        if not member.isfile():
            raise CorruptError(f"{path}: {member.name[:80]} is no file but a link or a device", path=path)
        if member.size > _MAX_MEMBER:
            raise IncompatibleError(f"{path}: {member.name[:80]} has {member.size:,} bytes", path=path)
        if member.name.endswith(".npy"):
            yield member


def _episodes(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, Values]]:
    for member in _checked(path, archive):
        stream = archive.extractfile(member)
        data = stream.read() if stream is not None else b""
        if len(data) != member.size:
            raise CorruptError(f"{path}: {member.name} is cut short", path=path)
        yield member.name, _values(path, member.name, data)


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Where every episode of a plain archive or a folder is; empty for a compressed archive."""
    if path.is_dir():
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(_files(path))}
        if large := [name for name, size in sizes.items() if size > _MAX_MEMBER]:
            raise IncompatibleError(f"{path}: {large[0]} has {sizes[large[0]]:,} bytes", path=path)
        return {name: (0, size) for name, size in sizes.items()}
    try:
        with tarfile.open(path, "r:") as archive:
            members = {member.name: (member.offset_data, member.size) for member in _checked(path, archive)}
    except tarfile.TarError:
        return {}
    end = max((start + size for start, size in members.values()), default=0)
    if end > path.stat().st_size:
        raise CorruptError(f"{path}: the archive is cut short", path=path)
    return members


def _files(path: Path, looked_at: int | None = None) -> Iterator[Path]:
    """The `.npy` files among so many entries of a folder, in any order; no link is followed."""
    for file in itertools.islice(path.rglob("*"), looked_at):
        if file.suffix == ".npy" and file.is_file() and not file.is_symlink():
            yield file


def _is_object(path: Path) -> bool:
    """Whether a `.npy` file says that it holds one Python object."""
    try:
        with open_regular(path) as file:
            shape, _, dtype = _header(io.BytesIO(file.read(1 << 12)))
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError):
        return False
    return shape == () and dtype.hasobject


def _header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return found


def _values(path: Path, name: str, data: bytes) -> Values:
    """The arrays of one episode. Raises `CorruptError` for anything that is not a dict of arrays."""
    where = f"{path}: {name}"
    try:
        found = _object(data)
    except safe_pickle.Refused as err:
        raise CorruptError(f"{where}: its pickle holds {err}, which is not data; refused", path=path) from err
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as err:
        raise CorruptError(f"{where}: no pickled dict: {' '.join(str(err).split())[:90]}", path=path) from err
    arrays: Values = {}
    for key, value in found.items():
        array = safe_pickle.array_of(value)
        if isinstance(value, list) and key in _NEEDED and all(type(v) in (int, float, bool) for v in value):
            array = np.asarray(value, np.float32 if key == "rewards" else None)
        if isinstance(key, str) and array is not None and str(array.dtype.newbyteorder("=")) in DTYPES:
            arrays[key] = array.astype(array.dtype.newbyteorder("="), copy=False)
    if missing := [key for key in _NEEDED if key not in arrays]:
        raise CorruptError(f"{where}: has no {', '.join(missing)}", path=path)
    rows = len(arrays["actions"]) if arrays["actions"].ndim else 0
    lengths = {key: len(arrays[key]) if arrays[key].ndim else -1 for key in _NEEDED}
    good = {"rewards": (rows,), "dones": (rows,), "actions": (rows,), "observations": (rows, rows + 1)}
    if rows == 0 or any(lengths[key] not in allowed for key, allowed in good.items()):
        told = ", ".join(f"{key} {length:,}" for key, length in lengths.items())
        raise CorruptError(f"{where}: lengths disagree: {told}", path=path)
    for key in ("rewards", "dones"):
        if arrays[key].size != rows:
            raise CorruptError(f"{where}: {key} is not one number per step", path=path)
        arrays[key] = arrays[key].reshape(rows)
    if arrays["actions"].shape == (rows, 1) and arrays["actions"].dtype.kind in "iu":
        arrays["actions"] = arrays["actions"].reshape(rows)  # one of Procgen's 15
    return arrays


def _object(data: bytes) -> Mapping[Any, Any]:
    stream = io.BytesIO(data)
    shape, _, dtype = _header(stream)
    if shape != () or not dtype.hasobject:
        raise ValueError(f"{dtype}{list(shape)} instead")
    array = safe_pickle.array_of(safe_pickle.loads(data[stream.tell() :]))
    found = array.reshape(-1)[0] if array is not None and array.size == 1 else None
    if not isinstance(found, dict):
        raise ValueError("something else is pickled")
    return found
