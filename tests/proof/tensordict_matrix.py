"""Reads our segments with many releases of tensordict, and lets them write what we import.

    python tests/proof/tensordict_matrix.py [--versions 0.7.2 …] [--folder build/tensordict]

Each release is installed alone into a folder of its own, beside the torch of this environment. A segment is a
plain TensorDict tree: every release must load every key with the right values, and change no byte. Prints a
line per release and ends with 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import known_rows
from known_rows import KnownWriter

from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema
from rlcli.format.writer import Writer

VERSIONS = ("0.7.2", "0.9.1", "0.11.0", "0.12.4", "0.13.0", "0.14.3", "0.15.3")
NEEDS = ("pyvers", "orjson", "cloudpickle", "importlib_metadata", "zipp", "packaging")
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64")

# Runs with another release's tensordict and without ours: DATASET's segments against the values in EXPECTED,
# then a tree of its own into WRITTEN.
READER = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, torch, tensordict
from tensordict import TensorDict
dataset, expected, written = map(Path, sys.argv[1:])
def digests():
    files = [path for path in sorted(dataset.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
before, values = digests(), 0
for file in sorted(expected.glob("*.npz")):
    folder = dataset / file.name.split("+")[0] / file.name.split("+")[1].removesuffix(".npz")
    td = TensorDict.load_memmap(folder)
    found = {"/".join(k) if isinstance(k, tuple) else k: v for k, v in td.items(True, True)}
    with np.load(file) as arrays:
        assert sorted(found) == sorted(arrays.files), (sorted(found), sorted(arrays.files))
        for key in arrays.files:
            array = found[key].numpy()
            assert array.dtype == arrays[key].dtype and np.array_equal(array, arrays[key]), key
            values += array.size
    assert td.batch_size == torch.Size([len(array)]), td.batch_size
assert digests() == before, "a byte was changed"
rows = torch.arange(24.).reshape(8, 3)
TensorDict({"observation": rows, "next": {"reward": rows[:, :1]}}, [8]).memmap(str(written))
print(json.dumps({"tensordict": tensordict.__version__, "torch": torch.__version__, "values": values}))
"""


def write_datasets(folder: Path) -> tuple[Path, Path]:
    """One dataset with finals, episodes, heap handles and every dtype, and what must be read of its trees."""
    schema = known_rows.schema(heap=True)
    extra = tuple(Column(("dtypes", name), name, (2,)) for name in DTYPES)
    path, expected = folder / "ds", folder / "expected"
    expected.mkdir()
    writer = KnownWriter(
        Writer.create(
            path, Schema((*schema.columns, *extra)), spec={}, lineage={"op": "test"}, segment_rows=40,
            durability="process",
        ),
        more=lambda ids: {column.key: _cast(ids, column) for column in extra},
    )  # fmt: skip
    for _ in range(10):
        writer.write(0, 10)
        writer.commit()
    writer.close()
    with Dataset.open(path) as dataset:
        for segment in dataset.segments:
            keys = [column.key for column in dataset.schema.plain]
            rows = dataset.read_rows(segment.first, segment.first + segment.rows, keys)
            _save(expected / f"segments+{segment.name}.npz", {key: _pick(rows, key) for key in keys})
            table = dataset.episodes
            own = (table.start + table.length > segment.first) & (
                table.start + table.length <= segment.first + segment.rows
            )
            names = (
                "start",
                "length",
                "return",
                "terminated",
                "truncated",
                "cut",
                "has_final",
                "seed",
                "number",
            )
            columns = {(n,): getattr(table, "return_" if n == "return" else n)[own] for n in names}
            _save(expected / f"episodes+{segment.name}.npz", columns)
    return path, expected


def _cast(ids: np.ndarray, column: Column) -> np.ndarray:  # type: ignore[type-arg]
    values = known_rows.mixed(ids)[:, None] >> np.array([0, 7], np.uint64)
    small = values & np.uint64(1 if column.dtype == "bool" else 63)
    return np.ascontiguousarray(small.astype(column.numpy))


def _pick(rows: dict, key: Key) -> np.ndarray:  # type: ignore[type-arg]
    for part in key:
        rows = rows[part]
    return rows  # type: ignore[return-value]


def _save(path: Path, columns: dict) -> None:  # type: ignore[type-arg]
    np.savez(path, **{"/".join(key): values for key, values in columns.items()})


def install(version: str, folder: Path) -> Path:
    """A folder with this release of tensordict and what it needs but torch."""
    target = folder / version
    if not (target / ".ready").exists():
        command = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", str(target)]
        subprocess.run([*command, f"tensordict=={version}", *NEEDS], check=True)
        (target / ".ready").touch()
    return target


def check_written(folder: Path) -> None:
    """A tree that a release has written: raw values, sizes and keys as our segments have them."""
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    assert np.array_equal(np.fromfile(folder / "observation.memmap", np.float32).reshape(8, 3), rows)
    assert np.array_equal(np.fromfile(folder / "next" / "reward.memmap", np.float32), rows[:, 0])
    meta = json.loads((folder / "meta.json").read_text())
    entry = meta["observation"]
    assert (entry["dtype"], list(entry["shape"])) == ("torch.float32", [8, 3]), meta
    assert list(meta["shape"]) == [8], meta


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--versions", nargs="*", default=VERSIONS)
    parser.add_argument("--folder", type=Path, default=Path("build/tensordict"))
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        path, expected = write_datasets(Path(temporary))
        for version in options.versions:
            target = install(version, options.folder)
            written = Path(temporary) / version
            command = [sys.executable, "-c", READER, str(path), str(expected), str(written)]
            environment = {**os.environ, "PYTHONPATH": str(target.absolute())}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
            if done.returncode == 0:
                check_written(written)
                print(f"ok    {done.stdout.strip().splitlines()[-1]}", flush=True)
            else:
                failed = True
                print(f"FAIL  {version}: {done.stderr.strip().splitlines()[-1]}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
