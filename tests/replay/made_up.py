"""Small datasets whose values say where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer


def counting(
    path: Path, lengths: Sequence[int], *, finals: bool = True, terminated: bool = True, streams: int = 1
) -> Dataset:
    """Episodes in turn over the streams; observation and reward of the k-th row written are k.

    The final observation is that of the last row and a half.
    """
    spec = {"env": None, "observation": Box((1,)).to_json(), "action": Discrete(2).to_json()}
    schema = ted_schema(Box((1,)), Discrete(2))
    lineage = {"op": "test"}
    with EpisodeWriter(
        Writer.create(path, schema, spec=spec, lineage=lineage, num_streams=streams, durability="process")
    ) as writer:
        value = 0
        for number, length in enumerate(lengths):
            stream = number % streams
            writer.begin(stream, number)
            for step in range(length):
                last = step == length - 1
                writer.add(
                    stream,
                    observation=np.array([value], np.float32),
                    action=value % 2,
                    reward=float(value),
                    terminated=last and terminated,
                    truncated=last and not terminated,
                    next_observation=np.array([value + 0.5], np.float32) if last and finals else None,
                )
                value += 1
    return Dataset.open(path)


def goals(
    path: Path, lengths: Sequence[int], *, numbers: Sequence[int] = (), width: int = 1, **options: Any
) -> Dataset:
    """Episodes that reach goal `1000 * number + step + 1` in each step; they ask for goal -1.

    `numbers` are those of the episodes, 0 and on by default, which come in turn over the streams. `options`
    are the writer's.
    """
    one = Box((1,))
    observation = Composite({"achieved_goal": one, "desired_goal": one, "observation": Box((width,))})
    spec = {"env": None, "observation": observation.to_json(), "action": Discrete(2).to_json()}
    schema = ted_schema(observation, Discrete(2))
    with EpisodeWriter(
        Writer.create(path, schema, spec=spec, lineage={"op": "test"}, durability="process", **options)
    ) as writer:
        for turn, (number, length) in enumerate(zip(numbers or range(len(lengths)), lengths, strict=True)):
            stream = turn % len(writer.writer.streams)
            writer.begin(stream, number)
            for step in range(length):
                last = step == length - 1
                writer.add(
                    stream,
                    observation=_state(1000 * number + step, width),
                    action=0,
                    reward=-1.0 - number,
                    terminated=False,
                    truncated=last,
                    next_observation=_state(1000 * number + step + 1, width) if last else None,
                )
    return Dataset.open(path)


def _state(achieved: int, width: int = 1) -> dict[str, Any]:
    return {
        "achieved_goal": np.array([achieved], np.float32),
        "desired_goal": np.array([-1], np.float32),
        "observation": np.arange(achieved, achieved + width, dtype=np.float32),
    }


def flat(array: Any) -> list[float]:
    """A column of one number per row as a list."""
    return np.asarray(array).reshape(-1).tolist()


class Growing:
    """A dataset that is being written: the k-th row has state and reward k, episodes have 7 rows."""

    def __init__(self, path: Path, *, window: int | None = None, segment_rows: int = 16) -> None:
        one = Box((1,))
        observation = Composite({"achieved_goal": one, "desired_goal": one, "observation": one})
        spec = {"env": None, "observation": observation.to_json(), "action": Discrete(2).to_json()}
        self.path = path
        self.rows = 0
        self.writer = EpisodeWriter(
            Writer.create(
                path, ted_schema(observation, Discrete(2)), spec=spec, lineage={"op": "test"}, window=window,
                segment_rows=segment_rows, durability="process",
            ),
            chunk_rows=4,
        )  # fmt: skip

    def add(self, rows: int) -> None:
        """More rows, committed."""
        for value in range(self.rows, self.rows + rows):
            last = value % 7 == 6
            self.writer.add(
                0,
                observation=_state(value),
                action=value % 2,
                reward=float(value),
                terminated=last,
                truncated=False,
                next_observation=_state(value + 1) if last else None,
            )
        self.rows += rows
        self.writer.flush()
