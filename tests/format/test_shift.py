"""Derived next observations and the episode table against a list in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.writer import Writer

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(
            ["no", "no", "no", "no", "terminated", "truncated", "unknown", "flush", "refresh", "kill"]
        ),
    ),
    max_size=60,
)


@QUICK
@given(events=EVENTS, segment_rows=st.sampled_from([1, 3, 8, 4096]), chunk_rows=st.sampled_from([1, 4, 64]))
def test_any_history_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[int, str]],
    segment_rows: int,
    chunk_rows: int,
) -> None:
    path = tmp_path_factory.mktemp("history") / "ds"
    model = m.create(path, m.NESTED, num_streams=3, segment_rows=segment_rows, chunk_rows=chunk_rows)
    followed = Dataset.open(path)
    for stream, event in events:
        if event == "flush":
            model.writer.flush()
        elif event == "refresh":
            try:
                followed.refresh()
            finally:
                rows = model.writer.writer.stream_rows
            m.check(followed, model, rows)
        elif event == "kill":
            model.writer.flush()
            rows = model.writer.writer.stream_rows
            model.writer.writer.abort()
            m.check(Dataset.open(path), model, rows)
            model.writer = EpisodeWriter(
                Writer.append(path, lineage={"op": "again"}, rewind=rows), chunk_rows=chunk_rows
            )
        else:
            model.add(stream, end=event)
    model.writer.close()
    followed.refresh()
    m.check(followed, model)
    for single_range in (True, False):
        m.check(Dataset.open(path, single_range=single_range), model)
    assert followed.state == "sealed"


@pytest.mark.parametrize("single_range", [True, False])
def test_full_size_segments_read_as_one(tmp_path: Path, single_range: bool) -> None:
    model = m.create(tmp_path / "ds", num_streams=2, segment_rows=4096)
    m.fill(model, 300)
    for _ in range(4200):
        model.add(0)
        model.add(1)
    m.fill(model, 300)
    model.writer.close()
    m.check(Dataset.open(tmp_path / "ds", single_range=single_range), model)


def test_early_sealed_segments_join(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", num_streams=2)
    for _ in range(4):
        m.fill(model, 50)
        model.add(0, end="truncated")
        model.add(1, end="unknown")
        model.writer.close()
        model.writer = EpisodeWriter(Writer.append(tmp_path / "ds", lineage={"op": "again"}))
    model.writer.close()
    dataset = Dataset.open(tmp_path / "ds")
    assert len(dataset.segments) == 8
    m.check(dataset, model)


def test_plain_layout_stores_next_observations(tmp_path: Path) -> None:
    schema = m.schema_of(m.FLAT, next_observation="plain")
    writer = EpisodeWriter(Writer.create(tmp_path / "ds", schema, spec={}, lineage={}))
    writer.add(
        0,
        observation=[1, 2, 3],
        action=1,
        reward=0,
        terminated=False,
        truncated=False,
        next_observation=[7, 8, 9],
    )
    writer.close()
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.read(("next", "observation")).tolist() == [[7, 8, 9]]
    assert dataset.unknown_next.tolist() == []
