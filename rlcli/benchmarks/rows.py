"""Made-up transitions of a locomotion task's size: 17 observations, 6 actions, episodes of 1,000 steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.format.schema import Schema, ted_schema
from rlcli.format.specs import Box, Key
from rlcli.format.writer import Writer

EPISODE = 1000
OBSERVATION, ACTION = Box((17,)), Box((6,), low=-1.0, high=1.0)
SCHEMA: Schema = ted_schema(OBSERVATION, ACTION)
BATCH_KEYS: tuple[Key, ...] = (
    ("observation",),
    ("action",),
    ("next", "observation"),
    ("next", "reward"),
    ("next", "terminated"),
)  # what an off-policy update reads: 165 bytes a row

Columns = dict[Key, NDArray[Any]]


def block(start: int, count: int) -> Columns:
    """Plain columns of rows `start, …, start + count - 1`; `count` divides or is a multiple of an episode."""
    rng = np.random.default_rng(start)
    number = np.arange(start, start + count)
    last = (number % EPISODE == EPISODE - 1)[:, None]
    return {
        ("observation",): rng.standard_normal((count, 17), dtype=np.float32),
        ("action",): rng.random((count, 6), dtype=np.float32) * 2 - 1,
        ("next", "reward"): rng.standard_normal((count, 1), dtype=np.float32),
        ("next", "terminated"): np.zeros((count, 1), np.bool_),
        ("next", "truncated"): last,
        ("next", "done"): last,
        ("is_init",): (number % EPISODE == 0)[:, None],
        ("episode",): number // EPISODE,
        ("step",): number % EPISODE,
    }


def write_dataset(path: Path, num_rows: int) -> None:
    """A sealed dataset of `num_rows` (a multiple of an episode) in one stream, a commit per episode."""
    final: Columns = {("observation",): np.zeros(17, np.float32)}
    writer = Writer.create(path, SCHEMA, spec=spec(), lineage={"op": "bench"}, durability="process")
    with writer:
        for start in range(0, num_rows, EPISODE):
            writer.write(0, block(start, EPISODE))
            writer.end_episode(0, terminated=False, truncated=True, final=final, seed=None)
            writer.commit()


def spec() -> dict[str, Any]:
    """The spec that such a dataset carries."""
    return {"env": None, "observation": OBSERVATION.to_json(), "action": ACTION.to_json()}
