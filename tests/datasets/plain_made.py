"""Plain files of every kind, written by the libraries that people write such files with."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

KINDS = ["npz", "hdf5", "csv", "parquet", "zarr"]


def arrays(size=24, ends=(7, 15, 23)):
    """Three episodes: of 8 (terminal), 8 (timeout), 8 (timeout)."""
    rng = np.random.default_rng(11)
    observations = rng.standard_normal((size, 3)).astype("f4")
    following = np.concatenate([observations[1:], rng.standard_normal((1, 3)).astype("f4")])
    following[list(ends)] = rng.standard_normal((len(ends), 3)).astype("f4")
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (size, 2)).astype("f4"),
        "rewards": rng.standard_normal(size).astype("f4"),
        "terminals": np.arange(size) == ends[0],
        "timeouts": np.isin(np.arange(size), ends[1:]),
        "next_observations": following,
    }


def write(kind: str, path: Path, values: dict) -> Path:
    """A file of a kind by the library that people write such files with."""
    if kind == "npz":
        np.savez_compressed(path, **values)
        return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            for name, value in values.items():
                file[f"replay/{name}"] = value
    elif kind == "csv":
        header, columns = [], []
        for name, value in values.items():
            header += [name] if value.ndim == 1 else [f"{name}_{n}" for n in range(value.shape[1])]
            columns += [value] if value.ndim == 1 else list(value.T)
        with open(path, "w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(header)
            rows.writerows(zip(*[[str(item) for item in column] for column in columns], strict=True))
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {name: value if value.ndim == 1 else value.tolist() for name, value in values.items()}
        kinds = {
            name: arrow.from_numpy_dtype(value.dtype)
            if value.ndim == 1
            else arrow.list_(arrow.from_numpy_dtype(value.dtype))
            for name, value in values.items()
        }
        table = arrow.table({name: arrow.array(column, kinds[name]) for name, column in columns.items()})
        parquet.write_table(table, path, row_group_size=10)
    else:
        root = zarr.open_group(path, mode="w", zarr_format=2)
        for name, value in values.items():
            root.create_array(
                name, data=value, chunks=(5, *value.shape[1:]), config={"write_empty_chunks": True}
            )
    return path
