"""Returns of rewards of any dtype are sums of what the rewards mean, whoever adds them up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcli.format.copying import all_episodes
from rlcli.format.dataset import Dataset
from rlcli.format.keys import DTYPES
from rlcli.format.recover import recover
from rlcli.format.schema import Column, Schema
from rlcli.format.semantics import check
from rlcli.format.writer import Writer

REWARD = ("next", "reward")
MEANT = np.array([[1.0], [0.0], [1.0], [1.0], [1.0]])


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_return_is_the_sum_of_the_rewards(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "ds"
    stored = np.array(MEANT, "float32").view(np.uint32) >> 16 if dtype == "bfloat16" else MEANT
    rewards = stored.astype(DTYPES[dtype]) + (1j if dtype == "complex64" else 0)
    schema = Schema((Column(REWARD, dtype, (1,)),))
    writer = Writer.create(path, schema, spec={}, lineage={})
    writer.write(0, {REWARD: rewards.astype(DTYPES[dtype])})
    writer.end_episode(0, terminated=True, truncated=False, at=4)
    writer.commit()
    with Dataset.open(path) as dataset:
        assert all_episodes(dataset).return_.tolist() == [3.0, 1.0]
    writer.abort()
    recover(path)
    with Dataset.open(path) as dataset:
        assert dataset.episodes.return_.tolist() == [3.0, 1.0]
        assert not check(dataset).errors
