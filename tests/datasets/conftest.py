"""D4RL files as they were published, small, written by the tests: one per quirk; and where Minari's are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlcli.datasets.d4rl_export import write_file


def _rows(rng: np.random.Generator, size: int, width: int, dtype: str) -> np.ndarray:
    return rng.standard_normal((size, width)).astype(dtype)


def _flags(size: int, *rows: int, dtype: str = "bool") -> np.ndarray:
    flags = np.zeros(size, dtype)
    flags[list(rows)] = 1
    return flags


def mujoco_v2(rng: np.random.Generator, dtype: str = "float32") -> dict[str, Any]:
    """Episodes of 5 (terminal), 7 (timeout) and an unfinished one of 4, with next observations."""
    size, ends = 16, (4, 11)
    observations = _rows(rng, size, 3, dtype)
    following = np.concatenate([observations[1:], _rows(rng, 1, 3, dtype)])
    following[list(ends)] = _rows(rng, len(ends), 3, dtype)
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (size, 2)).astype(dtype),
        "rewards": rng.standard_normal(size).astype(dtype),
        "terminals": _flags(size, ends[0]),
        "timeouts": _flags(size, ends[1]),
        "next_observations": following,
        "infos/action_log_probs": rng.standard_normal(size).astype(dtype),
        "infos/qpos": rng.standard_normal((size, 4)),
        "metadata/algorithm": np.bytes_(b"SAC"),
        "metadata/iteration": np.int32(200),
        "metadata/policy/fc0/weight": _rows(rng, 16, 3, "float32"),  # 16 rows by accident: still not rows
        "metadata/policy/nonlinearity": np.bytes_(b"relu"),
    }


def replay_v1(rng: np.random.Generator) -> dict[str, Any]:
    """Everything float64, rewards and flags (N, 1)."""
    values = mujoco_v2(rng, "float64")
    for name in ("rewards", "terminals", "timeouts"):
        values[name] = values[name].astype("float64").reshape(-1, 1)
    return values


def antmaze(rng: np.random.Generator) -> dict[str, Any]:
    """No next observations, float64 rewards of 0 and 1, float32 terminals in a cluster, timeouts."""
    size = 20
    observations = np.cumsum(_rows(rng, size, 5, "float32") * 0.1, axis=0, dtype="float32")
    observations[10:, :2] += 20  # the reset that the flags do not show
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (size, 2)).astype("float32"),
        "rewards": _flags(size, 6, 7, 8, dtype="float64"),
        "terminals": _flags(size, 6, 7, 8, dtype="float32"),
        "timeouts": _flags(size, 12, 19),
        "infos/goal": _rows(rng, size, 2, "float32"),
    }


def kitchen(rng: np.random.Generator) -> dict[str, Any]:
    """`infos` is the index of the demonstration; float32 terminals, one missing; no timeouts."""
    size = 12
    return {
        "observations": _rows(rng, size, 4, "float32"),
        "actions": rng.uniform(-1, 1, (size, 2)).astype("float32"),
        "rewards": rng.integers(0, 5, size).astype("float32"),
        "terminals": _flags(size, 3, 11, dtype="float32"),
        "infos": np.repeat([0, 1, 2], [4, 5, 3]),
    }


def maze2d(rng: np.random.Generator) -> dict[str, Any]:
    """One run without terminals; a timeout where the goal changes."""
    size = 15
    return {
        "observations": _rows(rng, size, 4, "float32"),
        "actions": rng.uniform(-1, 1, (size, 2)).astype("float32"),
        "rewards": _flags(size, 4, 9, dtype="float32"),
        "terminals": _flags(size),
        "timeouts": _flags(size, 5, 10),
        "infos/goal": _rows(rng, size, 2, "float64"),
        "infos/qpos": _rows(rng, size, 2, "float64"),
    }


def adroit(rng: np.random.Generator) -> dict[str, Any]:
    """Older demonstrations without timeouts: only the time limit (pen-cloned: 100) ends episodes."""
    size = 230
    return {
        "observations": _rows(rng, size, 3, "float64"),
        "actions": rng.uniform(-1, 1, (size, 2)),
        "rewards": rng.standard_normal(size),
        "terminals": _flags(size, 49),
    }


def unshifted(rng: np.random.Generator) -> dict[str, Any]:
    """Next observations that are not the following rows (shuffled transitions)."""
    return {**mujoco_v2(rng), "next_observations": _rows(rng, 16, 3, "float32")}


def carla(rng: np.random.Generator) -> dict[str, Any]:
    """Rows in numbered groups below `virtual`, flattened images."""
    values: dict[str, Any] = {}
    for chunk, size in ((0, 6), (1, 4), (10, 5)):
        values |= {
            f"virtual/{chunk}/observations": rng.integers(0, 256, (size, 12)).astype("uint8"),
            f"virtual/{chunk}/actions": rng.uniform(-1, 1, (size, 2)).astype("float32"),
            f"virtual/{chunk}/rewards": rng.standard_normal(size).astype("float32"),
            f"virtual/{chunk}/terminals": _flags(size, size - 1 if chunk else 2),
        }
    return values


KINDS: dict[str, tuple[str, Callable[[np.random.Generator], dict[str, Any]]]] = {
    "mujoco_v2": ("hopper_medium-v2.hdf5", mujoco_v2),
    "replay_v1": ("walker2d_medium_replay-v1.hdf5", replay_v1),
    "antmaze": ("Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse.hdf5", antmaze),
    "kitchen": ("kitchen_microwave_kettle_light_slider-v0.hdf5", kitchen),
    "maze2d": ("maze2d-umaze-sparse-v1.hdf5", maze2d),
    "adroit": ("pen-demos-v0-bc-combined.hdf5", adroit),
    "unshifted": ("shuffled.hdf5", unshifted),
    "carla": ("carla_chunks.hdf5", carla),
}


@pytest.fixture
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps its datasets during a test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def d4rl_values() -> Callable[[str], dict[str, Any]]:
    """The arrays of a kind of file, the same at each call."""
    return lambda kind: KINDS[kind][1](np.random.default_rng(7))


@pytest.fixture
def d4rl_file(tmp_path: Path, d4rl_values: Callable[[str], dict[str, Any]]) -> Callable[[str], Path]:
    """Writes a file of a kind under the name it was published with."""

    def write(kind: str) -> Path:
        path = tmp_path / KINDS[kind][0]
        write_file(path, d4rl_values(kind))
        return path

    return write


@pytest.fixture
def same_hdf5() -> Callable[[Path, Path], None]:
    """Asserts that two HDF5 files hold the same: paths, values, types, chunks, filters, links, attributes."""

    def compare(left: Path, right: Path) -> None:
        with h5py.File(left) as a, h5py.File(right) as b:
            _same_group(a, b)

    return compare


def _same_group(a: h5py.Group, b: h5py.Group) -> None:
    assert list(a) == list(b), a.name
    _same_attributes(a, b)
    for name in a:
        link = a.get(name, getlink=True)
        assert type(link) is type(b.get(name, getlink=True))
        if isinstance(link, h5py.SoftLink):
            assert link.path == b.get(name, getlink=True).path
        elif isinstance(a[name], h5py.Group):
            _same_group(a[name], b[name])
        else:
            x, y = a[name], b[name]
            assert x.id.get_type().equal(y.id.get_type()), x.name
            facts = [
                (d.shape, d.maxshape, d.chunks, d.compression, d.compression_opts, d.shuffle) for d in (x, y)
            ]
            assert facts[0] == facts[1], x.name
            left, right = np.asarray(x[()]), np.asarray(y[()])
            assert left.dtype == right.dtype
            if left.dtype.kind == "O":
                assert repr(left.tolist()) == repr(right.tolist()), x.name
            else:
                assert left.tobytes() == right.tobytes(), x.name
            _same_attributes(x, y)


def _same_attributes(a: h5py.HLObject, b: h5py.HLObject) -> None:
    assert list(a.attrs) == list(b.attrs), a.name
    for name in a.attrs:
        assert a.attrs.get_id(name).get_type().equal(b.attrs.get_id(name).get_type()), (a.name, name)
        assert np.array_equal(a.attrs[name], b.attrs[name]), (a.name, name)
