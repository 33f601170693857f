"""Transforms: closed forms of each, and the algorithm that sees the world through them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcli import main
from rlcli.algorithms import bc, dqn, ppo, sac
from rlcli.algorithms.transformed import Transformed
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.pipeline.execution import Execution
from rlcli.pipeline.updates import UpdateRunner
from rlcli.transforms.cast import Cast
from rlcli.transforms.frame_stack import FrameStack
from rlcli.transforms.normalise import Normalise
from rlcli.transforms.reward import RewardClip, RewardScale
from rlcli.transforms.reward_to_go import RewardToGo
from rlcli.transforms.transform import Episodic, episodic_of, parse_transform

BOX = Box((2,), "float32", -1.0, 1.0)
NESTED = Composite({"b": Box((2,), "float64"), "mode": Discrete(3), "a": Box((1, 2), "uint8", 0, 255)})
EAGER = Execution(compiled=False, matmul="highest", threads=1, reason="test")


def nested(size: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "b": torch.randn(size, 2, generator=generator, dtype=torch.float64) * 3 + 100,
        "mode": torch.randint(0, 3, (size,), generator=generator),
        "a": torch.randint(0, 256, (size, 1, 2), generator=generator, dtype=torch.uint8),
    }


def transitions(size: int = 16, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "observation": torch.randn(size, 3, generator=generator) * 5 + 2,
        "action": torch.randint(0, 2, (size,), generator=generator),
        "next": {
            "observation": torch.randn(size, 3, generator=generator) * 5 + 2,
            "reward": torch.randn(size, 1, generator=generator),
            "terminated": torch.rand(size, 1, generator=generator) < 0.3,
        },
    }


def test_running_statistics_are_those_of_everything_seen() -> None:
    transform, parts = Normalise(clip=100.0), [nested(size, size) for size in (5, 1, 30)]
    memory = transform.init(NESTED)
    for part in parts:
        memory = transform.learn(memory, NESTED, part)
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for name in ("a", "b"):
        values = whole[name].double()
        wanted = (values - values.mean(0)) / values.std(0, correction=0)
        found = transform.observation(memory, NESTED, whole)[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted.float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(transform.observation(memory, NESTED, whole)["mode"], whole["mode"])
    assert memory["count"].item() == 36


def test_a_constant_element_becomes_zero_and_extremes_are_clipped() -> None:
    transform, spec = Normalise(clip=2.0), Box((2,))
    memory = transform.learn(transform.init(spec), spec, torch.tensor([[7.0, -1.0], [7.0, 1.0]]))
    found = transform.observation(memory, spec, torch.tensor([[7.0, 0.5], [7.0, 9.0]]))
    assert found.tolist() == [[0.0, 0.5], [0.0, 2.0]]
    assert transform.output(spec) == Box((2,), "float32", -2.0, 2.0)


def test_nothing_changes_before_anything_is_known() -> None:
    transform, spec = Normalise(), Box((2,))
    values = torch.tensor([[1.5, -3.0]])
    assert torch.equal(transform.observation(transform.init(spec), spec, values), values)


def test_bytes_become_numbers_between_zero_and_one() -> None:
    transform = Cast(factor=1 / 255)
    spec = transform.output(NESTED)
    assert isinstance(spec, Composite)
    leaf = spec.fields["a"]
    assert isinstance(leaf, Box)
    assert leaf.dtype == "float32"
    np.testing.assert_allclose(leaf.bounds()[1], 1.0)
    values = {**nested(1, 0), "a": torch.tensor([[[0, 255]]], dtype=torch.uint8)}
    torch.testing.assert_close(transform.observation({}, NESTED, values)["a"], torch.tensor([[[0.0, 1.0]]]))


def test_rewards_are_scaled_or_clipped() -> None:
    rewards = torch.tensor([[-3.0], [0.5], [2.0]])
    assert RewardScale(0.5).reward(rewards).flatten().tolist() == [-1.5, 0.25, 1.0]
    assert RewardClip(-1.0, 1.0).reward(rewards).flatten().tolist() == [-1.0, 0.5, 1.0]
    assert (RewardScale(2.0).is_linear, RewardClip().is_linear) == (True, False)


def test_a_stack_is_a_history_and_its_spec() -> None:
    transform = FrameStack(3)
    assert transform.output(Box((2,), "float32", -1.0, (1.0, 2.0))) == Box(
        (3, 2), "float32", -1.0, (1.0, 2.0, 1.0, 2.0, 1.0, 2.0)
    )
    stacked = torch.randn(4, 3, 2)
    assert transform.observation({}, BOX, stacked) is stacked
    with pytest.raises(IncompatibleError, match="numbers can be stacked"):
        transform.output(NESTED)


def test_what_the_episode_gives_is_asked_for_first() -> None:
    wanted = RewardToGo(5.0, 0.5)
    assert episodic_of([]) == episodic_of([Normalise()]) == (Episodic(), 0)
    assert episodic_of([FrameStack(3), Normalise()]) == (Episodic(3), 1)
    assert episodic_of([FrameStack(3), wanted, Cast()]) == (Episodic(3, (0.5, 5.0)), 2)
    for wrong in (
        [Normalise(), FrameStack(3)],
        [wanted, FrameStack(3)],
        [FrameStack(3), FrameStack(3)],
        [wanted, wanted],
    ):
        with pytest.raises(UsageError, match="comes first"):
            episodic_of(wrong)
    stacked = Box((3, 2), "float32", -1.0, 1.0)
    assert Transformed(bc, [FrameStack(3), Normalise()], BOX).input == stacked
    assert Transformed(bc, [Normalise()], BOX).input == BOX
    both = Composite({"observation": stacked, "reward_to_go": Box((1,))})
    assert Transformed(bc, [FrameStack(3), wanted, Normalise()], BOX).input == both


def test_a_reward_to_go_is_for_learners_from_actions_and_needs_a_target() -> None:
    with pytest.raises(IncompatibleError, match="bc"):
        Transformed(dqn, [RewardToGo(1.0)], BOX)
    with pytest.raises(UsageError, match="needs a target"):
        Transformed(bc, [RewardToGo()], BOX)
    seen = Transformed(bc, [RewardToGo(1.0), RewardScale(2.0)], BOX)
    assert set(seen.COLUMNS) == {*bc.COLUMNS, ("reward_to_go",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("normalize", "did you mean 'normalise'"),
        ("reward-scale:factr=2", "did you mean 'factor'"),
        ("cast:dtype", "not of the form option=value"),
        ("normalise:clip=-1", "must be > 0"),
    ],
)
def test_a_mistyped_transform_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_transform(text)


def test_a_word_names_a_transform() -> None:
    assert parse_transform("reward-scale:factor=0.1") == RewardScale(0.1)
    assert parse_transform("reward-clip:low=-5,high=5") == RewardClip(-5.0, 5.0)
    assert parse_transform("normalise") == Normalise()


def test_nothing_to_normalise_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="no numbers"):
        Transformed(dqn, [Normalise()], Discrete(5))


def test_an_update_sees_transformed_batches_and_statistics_from_before_it() -> None:
    algorithm = Transformed(dqn, [Normalise(), RewardScale(3.0)], Box((3,)))
    config = dqn.Config(hidden=(8,))
    nets = algorithm.build(Box((3,)), Discrete(2), config)
    state = algorithm.init(nets, config, torch.Generator().manual_seed(0))
    for seed in range(3):
        batch = transitions(seed=seed)
        known = {name: state[f"transform0_{name}"] for name in Normalise.MEMORY}
        seen = {
            "observation": Normalise().observation(known, Box((3,)), batch["observation"]),
            "action": batch["action"],
            "next": {
                **batch["next"],
                "observation": Normalise().observation(known, Box((3,)), batch["next"]["observation"]),
                "reward": batch["next"]["reward"] * 3,
            },
        }
        wanted, _ = dqn.update(state, seen, nets, config)
        state, _ = algorithm.update(state, batch, nets, config)
        assert torch.equal(state["critic"], wanted["critic"])
    everything = torch.cat([transitions(seed=seed)["observation"] for seed in range(3)]).double()
    torch.testing.assert_close(state["transform0_mean"], everything.mean(0))


def test_acting_teaches_nothing_and_sees_what_updates_see() -> None:
    algorithm = Transformed(sac, [Normalise()], Box((3,)))
    config = sac.Config(hidden=(8,))
    nets = algorithm.build(Box((3,)), BOX, config)
    state = algorithm.init(nets, config, torch.Generator().manual_seed(0))
    observation = transitions()["observation"]
    state = algorithm.learn(state, observation)
    before = {name: value.clone() for name, value in state.items() if name.startswith("transform")}
    found = algorithm.act(state, observation, nets, config)
    assert all(torch.equal(state[name], value) for name, value in before.items())
    wanted = sac.act(state, algorithm.observation(state, observation), nets, config)
    assert torch.equal(found, wanted)


def test_an_iteration_normalises_with_what_its_rollout_was_collected_with() -> None:
    config = ppo.Config(hidden=(8,), num_epochs=2, minibatch_size=8)
    algorithm = Transformed(ppo, [Normalise(), RewardScale(0.5)], Box((3,)))
    nets = algorithm.build(Box((3,)), Discrete(2), config)
    state = algorithm.init(nets, config, torch.Generator().manual_seed(0))
    state = algorithm.learn(state, transitions(seed=9)["observation"])
    rng = np.random.default_rng(0)
    rollout = {
        "observation": rng.normal(size=(8, 2, 3)).astype(np.float32),
        "action": rng.integers(0, 2, (8, 2)),
        "log_prob": np.full((8, 2), np.log(0.5), np.float32),
        "value": np.zeros((8, 2), np.float32),
        "next": {
            "observation": rng.normal(size=(8, 2, 3)).astype(np.float32),
            "reward": rng.normal(size=(8, 2)).astype(np.float32),
            "terminated": np.zeros((8, 2), bool),
            "truncated": np.zeros((8, 2), bool),
        },
    }

    def seen(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = torch.from_numpy(values).flatten(0, 1)
        found: np.ndarray[Any, Any] = algorithm.observation(state, flat).reshape(values.shape).numpy()
        return found

    after: dict[str, Any] = rollout["next"]  # type: ignore[assignment]
    plain = {
        **rollout,
        "observation": seen(rollout["observation"]),  # type: ignore[arg-type]
        "next": {**after, "observation": seen(after["observation"]), "reward": after["reward"] * 0.5},
    }
    runners = [
        UpdateRunner(one, nets, config, EAGER, torch.Generator().manual_seed(1)) for one in (algorithm, ppo)
    ]
    found, _ = runners[0].iterate(state, rollout)
    wanted, _ = runners[1].iterate(
        {name: value for name, value in state.items() if "transform" not in name}, plain
    )
    for name in wanted:
        if isinstance(wanted[name], torch.Tensor):
            assert torch.equal(found[name], wanted[name]), name
    assert found["transform0_count"] == state["transform0_count"] + 16


@pytest.mark.parametrize("nest", [False, True])
def test_a_compiled_update_transforms_as_an_eager_one(
    nest: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = NESTED if nest else Box((3,))
    words = ["cast", "normalise", "reward-clip"]
    algorithm = Transformed(bc if nest else dqn, [parse_transform(word) for word in words], spec)
    config = algorithm.Config(hidden=(8,))
    nets = algorithm.build(spec, Discrete(2), config)
    start = algorithm.init(nets, config, torch.Generator().manual_seed(0))
    runners = [
        UpdateRunner(algorithm, nets, config, execution, torch.Generator())
        for execution in (EAGER, Execution(compiled=True, matmul="highest", threads=1, reason="test"))
    ]
    states = [start, start]
    for seed in range(3):
        batch = transitions(seed=seed)
        if nest:
            batch = {**batch, "observation": nested(16, seed)}
        states = [runner.update(state, batch)[0] for runner, state in zip(runners, states, strict=True)]
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=1e-4)


def test_scores_and_data_are_of_rewards_as_they_are(tmp_path: Path) -> None:
    """Updates see rewards of 200 for 1: scores are lengths of episodes still, and data are as they were."""
    scores = []
    for name, more in (("plain", []), ("scaled", ["--transform", "reward-scale:factor=200"])):
        run = tmp_path / name
        command = ["train", "dqn", "--env", "CartPole-v1", "--steps", "120", "--learning-starts", "110"]
        command += ["--hidden", "4", "--batch-size", "8", "--eval-every", "0", "--compile", "off", "--quiet"]
        assert main.run([*command, "--no-tensorboard", "-o", str(run), *more]) == 0
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        scores.append([line["score"] for line in lines if "score" in line and line["step"] <= 110])
        with Dataset.open(run / "replay") as replay:
            assert (replay.read(("next", "reward")) == 1).all()
            np.testing.assert_array_equal(replay.episodes.return_, replay.episodes.length)
    assert scores[0] == scores[1]
    assert scores[0]
