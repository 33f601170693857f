"""Spans cut all rows of a dataset into episodes, also where a window has lost the beginning of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcli.format import semantics
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.spans import Chunk, Spans
from rlcli.format.specs import Box
from rlcli.format.writer import Writer


def write(path: Path, *, window: int | None, endless: bool, close: bool) -> Dataset:
    """Two streams, episodes of 7 steps; the second stream's last episode may be longer than the window."""
    spec = {"observation": Box((1,)).to_json(), "action": Box((1,)).to_json()}
    schema = ted_schema(Box((1,)), Box((1,)))
    writer = Writer.create(
        path,
        schema,
        spec=spec,
        lineage={},
        num_streams=2,
        segment_rows=8,
        window=window,
        durability="process",
    )
    episodes = EpisodeWriter(writer, chunk_rows=4)
    for row in range(100):
        for stream in range(2):
            last = row % 7 == 6 and not (endless and stream == 1 and row > 50)
            values = {"observation": [row], "action": [0.0], "reward": 1.0, "next_observation": [row + 1]}
            episodes.add(stream, **values, terminated=last, truncated=False)
    episodes.flush()
    if close:
        episodes.close()
    else:
        writer.abort()
    return Dataset.open(path)


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("endless", [True, False])
@pytest.mark.parametrize("window", [None, *range(28, 36)])
def test_every_row_is_in_the_episode_its_columns_say(
    tmp_path: Path, window: int | None, endless: bool, close: bool
) -> None:
    with write(tmp_path / "d", window=window, endless=endless, close=close) as data:
        spans = Spans(data)
        assert data.num_rows == 2 * (window or 100)
        assert spans.start[0] == 0
        assert spans.stop[-1] == data.num_rows
        assert (spans.start[1:] == spans.stop[:-1]).all()
        chunk = Chunk(data, spans, 0, data.num_rows)
        np.testing.assert_array_equal(chunk.step, data.read(("step",)))
        np.testing.assert_array_equal(spans.number[chunk.span], data.read(("episode",)))
        np.testing.assert_array_equal(spans.start[spans.finished], data.episodes.start)
        assert semantics.check(data).errors == []
