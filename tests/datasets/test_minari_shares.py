"""A first look through a Minari dataset in shares sees what one look sees."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcli.datasets import minari
from rlcli.datasets.contract import NoOptions, Request, Shared
from rlcli.datasets.minari_files import Field, Storage
from rlcli.datasets.minari_scan import Scan, scan
from rlcli.datasets.minari_shares import joined, share_of, shares_of
from rlcli.datasets.minari_spaces import Leaf
from rlcli.errors import IncompatibleError
from rlcli.pipeline.convert import convert

LEAVES = {
    top: Leaf((), (), {"type": "Box", "dtype": "float64", "shape": [2]})
    for top in ("observations", "actions")
}


class Made(Storage):
    """Episodes out of what is told of each: steps, whether a final observation, dtype, infos, attributes."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        super().__init__()
        self.told, self.episodes = told, list(range(len(told)))

    def where(self, episode: int) -> str:
        return f"episode_{episode}"

    def fields(self, episode: int) -> dict[str, Field]:
        told = self.told[episode]
        steps = told["steps"]
        plain = {name: Field("numbers", "bool", (), steps) for name in ("terminations", "truncations")}
        infos = {
            f"infos/{name}": Field("numbers", "float64", shape, None if extra is None else steps + extra)
            for name, (shape, extra) in told["infos"].items()
        }
        return {
            "observations": Field("numbers", told["dtype"], told["shape"], steps + 1),
            "actions": Field("numbers", "float64", (2,), steps),
            "rewards": Field("numbers", "float64", (), steps),
            **plain,
            **infos,
        }

    def attributes(self, episode: int) -> dict[str, Any]:
        return dict(self.told[episode]["attributes"])

    def read(self, episode: int, path: str, start: int, stop: int) -> Any:
        value = self.told[episode]["reward"] if path == "rewards" else path == self.told[episode]["end"]
        return np.full(stop - start, value)

    def close(self) -> None:
        pass


INFO = st.tuples(st.sampled_from([(), (3,)]), st.sampled_from([None, 0, 1, 5]))
EPISODE = st.fixed_dictionaries(
    {
        "steps": st.integers(0, 2),
        "dtype": st.sampled_from(["float32", "float64"]),
        "shape": st.sampled_from([(2,)] * 9 + [(3,)]),
        "infos": st.dictionaries(st.sampled_from("ab"), INFO),
        "attributes": st.dictionaries(st.sampled_from("xy"), st.sampled_from([1, 2.5, "text"])),
        "reward": st.sampled_from([1.0, 0.1]),
        "end": st.sampled_from(["terminations", "truncations", ""]),
    }
)


def looked(storage: Storage, shares: int) -> Scan:
    """The scan of as many shares, each through JSON."""
    episodes, looks = storage.episodes, []
    for share in range(shares):
        storage.episodes = share_of(episodes, share, shares)
        looks.append((str(share), Scan.from_json(json.loads(json.dumps(scan(storage, LEAVES).to_json())))))
    storage.episodes = episodes
    return joined(looks)


@given(st.lists(EPISODE, min_size=1, max_size=6), st.integers(1, 4))
def test_shares_joined_are_one_look(told, shares):
    storage = Made(told)
    try:
        whole = scan(storage, LEAVES)
    except IncompatibleError:
        with pytest.raises(IncompatibleError):
            looked(storage, shares)
        return
    found, expected = looked(storage, shares).to_json(), whole.to_json()
    for name in ("lossy", "remarks"):  # one reason is told of an info that is not kept for two
        of_paths = [{sentence.split(":")[0] for sentence in scan.pop(name)} for scan in (found, expected)]
        assert of_paths[0] == of_paths[1]
    expected["inexact"], found["inexact"] = sorted(expected["inexact"]), sorted(found["inexact"])
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(("episodes", "shares"), [(0, 0), (255, 0), (256, 1), (2000, 7), (1 << 40, 8)])
def test_few_episodes_are_not_worth_a_process(episodes, shares):
    assert shares_of(episodes) == shares


def test_processes_that_share_the_look_make_the_same_dataset(tmp_path, monkeypatch):
    write_episodes(tmp_path / "ours", 6)
    convert(tmp_path / "ours", tmp_path / "minari", to="minari")
    assert isinstance(minari, Shared)
    monkeypatch.setattr("rlcli.datasets.minari_shares._EPISODES", 2)
    assert minari.shares(tmp_path / "minari", Request(), NoOptions()) == 3
    shared = convert(tmp_path / "minari", tmp_path / "shared", jobs=2, check=True)
    alone = convert(tmp_path / "minari", tmp_path / "alone")
    assert shared["digest"] == alone["digest"]
    assert {**shared, "dataset": 0, "seconds": 0, "check": 0} == {
        **alone,
        "dataset": 0,
        "seconds": 0,
        "check": 0,
    }


def write_episodes(path: Any, episodes: int) -> None:
    """A dataset of ours with episodes of three steps."""
    from rlcli.format.episodes import EpisodeWriter
    from rlcli.format.schema import ted_schema
    from rlcli.format.specs import Box
    from rlcli.format.writer import Writer

    spec = {"env": None, "observation": Box((2,)).to_json(), "action": Box((1,)).to_json()}
    writer = Writer.create(path, ted_schema(Box((2,)), Box((1,))), spec=spec, lineage={"op": "test"})
    with EpisodeWriter(writer) as steps:
        for row in range(3 * episodes):
            steps.add(
                0,
                observation=np.full(2, row, np.float32),
                action=np.zeros(1, np.float32),
                reward=float(row),
                terminated=row % 3 == 2,
                truncated=False,
                next_observation=np.full(2, row + 1, np.float32) if row % 3 == 2 else None,
            )
