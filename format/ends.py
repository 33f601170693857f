"""How episodes end, many at once: one by one, each would cost as much as hundreds of its rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlcli.format.given import Stored, Values
from rlcli.format.journal import CUT, HAS_FINAL, NO_SEED, TERMINATED, TRUNCATED
from rlcli.format.keys import Key


@dataclass
class Ends:
    """The ends of episodes among rows that are given together, in order, k of each.

    `rows` are how many of the rows lie before each end, rising from 1; what is behind the last one is of an
    episode that goes on. `final` has, by the key of the column that is shifted, the values that follow the
    last rows, `[k, …]` or, of a heap column, a sequence; those that are not `known` may be anything. `seeds`
    are what the episodes were reset with; None where nobody knows.
    """

    rows: Sequence[int]
    terminated: Sequence[bool]
    truncated: Sequence[bool]
    cut: Sequence[bool]
    known: Sequence[bool]
    final: Mapping[Key, Values] = field(default_factory=dict)
    seeds: Sequence[int | None] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def check(self, total: int) -> None:
        """Raises `ValueError` unless they are ends among `total` rows."""
        before = 0
        for row in self.rows:
            if not before < row <= total:
                raise ValueError(f"an episode ends after row {row}, expected {before + 1} to {total}")
            before = row

    def within(self, rows: range, at: int) -> Ends:
        """Those that end `rows`; the first of these rows becomes row `at`."""
        low, high = bisect_right(self.rows, rows.start), bisect_right(self.rows, rows.stop)
        if high - low == len(self.rows) and at == rows.start:
            return self
        chosen = slice(low, high)
        return Ends(
            [row + at - rows.start for row in self.rows[chosen]], self.terminated[chosen],
            self.truncated[chosen], self.cut[chosen], self.known[chosen],
            {key: values[chosen] for key, values in self.final.items()},
            None if self.seeds is None else self.seeds[chosen],
        )  # fmt: skip

    def known_finals(self, key: Key) -> Values:
        """The values of `final[key]` that are known."""
        values = self.final[key]
        if all(self.known):
            return values
        if isinstance(values, np.ndarray):
            chosen: Values = values[np.asarray(self.known)]
            return chosen
        return [value for value, known in zip(values, self.known, strict=True) if known]


@dataclass
class Ended:
    """Ends of episodes as they are recorded, in order: an entry each, but for `finals`.

    `flags` are as in a journal. `finals` has, by the key of the column that is shifted, what is stored of
    those with `HAS_FINAL`, in parts: arrays `[n, …]` or lists of bytes.
    """

    rows: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    finals: dict[Key, list[Stored]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def extend(
        self, rows: Iterable[int], flags: Iterable[int], numbers: Iterable[int], seeds: Iterable[int | None]
    ) -> None:
        """More of them."""
        self.rows.extend(rows)
        self.flags.extend(flags)
        self.numbers.extend(numbers)
        self.seeds.extend([NO_SEED if seed is None else seed & NO_SEED for seed in seeds])

    def keep(self, finals: Mapping[Key, Stored]) -> None:
        """The finals of those that `extend` added."""
        for key, values in finals.items():
            self.finals.setdefault(key, []).append(values)


def flags_of(terminated: bool, truncated: bool, cut: bool, known: bool) -> int:
    """The flags of an episode as a journal has them."""
    return terminated * TERMINATED | truncated * TRUNCATED | cut * CUT | known * HAS_FINAL


def joined(parts: Sequence[Stored]) -> Stored:
    """Stored values of one column, in parts, as one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate([np.asarray(part) for part in parts])
    return [value for part in parts for value in part]
