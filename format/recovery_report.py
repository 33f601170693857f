"""What taking over a dataset did, and the episodes that go on after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rlcli.format.segment import SegmentWriter


@dataclass(frozen=True)
class Unfinished:
    """An episode that goes on: its first stream row, the sum of its rewards so far, its number."""

    start: int
    return_: float
    number: int


@dataclass
class RecoveryReport:
    """What taking over did. `sealed`: segments a killed writer had left open; `rows`: how many were kept;
    `missing`: generations that journals name and that are not there.
    """

    path: Path
    generation: int = 0
    rows: int = 0
    sealed: list[str] = field(default_factory=list)
    cut_episodes: int = 0
    shortened: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    unfinished: list[Unfinished | None] = field(default_factory=list)
    live: list[SegmentWriter | None] = field(default_factory=list)
    next_episode: int = 0

    @property
    def is_clean(self) -> bool:
        """Nothing had to be done."""
        return not (self.sealed or self.shortened or self.dropped or self.cut_episodes or self.missing)
