"""Cuts of the published D4RL files against the numbers of D4RL's own reader; skipped where absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcli.datasets.d4rl_envs import normalized_score
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "d4rl"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the published cuts are not here")

# name: episode lengths, terminals, timeouts, returns, sum of observations, sum of actions, unknown next
FACTS = {
    "halfcheetah_medium-v2": ([1000, 1000], 0, 2, [4669.48025, 4880.02472], 8595.48174, -4439.30024, 0),
    "hopper_medium-v2": ([470, 441], 2, 0, [1465.18446, 1412.72999], 1628.34449, 366.01318, 0),
    "antmaze-umaze-v0": ([701, 701], 0, 2, [0.0, 0.0], None, None, 2),
    "walker2d_medium_replay-v1": ([10, 21], None, None, [-1.06803, 5.89545], None, None, 0),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_published_file_converts_exactly_and_back(name, tmp_path, same_hdf5):
    lengths, terminals, timeouts, returns, observations, actions, unknown = FACTS[name]
    report = convert(FOLDER / f"{name}.hdf5", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == lengths
        assert np.allclose(dataset.episodes.return_, returns, atol=1e-4)
        assert len(dataset.unknown_next) == report["unknown_next"] == unknown
        if terminals is not None:
            assert (report["terminals"], report["timeouts"]) == (terminals, timeouts)
        if observations is not None:
            assert dataset.read(("observation",)).sum(dtype=np.float64) == pytest.approx(
                observations, abs=1e-5
            )
            assert dataset.read(("action",)).sum(dtype=np.float64) == pytest.approx(actions, abs=1e-5)
        scores = dataset.spec["reference_scores"]
    convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    same_hdf5(FOLDER / f"{name}.hdf5", tmp_path / "again.hdf5")
    assert (scores["min"], scores["max"]) == {
        "halfcheetah_medium-v2": (-280.178953, 12135.0),
        "hopper_medium-v2": (-20.272305, 3234.3),
        "antmaze-umaze-v0": (0.0, 1.0),
        "walker2d_medium_replay-v1": (1.629008, 4592.3),
    }[name]


@pytest.mark.parametrize(
    ("name", "score"), [("halfcheetah_medium-v2", 0.398678), ("hopper_medium-v2", 0.456421)]
)
def test_normalised_score_of_the_first_episode(name, score, tmp_path):
    convert(FOLDER / f"{name}.hdf5", tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        scores = dataset.spec["reference_scores"]
        found = normalized_score(float(dataset.episodes.return_[0]), (scores["min"], scores["max"]))
    assert found == pytest.approx(score, abs=1e-6)
