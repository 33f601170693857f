"""The recording loop: exact counts, unbiased choice of episodes, nothing invented at the edges."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlcli.collectors import record as module
from rlcli.collectors.policy import CheckedPolicy, RandomPolicy
from rlcli.collectors.record import Recorded, record
from rlcli.collectors.seeds import episode_seed
from rlcli.envs import make
from rlcli.errors import IncompatibleError, InputError
from rlcli.testing.counting import ending, episode_length, observation, scripted

COUNTING = "rlcli.testing.counting:Counting"


class Rows:
    """A sink that keeps every episode as plain lists."""

    def __init__(self) -> None:
        self.episodes: list[SimpleNamespace] = []
        self.open: dict[int, SimpleNamespace] = {}
        self.flushes = 0

    def begin(self, stream: int, seed: int | None) -> None:
        assert stream not in self.open
        self.open[stream] = SimpleNamespace(stream=stream, seed=seed, parts=[])

    def add_rows(self, stream: int, columns: Mapping[Any, Any]) -> None:
        self.open[stream].parts.append({key: column.copy() for key, column in columns.items()})

    def end(self, stream: int, **how: Any) -> None:
        episode = self.open.pop(stream)
        keys = episode.parts[0]
        episode.columns = {key: np.concatenate([part[key] for part in episode.parts]) for key in keys}
        episode.length = len(episode.columns["next", "reward"])
        final = how.pop("final")
        episode.final = (
            {k: np.copy(v) for k, v in final.items()} if isinstance(final, dict) else np.copy(final)
        )
        episode.how = how
        self.episodes.append(episode)

    def flush(self, tag: int = 0) -> None:
        self.flushes += 1


def _record(envs: int, policy: Any = None, rows: Rows | None = None, **options: Any) -> tuple[Rows, Recorded]:
    kwargs = options.pop("kwargs", {})
    made = [make(COUNTING, **kwargs) for _ in range(envs)]
    rows = rows or Rows()
    options.setdefault("seed", 0)
    return rows, record(made, policy or RandomPolicy(made[0].action_spec, 0), rows, **options)


def _check(rows: Rows, seed: int, *, length: int, spread: int = 0, kind: str = "terminated") -> None:
    """Every number of every episode against what its seed says."""
    counts: dict[int, int] = {}
    for episode in rows.episodes:
        number = counts.get(episode.stream, 0)
        counts[episode.stream] = number + 1
        assert episode.seed == episode_seed(seed, episode.stream, number)
        steps = episode.length
        expected = [observation(episode.seed, step) for step in range(steps)]
        assert np.array_equal(episode.columns["observation",], expected)
        assert np.array_equal(episode.columns["next", "reward"], np.arange(1, steps + 1).reshape(-1, 1))
        assert np.array_equal(episode.final, observation(episode.seed, steps))
        if episode.how.get("cut"):
            assert (episode.how["terminated"], episode.how["truncated"]) == (False, False)
            assert steps < episode_length(episode.seed, length, spread)
        else:
            assert (episode.how["terminated"], episode.how["truncated"]) == ending(episode.seed, kind)
            assert steps == episode_length(episode.seed, length, spread)


@pytest.mark.parametrize("envs", [1, 2, 3, 7])
@pytest.mark.parametrize("steps", [1, 5, 20, 101])
@pytest.mark.parametrize("reuse", [False, True])
def test_exactly_the_asked_steps(envs: int, steps: int, reuse: bool) -> None:
    kwargs = {"length": 3, "spread": 4, "ending": "alternate", "reuse": reuse}
    rows, recorded = _record(envs, steps=steps, kwargs=kwargs)
    lengths = [0] * envs
    for episode in rows.episodes:
        lengths[episode.stream] += episode.length
    assert recorded.steps == steps
    assert lengths == [steps // envs + (index < steps % envs) for index in range(envs)]
    assert recorded.episodes == sum(not episode.how.get("cut") for episode in rows.episodes)
    _check(rows, 0, length=3, spread=4, kind="alternate")


@pytest.mark.parametrize(("envs", "episodes"), [(1, 1), (1, 5), (3, 1), (3, 3), (3, 10), (5, 12)])
def test_exactly_the_asked_episodes_whatever_their_length(envs: int, episodes: int) -> None:
    """Taking whichever end first would favour short ones; here the seeds are fixed before the first step."""
    rows, recorded = _record(envs, episodes=episodes, kwargs={"length": 1, "spread": 50})
    assert recorded.episodes == len(rows.episodes) == episodes
    assert recorded.steps == sum(episode.length for episode in rows.episodes)
    seeds = {(episode.stream, episode.seed) for episode in rows.episodes}
    assert seeds == {
        (index % envs, episode_seed(0, index % envs, index // envs)) for index in range(episodes)
    }
    assert not any(episode.how.get("cut") for episode in rows.episodes)
    _check(rows, 0, length=1, spread=50)


def test_an_episode_longer_than_a_part_is_one_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", 8 * 10)  # ten rows
    for length in (9, 10, 11, 20, 35):
        rows, _ = _record(2, episodes=4, kwargs={"length": length})
        assert [len(episode.parts) for episode in rows.episodes] == [-(-length // 10)] * 4
        _check(rows, 0, length=length)
    rows, _ = _record(1, steps=10, kwargs={"length": 20})
    assert rows.episodes[0].length == 10
    _check(rows, 0, length=20)


def test_ticks_commit_without_changing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.0)
    monkeypatch.setattr(module, "_MAX_BURST", 1)
    rows, _ = _record(2, steps=50, kwargs={"length": 4}, progress=lambda *done: told.append(done))
    assert rows.flushes == 26  # one per round and one at the end
    assert told == [(2 * n, 2 * (n // 4)) for n in range(1, 26)]
    _check(rows, 0, length=4)


@pytest.mark.parametrize("action", ["discrete", "box", "multi_discrete", "multi_binary", "dict"])
@pytest.mark.parametrize("observed", ["vector", "discrete", "dict"])
def test_every_kind_of_space_is_recorded_as_received(action: str, observed: str) -> None:
    rows, _ = _record(2, episodes=4, kwargs={"action": action, "observation": observed, "length": 6})
    for episode in rows.episodes:
        expected = [observation(episode.seed, step, observed) for step in range(7)]
        if observed == "dict":
            assert np.array_equal(episode.columns["observation", "mode"], [o["mode"] for o in expected[:-1]])
            pixels = np.stack([o["nested"]["pixels"] for o in expected[:-1]])
            assert np.array_equal(episode.columns["observation", "nested", "pixels"], pixels)
            assert episode.columns["observation", "nested", "pixels"].dtype == np.uint8  # trap 66
            assert np.array_equal(episode.final["vector"], expected[-1]["vector"])
        else:
            assert np.array_equal(episode.columns["observation",], expected[:-1])
            assert np.array_equal(episode.final, expected[-1])


def test_actions_are_recorded_as_asked_before_clipping() -> None:
    """Trap 58: the dataset holds the policy's action; the environment gets it within its bounds."""
    asked = np.float32([[5.0, -7.0], [0.5, 0.5]])
    policy = CheckedPolicy(lambda seen: asked, make(COUNTING, action="box").action_spec, "mine")
    rows, _ = _record(2, policy, episodes=2, kwargs={"action": "box", "length": 3})
    for episode in rows.episodes:
        assert np.array_equal(episode.columns["action",], [asked[episode.stream]] * 3)


def test_the_policy_sees_the_current_observations() -> None:
    """`scripted` is a function of step and seed, so a stale or foreign observation would show."""
    spec = make(COUNTING).action_spec
    rows, _ = _record(3, CheckedPolicy(scripted, spec, "scripted"), steps=100, kwargs={"spread": 3})
    for episode in rows.episodes:
        seen = np.array([observation(episode.seed, step) for step in range(episode.length)])
        assert np.array_equal(episode.columns["action",], scripted(seen))


def test_a_policy_that_scribbles_on_its_input_changes_nothing() -> None:
    def scribble(seen: Any) -> Any:
        seen[:] = -1
        return np.ones(len(seen), np.int64)

    rows, _ = _record(2, CheckedPolicy(scribble, make(COUNTING).action_spec, "mine"), steps=33)
    _check(rows, 0, length=5)


def test_a_stop_finishes_the_round_and_cuts() -> None:
    stop = SimpleNamespace(requested=0)

    def act(seen: Any) -> Any:
        if seen[0, 0] == 3:
            stop.requested = 2
        return np.ones(len(seen), np.int64)

    policy = CheckedPolicy(act, make(COUNTING).action_spec, "mine")
    rows, recorded = _record(2, policy, steps=1000, stop=stop)
    assert recorded == Recorded(8, 0)
    assert [episode.length for episode in rows.episodes] == [4, 4]
    assert rows.flushes == 1
    _check(rows, 0, length=5)


def test_an_environment_that_fails_keeps_what_was_recorded() -> None:
    rows = Rows()
    with pytest.raises(InputError, match=r"failed: RuntimeError: failing on purpose at counting.py:\d+"):
        _record(2, steps=100, rows=rows, kwargs={"fail_at": 3})
    assert [episode.length for episode in rows.episodes] == [3, 3]
    _check(rows, 0, length=5)


@pytest.mark.parametrize(
    ("at", "value"),
    [(3, np.zeros(3)), (3, "x"), (5, np.zeros(3)), (5, "x"), (5, None), (5, np.float32(1))],
)  # at step 3 NumPy spreads one number over the row, and looking at each step would cost too much
def test_an_observation_that_does_not_fit_leaves_its_step_out(at: int, value: Any) -> None:
    env = make(COUNTING)
    step = env.step

    def broken(action: Any) -> Any:
        seen, *rest = step(action)
        return (value if seen[0] == at else seen), *rest

    env.step = broken  # type: ignore[method-assign]
    rows = Rows()
    with pytest.raises((InputError, IncompatibleError), match="Counting"):
        record([env], RandomPolicy(env.action_spec, 0), rows, seed=0, steps=20)
    assert [episode.length for episode in rows.episodes] == [at - 1]
    _check(rows, 0, length=5)


def test_an_environment_that_exits_is_an_environment_that_fails() -> None:
    env = make(COUNTING)
    env.step = lambda action: sys.exit(0)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="SystemExit"):
        record([env], RandomPolicy(env.action_spec, 0), Rows(), seed=0, steps=20)


def test_a_wrong_action_is_the_policys_fault() -> None:
    policy = CheckedPolicy(lambda seen: np.array([9]), make(COUNTING).action_spec, "mine")
    with pytest.raises(IncompatibleError, match="the action of mine: 9 is not one of 1 … 3"):
        _record(1, policy, steps=10)


def test_later_episodes_continue_the_numbering() -> None:
    rows, _ = _record(2, episodes=2, first_episodes=[5, 2])
    assert [episode.seed for episode in rows.episodes] == [episode_seed(0, 0, 5), episode_seed(0, 1, 2)]


def test_steps_or_episodes_not_both() -> None:
    with pytest.raises(ValueError, match="either"):
        _record(1)
    with pytest.raises(ValueError, match="either"):
        _record(1, steps=1, episodes=1)
