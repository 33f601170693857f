"""The digest of an episode says what happened in it, and nothing of where it lies (SPEC.md section 9)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box
from rlcli.format.writer import Writer

LENGTH = 9


def write(path: Path, *, before: int = 0, change: str = "", seed: int | None = 3) -> str:
    """The digest of an episode of 9 steps after `before` others; `change` names what is different."""
    schema = ted_schema(Box((2,)), Box((1,)), extra=[Column(("info", "x"), "int16")])
    writer = Writer.create(path, schema, spec={}, lineage={}, segment_rows=4)
    rng = np.random.default_rng(1)
    rows = {
        ("observation",): rng.normal(size=(LENGTH, 2)).astype(np.float32),
        ("action",): rng.normal(size=(LENGTH, 1)).astype(np.float32),
        ("next", "reward"): np.ones((LENGTH, 1), np.float32),
        ("info", "x"): np.arange(LENGTH, dtype=np.int16),
    }
    final = np.array([1.0, 2.0], np.float32)
    if change in ("observation", "action"):
        rows[(change,)][LENGTH // 2, 0] += 1
    if change == "final":
        final[0] = 3
    with EpisodeWriter(writer, chunk_rows=3) as episodes:
        for _ in range(before):
            episodes.add_rows(0, {key: values[:5] for key, values in rows.items()})
            episodes.end(0, terminated=True, truncated=False, final=np.zeros(2))
        episodes.begin(0, seed)
        episodes.add_rows(0, rows)
        episodes.end(
            0,
            terminated=change != "truncated",
            truncated=change == "truncated",
            final=None if change == "no final" else final,
        )
    with Dataset.open(path) as dataset:
        return episode_digest(dataset, dataset.episodes, before)


def test_it_is_what_the_specification_says(tmp_path: Path) -> None:
    found = write(tmp_path / "d")
    data = Dataset.open(tmp_path / "d")
    stored = sorted(
        (c for c in data.schema.columns if c.encoding == "plain" and c.key != ("episode",)),
        key=lambda column: column.key,
    )
    final = data.schema.column(("next", "observation"))
    parts: list[Any] = [[list(c.key), c.dtype, list(c.shape)] for c in (*stored, final)]
    flags = {"cut": False, "has_final": True, "terminated": True, "truncated": False}
    head = json.dumps([parts, LENGTH, flags], sort_keys=True, separators=(",", ":")).encode()
    body = b"".join(data.read(column.key).tobytes() for column in stored)
    last = np.array([1.0, 2.0], np.float32).tobytes()
    assert found == hashlib.sha256(head + body + last).hexdigest()


def test_place_number_and_seed_do_not_count(tmp_path: Path) -> None:
    found = {
        write(tmp_path / "a"), write(tmp_path / "b", before=3), write(tmp_path / "c", seed=None),
        write(tmp_path / "e", before=1, seed=9),
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize("change", ["observation", "action", "final", "no final", "truncated"])
def test_everything_that_happened_counts(tmp_path: Path, change: str) -> None:
    assert write(tmp_path / "a") != write(tmp_path / "b", change=change)
