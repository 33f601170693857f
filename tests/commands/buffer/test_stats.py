"""`rl buffer stats` against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline import buffer_stats


def random_dataset(path: Path) -> None:
    """300 rows with offsets, NaN, infinities and constants."""
    rng = np.random.default_rng(5)
    observation = Box((4,), "float32")
    writer = Writer.create(
        path,
        ted_schema(
            observation,
            Discrete(4),
            extra=[Column(("half",), "float16", (2,)), Column(("brain",), "bfloat16")],
        ),
        spec={"observation": observation.to_json(), "action": Discrete(4).to_json()},
        lineage={},
        durability="process",
        segment_rows=64,
    )
    values = rng.normal(size=(300, 4)).astype(np.float32)
    values[:, 1] += 1e6  # a large mean must not eat the deviation
    values[:, 2] = 3.5
    values[10, 3], values[20, 3], values[30, 3] = np.nan, np.inf, -np.inf
    brain = (rng.normal(size=300).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    with EpisodeWriter(writer) as episodes:
        for i in range(300):
            episodes.add(
                0,
                observation=values[i],
                action=i % 3,
                reward=float(i % 7),
                terminated=i % 10 == 9,
                truncated=False,
                next_observation=values[i] if i % 10 == 9 else None,
                half=rng.normal(size=2),
                brain=brain[i],
            )


@pytest.mark.parametrize("chunk", [1, 37, 10_000])
def test_stats_agree_with_numpy(
    rl: Callable[..., Any], tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer_stats, "CHUNK_ELEMENTS", chunk)
    random_dataset(tmp_path / "d")
    facts = rl("stats", tmp_path / "d", "--json").json
    columns = {column["key"]: column for column in facts["columns"]}
    data = Dataset.open(tmp_path / "d")
    brain = (data.read(("brain",)).astype(np.uint32) << 16).view(np.float32)
    arrays = {"observation": data.read(("observation",)), "half": data.read(("half",)), "brain": brain}
    for key, array in arrays.items():
        wide = array.astype(np.float64).reshape(300, -1)
        wide[~np.isfinite(wide)] = np.nan
        found = columns[key]
        np.testing.assert_allclose(found["mean"], np.nanmean(wide), rtol=1e-12)
        np.testing.assert_allclose(found["std"], np.nanstd(wide), rtol=1e-9)
        assert (found["min"], found["max"]) == (np.nanmin(wide), np.nanmax(wide))
        for name, function in (
            ("mean", np.nanmean),
            ("std", np.nanstd),
            ("min", np.nanmin),
            ("max", np.nanmax),
        ):
            if "elements" in found:
                np.testing.assert_allclose(
                    found["elements"][name], function(wide, axis=0), rtol=1e-9, atol=1e-15
                )
    observation = columns["observation"]
    assert (observation["nan"], observation["inf"], observation["constant"]) == (1, 2, [2])
    assert observation["elements"]["nan"] == [0, 0, 0, 1]
    (action,) = facts["actions"]
    assert action["parts"] == [{"start": 0, "counts": [100, 100, 100, 0], "outside": 0}]
    returns = data.episodes.return_
    assert facts["return"]["count"] == 30
    assert facts["return"]["p25"] == np.quantile(returns, 0.25)
    np.testing.assert_allclose(facts["return"]["std"], returns.std())


def test_stats_tell_how_often_actions_are_at_their_bounds(rl: Callable[..., Any], tmp_path: Path) -> None:
    space, box = Box((1,)), Box((2,), "float32", -1.0, 1.0)
    spec = {"observation": space.to_json(), "action": box.to_json()}
    writer = Writer.create(
        tmp_path / "d", ted_schema(space, box), spec=spec, lineage={}, durability="process"
    )
    with EpisodeWriter(writer) as episodes:
        for action in ([-1, 1], [-1, 0.5], [-2, 0], [0, 0]):
            episodes.add(
                0,
                observation=np.zeros(1),
                action=action,
                reward=0.0,
                terminated=True,
                truncated=False,
            )
    (action,) = rl("stats", tmp_path / "d", "--json").json["actions"]
    assert (action["at_low"], action["at_high"], action["outside"]) == ([0.75, 0], [0, 0.25], [0.25, 0])
    assert "at the lower bound" in rl("stats", tmp_path / "d").out


def test_stats_by_episode_is_the_episode_table(rl: Callable[..., Any], sealed: Path) -> None:
    table = Dataset.open(sealed).episodes
    facts = rl("stats", sealed, "--by", "episode", "--json").json
    assert facts["kind"] == "episodes"
    assert [e["length"] for e in facts["episodes"]] == table.length.tolist()
    assert [e["seed"] for e in facts["episodes"]] == table.seed.tolist()
    assert [e["cut"] for e in facts["episodes"]] == table.cut.tolist()
    lines = rl("stats", sealed, "--by", "episode").out.splitlines()
    assert len(lines) == 12
    assert lines[2].split() == ["0", "0", "0", "7", "7", "terminated", "0"]  # a seed of 0 is one
    assert rl("stats", sealed, "--by", "moon").code == 2


def test_stats_text_fits_80_columns(rl: Callable[..., Any], sealed: Path) -> None:
    assert max(map(len, rl("stats", sealed).out.splitlines())) <= 80


def test_equal_histograms_are_shown_once(rl: Callable[..., Any], tmp_path: Path) -> None:
    for name, reward in (("one", 1.0), ("half", 0.5)):
        writer = Writer.create(tmp_path / name, ted_schema(Box((1,)), Discrete(2)), spec={}, lineage={})
        with EpisodeWriter(writer) as episodes:
            for length in (3, 5, 9):
                for step in range(length):
                    episodes.add(
                        0,
                        observation=[0.0],
                        action=0,
                        reward=reward,
                        terminated=step == length - 1,
                        truncated=False,
                    )
    text = rl("stats", tmp_path / "one").out
    assert "return and length of 3 episodes" in text
    assert text.count("█") == rl("stats", tmp_path / "half").out.count("█") / 2


@pytest.mark.parametrize("chunk", [37, 10_000])
def test_histograms_agree_with_numpy(
    rl: Callable[..., Any], tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer_stats, "CHUNK_ELEMENTS", chunk)
    random_dataset(tmp_path / "data")
    found = {
        c["key"]: c["histogram"] for c in rl("stats", tmp_path / "data", "--hist", "--json").json["columns"]
    }
    dataset = Dataset.open(tmp_path / "data")
    for key in ("observation", "half", "next/reward"):
        values = dataset.read(tuple(key.split("/")), 0, 300).astype(np.float64)
        values = values[np.isfinite(values)]
        np.testing.assert_array_equal(found[key]["counts"], np.histogram(values, found[key]["edges"])[0])
        assert sum(found[key]["counts"]) == values.size
    assert found["observation"]["edges"][0] == dataset.read(("observation",), 0, 300)[:, :2].min()
    assert found["next/truncated"] is None
    assert found["action"] == {"edges": [-0.5, 0.5, 1.5, 2.5], "counts": [100, 100, 100]}
    assert found["next/terminated"] == {"edges": [-0.5, 0.5, 1.5], "counts": [270, 30]}
    assert len(found["brain"]["counts"]) == 10
    text = rl("stats", tmp_path / "data", "--hist").out
    assert "next/terminated\n  0  " in text
    assert text.count("\naction\n") == 1
    assert rl("stats", tmp_path / "data", "--hist", "--by", "episode").code == 2
