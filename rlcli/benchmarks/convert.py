"""`rl bench convert`: whole conversions of foreign files, hashed, in MB/s of the rows that the files hold.

Limit: `write()` of as many bytes to a fresh file, without fsync. The goal is 80% of the slower of reading
that file with its usual library and of that writing, both alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np

from rlcli import console
from rlcli.benchmarks import Setting
from rlcli.benchmarks.convert_sources import write_pictures
from rlcli.benchmarks.rows import EPISODE, SCHEMA, write_dataset
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm, Role
from rlcli.pipeline.convert import convert

TITLE = "foreign files of 400,000 transitions, and of pictures, become datasets"
SHARE = 0.8  # of the slower of decode and disk


def items(setting: Setting) -> Iterator[Item]:
    """`convert/d4rl`, `minari`, `rlds`, `jpeg`, `npz`, `hdf5`, `parquet`, `zarr`."""
    for name, to, file, package, read in _FORMATS:
        if package is not None and importlib.util.find_spec(package) is None:
            console.warn(f"convert/{name} is left out: {package} is not installed")
            continue
        yield _plain(setting, name, to, file, read)
    if importlib.util.find_spec("PIL") is not None:
        yield _pictures(setting)


def _plain(setting: Setting, name: str, to: str, file: str, read: Callable[[Path], object]) -> Item:
    """Transitions that our own export wrote."""
    rows = EPISODE * setting.pick(small=2, full=400)
    write_dataset(setting.folder / "rows", rows)
    source = setting.folder / file
    convert(setting.folder / "rows", source, to=to)
    shutil.rmtree(setting.folder / "rows")
    reader = LocalArm(f"{_LIBRARY[name]}, reading alone", "reference", lambda: read(source))
    slower = f"the slower of {_LIBRARY[name]} and write()"
    return _item(setting, name, source, rows * SCHEMA.row_bytes, reader, Goal(slower, SHARE))


def _pictures(setting: Setting) -> Item:
    """`convert/jpeg`: RLDS with pictures, which become pixels."""
    episodes, steps, size = setting.pick(small=2, full=20), 50, setting.pick(small=32, full=256)
    source = setting.folder / "jpeg"
    pictures = write_pictures(source, episodes, steps, size)
    reader = LocalArm("Pillow, decoding alone", "reference", lambda: [_decoded(one) for one in pictures])
    num_bytes = episodes * steps * size * size * 3
    item = _item(setting, "jpeg", source, num_bytes, reader, Goal("TFDS", 5.0), images="decode")
    kept = _Conversion(setting.folder / "kept", source, {"images": "keep"})
    item.arms.insert(
        1, LocalArm("rl, pictures stay encoded", "ours", kept.call, num_bytes / 1e6, kept.prepare)
    )
    return item


def _item(
    setting: Setting, name: str, source: Path, num_bytes: int, reader: LocalArm, goal: Goal, **options: Any
) -> Item:
    """The arms of every format: ours, reading alone, writing alone, the slower of both, and peers."""
    units = num_bytes / 1e6
    ours = _Conversion(setting.folder / "converted", source, options)
    block = np.random.default_rng(0).bytes(min(num_bytes, 8 << 20))

    def write() -> None:
        file = os.open(setting.folder / "written", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for start in range(0, num_bytes, len(block)):
            os.write(file, block[: num_bytes - start])
        os.close(file)

    def prepare() -> None:
        (setting.folder / "written").unlink(missing_ok=True)

    def check() -> str:
        ours.prepare()
        assert convert(source, ours.path, yes=True, check=True, **options)["check"]["equal"]
        return "every row equals the source, both read again"

    reader.units = units
    limit = LocalArm("write() of the same bytes", "limit", write, units, prepare)
    library = reader.name.partition(",")[0]
    arms: list[Arm] = [
        LocalArm("rl, whole conversion", "ours", ours.call, units, ours.prepare),
        reader,
        limit,
        _Slower(f"the slower of {library} and write()", units, reader, limit),
    ]
    item = Item(f"convert/{name}", "MB/s", arms, (goal,), check)
    if setting.peer is not None:
        found = setting.peer.arms(item.name, setting.size, setting.folder / "peers")
        for arm in found:
            arm.units = units
        item.arms += found
    return item


@dataclass
class _Slower:
    """What two arms take that work at the same time without disturbing each other."""

    name: str
    units: float
    first: Arm
    second: Arm
    role: Role = "reference"

    def measure(self, repeats: int) -> float:
        return max(self.first.measure(repeats), self.second.measure(repeats))


@dataclass
class _Conversion:
    """A conversion to a place that `prepare` makes free."""

    path: Path
    source: Path
    options: dict[str, Any]

    def prepare(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def call(self) -> None:
        convert(self.source, self.path, yes=True, **self.options)


def _read_hdf5(path: Path) -> None:
    def take(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            node[()]

    with h5py.File(path) as file:
        file.visititems(take)


def _read_minari(path: Path) -> None:
    _read_hdf5(path / "data" / "main_data.hdf5")


def _read_records(path: Path) -> None:
    for shard in path.glob("*.tfrecord*"):
        google_crc32c.value(shard.read_bytes())


def _read_npz(path: Path) -> None:
    with np.load(path) as archive:
        for name in archive.files:
            archive[name]


def _read_parquet(path: Path) -> None:
    import pyarrow.parquet

    for column in pyarrow.parquet.read_table(path).columns:
        for chunk in column.chunks:
            (chunk.flatten() if hasattr(chunk, "flatten") else chunk).to_numpy(zero_copy_only=False)


def _read_zarr(path: Path) -> None:
    import zarr

    def take(group: Any) -> None:
        for _, array in group.arrays():
            array[...]
        for _, child in group.groups():
            take(child)

    take(zarr.open_group(path, mode="r"))


def _decoded(picture: bytes) -> Any:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture)))


_LIBRARY = {
    "d4rl": "h5py",
    "minari": "h5py",
    "rlds": "read() and CRC",
    "npz": "numpy",
    "hdf5": "h5py",
    "parquet": "pyarrow",
    "zarr": "zarr",
}
#: Item, format, where it lies, the package that reads it, the reader.
_FORMATS: tuple[tuple[str, str, str, str | None, Callable[[Path], object]], ...] = (
    ("d4rl", "d4rl", "rows.hdf5", None, _read_hdf5),
    ("minari", "minari", "minari", None, _read_minari),
    ("rlds", "rlds", "rlds", None, _read_records),
    ("npz", "npz", "rows.npz", None, _read_npz),
    ("hdf5", "hdf5", "plain.h5", None, _read_hdf5),
    ("parquet", "parquet", "rows.parquet", "pyarrow", _read_parquet),
    ("zarr", "zarr", "rows.zarr", "zarr", _read_zarr),
)
