"""Writing Minari datasets: the hdf5 layout of Minari 0.5, written without the minari package, which reads it.

The output is the folder that Minari has for a dataset, with `data/main_data.hdf5` and `data/metadata.json`:
put below `MINARI_DATASETS_PATH` it is found by name, and `MinariDataset(out / "data")` opens it anywhere.
An entry `rl` of the metadata, which Minari ignores, keeps the spec and the keys.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets.contract import Advance, Report
from rlcli.datasets.hdf5_output import creating
from rlcli.datasets.minari_columns import ATTRIBUTES, REWARD, attributes_of, is_plain
from rlcli.datasets.minari_files import MAIN_FILE, METADATA
from rlcli.datasets.minari_layout import Array, Layout, lay_out
from rlcli.datasets.minari_metadata import HINTS
from rlcli.datasets.minari_scan import FLAGS, STATISTICS
from rlcli.datasets.slicing import slice_rows, slices
from rlcli.errors import ResourceError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column

_VERSION = "0.5.4"  # of the layout that is written
_ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]+/)?[-_\w]+-v\d+")
_OURS: dict[str, Key] = {"terminations": ("next", "terminated"), "truncations": ("next", "truncated")}


@dataclass(frozen=True)
class ExportOptions:
    """What `--set` may say when writing Minari."""

    dataset_id: str = opt("", "NAMESPACE/NAME-vN; as it came, or rl/dataset-v0.")
    author: str = opt("", "Who made the data; as it came if empty.")
    algorithm_name: str = opt("", "What acted; as it came if empty.")


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """Write `dataset` to the new folder `out`, a slice in memory at a time.

    Raises `UsageError` for a malformed name, `ResourceError` when the disk is full.
    """
    if options.dataset_id and not _ID.fullmatch(options.dataset_id):
        raise UsageError(f"dataset_id {options.dataset_id!r} is not of the form namespace/name-v0")
    report = Report()
    layout = lay_out(dataset, report)
    writer = _Writer(dataset, layout, report, advance)
    folder = out / "data"
    folder.mkdir(parents=True)
    with creating(folder / MAIN_FILE) as output:
        for index in range(dataset.num_episodes):
            writer.write(output.file, index)
            output.check()
    size = (folder / MAIN_FILE).stat().st_size
    metadata = _metadata(dataset, layout, options, writer.num_rows, size)
    try:
        (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    except OSError as err:
        raise ResourceError(f"{folder}: cannot be written: {err.strerror}", path=folder) from err
    writer.tell()
    report.details["dataset_id"] = metadata["dataset_id"]
    return report


class _Writer:
    """Writes episodes, and counts what they could not take with them."""

    def __init__(self, dataset: Dataset, layout: Layout, report: Report, advance: Advance) -> None:
        self.dataset, self.layout, self.report, self.advance = dataset, layout, report, advance
        schema = dataset.schema
        self.sources = {name: schema.by_key.get(("source", name)) for name in ("rewards", *FLAGS)}
        rewards = self.sources["rewards"]
        self.rewards_dtype = str((dataset.extra or {}).get("source", {}).get("rewards") or "float64")
        if rewards is not None:
            self.rewards_dtype = rewards.dtype
        self.has_next = any(array.following is not None for array in layout.arrays)
        self.num_rows = 0
        self.without_final = 0
        self.torn: set[str] = set()

    def write(self, file: h5py.File, index: int) -> None:
        """Append an episode."""
        episodes = self.dataset.episodes
        start, length = int(episodes.start[index]), int(episodes.length[index])
        stop = start + length
        self.num_rows += length
        group = file.create_group(f"episode_{index}")
        rewards = self._rewards(start, stop)
        self._attributes(group, index, start, rewards)
        derived = bool(self.dataset.schema.shifts)
        final = self.has_next and (bool(episodes.has_final[index]) or not derived)
        self.without_final += not final
        for array in self.layout.arrays:
            self._array(group, array, start, stop, final=final)
        group.require_group("infos")
        group.create_dataset("rewards", data=rewards, chunks=True, maxshape=(None,))
        for name, key in _OURS.items():
            column = self.sources[name]
            flags = self.dataset.read(column.key if column is not None else key, start, stop)
            group.create_dataset(name, data=flags.reshape(-1), chunks=True, maxshape=(None,))
        self.advance(length * self.dataset.schema.row_bytes)

    def tell(self) -> None:
        """What was lost goes to the report."""
        report, dataset = self.report, self.dataset
        if self.without_final:
            report.remarks.append(
                f"{self.without_final:,} episodes have no final observation: as many observations as steps"
            )
        if dataset.num_rows > self.num_rows:
            report.lossy.append(
                f"{dataset.num_rows - self.num_rows:,} rows of unfinished episodes are not written"
            )
        report.lossy += [
            f"{path}: values that differ from those of the following rows are lost"
            for path in sorted(self.torn)
        ]

    def _rewards(self, start: int, stop: int) -> NDArray[Any]:
        column = self.sources["rewards"]
        values = self.dataset.read(REWARD if column is None else column.key, start, stop)
        return values.reshape(-1).astype(self.rewards_dtype)

    def _attributes(self, group: h5py.Group, index: int, start: int, rewards: NDArray[Any]) -> None:
        dataset, attributes = self.dataset, group.attrs
        attributes["id"] = index
        attributes["total_steps"] = len(rewards)
        seed = int(dataset.episodes.seed[index])
        if seed >= 0:
            attributes["seed"] = seed
        for name, compute in STATISTICS.items():
            attributes[name] = np.float64(compute(rewards))
        for name, column in self.layout.attributes.items():
            value = dataset.read(column.key, start, start + 1)[0]
            attributes[name] = str(value) if column.is_text else value
        if ATTRIBUTES in dataset.schema.by_key:
            for name, value in attributes_of(str(dataset.read(ATTRIBUTES, start, start + 1)[0])).items():
                if value is None:
                    attributes[name] = h5py.Empty("f4")
                elif isinstance(value, dict | list | int) and not is_plain(value):
                    attributes[name] = json.dumps(value)
                else:
                    attributes[name] = value

    def _array(self, group: h5py.Group, array: Array, start: int, stop: int, *, final: bool) -> None:
        """An array of the episode; its last value comes from the column that follows it."""
        column, following = array.column, array.following
        if array.form == "episode":
            value = self.dataset.read(column.key, start, start + 1)[0]
            group.create_dataset(array.path, data=value if array.form == "text" else np.asarray(value))
            return
        own = following is not None and following.encoding != "derived"
        extra = following is not None and (final or not array.path.startswith("observations"))
        size = stop - start + extra
        dtype: Any = h5py.string_dtype() if array.form == "text" else array.dtype
        shape = () if array.form in ("text", "jpeg") else column.shape
        if array.form == "jpeg":
            dtype = h5py.vlen_dtype(np.uint8)
        out = group.create_dataset(array.path, (size, *shape), dtype, chunks=True, maxshape=(None, *shape))
        step = slice_rows(int(np.prod(column.shape)) * column.numpy.itemsize)
        for low, high in slices(start, stop, step):
            self._fill(out, low - start, array, column, low, high)
            if own and following is not None and low + 1 < stop and array.path not in self.torn:
                theirs = self.dataset.read(following.key, low, min(high, stop - 1))
                ours = self.dataset.read(column.key, low + 1, min(high, stop - 1) + 1)
                if not _same(theirs, ours):
                    self.torn.add(array.path)
        if extra and following is not None:
            self._fill(out, size - 1, array, following, stop - 1, stop)

    def _fill(self, out: h5py.Dataset, at: int, array: Array, column: Column, start: int, stop: int) -> None:
        """Rows `start … stop - 1` of a column become the values from `at` on."""
        if array.form == "jpeg":
            for row, data in enumerate(self.dataset.encoded(column.key, np.arange(start, stop)), at):
                out[row] = np.frombuffer(data or b"", np.uint8)
            return
        values = self.dataset.read(column.key, start, stop)
        if array.form == "text":
            texts = np.empty(stop - start, object)
            texts[:] = [str(text) for text in values]
            out[at : at + stop - start] = texts
        else:
            out[at : at + stop - start] = np.asarray(values).astype(array.dtype, copy=False)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype.kind != "O":
        return a.tobytes() == b.tobytes()
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _metadata(
    dataset: Dataset, layout: Layout, options: ExportOptions, rows: int, size: int
) -> dict[str, Any]:
    """What `metadata.json` says: what the source said, if that was Minari, and what is new."""
    source = (dataset.extra or {}).get("source", {})
    told: Mapping[str, Any] = source.get("metadata", {}) if source.get("format") == "minari" else {}
    metadata = {
        **told,
        "total_episodes": dataset.num_episodes,
        "total_steps": rows,
        "data_format": "hdf5",
        "jpeg_encoding": layout.jpeg,
        "observation_space": json.dumps(layout.spaces["observation"]),
        "action_space": json.dumps(layout.spaces["action"]),
        "dataset_size": round(size / 1e6, 1),
        "dataset_id": options.dataset_id or told.get("dataset_id") or "rl/dataset-v0",
        "minari_version": _VERSION,
        HINTS: {
            "spec": dataset.spec,
            "columns": {path: list(key) for path, key in layout.columns.items()},
            "cut": np.flatnonzero(dataset.episodes.cut).tolist(),
        },
    }
    if options.author:
        metadata["author"] = [options.author]
    if options.algorithm_name:
        metadata["algorithm_name"] = options.algorithm_name
    scores = dataset.spec.get("reference_scores")
    if isinstance(scores, dict) and "ref_min_score" not in metadata:
        metadata |= {"ref_min_score": scores.get("min"), "ref_max_score": scores.get("max")}
    if "env_spec" not in metadata and (found := _env_spec(dataset.spec.get("env"))) is not None:
        metadata["env_spec"] = found
    return metadata


def _env_spec(env: Any) -> str | None:
    """Gymnasium's description of an environment that it has registered, None for any other."""
    if not isinstance(env, dict) or env.get("library") != "gymnasium":
        return None
    gymnasium = importlib.import_module("gymnasium")
    try:
        spec = gymnasium.spec(str(env["id"]))
        spec.kwargs |= env.get("kwargs") or {}
        spec.max_episode_steps = env.get("max_episode_steps") or spec.max_episode_steps
        return str(spec.to_json())
    except (gymnasium.error.Error, TypeError, ValueError):
        return None
