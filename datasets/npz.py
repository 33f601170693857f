"""NumPy archives (`.npz`), both ways, in bounded memory and without pickle.

Members are read as streams, row by row as they are needed, so neither a compressed archive nor one that
lies about its sizes is ever in memory as a whole.
"""

from __future__ import annotations

import errno
import json
import lzma
import struct
import tokenize
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets import zip_archives
from rlcli.datasets.ahead import SideBySide
from rlcli.datasets.contract import Advance, NoOptions, Report, Request, Seen
from rlcli.datasets.mapping import is_one_table
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_export import METADATA, Exporter
from rlcli.datasets.plain_folder import FolderTable, files_of
from rlcli.datasets.plain_pictures import look_at
from rlcli.datasets.plain_table import Arrays, Field, Table, told_plan
from rlcli.datasets.slicing import SLICE_BYTES
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format.dataset import Dataset

_SUFFIXES = (".npz",)
_MAX_MEMBERS = 10_000
_MAX_TRANSPOSED = 1 << 30  # bytes of an array in Fortran order, whose rows are not in one place
_DEFLATE = 1040  # no deflated byte becomes more


@dataclass(frozen=True)
class ExportOptions:
    """Writing npz archives."""

    compress: bool = opt(True, "Deflate the arrays.")


def detect(path: Path) -> Seen:
    """Whether `path` is a zip archive of `.npy` members, or a folder with such files, of one table."""
    if path.is_dir():
        files = files_of(path, _SUFFIXES)
        if not files or not detect(files[0]).matches:
            return Seen(False, "a folder without archives of arrays")
        with zip_archives.opened(files[0]) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not is_one_table(names):
            return Seen(False, "a folder of archives that are no tables")
        return Seen(True, f"folder of {len(files):,} NumPy archives")
    if not path.is_file() or not zipfile.is_zipfile(path):
        return Seen(False, "not a zip archive of arrays")
    with zip_archives.opened(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        return Seen(False, "not a zip archive of arrays")
    return Seen(True, f"NumPy archive, {len(names)} arrays")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[PlainSource]:
    """The archive, or those of a folder, looked through once.

    Nothing is unpickled: arrays of Python objects, and of records, are left out, which the report says.
    Raises `CorruptError` for damage, `IncompatibleError` where such an array has a meaning, rewards say.
    """
    if path.is_dir():
        found = files_of(path, _SUFFIXES)
        with closing(FolderTable(path, found, _opened, told_plan(request))) as tables:
            yield PlainSource(tables, request)
        return
    with _opened(path) as table:
        yield PlainSource(table, request)


@contextmanager
def _opened(path: Path) -> Iterator[NpzTable]:
    with zip_archives.opened(path) as archive, closing(NpzTable(path, archive)) as table:
        yield table


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """An archive with D4RL's names; `rl.json.npy` holds the spaces, as text. One pass per array."""
    exporter = Exporter(dataset)
    method = zipfile.ZIP_DEFLATED if options.compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "x", method, allowZip64=True) as archive:
        for name, column in list(exporter.columns.items()):
            if column.is_text:
                exporter.leave_out(name, "an npz archive has no place for text")
                continue
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(
                    member,
                    {
                        "descr": npy.dtype_to_descr(column.dtype),
                        "fortran_order": False,
                        "shape": column.shape,
                    },
                )
                for start, stop in exporter.slices([name]):
                    values = np.ascontiguousarray(exporter.read(name, start, stop))
                    member.write(values.tobytes())
                    advance(values.nbytes)
        with archive.open(f"{METADATA}.npy", "w") as member:
            text = np.frombuffer(json.dumps(exporter.metadata).encode(), np.uint8)
            npy.write_array(member, text, allow_pickle=False)
    return exporter.report


class NpzTable(Table):
    """The arrays of an archive as rows. See `plain_table.Table`."""

    layout = "npz"

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        super().__init__(path)
        self._members: dict[str, _Member] = {}
        self._side_by_side = SideBySide()
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(infos) > _MAX_MEMBERS:
            raise IncompatibleError(f"{path}: {len(infos):,} arrays, at most {_MAX_MEMBERS:,}", path=path)
        for info in infos:
            name = info.filename.removesuffix(".npy")
            member = _Member(path, archive, info)
            if name in self._members or name in self.unreadable:
                raise CorruptError(f"{path}: {name} is there twice", path=path)
            if member.unreadable:
                self.unreadable[name] = member.unreadable
            elif name == METADATA:
                self.metadata = _metadata(member)
            elif member.shape:
                self._members[name] = member
            else:
                value = member.read(0, 1)[0]
                self.others[name] = value.item() if value.dtype.kind in "biuf" else str(value)
        self.fields = {
            name: Field.of_bytes(member.first, member.shape[0])
            if member.is_pictures
            else Field(
                np.dtype(object) if member.is_text else member.dtype.newbyteorder("="),
                member.shape[1:],
                member.shape[0],
            )
            for name, member in self._members.items()
        }

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some arrays, several at once; going back starts a member from its beginning."""
        sizes = {name: self.fields[name].row_bytes * (stop - start) for name in names}
        return self._side_by_side(
            {
                name: partial(self._members[name].read, start, stop, self._room(name, stop - start))
                for name in names
            },
            sizes,
        )

    def _room(self, name: str, rows: int) -> NDArray[Any] | None:
        return None if self._members[name].is_text else self.empty(name, rows)

    def close(self) -> None:
        self._side_by_side.close()
        for member in self._members.values():
            member.close()


class _Member:
    """One array: its header, checked against the archive's directory, and a stream of its rows.

    `unreadable` says why there are none, "" if there are.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._path, self._archive, self._info = path, archive, info
        self._stream: zip_archives.MemberBytes | None = None
        self._at = 0  # the row that the stream is at
        self._whole: NDArray[Any] | None = None
        with self._damage(), closing(zip_archives.MemberBytes(archive, info)) as stream:
            self.shape, fortran, self.dtype = _header(stream, f"{path}: {info.filename}")
            self._header_bytes = header = stream.tell()
        self.unreadable = _why_unreadable(self.dtype)
        self.first = b""  # of byte strings
        self.is_pictures = False
        if self.unreadable:
            return
        count = 1
        for size in self.shape:
            count *= size  # Python's integers do not overflow
        declared = count * self.dtype.itemsize
        if declared + header != info.file_size or info.file_size > _DEFLATE * (info.compress_size + 1):
            raise CorruptError(
                f"{path}: {info.filename} declares {declared:,} bytes of values, "
                f"the archive {info.file_size - header:,} in {info.compress_size:,} compressed ones",
                path=path,
            )
        self._row_bytes = declared // max(1, self.shape[0]) if self.shape else declared
        if fortran and len(self.shape) > 1:
            if declared > _MAX_TRANSPOSED:
                raise IncompatibleError(
                    f"{path}: {info.filename} has {declared:,} bytes in Fortran order, whose rows are "
                    f"scattered; save it with numpy.ascontiguousarray",
                    path=path,
                )
            flat = np.empty(count, self.dtype)
            self._read_into(0, flat)
            self._whole = flat.reshape(self.shape, order="F")
        if self.is_text and self.dtype.kind == "S" and count:
            value = np.empty(1, self.dtype)
            self._read_into(0, value)
            self.close()
            self.first = value.tolist()[0]
            self.is_pictures = look_at(self.first) is not None

    @property
    def is_text(self) -> bool:
        """Whether the values are strings, one per row."""
        return self.dtype.kind in "US" and len(self.shape) == 1

    def read(self, start: int, stop: int, room: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows, native-endian, in `room` if there is; text as objects; of a single value, that as one row."""
        if self._whole is not None:
            values = self._whole[start:stop]
        else:
            fits = room is not None and room.dtype == self.dtype
            values = (
                room if room is not None and fits else np.empty((stop - start, *self.shape[1:]), self.dtype)
            )
            self._read_into(start, values)
        if self.is_pictures:
            encoded = np.empty(len(values), object)
            encoded[:] = values.tolist()
            return encoded
        if self.is_text:
            with self._damage():
                return (
                    np.char.decode(values, "utf-8").astype(object)
                    if values.dtype.kind == "S"
                    else _texts(values)
                )
        return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))

    def _read_into(self, first: int, out: NDArray[Any]) -> None:
        """Fills `out` with the values from row `first` on."""
        with self._damage():
            if self._stream is None or first < self._at:
                self.close()
                self._stream = zip_archives.MemberBytes(self._archive, self._info)
                self._stream.read(self._header_bytes)  # is known; parsing is not for threads
                self._at = 0
            skip = (first - self._at) * self._row_bytes
            while skip > 0:
                skip -= self._exactly(memoryview(bytearray(min(skip, SLICE_BYTES))))
            self._exactly(out.reshape(-1).view(np.uint8).data)
        self._at = first + (len(out) if self.shape else 1)

    def _exactly(self, room: memoryview) -> int:
        assert self._stream is not None
        if self._stream.readinto(room) < len(room):
            raise EOFError("the data end early")
        return len(room)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Turns what archives say about broken bytes into a `CorruptError` that names the member."""
        try:
            yield
        except (zipfile.BadZipFile, lzma.LZMAError, struct.error, EOFError, ValueError) as err:
            message = f"{self._path}: {self._info.filename} is damaged: {err}"
            raise CorruptError(message, path=self._path) from err
        except (NotImplementedError, RuntimeError) as err:  # another compression, or a password
            message = f"{self._path}: {self._info.filename} cannot be read: {err}"
            raise IncompatibleError(message, path=self._path) from err
        except OSError as err:
            if err.errno != errno.EINVAL:  # a place before the file's beginning
                raise
            message = f"{self._path}: {self._info.filename} is damaged: its place is not in the file"
            raise CorruptError(message, path=self._path) from err

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _why_unreadable(dtype: np.dtype[Any]) -> str:
    if dtype.hasobject:
        return "holds Python objects, which only pickle can read"
    if dtype.itemsize == 0 or dtype.kind == "V":
        return f"has values of type {dtype}, which cannot be stored"
    return ""


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """Unicode values as `str` objects. Raises `ValueError` for code points that are none."""
    texts = np.empty(len(values), object)
    texts[:] = values.tolist()
    for text in texts:
        text.encode()  # lone surrogates have no UTF-8
    return texts


def _header(stream: Any, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """`(shape, fortran, dtype)` of a `.npy` stream, which is left at the first value."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise IncompatibleError(f"{what}: .npy version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(stream)
    except (SyntaxError, TypeError, tokenize.TokenError) as err:  # a header that is no literal
        raise ValueError(f"its header: {err}") from err
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return shape, fortran, dtype


def _metadata(member: _Member) -> dict[str, Any]:
    if member.shape and len(member.shape) == 1 and member.shape[0] < 1 << 24 and member.dtype == np.uint8:
        try:
            found = json.loads(member.read(0, member.shape[0]).tobytes())
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
    return {}
