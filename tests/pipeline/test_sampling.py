"""The sampler of a run: what fits, what follows the run, and what a checkpoint holds of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rlcli.algorithms import bc, dqn, iql, ppo, sac
from rlcli.config import from_options, read_scope
from rlcli.errors import IncompatibleError, RLError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer_map import Options as MapOptions
from rlcli.pipeline.buffer_map import map_dataset
from rlcli.pipeline.sampling import Choice, choose, columns, fitting, join_state, split_state, tell
from rlcli.replay.mixture import Mixture
from rlcli.replay.prioritized import Config as PrioritizedConfig
from rlcli.replay.prioritized import Prioritized


def rows_of(path: Path, lengths: list[int], *, terminated: bool = True) -> Dataset:
    """Episodes of reward 1; the observation of the k-th row is k."""
    spec = {"env": None, "observation": Box((1,)).to_json(), "action": Discrete(2).to_json()}
    schema = ted_schema(Box((1,)), Discrete(2))
    with EpisodeWriter(Writer.create(path, schema, spec=spec, lineage={"op": "test"})) as writer:
        value = 0
        for number, length in enumerate(lengths):
            writer.begin(0, number)
            for step in range(length):
                last = step == length - 1
                writer.add(
                    0,
                    observation=np.array([value], np.float32),
                    action=value % 2,
                    reward=1.0,
                    terminated=last and terminated,
                    truncated=last and not terminated,
                    next_observation=np.array([-1.0], np.float32) if last else None,
                )
                value += 1
    return Dataset.open(path)


def chosen(
    name: str, given: dict[str, Any], algorithm: ModuleType = dqn, source: str = "online", gamma: float = 0.9
) -> Choice:
    config = dataclasses.replace(algorithm.Config(), gamma=gamma) if algorithm is not bc else bc.Config()
    return choose(name, given, label="it", algorithm=algorithm, config=config, source=source, updates=500)


def test_what_is_not_given_follows_the_run() -> None:
    assert chosen("n-step", {}).config.gamma == 0.9
    assert chosen("n-step", {"n": "5"}).config.n == 5
    assert chosen("prioritized", {}).config.beta_batches == 500
    assert chosen("prioritized", {"beta_batches": "0", "alpha": 0.7}).config == PrioritizedConfig(alpha=0.7)
    both = chosen("prioritized-n-step", {"n": "2"}).config
    assert (both.n, both.gamma, both.beta_batches) == (2, 0.9, 500)
    assert Choice.recorded("n-step", chosen("n-step", {}).to_json()) == chosen("n-step", {})


@pytest.mark.parametrize(
    ("name", "given", "algorithm", "source", "said"),
    [
        ("n-step", {"gamma": "0.5"}, dqn, "online", "is not the algorithm's --gamma 0.9"),
        ("prioritized-n-step", {"gamma": "0.5"}, dqn, "online", "is not the algorithm's --gamma 0.9"),
        ("prioritised", {}, dqn, "online", "did you mean 'prioritized'"),
        ("prioritized", {"alfa": "1"}, dqn, "online", "did you mean 'alpha'"),
        ("prioritized", {"alpha": "-1"}, dqn, "online", "sampler.alpha must be ≥ 0"),
        ("uniform", {"alpha": "1"}, dqn, "online", "there are no sampler options"),
        ("slices", {}, dqn, "dataset", "draws sequences"),
        ("top-return", {}, sac, "online", "--from-dataset"),
        ("prioritized", {}, bc, "dataset", "does not read"),
        ("n-step", {}, bc, "dataset", "does not read"),
        ("prioritized", {}, ppo, "online", "takes no --sampler"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, given: dict[str, Any], algorithm: ModuleType, source: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(name, given, algorithm, source)


def test_every_learner_from_transitions_takes_several_steps_and_priorities() -> None:
    both = {"prioritized", "n-step", "prioritized-n-step"}
    assert both <= set(fitting(dqn, "online")) & set(fitting(iql, "dataset"))
    assert fitting(ppo, "online") == []
    assert set(fitting(bc, "dataset")) == {"uniform", "without-replacement", "hindsight", "top-return"}


def critic_that_says(value: float) -> tuple[dqn.Nets, torch.Tensor, dqn.Config]:
    config = dqn.Config(hidden=(), gamma=0.9)
    nets = dqn.build(Box((1,)), Discrete(2), config)
    return nets, torch.tensor([0.0, 0.0, value, value]), config


def targets(dataset: Dataset, choice: Choice, value: float) -> dict[int, float]:
    """The target of every row drawn, by the number of the row; the critic says `value` everywhere."""
    nets, critic, config = critic_that_says(value)
    sampler = choice.make(dataset, columns(dataset, dqn, config, choice), None, 0)
    found = {}
    for _ in range(100):
        batch = sampler.sample(1)
        as_tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in batch.items() if k != "next"}
        as_tensors["next"] = {k: torch.from_numpy(v) for k, v in batch["next"].items()}
        metrics = dqn.critic_loss(critic, critic, as_tensors, nets, config)[1]
        found[int(batch["observation"][0, 0])] = metrics["target_q"].item()
    return found


@pytest.mark.parametrize("made_beforehand", [False, True])
def test_three_steps_to_a_terminal_are_worth_their_rewards_alone(
    made_beforehand: bool, tmp_path: Path
) -> None:
    # TRAPS 7: rows 0 and 1 look past a terminal at row 2, so nothing is bootstrapped there.
    dataset = rows_of(tmp_path / "a", [3])
    choice = Choice("n-step", chosen("n-step", {}).config)
    if made_beforehand:
        map_dataset(tmp_path / "a", tmp_path / "b", MapOptions([("--n-step", "3")], gamma=0.9))
        dataset, choice = Dataset.open(tmp_path / "b"), chosen("uniform", {})
    found = targets(dataset, choice, value=10.0)
    assert found == pytest.approx({0: 1 + 0.9 + 0.81, 1: 1 + 0.9, 2: 1})


@pytest.mark.parametrize("made_beforehand", [False, True])
def test_a_cut_episode_is_bootstrapped_from_with_gamma_to_the_steps_taken(
    made_beforehand: bool, tmp_path: Path
) -> None:
    dataset = rows_of(tmp_path / "a", [4], terminated=False)
    choice = Choice("n-step", chosen("n-step", {}).config)
    if made_beforehand:
        map_dataset(tmp_path / "a", tmp_path / "b", MapOptions([("--n-step", "3")], gamma=0.9))
        dataset, choice = Dataset.open(tmp_path / "b"), chosen("uniform", {})
    found = targets(dataset, choice, value=10.0)
    three, two, one = 1 + 0.9 + 0.81 + 7.29, 1 + 0.9 + 8.1, 1 + 9.0
    assert found == pytest.approx({0: three, 1: three, 2: two, 3: one})


def test_n_step_rewards_are_never_taken_for_those_of_one_step(tmp_path: Path) -> None:
    rows_of(tmp_path / "a", [5])
    map_dataset(tmp_path / "a", tmp_path / "b", MapOptions([("--n-step", "3")], gamma=0.5))
    config = dqn.Config(gamma=0.9)
    with Dataset.open(tmp_path / "b") as dataset:
        with pytest.raises(IncompatibleError, match=r"made with gamma 0.5, but --gamma is 0.9"):
            columns(dataset, dqn, config, chosen("uniform", {}))
        with pytest.raises(IncompatibleError, match="3-step rewards already"):
            columns(dataset, dqn, dqn.Config(gamma=0.5), chosen("n-step", {}))
        assert ("next", "discount") in columns(dataset, dqn, dqn.Config(gamma=0.5), chosen("uniform", {}))
        assert columns(dataset, bc, bc.Config(), chosen("uniform", {})) == bc.COLUMNS


def test_a_state_with_arrays_is_json_and_arrays_and_back() -> None:
    state = {
        "sampler": "mixture",
        "sources": [{"table": {"owners": np.arange(3), "greatest": 2.0}}, {"batches": 4}],
        "given": [1, 2],
    }
    facts, arrays = split_state(state)
    assert json.loads(json.dumps(facts)) == facts
    back = join_state(facts, arrays)
    np.testing.assert_array_equal(back["sources"][0]["table"].pop("owners"), np.arange(3))
    state["sources"][0]["table"].pop("owners")  # type: ignore[index]
    assert back == state


def test_a_mixture_tells_each_source_its_own_rows(tmp_path: Path) -> None:
    datasets = [rows_of(tmp_path / name, [20]) for name in "ab"]
    sources = [Prioritized(d, seed=n, config=PrioritizedConfig(alpha=1.0)) for n, d in enumerate(datasets)]
    mixture = Mixture(sources, [3, 1])
    batch = mixture.sample(8)
    mixture.update(batch["row"], np.arange(1, 9, dtype=np.float64))
    told = np.arange(1, 9, dtype=np.float64)
    for source, part in ((sources[0], slice(0, 6)), (sources[1], slice(6, 8))):
        rows = np.arange(20)
        wanted = np.ones(20)  # a new row's
        wanted[batch["row"][part]] = told[part]  # of a row that was drawn twice the later stays
        np.testing.assert_array_equal(source.table.tree.get(rows), wanted)


@pytest.mark.parametrize("persist", [None, "priority"])
def test_errors_that_are_not_finite_tell_nothing(persist: str | None, tmp_path: Path) -> None:
    """Of a run that diverges: other rows get theirs, these keep what they had, in a mixture too."""
    parts = [
        Prioritized(rows_of(tmp_path / name, [4]), config=PrioritizedConfig(alpha=1.0, persist=persist))
        for name in "ab"
    ]
    mixture = Mixture(parts, [0.5, 0.5])
    mixture.sample(8)
    rows = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    tell(mixture, rows, np.array([5, np.nan, np.inf, 6, np.nan, 7, 8, -np.inf], np.float32))
    found = [part.table.tree.get(np.arange(4)).tolist() for part in parts]
    assert found == [[5, 1, 1, 6], [1, 7, 8, 1]]
    mixture.close()


def test_scoped_options_come_from_the_file_and_then_from_set(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("gamma = 0.9\n[sampler]\nalpha = 0.5\nbeta = 0.3\n")
    values = read_scope("sampler", file=file, sets=["lr=1", "sampler.alpha=0.7"])
    assert from_options(PrioritizedConfig, values, "sampler") == PrioritizedConfig(alpha=0.7, beta=0.3)
    with pytest.raises(RLError, match=r"sampler\.alpha"):
        from_options(PrioritizedConfig, {"alpha": "many"}, "sampler")
