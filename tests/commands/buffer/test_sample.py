"""`rl buffer sample` with samplers whose batches are more than rows, and behind transforms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.collectors.nested import flatten
from rlcli.format.dataset import Dataset
from rlcli.format.semantics import check as check_semantics
from rlcli.format.verify import verify
from rlcli.replay import SAMPLERS
from rlcli.replay.choice import make_sampler
from tests.replay.made_up import counting, goals

SETS = {"slices": ["length=4", "short=pad", "burn_in=1"], "prioritized-slices": ["length=3"]}
GIVEN = {("row",), ("valid",), ("episode",), ("step",), ("is_init",)}


def flags(name: str) -> list[str]:
    return [word for item in SETS.get(name, []) for word in ("--set", item)]


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("goals") / "data"
    goals(path, [5, 9, 3, 20, 4], num_streams=2).close()
    return path


def expected(path: Path, name: str, count: int) -> dict[tuple[str, ...], Any]:
    with Dataset.open(path) as dataset:
        sampler = make_sampler(name, dataset, sets=SETS.get(name, []), seed=3)
        return dict(flatten(sampler.sample(count), ()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_shown(name: str, rl: Callable[..., Any], reached: Path) -> None:
    out = rl("sample", reached, "-n", 6, "--seed", 3, "--sampler", name, *flags(name)).out
    shown = [dict(flatten(json.loads(line), ())) for line in out.splitlines()]
    batch = expected(reached, name, 6)
    with Dataset.open(reached) as dataset:
        for index, record in enumerate(shown):
            for key, values in batch.items():
                value = values[index]
                if key == ("row",):
                    value = dataset.rows_of(values)[index]
                elif key == ("weight",) and name == "prioritized-slices":
                    value = [value] * 3
                np.testing.assert_array_equal(record[key], value)
    assert len(shown) == 6


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_makes_a_dataset(
    name: str, rl: Callable[..., Any], reached: Path, tmp_path: Path
) -> None:
    command = ("-n", 6, "--seed", 3, "--sampler", name, *flags(name))
    report = rl("sample", reached, *command, "-o", tmp_path / "out", "--json").json
    batch = expected(reached, name, 6)
    assert report["episodes"] == 6
    with Dataset.open(tmp_path / "out") as made:
        assert list(check_semantics(made).errors) == []
        for column in made.schema.columns:
            if column.key in GIVEN or column.key == ("source_row",):
                continue
            values = batch[column.key]
            if "valid" in {key[0] for key in batch}:
                if column.key == ("weight",):
                    values = np.repeat(values[:, None], 3, axis=1)
                values = values[batch["valid",][..., 0]]
            np.testing.assert_array_equal(made.read(column.key), values)
        assert {column.key for column in made.schema.columns} >= batch.keys() - GIVEN
        assert made.extra.get("n_step") == ({"n": 3, "gamma": 0.99} if "n-step" in name else None)
        if ("row",) in batch and "slices" not in name:
            with Dataset.open(reached) as dataset:
                rows = dataset.rows_of(batch["row",])
            np.testing.assert_array_equal(made.read(("source_row",)), rows)
    assert verify(tmp_path / "out", deep=True) == []


def test_slices_over_the_ends_of_episodes_are_several(
    rl: Callable[..., Any], reached: Path, tmp_path: Path
) -> None:
    command = ("--sampler", "slices", "--set", "length=10", "--set", "across=true", "-o", tmp_path / "out")
    report = rl("sample", reached, "-n", 5, *command, "--json").json
    with Dataset.open(tmp_path / "out") as made:
        ends = made.read(("next", "truncated"))[:, 0]
        ends[9::10] = True
        assert report["episodes"] == made.num_episodes == ends.sum()
        assert report["rows"] == 50
        np.testing.assert_array_equal((made.episodes.start + made.episodes.length - 1), np.flatnonzero(ends))


def test_what_an_update_would_see(rl: Callable[..., Any], tmp_path: Path) -> None:
    counting(tmp_path / "a", [6, 5]).close()
    words = ("--transform", "frame-stack:frames=3", "--transform", "reward-scale:factor=0.5")
    keys = ("--keys", "observation,next/reward,next/observation")
    out = rl("sample", tmp_path / "a", "-n", 40, *words, *keys).out
    for record in map(json.loads, out.splitlines()):
        row = record["row"]
        first, last = (0, 5) if row < 6 else (6, 10)
        frames = [max(row - 2, first), max(row - 1, first), row]
        assert [frame[0] for frame in record["observation"]] == frames
        following = row + 0.5 if row == last else row + 1
        assert [frame[0] for frame in record["next"]["observation"]] == [*frames[1:], following]
        assert record["next"]["reward"] == [row / 2]


def test_reward_to_go_and_statistics_as_in_training(rl: Callable[..., Any], tmp_path: Path) -> None:
    counting(tmp_path / "a", [4, 3]).close()
    out = rl("sample", tmp_path / "a", "-n", 9, "--transform", "reward-to-go:target=1").out
    for record in map(json.loads, out.splitlines()):
        row = record["row"]
        assert record["observation"]["reward_to_go"] == [sum(range(row, 4 if row < 4 else 7))]
        assert "observation" not in record["next"]
    words = ("--sampler", "slices", "--set", "length=3", "--transform", "normalise", "--keys", "observation")
    out = rl("sample", tmp_path / "a", "-n", 4, *words).out  # nothing is known before the first batch
    for record in map(json.loads, out.splitlines()):
        assert np.diff(record["observation"], axis=0).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--sampler", "slices", "--transform", "frame-stack"], 5, "as they are"),
        (["--sampler", "slices", "--set", "length=21"], 5, "no episode of 21 rows"),
        (["--sampler", "prioritized", "--set", "alpha=-1"], 2, "alpha"),
        (["--sampler", "prioritized", "--keys", "wieght"], 2, "did you mean 'weight'"),
        (["--transform", "frame-stak"], 2, "did you mean 'frame-stack'"),
        (["--transform", "normalise", "-o", "out"], 2, "makes no dataset"),
        (["--sampler", "prioritized", "--set", "distinct=true", "-n", "42"], 5, "fewer than a batch"),
    ],
)
def test_wrong_batches_are_one_line(
    arguments: list[str], code: int, words: str, rl: Callable[..., Any], reached: Path
) -> None:
    count = [] if "-n" in arguments else ["-n", "3"]
    ended = rl("sample", reached, *count, *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err
    assert ended.err.count("\n") == 1
