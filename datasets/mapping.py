"""What the arrays of a plain file mean: by recognised names, by what the user says, and how sure that is.

A mapping is source key -> our key. Our keys are written with slashes; these have a meaning of their own:

    observation, observation/x   action, action/x   next/observation, next/observation/x
    reward        terminated     truncated
    done          terminated or truncated: where only one of these is known too, the rest is the other
    episode       a number per row that changes where an episode begins
    first         whether an episode begins with the row
    episode_ends  one number per episode: the rows before its end, counted from the first row of the source
    next_valid    whether the next observation of a row is the true one
    -             left out

Anything else, `info/speed` say, is carried along under that key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from rlcli.datasets.contract import AmbiguousMapping, Request
from rlcli.errors import IncompatibleError, UsageError, nearest
from rlcli.format.keys import Key, check_key

LEFT_OUT = "-"
_NAMES = {
    "observation": ("observations", "observation", "obs", "states", "state"),
    "action": ("actions", "action", "act", "acts"),
    "next/observation": (
        "next_observations",
        "next_observation",
        "next_obs",
        "next_states",
        "next_state",
        "obs_next",
        "observations_next",
    ),
    "reward": ("rewards", "reward", "rew", "rews"),
    "terminated": ("terminals", "terminal", "terminated", "terminations", "termination", "is_terminal"),
    "truncated": ("timeouts", "timeout", "truncated", "truncations", "truncation"),
    "done": ("dones", "done", "episode_terminals", "is_last"),
    "first": ("episode_starts", "episode_start", "is_first"),
    "episode": (
        "episode_id",
        "episode_ids",
        "episode_index",
        "episode",
        "traj_id",
        "trajectory_id",
        "traj_ids",
    ),
    "episode_ends": ("episode_ends",),
    "next_valid": ("next_observation_valid",),
}
_ROLE_OF = {name: role for role, names in _NAMES.items() for name in names}
_OURS = {("is_init",), ("step",)}
_NESTED = ("observation", "action", "next/observation")


@dataclass
class Roles:
    """Which source key means what. `columns`: source key -> our key of everything that becomes a column."""

    single: dict[str, str] = field(default_factory=dict)  # reward, done, episode, … -> source key
    columns: dict[str, Key] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def below(self, *top: str) -> dict[str, Key]:
        """The columns whose key begins so: `below("observation")`, `below("next", "observation")`."""
        return {name: key for name, key in self.columns.items() if key[: len(top)] == top}


def check_told(mapping: Mapping[str, str]) -> None:
    """Raises `UsageError` for a key of ours that is nearly one with a meaning, and would lose it."""
    for name, to in mapping.items():
        top, _, rest = to.partition("/")
        known = _NESTED if rest else tuple(_NAMES)
        close = get_close_matches(top.lower(), [role for role in known if "/" not in role], 1, 0.8)
        if close and top != close[0]:
            meant = "/".join(filter(None, (close[0], rest)))
            raise UsageError(
                f"{name} cannot become {to!r}: did you mean {meant!r}?",
                hint=f"info/{to} is a column without a meaning",
            )


def roles_of(
    names: Iterable[str],
    given: Mapping[str, str],
    *,
    confirmed: bool,
    where: object,
    told: Mapping[str, Key] | None = None,
    replay_buffer: bool = False,
    texts: Collection[str] = (),
    unobserved: bool = False,
    by_file: bool = False,
) -> Roles:
    """The meaning of all `names`, paths with slashes below the file's root.

    `told` are keys of columns without a role. `given` wins over recognised names; in a `replay_buffer` every
    other array below `data/` is an observation, but for `texts`. Raises `UsageError` for a source key that is
    not there, `AmbiguousMapping` where a meaning had to be guessed and nobody `confirmed` it. Observations
    may be missing where the source says so (`unobserved`), or a user does and there are actions. `by_file`
    says that no episode of the source goes on in another file.
    """
    names = list(names)
    for name in given:
        if name not in names:
            raise UsageError(f"{where}: no key {name!r} to map; {nearest(name, names)}", path=where)
    told = {name: key for name, key in (told or {}).items() if name not in given}
    untold = [name for name in names if name not in told]
    prefix, *alike = _groups(untold)
    mapping = {
        name: given[name] if name in given else _meaning(name, prefix, replay_buffer and name not in texts)
        for name in untold
    }
    only = [name for name, to in mapping.items() if to.startswith("observation/")]
    parts = any(to.startswith("next/observation/") for to in mapping.values())
    if replay_buffer and len(only) == 1 and not parts:
        mapping[only[0]] = given.get(only[0], "observation")
    guesses = _resolve_rivals(mapping, given)
    inferred = _roles(mapping, where)
    inferred.columns |= told
    single = inferred.single
    shown = {
        name: to for name, to in mapping.items() if name in given or not to.startswith(("info/", "source/"))
    }
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    if not (inferred.below("observation") or unobserved or (confirmed and inferred.below("action"))):
        bare = "; --yes takes the rows without" if inferred.below("action") else ""
        raise AmbiguousMapping(
            f"{where}: nothing is known as observation (found {listed or 'nothing'})",
            shown,
            hint=f"name what it is with --observation KEY (--action KEY, --map KEY=reward, …){bare}",
        )
    if alike and "observation" not in given.values():
        more = f" and {len(alike) - 1:,} more groups" if len(alike) > 1 else ""
        guesses.append(f"{alike[0]}{more} could be the rows as well as {prefix}")
    if not inferred.below("action"):
        guesses.append(f"nothing is known as action (found {listed}), so that rows have none")
    if "done" in single and "done" not in given.values() and not {"truncated", "terminated"} & single.keys():
        guesses.append(f"{single['done']} may mean terminated, or terminated or truncated")
    if (first := single.get("first", "")) not in given and first.rsplit("/", 1)[-1].lower() == "is_first":
        guesses.append(
            f"{first} is also in replay whose rewards are in the row after their action (Dreamer's)"
        )
    ends = ("episode", "episode_ends", "first", "terminated", "truncated", "done")
    if not any(name in single for name in ends):
        one = "each file is" if by_file else "all rows are"
        guesses.append(f"nothing says where episodes end, so that {one} one")
    if guesses and not confirmed:
        raise AmbiguousMapping(f"{where}: the meaning of its keys is a guess: {'; '.join(guesses)}", shown)
    return inferred


def is_one_table(names: Iterable[str]) -> bool:
    """Whether only one group has arrays of these names that are observations and actions."""
    return len(_groups(list(names))) == 1


def keys_for(
    given: Mapping[str, str], names: Collection[str], where: object, ours: Collection[str] = ()
) -> dict[str, Key | None]:
    """Source key -> the key that the user gave it, None for what is left out.

    Raises `UsageError` for a source key that is not there, for what is no key, and for keys that begin with
    one of `ours`, which only we may write.
    """
    found: dict[str, Key | None] = {}
    for name, to in given.items():
        if name not in names:
            raise UsageError(f"{where}: no key {name!r} to map; {nearest(name, names)}", path=where)
        try:
            found[name] = key = None if to == LEFT_OUT else check_key(tuple(to.split("/")))
        except IncompatibleError as err:
            raise UsageError(f"{where}: {name} cannot become {to!r}: {err.message}", path=where) from err
        if key is not None and key[0] in ours:
            raise UsageError(f"{where}: {name} cannot become {to!r}; that follows from the rows", path=where)
    return found


def recognised(name: str) -> str | None:
    """The meaning that the last part of a path has by its name alone, None if it has none."""
    return _ROLE_OF.get(name.rsplit("/", 1)[-1].lower())


def room_for(given: Mapping[str, Key | None], name: str, key: Key) -> Key:
    """`key`, below `info` if the user gave it, or one above or below it, to another name than `name`."""
    taken = (other for told, other in given.items() if told != name and other is not None)
    return ("info", *key) if any(clash(key, other) for other in taken) else key


def clash(a: Key, b: Key) -> bool:
    """Whether two keys are equal or one is the parent of the other."""
    size = min(len(a), len(b))
    return a[:size] == b[:size]


def no_mapping(request: Request, where: object, hint: str | None = None) -> None:
    """Raises `UsageError` if the user maps keys of a format whose keys have fixed meanings."""
    if request.mapping:
        raise UsageError(
            f"{where}: the keys of this format have fixed meanings; --map is not for it", hint=hint
        )


def storable(name: str) -> Key:
    """A source key as parts of ours: as it is where the grammar allows, otherwise the nearest."""
    parts: list[str] = []
    for part in name.split("/"):
        try:
            parts += check_key((part,))
        except IncompatibleError:
            cleaned = re.sub(r"[^A-Za-z0-9_+=@.-]", "_", part).strip(".-")[:50]
            parts.append(f"x_{cleaned}_")
    return tuple(parts)


def _groups(names: list[str]) -> list[str]:
    """The groups that hold recognised arrays: that with the most different roles, then those like it.

    Alike is what has observations and actions, too.
    """
    roles: dict[str, set[str]] = {"": set()}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            if part.lower() in _ROLE_OF:
                roles.setdefault("".join(f"{each}/" for each in parts[:depth]), set()).add(
                    _ROLE_OF[part.lower()]
                )
                break
    best = max(roles, key=lambda group: (len(roles[group]), -group.count("/"), -len(group)))
    whole = {"observation", "action"}
    alike = [group for group in roles if group != best and whole <= roles[group] and whole <= roles[best]]
    return [best, *alike]


def _meaning(name: str, prefix: str, replay_buffer: bool) -> str:
    """Our key for a source key, by its name."""
    if replay_buffer and name.startswith("meta/"):
        return "episode_ends" if name == "meta/episode_ends" else LEFT_OUT
    relative = name.removeprefix(prefix)
    top, *rest = relative.split("/")
    role = _ROLE_OF.get(top.lower())
    if replay_buffer and name.startswith("data/"):
        relative = name.removeprefix("data/")
        top, *rest = relative.split("/")
        role = _ROLE_OF.get(top.lower())
        if role == "observation" and rest:
            return "/".join(("observation", *storable("/".join(rest))))
        if role == "observation" or (role is None and top not in ("infos", "info", "source")):
            return "/".join(("observation", *storable(relative)))
    if role is not None and (not rest or role in _NESTED):
        return "/".join((role, *storable("/".join(rest)))) if rest else role
    if top in ("infos", "info"):
        return "/".join(("info", *storable("/".join(rest or ["index"]))))
    if top == "source" and rest:
        return "/".join(("source", *storable("/".join(rest))))
    return "/".join(("info", *storable(relative)))


def _resolve_rivals(mapping: dict[str, str], given: Mapping[str, str]) -> list[str]:
    """Leaves one source key per key of ours; what had to be chosen, as sentences."""
    guesses = []
    claims: dict[str, list[str]] = {}
    for name, to in mapping.items():
        if to != LEFT_OUT:
            claims.setdefault(to, []).append(name)
    for to, rivals in claims.items():
        if len(rivals) < 2:
            continue
        told = [name for name in rivals if name in given]
        if len(told) > 1:
            raise UsageError(f"{' and '.join(told)} are both mapped to {to}")
        order = _NAMES.get(to, ())
        best = told[0] if told else min(rivals, key=lambda n: _rank(order, n))
        for name in rivals:
            if name != best:
                mapping[name] = "/".join(("info", *storable(name)))
        if not told:
            guesses.append(f"{' and '.join(rivals)} may all mean {to}")
    taken = {to for to in mapping.values() if to in _NESTED}
    for name, to in mapping.items():
        top = next((nested for nested in taken if to.startswith(f"{nested}/")), None)
        if top is not None:
            guesses.append(f"{name} is below {top}, which is an array itself")
            mapping[name] = "/".join(("info", *storable(name)))
    return guesses


def _rank(order: tuple[str, ...], name: str) -> int:
    last = name.rsplit("/", 1)[-1].lower()
    return order.index(last) if last in order else len(order)


def _roles(mapping: Mapping[str, str], where: object) -> Roles:
    roles = Roles()
    for name, to in mapping.items():
        if to == LEFT_OUT:
            roles.left_out.append(name)
        elif to in _NAMES and to not in _NESTED:
            roles.single[to] = name
        else:
            try:
                roles.columns[name] = check_key(tuple(to.split("/")))
            except IncompatibleError as err:
                raise UsageError(f"{where}: {name} cannot become {to!r}: {err.message}") from err
            if roles.columns[name] in _OURS:
                raise UsageError(f"{where}: {name} cannot become {to!r}; that follows from the rows")
            if roles.columns[name][0] == "next" and roles.columns[name][:2] != ("next", "observation"):
                raise UsageError(f"{where}: {name} cannot become {to!r}; known roles: {', '.join(_NAMES)}")
    return roles
