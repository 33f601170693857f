"""`rl bench convert`: whole conversions of foreign files: read, decoded, written, hashed, sealed.

Files and datasets lie in memory where the system has a file system there; `convert/disk` ends on the disk.
The goal is 80% of the slowest of three things that a conversion does, each alone: reading the file with its
usual library, the SHA-256 of the file that goes to the lineage, and `write()` of as many bytes as the rows
have. Peak memory and processor time are those of a process that only converts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli import console
from rlcli.benchmarks import Setting
from rlcli.benchmarks.convert_sources import write_pictures
from rlcli.benchmarks.rows import EPISODE, SCHEMA, write_dataset
from rlcli.datasets import example, rlds_images
from rlcli.datasets.tfrecord import read_records
from rlcli.errors import UsageError, nearest
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm, Role, Slowest
from rlcli.pipeline.convert import convert

TITLE = "foreign files of 500,000 transitions, and of pictures, become datasets"
SHARE = 0.8  # of the slower of decode and disk
TFDS = 5.0  # times as fast as it
_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30  # bytes that must be free there


def items(setting: Setting) -> Iterator[Item]:
    """`convert/small`; `d4rl`, `minari`, `rlds`, `npz`, `hdf5`, `parquet`, `zarr`; `pictures-…`, which stay
    encoded, and `pixels-…`, which they become; `jobs`, `jobs-groups`; `disk`.
    """
    known = _makers()
    if setting.wanted and setting.wanted not in known:
        name = setting.wanted
        raise UsageError(f"there is no item convert/{name}; {nearest(name, known)}")
    for name in [setting.wanted] if setting.wanted else known:
        place = setting.folder if name == "disk" else _fast_folder(setting.folder)
        with tempfile.TemporaryDirectory(prefix="rl-bench-", dir=place) as folder:
            yield known[name](replace(setting, folder=Path(folder)))


def _makers() -> dict[str, Callable[[Setting], Item]]:
    """How each item is made, without those whose packages are not installed."""
    makers: dict[str, Callable[[Setting], Item]] = {}
    for name, to, file, package, read in _FORMATS:
        if package is not None and importlib.util.find_spec(package) is None:
            console.warn(f"convert/{name} is left out: {package} is not installed")
            continue
        makers[name] = partial(_plain, name=name, to=to, file=file, read=read)
    if importlib.util.find_spec("PIL") is not None:
        for height, width, steps in ((256, 256, 300), (512, 640, 50)):
            sized = partial(_pictures, height=height, width=width)
            kept, decoded = f"pictures-{width}", f"pixels-{width}"
            makers[kept] = partial(sized, name=kept, steps=5 * steps, images="keep")
            makers[decoded] = partial(sized, name=decoded, steps=steps, images="decode")
        makers["jobs"] = partial(_jobs, name="jobs")
    makers["jobs-groups"] = partial(_jobs, name="jobs-groups")
    makers["disk"] = partial(_plain, name="disk", to="npz", file="rows.npz", read=_read_npz, synced=True)
    return makers


def _fast_folder(folder: Path) -> Path:
    """Where files are in memory, `folder` if there is no such place with room."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        return _MEMORY
    return folder


def _plain(
    setting: Setting, *, name: str, to: str, file: str, read: Callable[[Path], object], synced: bool = False
) -> Item:
    """Transitions that our own export wrote; a whole conversion ends on the disk if it is `synced`."""
    episodes = 20 if name == "small" else setting.pick(small=2, full=500)
    source = _exported(setting, to, file, episodes, *(["compress=false"] if synced else []))
    reader = LocalArm(f"{_LIBRARY[to]}, reading alone", "reference", lambda: read(source))
    limit = _written(setting, EPISODE * episodes * SCHEMA.row_bytes, synced=synced)
    return _item(setting, name, source, reader, limit)


def _exported(setting: Setting, to: str, file: str, episodes: int, *sets: str) -> Path:
    write_dataset(setting.folder / "rows", EPISODE * episodes)
    convert(setting.folder / "rows", setting.folder / file, to=to, sets=sets)
    shutil.rmtree(setting.folder / "rows")
    return setting.folder / file


def _pictures(setting: Setting, *, name: str, steps: int, height: int, width: int, images: str) -> Item:
    """RLDS with pictures, episodes of 50 steps."""
    source, steps = setting.folder / name, setting.pick(small=4, full=steps)
    length = min(50, steps)
    pictures = write_pictures(source, steps // length, length, height, width)
    if images == "keep":
        reader = LocalArm("Examples, parsing alone", "reference", lambda: _read_records(source))
        num_bytes = sum(map(len, pictures))
        goals = (Goal("TFDS, steps as NumPy", TFDS), Goal("TFDS, pictures left encoded", TFDS))
        return _item(setting, name, source, reader, _written(setting, num_bytes), *goals, images=images)
    reader = LocalArm("JPEG, decoding alone on all cores", "reference", lambda: _decode_all(pictures, width))
    limit = _written(setting, steps * height * width * 3)
    return _item(setting, name, source, reader, limit, images=images)


def _jobs(setting: Setting, *, name: str) -> Item:
    """A process on a core, and two on two: pictures in four shards, or episodes in groups of an HDF5 file.

    One process on two cores shows what is left to gain there: it reads, hashes and writes side by side.
    """
    options: dict[str, Any] = {}
    if name == "jobs":
        source, length = setting.folder / name, setting.pick(small=4, full=50)
        episodes = setting.pick(small=1, full=8)
        steps = len(write_pictures(source, episodes, length, 256, 256, shards=4))
        num_bytes, options = steps * 256 * 256 * 3, {"images": "decode"}
    else:
        episodes = setting.pick(small=2, full=2000)
        source = _exported(setting, "minari", "minari", episodes)
        num_bytes = EPISODE * episodes * SCHEMA.row_bytes
    arms: list[Arm] = []
    remarks: list[str] = []
    cores = len(os.sched_getaffinity(0))
    for jobs, share in ((2, 2), (1, 1), (1, 2)):
        one = _Conversion(setting.folder / "converted", source, {"jobs": jobs, **options})
        role: Role = "ours" if jobs == 2 else "reference"
        told = f"rl --jobs {jobs} on {'one core' if share == 1 else 'two cores'}"
        pinned = partial(_on_cores, min(share, cores))
        arms.append(LocalArm(told, role, one.call, num_bytes / 1e6, one.prepare, pinned))
        if setting.size == "full" and share == jobs:
            with pinned():
                remarks.append(f"--jobs {jobs}: {one.told()}, all processes together")

    def check() -> str:
        digests = set()
        for jobs in (1, 2):
            one.prepare()
            digests.add(convert(source, one.path, yes=True, jobs=jobs, **options)["digest"])
        assert len(digests) == 1
        return "one process and two make datasets of one digest"

    arms.append(_written(setting, num_bytes))
    goals = (Goal("rl --jobs 1 on one core", 1.6),)
    return Item(f"convert/{name}", "MB/s", arms, goals, check, tuple(remarks))


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """This thread, and what it starts, on `count` of the cores it may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _item(
    setting: Setting,
    name: str,
    source: Path,
    reader: LocalArm,
    limit: LocalArm,
    *goals: Goal,
    **options: Any,
) -> Item:
    """The arms of every format: ours, reading alone, writing alone, the slower of both, and peers."""
    units = limit.units
    ours = _Conversion(setting.folder / "converted", source, options)

    def check() -> str:
        ours.prepare()
        assert convert(source, ours.path, yes=True, check=True, **options)["check"]["equal"]
        return "every row equals the source, both read again"

    reader.units = units
    hashing = LocalArm("SHA-256 alone", "reference", lambda: _hash(source), units)
    arms: list[Arm] = [
        LocalArm("rl, whole conversion", "ours", ours.call, units, ours.prepare),
        reader,
        hashing,
        limit,
    ]
    slowest = Slowest("the slowest of these", (reader.name, hashing.name, limit.name))
    goals = goals or (Goal(slowest.name, SHARE),)
    item = Item(f"convert/{name}", "MB/s", arms, goals, check, slowest=slowest)
    if setting.size == "full":
        item.remarks = (ours.told(),)
    if setting.peer is not None:
        found = setting.peer.arms(item.name, setting.size, setting.folder / "peers")
        for arm in found:
            arm.units *= units  # of a peer that reads a part of it, that part
        item.arms += found
    return item


def _written(setting: Setting, num_bytes: int, *, synced: bool = False) -> LocalArm:
    """As many bytes to a fresh file, and to the disk if they shall be `synced`."""
    block = np.random.default_rng(0).bytes(min(num_bytes, 8 << 20))

    def write() -> None:
        file = os.open(setting.folder / "written", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for start in range(0, num_bytes, len(block)):
            os.write(file, block[: num_bytes - start])
        if synced:
            os.fsync(file)
        os.close(file)

    def prepare() -> None:
        (setting.folder / "written").unlink(missing_ok=True)

    name = f"write(){' and fsync()' if synced else ''} of the same bytes"
    return LocalArm(name, "limit", write, num_bytes / 1e6, prepare)


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

    def told(self) -> str:
        """The largest resident memory of a process that does it, and its processor time."""
        self.prepare()
        told = [f"--{name}={value}" for name, value in self.options.items()]
        command = [sys.executable, "-m", "rlcli", "convert", str(self.source), str(self.path), "--yes", *told]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _USAGE, *command], capture_output=True, check=True, text=True
        )
        kilobytes, seconds = done.stdout.split()
        return f"a process that converts it: at most {int(kilobytes) / 1024:.0f} MiB, {seconds} CPU s"


#: Runs a command from a small process: the peak that is told of one includes that of whoever started it.
_USAGE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_maxrss, round(usage.ru_utime + usage.ru_stime, 2))
"""


def _hash(path: Path) -> None:
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with open(file, "rb") as stream:
                hashlib.file_digest(stream, "sha256")


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
        for _, record in read_records(shard):
            example.decode(record)


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


def _decode_all(pictures: list[bytes], width: int) -> None:
    found = rlds_images.look("", pictures[0])
    out = threading.local()

    def one(picture: bytes) -> None:
        if not hasattr(out, "pixels"):
            out.pixels = np.empty((found.height, width, 3), np.uint8)
        rlds_images.decode("", picture, out.pixels, "accurate")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, pictures))


_LIBRARY = {
    "d4rl": "h5py",
    "minari": "h5py",
    "rlds": "Examples",
    "npz": "numpy",
    "hdf5": "h5py",
    "parquet": "pyarrow",
    "zarr": "zarr",
}
#: Item, format, where it lies, the package that reads it, the reader.
_FORMATS: tuple[tuple[str, str, str, str | None, Callable[[Path], object]], ...] = (
    ("small", "d4rl", "rows.hdf5", None, _read_hdf5),
    ("d4rl", "d4rl", "rows.hdf5", None, _read_hdf5),
    ("minari", "minari", "minari", None, _read_minari),
    ("rlds", "rlds", "rlds", None, _read_records),
    ("npz", "npz", "rows.npz", None, _read_npz),
    ("hdf5", "hdf5", "plain.h5", None, _read_hdf5),
    ("parquet", "parquet", "rows.parquet", "pyarrow", _read_parquet),
    ("zarr", "zarr", "rows.zarr", "zarr", _read_zarr),
)
