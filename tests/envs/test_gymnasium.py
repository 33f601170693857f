"""Names to environments, spaces to specs, and the adapter's manners."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlcli.envs import make, make_many, name_of
from rlcli.envs.contract import check_fits
from rlcli.envs.gymnasium import GymnasiumEnv, spec_of
from rlcli.errors import IncompatibleError, InputError, MissingExtraError, UsageError
from rlcli.format.specs import Box, Composite, Discrete, MultiBinary, MultiDiscrete
from rlcli.testing.counting import Counting

COUNTING = "rlcli.testing.counting:Counting"
FAR_WIDE = [("CartPol-v1", "CartPole-v1"), ("cartpole-v1", "CartPole-v1"), ("CartPole-v7", "CartPole-v1")]


def test_three_ways_to_name_an_environment() -> None:
    plain, prefixed, own = make("CartPole-v1"), make("gymnasium:CartPole-v1"), make(COUNTING, length=3)
    assert plain.spec_json == prefixed.spec_json
    assert plain.spec_json == {
        "library": "gymnasium",
        "id": "CartPole-v1",
        "kwargs": {},
        "max_episode_steps": 500,
    }
    assert own.spec_json["kwargs"] == {"length": 3}
    assert name_of(plain.spec_json) == "CartPole-v1"
    assert name_of(own.spec_json) == COUNTING


@pytest.mark.parametrize(("wrong", "right"), FAR_WIDE)
def test_mistyped_name_suggests_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{right}'"):
        make(wrong)


def test_mistyped_argument_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="no argument 'sutton_reward'; did you mean 'sutton_barto_reward'"):
        make("CartPole-v1", sutton_reward=True)
    with pytest.raises(UsageError, match="no argument 'lenght'; did you mean 'length'"):
        make(COUNTING, lenght=3)


def test_wrong_value_names_the_argument() -> None:
    with pytest.raises(UsageError, match="map_name='9x9'"):
        make("FrozenLake-v1", map_name="9x9")


@pytest.mark.skipif("mujoco" in sys.modules, reason="needs MuJoCo to be absent")
def test_missing_library_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(MissingExtraError) as caught:
        make("LunarLander-v3")
    assert caught.value.hint == "pip install 'rlcli[box2d]'"


@pytest.mark.skipif(importlib.util.find_spec("ale_py") is not None, reason="needs ale-py to be absent")
def test_a_namespace_of_a_missing_package_names_the_package() -> None:
    with pytest.raises(MissingExtraError, match="ALE/Pong-v5 needs the package 'ale-py'") as caught:
        make("ALE/Pong-v5")
    assert caught.value.hint == "pip install ale-py"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("dmc:cheetah/run", UsageError, "unknown environment library 'dmc'"),
        ("os:getcwd", IncompatibleError, "returned a builtins.str"),
        ("os:sep", UsageError, "os:sep is a str"),
        ("os:getcwdd", UsageError, "did you mean 'getcwd'"),
        ("no_such_module_here:make", UsageError, "no module"),
        ("Blackjack-v1", IncompatibleError, "space Tuple is not supported"),
        ("", UsageError, "no environment"),
        ("os:abort_", UsageError, "no attribute"),
    ],
)
def test_names_that_mean_nothing_are_one_line(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make(name)
    assert "\n" not in str(caught.value)


def test_a_factory_that_fails_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("rlcli.testing.counting.broken", broken, raising=False)
    with pytest.raises(InputError, match="ZeroDivisionError: division by zero"):
        make("rlcli.testing.counting:broken")


def test_autoreset_wrappers_are_refused() -> None:
    wrapped = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.Autoreset(Counting()), 10)
    with pytest.raises(IncompatibleError, match="Autoreset"):
        GymnasiumEnv(wrapped, library="python", id="mine", kwargs={})


def test_spaces_become_specs() -> None:
    float32 = np.finfo(np.float32)
    assert spec_of(spaces.Box(-np.inf, np.inf, (3,)), "x") == Box((3,), "float32", None, None)
    assert spec_of(spaces.Box(0, 255, (2, 2), np.uint8), "x") == Box((2, 2), "uint8", None, None)
    assert spec_of(spaces.Box(0, 200, (2,), np.uint8), "x") == Box((2,), "uint8", None, 200.0)
    assert spec_of(spaces.Box(-1.0, 1.0, (), np.float64), "x") == Box((), "float64", -1.0, 1.0)
    assert spec_of(spaces.Box(float32.min, float32.max, (1,)), "x").high == float(float32.max)  # type: ignore[union-attr]
    assert spec_of(spaces.Discrete(3, start=-1), "x") == Discrete(3, -1)
    assert spec_of(spaces.MultiDiscrete([2, 5]), "x") == MultiDiscrete((2, 5))
    assert spec_of(spaces.MultiBinary(4), "x") == MultiBinary(4)
    nested = spec_of(spaces.Dict({"b": spaces.Dict({"c": spaces.Discrete(2)}), "a": spaces.Discrete(3)}), "x")
    assert nested == Composite({"b": Composite({"c": Discrete(2)}), "a": Discrete(3)})


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiDiscrete([2, 3], start=[1, 0]),
        spaces.MultiBinary([2, 2]),
        spaces.Dict({"a": spaces.Text(3)}),
    ],
    ids=str,
)
def test_spaces_without_a_spec_are_incompatible(space: spaces.Space[Any]) -> None:
    with pytest.raises(IncompatibleError):
        spec_of(space, "mine: observation")


def test_continuous_actions_are_clipped_to_the_bounds() -> None:
    """Trap 58: Pendulum's torque reaches its bound and no further."""
    env = make("Pendulum-v1")
    for asked, applied in ((50.0, 2.0), (-50.0, -2.0), (1.5, 1.5)):
        env.reset(0)
        env.step(np.array([asked], np.float32))
        assert env.env.unwrapped.last_u == applied  # type: ignore[attr-defined]


def test_bounds_of_one_side_clip_only_there() -> None:
    inner = Counting(action="box")
    inner.action_space = spaces.Box(np.float32([-np.inf, -1]), np.float32([np.inf, np.inf]))
    env = GymnasiumEnv(inner, library="python", id="mine", kwargs={})
    env.reset(0)
    env.step(np.float32([-100, -100]))
    np.testing.assert_array_equal(inner.received[0], [-100, -1])


def test_wrong_observation_shape_is_named() -> None:
    inner = Counting()
    inner.observation_space = spaces.Box(0.0, 1.0, (7,))
    env = GymnasiumEnv(inner, library="python", id="mine", kwargs={})
    with pytest.raises(IncompatibleError, match=r"shape \(2,\), its spec says shape \(7,\)"):
        env.reset(0)


@pytest.mark.parametrize("value", [300, -1, 1.5, np.nan])
def test_a_value_that_an_integer_observation_cannot_hold_is_named(value: float) -> None:
    with pytest.raises(IncompatibleError, match="seen has values that its dtype uint8 cannot hold"):
        check_fits(np.array([1, value]), Box((2,), "uint8"), "seen")
    check_fits(np.array([1, 255]), Box((2,), "uint8"), "seen")


def test_an_environment_that_fails_to_close_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Counting, "close", lambda self: 1 / 0)
    with make_many(2, COUNTING) as envs:
        envs[0].reset(0)
    assert capsys.readouterr().err.count("ZeroDivisionError") == 2


def test_render_mode_is_no_part_of_the_description() -> None:
    assert make("CartPole-v1", render_mode="rgb_array").spec_json == make("CartPole-v1").spec_json


def test_resolving_a_name_needs_no_torch() -> None:
    code = "import sys; from rlcli.envs import make; make('CartPole-v1'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
