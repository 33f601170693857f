"""Gymnasium environments, and the user's own functions that make one.

Single environments only: Gymnasium's vector environments reset by themselves in three different ways,
which the contract does not have.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error, spaces

from rlcli.envs.contract import Env, check_fits
from rlcli.errors import IncompatibleError, InputError, MissingExtraError, RLError, UsageError, nearest
from rlcli.format.specs import Bound, Box, Composite, Discrete, MultiBinary, MultiDiscrete, Spec
from rlcli.plugins import load_reference

# Gymnasium's environment modules -> (the package that may be missing, our extra)
_EXTRAS = {"gymnasium.envs.mujoco": ("mujoco", "mujoco"), "gymnasium.envs.box2d": ("Box2D", "box2d")}
_NAMESPACES = {"ALE": "ale-py"}  # what a package registers under, once it is installed


class GymnasiumEnv:
    """A `gymnasium.Env` under the contract. `env` is owned and closed by this object."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], *, library: str, id: str, kwargs: Mapping[str, Any]
    ) -> None:
        _refuse_autoreset(env, id)
        self.env = env
        self.observation_spec = spec_of(env.observation_space, f"{id}: observation")
        self.action_spec = spec_of(env.action_space, f"{id}: action")
        registered = getattr(env, "spec", None)
        self.spec_json: dict[str, Any] = {
            "library": library,
            "id": id,
            "kwargs": {name: value for name, value in kwargs.items() if name != "render_mode"},
            "max_episode_steps": getattr(registered, "max_episode_steps", None),
        }
        self._name = id
        self._closed = False
        self._bounds = _finite_bounds(self.action_spec)

    def reset(self, seed: int) -> Any:
        observation, _ = self.env.reset(seed=seed)
        check_fits(observation, self.observation_spec, f"{self._name}: the observation")
        return observation

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        if self._bounds is not None:
            low, high = self._bounds
            action = np.minimum(np.maximum(action, low), high)
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated  # type: ignore[return-value]

    def render(self) -> Any:
        try:
            return self.env.render()
        except error.DependencyNotInstalled as err:
            raise MissingExtraError("pygame", "video", needed_for=f"rendering {self._name}") from err

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.env.close()


def make(identifier: str, /, **kwargs: Any) -> Env:
    """The registered Gymnasium environment `identifier`; see `rlcli.envs.make` for the errors."""
    registered = _registered(identifier)
    entry_point = registered.entry_point
    try:
        # Both wrappers only guard against misuse and together cost 8 % of a CartPole step: the collectors
        # reset before they step, and `check_env` tests more than the passive checker does.
        registered.order_enforce = False
        env = gymnasium.make(registered, disable_env_checker=True, **kwargs)
    except (error.DependencyNotInstalled, ImportError) as err:
        raise _missing(identifier, entry_point, err) from err
    except Exception as err:  # constructors are foreign code: what they raise becomes one line
        raise _failed(identifier, entry_point, kwargs, err) from err
    resolved = env.spec.id if env.spec is not None else identifier
    return GymnasiumEnv(env, library="gymnasium", id=resolved, kwargs=kwargs)


def from_factory(reference: str, kwargs: Mapping[str, Any]) -> Env:
    """The environment that calling `module:attribute` with `kwargs` returns."""
    factory = load_reference(reference)
    if not callable(factory):
        raise UsageError(
            f"{reference} is a {type(factory).__name__}, not a function or class that makes an env"
        )
    try:
        made = factory(**kwargs)
    except RLError:
        raise
    except Exception as err:  # foreign code
        raise _failed(reference, factory, kwargs, err) from err
    if isinstance(made, gymnasium.Env):
        return GymnasiumEnv(made, library="python", id=reference, kwargs=kwargs)
    if isinstance(made, Env):
        return made
    kind = f"{type(made).__module__}.{type(made).__qualname__}"
    raise IncompatibleError(
        f"{reference} returned a {kind}; expected a gymnasium.Env or an rlcli.envs.contract.Env"
    )


def spec_of(space: spaces.Space[Any], where: str) -> Spec:
    """The spec of a Gymnasium space; `where` names it in the `IncompatibleError` for a space without one."""
    if isinstance(space, spaces.Box):
        dtype = np.dtype(space.dtype)
        return Box(
            space.shape, str(dtype), _bound(space.low, dtype, "low"), _bound(space.high, dtype, "high")
        )
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        if space.nvec.ndim == 1 and not np.any(space.start):
            return MultiDiscrete(tuple(int(n) for n in space.nvec))
        raise IncompatibleError(f"{where} space {space} is not a plain vector counted from 0")
    if isinstance(space, spaces.MultiBinary):
        if len(space.shape) == 1:
            return MultiBinary(int(space.shape[0]))
        raise IncompatibleError(f"{where} space {space} is not a plain vector")
    if isinstance(space, spaces.Dict):
        return Composite({str(name): spec_of(child, f"{where}/{name}") for name, child in space.items()})
    raise IncompatibleError(
        f"{where} space {type(space).__name__} is not supported; "
        "supported: Box, Discrete, MultiDiscrete, MultiBinary and Dict of these"
    )


def _bound(values: np.ndarray[Any, Any], dtype: np.dtype[Any], side: str) -> Bound:
    """One number where all are equal; None where there is no bound at all."""
    if values.size == 0:
        return None
    first = values.flat[0]
    if not np.all(values == first):
        return tuple(float(value) for value in values.ravel())
    if dtype.kind == "f":
        return float(first) if np.isfinite(first) else None
    if dtype.kind in "iu" and first == getattr(np.iinfo(dtype), "min" if side == "low" else "max"):
        return None
    return float(first)


def _finite_bounds(spec: Spec) -> tuple[Any, Any] | None:
    if not isinstance(spec, Box):
        return None  # actions inside a dictionary are passed as they are
    low, high = spec.bounds()
    return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def _refuse_autoreset(env: Any, name: str) -> None:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.Autoreset):
            raise IncompatibleError(
                f"{name} is wrapped in Autoreset, which hides final observations; leave that wrapper out"
            )
        env = env.env


def _registered(identifier: str) -> Any:
    """A copy of what is registered under the name; `UsageError` with the nearest name if nothing is."""
    try:
        return copy.deepcopy(gymnasium.spec(identifier))
    except (error.Error, ImportError) as err:
        namespace = identifier.rpartition("/")[0]
        found = {spec.namespace for spec in gymnasium.registry.values()}
        if namespace in _NAMESPACES and namespace not in found:
            raise _not_installed(_NAMESPACES[namespace], identifier) from err
        known = nearest(identifier, gymnasium.registry)
        raise UsageError(f"Gymnasium has no environment {identifier!r}; {known}") from err


def _missing(identifier: str, entry_point: Any, err: Exception) -> RLError:
    for prefix, (package, extra) in _EXTRAS.items():
        if str(entry_point).startswith(prefix):
            return MissingExtraError(package, extra, needed_for=identifier)
    missing_module: str | None = getattr(err, "name", None)
    if missing_module is None:
        return IncompatibleError(f"{identifier} cannot be made here: {err}")
    return _not_installed(missing_module, identifier)


def _not_installed(package: str, identifier: str) -> MissingExtraError:
    missing = MissingExtraError(package, "", needed_for=identifier)
    missing.hint = f"pip install {package}"
    return missing


def _failed(name: str, creator: Any, kwargs: Mapping[str, Any], err: Exception) -> RLError:
    """Why making an environment failed: the user's argument if one is unknown, else what was raised."""
    known = _parameters(creator)
    unknown = [key for key in kwargs if known is not None and key not in known]
    if isinstance(err, TypeError) and unknown and known is not None:
        takes = nearest(unknown[0], known) if known else "it takes none"
        return UsageError(f"{name} takes no argument {unknown[0]!r}; {takes}")
    if kwargs:
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        return UsageError(f"{name} cannot be made with {given}: {type(err).__name__}: {err}")
    return InputError(f"making {name} failed: {type(err).__name__}: {err}")


def _parameters(creator: Any) -> list[str] | None:
    """The argument names that `creator` takes by keyword; None if it takes any or cannot be asked."""
    if isinstance(creator, str):
        from gymnasium.envs.registration import load_env_creator

        creator = load_env_creator(creator)
    try:
        parameters = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY]
