"""Environments: one contract, one file per library, one function that resolves names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlcli import console
from rlcli.errors import UsageError, nearest
from rlcli.plugins import is_reference, load_reference

if TYPE_CHECKING:
    from rlcli.envs.contract import Env

# prefix -> module:function that takes (id, **kwargs). A name without a prefix belongs to Gymnasium.
LIBRARIES = {"gymnasium": "rlcli.envs.gymnasium:make"}


def make(name: str, /, **kwargs: Any) -> Env:
    """The environment that `name` means, made with `kwargs`.

    `CartPole-v1` and `gymnasium:CartPole-v1` come from Gymnasium; `mypkg.mod:make_env` is your own function
    or class, which returns a `gymnasium.Env` or an `Env`; other prefixes come from installed plugins (entry
    points of the group `rlcli.envs`).

    Raises `UsageError` for an unknown name or argument, `MissingExtraError` for a library that is not
    installed, `IncompatibleError` for spaces that have no spec, `InputError` if making it fails otherwise.
    """
    library, separator, rest = name.partition(":")
    if separator and library in LIBRARIES:
        return _call(LIBRARIES[library], rest, kwargs)
    if is_reference(name):
        from rlcli.envs.gymnasium import from_factory

        return from_factory(name, kwargs)
    if separator:
        plugins = _plugins()
        if library not in plugins:
            known = [*LIBRARIES, *plugins]
            raise UsageError(
                f"unknown environment library {library!r} in {name!r}; {nearest(library, known)}"
            )
        return _call(plugins[library], rest, kwargs)
    return _call(LIBRARIES["gymnasium"], name, kwargs)


@contextmanager
def make_many(count: int, name: str, /, **kwargs: Any) -> Iterator[list[Env]]:
    """`count` equal environments, closed at the end; one that fails to close is a warning. Raises what `make`
    raises.
    """
    envs: list[Env] = []
    try:
        for _ in range(count):
            envs.append(make(name, **kwargs))
        yield envs
    finally:
        for env in envs:
            try:
                env.close()
            except Exception as err:  # noqa: BLE001 – foreign code, and what it was for is done
                console.warn(f"closing {name} failed: {type(err).__name__}: {err}")


def name_of(spec_json: dict[str, Any]) -> str:
    """The name that `make` turns into the environment described by `Env.spec_json`."""
    library, identifier = spec_json["library"], spec_json["id"]
    return str(identifier) if library in ("gymnasium", "python") else f"{library}:{identifier}"


def _call(reference: str, identifier: str, kwargs: dict[str, Any]) -> Env:
    env: Env = load_reference(reference)(identifier, **kwargs)
    return env


def _plugins() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group="rlcli.envs")}
