"""`rl bench convert`: whole conversions of foreign files: read, decoded, written, hashed, sealed, synced.

The goal is 80% of the slower of decode and disk. *Decode* is the library that people read the format with
(h5py, NumPy, PyArrow, zarr, minari, TFDS, lerobot), which reads the same file in one process as its
documentation does; *disk* is `write()` and `fsync()` of as many bytes as the rows have, to where the dataset
goes. Pictures that stay as they are encoded have another goal: five times TFDS, in each way of
reading with it. Those that become pixels are held to the first: five times TFDS is about what decoding JPEG
alone takes on all cores, or more.

Stricter than the goal, and shown as limits: what a lighter reader takes for the same file (h5py for Minari,
PyArrow for LeRobot's rows, our own parser for RLDS, JPEG or video decoding alone on all cores), the SHA-256
of the source that goes to the lineage, and the slowest of everything alone, which only a conversion that does
all of it side by side on cores of its own would reach. What the cores that there are allow a conversion that
decodes with the library is computed from the same rounds: the processor time of decode, SHA-256 and disk,
shared by all cores without loss, but for a file's SHA-256, which is one core's.

Sources lie in memory where the system has a file system there, and are as large as gives a second or so
(those that processes share: three seconds of one, for a process more takes 0.2 to start): a conversion's
fixed cost, which `convert/small` shows, should not decide. Memory and processor time are
those of a process that only converts: what is over the interpreter with its imports is to stay within 64 MiB,
or an episode if that is larger.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.benchmarks import Setting, convert_jobs
from rlcli.benchmarks.convert_arms import (
    DISK,
    HASH,
    Written,
    decode_videos,
    decoder_of,
    hash_files,
    on_all_cores,
    read_examples,
    read_hdf5,
    read_minari,
    read_npz,
    read_parquet,
    read_zarr,
)
from rlcli.benchmarks.convert_process import Conversion
from rlcli.benchmarks.convert_sources import memory_folder, write_pictures, write_transitions, write_videos
from rlcli.benchmarks.rows import EPISODE, SCHEMA
from rlcli.errors import UsageError, nearest
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.pipeline.benchmark_limits import Slowest
from rlcli.pipeline.convert import convert
from rlcli.pipeline.convert_memory import share_one_heap

TITLE = "foreign files of transitions, pictures and videos become datasets"
SHARE = 0.8  # of the slower of decode and disk
TFDS = 5.0  # times as fast as it
_STEPS = 50  # of an episode with pictures


@dataclass(frozen=True)
class Place:
    """Where an item works: sources in memory, datasets in `setting.folder`; `stack` ends with the item."""

    setting: Setting
    sources: Path
    stack: ExitStack


@dataclass(frozen=True)
class Source:
    """A file to convert: bytes of its rows and of an episode's, who reads it, alone and as people do.

    `decode` names the arm of the goal, a reader here or a peer's; the other readers are stricter limits.
    """

    path: Path
    num_bytes: int
    episode_bytes: int
    decode: str
    readers: Mapping[str, Callable[[], object]]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A format that transitions are exported to; `decode` is "" where the reader is what people use."""

    to: str
    file: str
    reader: str
    read: Callable[[Path], object]
    episodes: int  # of 1,000 transitions
    package: str = ""
    decode: str = ""
    sets: tuple[str, ...] = ()


_TABLES = {
    "d4rl": Table("d4rl", "rows.hdf5", "h5py, reading alone", read_hdf5, 700),
    "minari": Table(
        "minari", "minari", "h5py, reading alone", read_minari, 700, decode="minari, episode by episode"
    ),
    "rlds": Table(
        "rlds", "rlds", "Examples, parsing alone", read_examples, 1700, decode="TFDS, batches of 256"
    ),
    "lerobot": Table(
        "lerobot",
        "lerobot",
        "PyArrow, reading alone",
        read_parquet,
        500,
        package="pyarrow",
        decode="lerobot, frame by frame",
    ),
    "npz": Table("npz", "rows.npz", "NumPy, reading alone", read_npz, 1000),
    "hdf5": Table("hdf5", "plain.h5", "h5py, reading alone", read_hdf5, 700),
    "parquet": Table("parquet", "rows.parquet", "PyArrow, reading alone", read_parquet, 700, "pyarrow"),
    "zarr": Table("zarr", "rows.zarr", "zarr, reading alone", read_zarr, 1700, "zarr"),
    "disk": Table(
        "npz", "rows.npz", "NumPy, reading alone", read_npz, 3000, sets=("compress=false",)
    ),  # more than the others write, and nothing to decode
}


def items(setting: Setting) -> Iterator[Item]:
    """`convert/small`; transitions in each format; `pictures-…`, which stay encoded, and `pixels-…`, which
    they become; `lerobot-video`; `jobs`, `jobs-groups`; `disk`.
    """
    share_one_heap()  # as `rl convert` does; it costs the readers nothing
    known = _makers()
    if setting.wanted and setting.wanted not in known:
        name = setting.wanted
        raise UsageError(f"there is no item convert/{name}; {nearest(name, known)}")
    for name in [setting.wanted] if setting.wanted else known:
        with ExitStack() as stack:
            memory = memory_folder(setting.folder)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-bench-", dir=memory))
            yield known[name](Place(setting, Path(folder), stack))


def _makers() -> dict[str, Callable[[Place], Item]]:
    """How each item is made, without those whose packages are not installed or that need more cores."""
    makers: dict[str, Callable[[Place], Item]] = {"small": _small}
    for name, table in _TABLES.items():
        if _have(name, table.package):
            makers[name] = partial(_table, name=name, table=table)
    if _have("pictures-256", "PIL"):
        for height, width, kept, decoded in ((256, 256, 100, 20), (512, 640, 20, 4)):
            sized = partial(_pictures, height=height, width=width)
            makers[f"pictures-{width}"] = partial(sized, episodes=kept, images="keep")
            makers[f"pixels-{width}"] = partial(sized, episodes=decoded, images="decode")
        if _have("lerobot-video", "av"):
            makers["lerobot-video"] = _videos
    if len(os.sched_getaffinity(0)) < 2:
        console.warn("convert/jobs and convert/jobs-groups are left out: they need two cores")
    else:
        if "pictures-256" in makers:
            makers["jobs"] = _jobs_of_shards
        makers["jobs-groups"] = _jobs_of_groups
    makers["disk"] = makers.pop("disk")
    return makers


def _have(name: str, package: str) -> bool:
    if not package or importlib.util.find_spec(package) is not None:
        return True
    console.warn(f"convert/{name} is left out: {package} is not installed")
    return False


def _table(place: Place, *, name: str, table: Table) -> Item:
    """Transitions that our own export wrote."""
    episodes = place.setting.pick(small=2, full=table.episodes)
    path = write_transitions(place.sources / table.file, table.to, episodes, table.sets)
    readers = {table.reader: partial(table.read, path)}
    size = EPISODE * SCHEMA.row_bytes
    source = Source(path, size * episodes, size, table.decode or table.reader, readers, {})
    item = _item(place, name, source)
    if name == "disk" and place.setting.size == "full":
        item.remarks += (_disk_told(place.setting.folder, source.num_bytes),)
    return item


def _disk_told(folder: Path, num_bytes: int) -> str:
    """Whether the disk bounds: what it takes at once may only have come as far as a cache."""
    small = 32 << 20
    rates = {size: Written(folder, size).rate() for size in (small, num_bytes)}
    told = [f"{size / 1e6:.0f} MB at {rate:.0f} MB/s" for size, rate in rates.items()]
    return f"written and synced once before: {' and '.join(told)}"


def _pictures(place: Place, *, episodes: int, height: int, width: int, images: str) -> Item:
    """RLDS with pictures that stay encoded, or become pixels."""
    name = f"{'pictures' if images == 'keep' else 'pixels'}-{width}"
    path, length = place.sources / name, place.setting.pick(small=2, full=_STEPS)
    episodes = place.setting.pick(small=2, full=episodes)
    pictures = write_pictures(path, episodes, length, height, width)
    options = {"images": images}
    if images == "keep":
        readers = {"Examples, parsing alone": partial(read_examples, path)}
        num_bytes = sum(map(len, pictures))
        source = Source(path, num_bytes, num_bytes // episodes, "", readers, options)
        ways = ("steps as NumPy", "batches of 256", "pictures left encoded")
        return _item(place, name, source, *(Goal(f"TFDS, {way}", TFDS) for way in ways))
    alone = {"JPEG alone, on all cores": decoder_of(pictures, width)}
    size = length * height * width * 3
    return _item(place, name, Source(path, size * episodes, size, "TFDS, batches of 256", alone, options))


def _videos(place: Place) -> Item:
    """LeRobot with a camera whose frames are a video, which become pixels."""
    episodes, length = place.setting.pick(small=1, full=3), place.setting.pick(small=4, full=150)
    path = write_videos(place.sources / "lerobot", episodes, length, 256, 256)
    size = length * 256 * 256 * 3
    readers = {"PyAV alone, on all cores": partial(decode_videos, path)}
    source = Source(path, size * episodes, size, "lerobot, frame by frame", readers, {})
    return _item(place, "lerobot-video", source)


def _small(place: Place) -> Item:
    """What a conversion costs however little there is: milliseconds. No goal."""
    folder, size = place.setting.folder, EPISODE * SCHEMA.row_bytes
    episodes = place.setting.pick(small=2, full=20)
    many = write_transitions(place.sources / "many.hdf5", "d4rl", episodes)
    one = write_transitions(place.sources / "one.hdf5", "d4rl", 1)
    ours, single = Conversion(many, folder / "many"), Conversion(one, folder / "one")
    written = Written(folder, size)
    arms: list[Arm] = [
        LocalArm(f"rl, {episodes} episodes", "ours", ours.call, 1, ours.prepare),
        LocalArm("rl, 1 episode", "reference", single.call, 1, single.prepare),
        LocalArm("h5py, 1 episode", "reference", partial(read_hdf5, one)),
        LocalArm("write() and fsync(), 1 episode", "limit", written.call, 1, written.prepare),
    ]
    if place.setting.size == "full":
        arms.insert(
            2, LocalArm("rl, 1 episode, as a command", "reference", single.command, 1, single.prepare)
        )
    remark = "no goal: a conversion of one episode is nearly all fixed cost, a command also starts Python"
    return Item("convert/small", "conversions/s", arms, (), partial(_check, ours), (remark,))


def _jobs_of_shards(place: Place) -> Item:
    """Pictures in four shards become pixels."""
    path, length = place.sources / "pictures", place.setting.pick(small=2, full=_STEPS)
    pictures = write_pictures(path, place.setting.pick(small=1, full=24), length, 256, 256, shards=4)
    size = 256 * 256 * 3
    return _jobs(place, "jobs", path, len(pictures) * size, length * size, {"images": "decode"})


def _jobs_of_groups(place: Place) -> Item:
    """Episodes in groups of an HDF5 file."""
    episodes, size = place.setting.pick(small=2, full=5250), EPISODE * SCHEMA.row_bytes
    path = write_transitions(place.sources / "minari", "minari", episodes)
    return _jobs(place, "jobs-groups", path, episodes * size, size, {})


def _jobs(
    place: Place, name: str, path: Path, num_bytes: int, episode_bytes: int, options: Mapping[str, Any]
) -> Item:
    one = Conversion(path, place.sources / "converted", options)
    full = place.setting.size == "full"
    return convert_jobs.item(one, name, num_bytes, episode_bytes, full, place.stack)


def _item(place: Place, name: str, source: Source, *goals: Goal) -> Item:
    """The arms of every format: ours, readers alone, SHA-256 alone, the disk alone, peers; the slowest."""
    folder, units = place.setting.folder, source.num_bytes / 1e6
    ours, written = (
        Conversion(source.path, folder / "converted", source.options),
        Written(folder, source.num_bytes),
    )
    arms: list[Arm] = [LocalArm("rl, whole conversion", "ours", ours.call, units, ours.prepare)]
    for reader, read in source.readers.items():
        arms.append(LocalArm(reader, "reference" if reader == source.decode else "limit", read, units))
    arms.append(LocalArm(HASH, "limit", partial(hash_files, source.path), units))
    arms.append(LocalArm(DISK, "limit", written.call, units, written.prepare))
    alone = Slowest("the slowest of these alone", tuple(arm.name for arm in arms[1:]), "limit")
    reader = source.decode if source.decode in source.readers else next(iter(source.readers))
    spread = on_all_cores(source.path, reader)
    item = Item(f"convert/{name}", "MB/s", arms, goals, partial(_check, ours), computed=(alone, spread))
    item.remarks += (f"{spread.name}: {', '.join(spread.of)}, without loss; one core hashes a file",)
    if place.setting.size == "full":
        item.memory = (ours.memory(source.episode_bytes),)
    if place.setting.peer is not None:
        found = place.setting.peer.arms(item.name, place.setting.size, place.sources / "peers")
        for arm in found:
            arm.units *= units  # of a peer that reads a part of it, that part
        arms += found
    if goals:
        return item
    library = source.decode.partition(",")[0]
    if not any(arm.name == source.decode for arm in arms):
        item.remarks += (f"the goal is not measured: no Python that was named has {library}",)
        return item
    item.remarks += (
        f"decode is {library} reading the file in one process, disk a synced write of the rows' bytes; "
        "limits are shown, but no goal",
    )
    slower = Slowest(f"the slower of {library} and disk", (source.decode, DISK))
    item.computed = (slower, alone, spread)
    item.goals = (Goal(slower.name, SHARE),)
    return item


def _check(ours: Conversion) -> str:
    """Converts once more, source and result read again independently and compared."""
    ours.prepare()
    report = convert(ours.source, ours.path, yes=True, check=True, **ours.options)
    assert report["check"]["equal"]
    return "every row equals the source, both read again"
