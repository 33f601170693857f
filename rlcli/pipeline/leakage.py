"""`rl buffer diff --leakage`: whether two datasets, say for training and testing, have episodes in common."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rlcli import console
from rlcli.errors import ConditionFalse
from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.episode_table import Episodes
from rlcli.format.location import Location

SHOWN = 10


def leakage(first: Location, second: Location) -> tuple[dict[str, Any], str]:
    """Facts and text: pairs of episodes that are equal (`episode_digest`), or that began with one seed.

    Each pair has the positions in the episode tables, the numbers, and what is common: "content" or "seed".
    """
    with Dataset.open(first) as a, Dataset.open(second) as b:
        tables = a.episodes, b.episodes
        with console.progress(a.num_rows + b.num_rows, "compare", "rows") as bar:
            digests = [_digests(d, table, bar) for d, table in zip((a, b), tables, strict=True)]
    seeds = [_seeds(table) for table in tables]
    pairs = _pairs(digests[0], digests[1], "content")
    equal = {(pair["a"], pair["b"]) for pair in pairs}
    pairs += [pair for pair in _pairs(seeds[0], seeds[1], "seed") if (pair["a"], pair["b"]) not in equal]
    for pair in pairs:
        pair["number_a"], pair["number_b"] = (
            int(table.number[pair[side]]) for table, side in zip(tables, ("a", "b"), strict=True)
        )
    counts = {kind: sum(pair["common"] == kind for pair in pairs) for kind in ("content", "seed")}
    facts = {
        "a": first,
        "b": second,
        "episodes": [len(table) for table in tables],
        "leaking": bool(pairs),
        "equal_pairs": counts["content"],
        "seed_pairs": counts["seed"],
        "pairs": pairs,
    }
    return facts, _text(facts)


def raise_if_leaking(facts: dict[str, Any]) -> None:
    """Raises `ConditionFalse` (exit 8) if anything is common."""
    if facts["leaking"]:
        raise ConditionFalse(
            f"{facts['a']} and {facts['b']} have episodes in common: {facts['equal_pairs']:,} equal, "
            f"{facts['seed_pairs']:,} of the same seed"
        )


def _digests(dataset: Dataset, table: Episodes, bar: console.Progress) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for index in range(len(table)):
        found[episode_digest(dataset, table, index)].append(index)
        bar.advance(int(table.length[index]))
    return found


def _seeds(table: Episodes) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = defaultdict(list)
    for index, seed in enumerate(table.seed.tolist()):
        if seed != -1:
            found[seed].append(index)
    return found


def _pairs(a: dict[Any, list[int]], b: dict[Any, list[int]], common: str) -> list[dict[str, Any]]:
    """One pair per value that both have, of the first episodes with it; the others are counted in it."""
    return [
        {"a": a[value][0], "b": b[value][0], "common": common, "copies": [len(a[value]), len(b[value])]}
        for value in a
        if value in b
    ]


def _text(facts: dict[str, Any]) -> str:
    counts = " and ".join(console.count_text(count, "episode") for count in facts["episodes"])
    if not facts["leaking"]:
        return f"nothing in common: {counts}, no equal ones, no common seeds"
    rows = [
        [pair["number_a"], pair["number_b"], {"content": "equal", "seed": "same seed"}[pair["common"]]]
        for pair in facts["pairs"]
    ]
    table = console.table(["episode in A", "episode in B", "common"], rows[:SHOWN])
    more = len(rows) - SHOWN
    return table + (f"\n(and {more:,} more; --json has all)" if more > 0 else "")
