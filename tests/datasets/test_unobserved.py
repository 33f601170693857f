"""Datasets without observations, as of simulators' recordings: out to every plain format and back."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlcli.datasets.contract import AmbiguousMapping
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert


@pytest.fixture
def unobserved(tmp_path):
    """Two episodes of a raw robomimic file whose states have another width in each."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        for number, (length, width) in enumerate([(4, 3), (5, 6)]):
            group = file.create_group(f"data/demo_{number}")
            group["actions"] = rng.standard_normal((length, 2))
            group["states"] = rng.standard_normal((length, width))
            group["rewards"] = rng.standard_normal(length).astype("f4")
            group["dones"] = (np.arange(length) == length - 1) & (number == 1)
    convert(tmp_path / "raw.hdf5", tmp_path / "ds")
    return tmp_path / "ds"


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("x.npz", "npz"),
        ("x.h5", "hdf5"),
        ("x.parquet", "parquet"),
        ("x.zarr", "zarr"),
        ("x.csv", "csv"),
        ("d.hdf5", "d4rl"),
        ("torchrl", "torchrl"),
    ],
)
def test_what_has_no_observations_comes_back(unobserved, tmp_path, name, to):
    if to == "parquet":
        pytest.importorskip("pyarrow")
    convert(unobserved, tmp_path / name, to=to, check=True)
    report = convert(tmp_path / name, tmp_path / "back", yes=to in ("csv", "d4rl"), check=True)
    assert "the source has no observations" in report["remarks"]
    with Dataset.open(unobserved) as one, Dataset.open(tmp_path / "back") as two:
        assert list(two.episodes.length) == [4, 5]
        for key in (("action",), ("next", "reward"), ("next", "terminated"), ("next", "truncated")):
            assert (one.read(key, 0, 9) == two.read(key, 0, 9)).all()


def test_without_observations_and_word_of_it_a_user_is_asked(tmp_path):
    np.savez(tmp_path / "x.npz", actions=np.ones((6, 2)), rewards=np.ones(6), episode_id=np.arange(6) // 3)
    with pytest.raises(AmbiguousMapping, match="nothing is known as observation"):
        convert(tmp_path / "x.npz", tmp_path / "ds")
    assert convert(tmp_path / "x.npz", tmp_path / "ds", yes=True, check=True)["episodes"] == 2


def test_without_observations_and_actions_there_is_nothing_to_confirm(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((6, 2)), rewards=np.ones(6))
    with pytest.raises(AmbiguousMapping, match="nothing is known as observation") as caught:
        convert(tmp_path / "x.npz", tmp_path / "ds", yes=True)
    assert "--observation KEY" in str(caught.value.hint)
    assert "--yes" not in str(caught.value.hint)
    convert(tmp_path / "x.npz", tmp_path / "ds", yes=True, mapping={"a": "observation"})  # as it says
