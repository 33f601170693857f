"""A first look through a Minari dataset that processes share: what each saw of its episodes, joined."""

from __future__ import annotations

from collections.abc import Sequence

from rlcli.datasets.minari_scan import Scan, last_lost, note, say

_SHARES = 8  # each opens the file anew
_EPISODES = 256  # fewer are looked through faster than a process begins with them
_WAYS = {"first": {"step", "both"}}  # an info that some episodes have in one way, some in the other


def shares_of(episodes: int) -> int:
    """Into how many shares a look through so many episodes is worth cutting."""
    return min(_SHARES, episodes // _EPISODES)


def share_of(episodes: Sequence[int], share: int, shares: int) -> list[int]:
    """The episodes of one share."""
    return list(episodes[share * len(episodes) // shares : (share + 1) * len(episodes) // shares])


def joined(scans: Sequence[tuple[str, Scan]]) -> Scan:
    """What one look through all would have found; each comes with where its episodes are, for messages.

    Raises `IncompatibleError` where shapes differ between shares.
    """
    found = scans[0][1]
    for where, other in scans[1:]:
        _join_attributes(found, other)
        found.episodes += other.episodes
        found.repaired += other.repaired
        found.without_steps += other.without_steps
        for path, values in other.leaves.items():
            note(found.leaves, path, values, where, found)
        _join_infos(found, other, where)
        for name in ("inexact", "remarks"):
            for sentence in getattr(other, name):
                say(getattr(found, name), sentence)
    return found


def _join_attributes(found: Scan, other: Scan) -> None:
    """Columns are attributes that all episodes have alike; what only some have are others."""
    if not other.episodes:
        return
    if not found.episodes:
        found.attributes, found.has_others = other.attributes, other.has_others
        return
    alike = {name: told for name, told in found.attributes.items() if other.attributes.get(name) == told}
    is_odd = len(alike) < len(found.attributes.keys() | other.attributes.keys())
    found.has_others = found.has_others or other.has_others or is_odd
    found.attributes = alike


def _join_infos(found: Scan, other: Scan, where: str) -> None:
    dropped = {path for path in found.infos if _is_dropped(other, path)}
    dropped_before = {path for path in other.infos if _is_dropped(found, path)}
    for sentence in other.lossy:
        say(found.lossy, sentence)
    for path in dropped:
        del found.infos[path]
    for path in dropped | dropped_before:
        found.lossy = [sentence for sentence in found.lossy if sentence != last_lost(path)]
    for path, values in other.infos.items():
        if path in dropped_before:
            continue
        before = found.infos.setdefault(path, values)
        ways = _WAYS.get(before.align, {before.align}) | _WAYS.get(values.align, {values.align})
        if (before.kind, before.shape) != (values.kind, values.shape):
            _drop(found, path, "its shape differs between episodes")
        elif "episode" in ways and len(ways) > 1:
            _drop(found, path, "one value in some episodes, one per step in others")
        else:
            note(found.infos, path, values, where, found)
            if len(ways) > 1:
                before.align = "first"
                say(found.lossy, last_lost(path))


def _is_dropped(scan: Scan, path: str) -> bool:
    return any(sentence.startswith(f"{path} is not kept: ") for sentence in scan.lossy)


def _drop(found: Scan, path: str, why: str) -> None:
    del found.infos[path]
    found.lossy = [sentence for sentence in found.lossy if sentence != last_lost(path)]
    found.lossy.append(f"{path} is not kept: {why}")
