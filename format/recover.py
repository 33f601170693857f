"""Sealing what a killed writer left behind, at its last commit. SPEC.md section 10."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlcli.format.manifest import Manifest


@dataclass(frozen=True)
class RecoveryReport:
    """What recovery did."""

    manifest: Manifest
    sealed: tuple[str, ...] = ()


def take_over(root: Path, newest: Manifest) -> RecoveryReport:
    """The dataset without open segments; the caller holds the lock."""
    return RecoveryReport(newest)
