"""Names of a D4RL file and keys of ours: letters of two cases, and keys that D4RL has no place for."""

from __future__ import annotations

import h5py
import numpy as np

from rlcli.datasets.d4rl_export import write_file
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

ROWS = 6


def values():
    rng = np.random.default_rng(0)
    return {
        "observations": rng.standard_normal((ROWS, 3)).astype("f4"),
        "actions": rng.uniform(-1, 1, (ROWS, 2)).astype("f4"),
        "rewards": rng.standard_normal(ROWS).astype("f4"),
        "terminals": np.arange(ROWS) == 2,
        "timeouts": np.arange(ROWS) == ROWS - 1,
    }


def test_names_that_differ_in_case_only_are_all_kept(tmp_path, same_hdf5):
    names = ["infos/A", "infos/a/b", "infos/a/c", "infos/a/C", "infos/Q/x", "infos/q/y", "infos/q/z"]
    write_file(tmp_path / "x.hdf5", values() | {n: np.arange(ROWS) + k for k, n in enumerate(names)})
    convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        found = {"/".join(c.key[1:]): c.key for c in dataset.schema.columns if c.key[0] == "info"}
        assert set(found) == {"A", "a.2/b", "a.2/C", "a.2/c.2", "Q/x", "q.2/y", "q.2/z"}
        for name, number in (("A", 0), ("a.2/b", 1), ("a.2/c.2", 2), ("a.2/C", 3), ("q.2/z", 6)):
            assert dataset.read(found[name], 0, ROWS).tolist() == list(range(number, number + ROWS))
    convert(tmp_path / "ds", tmp_path / "y.hdf5", to="d4rl", check=True)
    same_hdf5(tmp_path / "x.hdf5", tmp_path / "y.hdf5")


def test_keys_that_are_not_below_info_come_back(tmp_path):
    np.savez(tmp_path / "x.npz", **values(), discount=np.linspace(0, 1, ROWS))
    convert(tmp_path / "x.npz", tmp_path / "one", mapping={"discount": "discount"}, check=True)
    convert(tmp_path / "one", tmp_path / "y.hdf5", to="d4rl", check=True)
    convert(tmp_path / "y.hdf5", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert ("discount",) in two.schema.by_key
        assert one.digest == two.digest
    with h5py.File(tmp_path / "y.hdf5", "a") as file:  # foreign hands: nothing that cannot be is believed
        file.attrs["rl_columns"] = '{"infos/discount": ["next", "reward"], "x": 3, "rewards": ["action"]}'
    convert(tmp_path / "y.hdf5", tmp_path / "three", check=True)
    with Dataset.open(tmp_path / "three") as three:
        assert ("info", "discount") in three.schema.by_key
