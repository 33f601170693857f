"""Out to every format and in again: the same dataset where it can hold it, and what is lost is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

ROWS = 9
HOLD_ALL = ("d4rl", "hdf5", "npz", "zarr", "parquet", "robomimic", "torchrl", "rlds")
LOSE_NEXT = {
    "minari": "differ from those of the following rows are lost",
    "lerobot": "has no next observations",
}


def made(tmp_path: Path, shift: bool) -> Path:
    """Three episodes, one of one step; next observations are the following rows or others (`shift`)."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(ROWS, 3)).astype("f4")
    following = np.roll(observations, -1, axis=0) + np.float32(shift)
    ends = np.array([3, 4, 8])
    following[ends] = rng.normal(size=(3, 3))
    np.savez(
        tmp_path / "x.npz",
        observations=observations,
        next_observations=following,
        actions=rng.normal(size=(ROWS, 2)).astype("f4"),
        rewards=rng.normal(size=ROWS).astype("f4"),
        terminals=np.isin(np.arange(ROWS), [3, 8]),
        episode_id=np.repeat([0, 1, 2], [4, 1, 4]),
        speed=rng.normal(size=ROWS),
    )
    convert(tmp_path / "x.npz", tmp_path / "one", check=True)
    return tmp_path / "one"


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("target", [*HOLD_ALL, *LOSE_NEXT])
def test_a_dataset_comes_back_the_same_or_the_report_says_what_is_lost(
    target: str, shift: bool, tmp_path: Path
) -> None:
    one = made(tmp_path, shift)
    report = convert(one, tmp_path / "out", to=target, check=True)
    convert(tmp_path / "out", tmp_path / "two", from_=target, check=True, yes=True)
    if target in LOSE_NEXT and (shift or target == "lerobot"):
        lost = LOSE_NEXT[target] if shift else "final observations are not written"
        assert any(lost in sentence for sentence in report["lossy"])
        return
    assert report["lossy"] == []
    with Dataset.open(one) as first, Dataset.open(tmp_path / "two") as second:
        assert second.schema == first.schema
        assert second.digest == first.digest


@pytest.mark.parametrize("to", ["csv", "d4rl", "rlds"])
def test_an_unfinished_episode_that_looks_finished_is_said(tmp_path, to):
    rows = {
        "observations": np.ones((6, 2), "f4"),
        "actions": np.ones((6, 1), "f4"),
        "rewards": np.ones(6, "f4"),
    }
    np.savez(tmp_path / "x.npz", **rows, terminals=np.arange(6) == 2)
    assert convert(tmp_path / "x.npz", tmp_path / "ds")["unfinished_rows"] == 3
    lossy = convert(tmp_path / "ds", tmp_path / "out", to=to, check=True)["lossy"]
    assert "1 unfinished episodes are written as if they had ended" in lossy
