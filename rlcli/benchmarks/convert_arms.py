"""What bounds a conversion, each alone: reading a file with a library, hashing it, writing the rows' bytes.

A reader takes everything that the file has as arrays, once, and keeps nothing.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.datasets import example, rlds_images
from rlcli.datasets.tfrecord import read_records
from rlcli.pipeline.benchmark_limits import Spread

DISK = "disk: write() and fsync()"
HASH = "SHA-256 alone"


def hash_files(path: Path) -> None:
    """The SHA-256 of a file, or of all below a folder, as the lineage of a conversion has them."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with open(file, "rb") as stream:
                hashlib.file_digest(stream, "sha256")


@dataclass
class Written:
    """`num_bytes` to a fresh file in `folder`, and to its disk."""

    folder: Path
    num_bytes: int

    def __post_init__(self) -> None:
        self._block = np.random.default_rng(0).bytes(min(self.num_bytes, 8 << 20))

    @property
    def path(self) -> Path:
        return self.folder / "written"

    def prepare(self) -> None:
        self.path.unlink(missing_ok=True)

    def call(self) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            for start in range(0, self.num_bytes, len(self._block)):
                os.write(file, self._block[: self.num_bytes - start])
            os.fsync(file)
        finally:
            os.close(file)

    def rate(self) -> float:
        """MB/s, measured once; nothing stays."""
        self.prepare()
        start = time.perf_counter()
        self.call()
        taken = time.perf_counter() - start
        self.prepare()
        return self.num_bytes / 1e6 / taken


def on_all_cores(path: Path, reader: str) -> Spread:
    """What a conversion takes of the processors at least where `reader` decodes the source at `path`."""
    sizes = [file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()]
    cores = len(os.sched_getaffinity(0))
    name = f"their processor time on {cores} cores"
    return Spread(name, (reader, HASH, DISK), cores, {HASH: max(sizes) / sum(sizes)})


def read_hdf5(path: Path) -> None:
    def take(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            node[()]

    with h5py.File(path) as file:
        file.visititems(take)


def read_minari(path: Path) -> None:
    read_hdf5(path / "data" / "main_data.hdf5")


def read_npz(path: Path) -> None:
    with np.load(path) as archive:
        for name in archive.files:
            archive[name]


def read_examples(path: Path) -> None:
    """Records of TFRecord files as arrays, by our own native parser: pictures stay encoded."""
    for shard in path.glob("*.tfrecord*"):
        for _, record in read_records(shard):
            example.decode(record)


def read_parquet(path: Path) -> None:
    """A Parquet file, or all below a folder."""
    import pyarrow.parquet

    for file in [path] if path.is_file() else sorted(path.glob("data/**/*.parquet")):
        for column in pyarrow.parquet.read_table(file).columns:
            for chunk in column.chunks:
                (chunk.flatten() if hasattr(chunk, "flatten") else chunk).to_numpy(zero_copy_only=False)


def read_zarr(path: Path) -> None:
    import zarr

    def take(group: Any) -> None:
        for _, array in group.arrays():
            array[...]
        for _, child in group.groups():
            take(child)

    take(zarr.open_group(path, mode="r"))


def decode_videos(path: Path) -> None:
    """All frames of the videos below `path` as RGB arrays, by PyAV with as many threads as it likes."""
    import av

    for file in sorted(path.glob("videos/**/*.mp4")):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                frame.to_ndarray(format="rgb24")


def decoder_of(pictures: Sequence[bytes], width: int) -> Callable[[], object]:
    """A call that decodes JPEG of one size on all cores."""
    found = rlds_images.look("", pictures[0])

    def call() -> None:
        out = threading.local()

        def one(picture: bytes) -> None:
            if not hasattr(out, "pixels"):
                out.pixels = np.empty((found.height, width, 3), np.uint8)
            rlds_images.decode("", picture, out.pixels, "accurate")

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(one, pictures))

    return call
