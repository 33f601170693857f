"""Episodes that are given many at once are those that are given one by one, or step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.ends import Ends
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Heap, Schema, heap_column, ted_schema
from rlcli.format.specs import Box, Composite
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

SPEC = Composite({"place": Box((2,)), "level": Box((), "int16")})
KEYS = [("observation", "place"), ("observation", "level")]
COLUMNS = [
    "terminated", "truncated", "cut", "has_final", "return_", "length", "number", "seed", "start",
]  # fmt: skip


def schema_of(*, heap: bool) -> Schema:
    extra = [Column(("info", "x"), "bool", (3,))]
    if heap:
        extra.append(heap_column(("info", "note"), Heap("text")))
    return ted_schema(SPEC, Box((1,), "float64"), extra=extra)


@dataclass
class Table:
    """Episodes of these lengths with random values; the last one goes on if `is_open`."""

    lengths: list[int]
    is_open: bool
    heap: bool

    def __post_init__(self) -> None:
        rng, rows = np.random.default_rng(len(self.lengths)), sum(self.lengths)
        self.columns: dict[Any, Any] = {
            KEYS[0]: rng.normal(size=(rows, 2)).astype(np.float32),
            KEYS[1]: rng.integers(-99, 99, rows).astype(np.int16),
            ("action",): rng.normal(size=(rows, 1)),
            ("next", "reward"): rng.normal(size=(rows, 1)).astype(np.float32),
            ("info", "x"): rng.integers(0, 2, (rows, 3)).astype(bool),
        }
        if self.heap:
            self.columns["info", "note"] = [f"{n % 3}" for n in rng.integers(0, 9, rows)]
        stops = np.cumsum(self.lengths)[: len(self.lengths) - self.is_open]
        k = len(stops)
        flags = [rng.integers(0, 2, k).astype(bool).tolist() for _ in range(4)]
        final = {KEYS[0]: rng.normal(size=(k, 2)).astype(np.float32), KEYS[1]: np.arange(k, dtype=np.int16)}
        self.seeds: list[int | None] = [None if n % 3 else 1 << n for n in range(k)]
        self.ends = Ends(stops.tolist(), *flags, final, self.seeds)

    def part(self, start: int, stop: int) -> dict[Any, Any]:
        return {key: values[start:stop] for key, values in self.columns.items()}

    def final(self, k: int) -> Any:
        """That of end k, as `EpisodeWriter.end` takes it."""
        return {key[1]: self.ends.final[key][k] for key in KEYS} if self.ends.known[k] else None

    def ranges(self) -> Iterator[tuple[int, int, int | None]]:
        """First row, stop and end of each episode."""
        start = 0
        for k, length in enumerate(self.lengths):
            yield start, start + length, k if k < len(self.ends) else None
            start += length


def many(table: Table, writer: EpisodeWriter, cuts: list[int]) -> None:
    """In parts between `cuts`, each with all its episodes."""
    rows = sum(table.lengths)
    for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
        writer.add_rows(0, table.part(start, stop), table.ends.within(range(start, stop), 0))


def episode_by_episode(table: Table, writer: EpisodeWriter, cuts: list[int]) -> None:
    """Its rows, then its end; and in two parts where a cut goes through it."""
    for start, stop, k in table.ranges():
        middle = [cut for cut in cuts if start < cut < stop]
        for low, high in zip([start, *middle], [*middle, stop], strict=True):
            writer.add_rows(0, table.part(low, high))
        if k is not None:
            writer.begin(0, table.seeds[k])
            flags = {n: getattr(table.ends, n)[k] for n in ("terminated", "truncated", "cut")}
            writer.end(0, **flags, final=table.final(k))


def step_by_step(table: Table, writer: EpisodeWriter, cuts: list[int]) -> None:
    for start, stop, k in table.ranges():
        if k is not None:
            writer.begin(0, table.seeds[k])
        for row in range(start, stop):
            one = {key: values[row] for key, values in table.columns.items()}
            info = {key[1]: value for key, value in one.items() if key[0] == "info"}
            writer.add(
                0, observation={key[1]: one[key] for key in KEYS}, action=one[("action",)],
                reward=one["next", "reward"].item(), terminated=False, truncated=False, info=info,
            )  # fmt: skip
        if k is not None:
            flags = {n: getattr(table.ends, n)[k] for n in ("terminated", "truncated", "cut")}
            writer.end(0, **flags, final=table.final(k))


def written(path: Path, table: Table, how: Any, cuts: list[int], **options: Any) -> dict[str, Any]:
    """All that a reader finds."""
    chunk_rows = options.pop("chunk_rows")
    schema = schema_of(heap=table.heap)
    writer = Writer.create(path, schema, spec={}, lineage={}, durability="process", **options)
    with EpisodeWriter(writer, chunk_rows=chunk_rows) as episodes:
        how(table, episodes, cuts)
        assert episodes.num_steps == sum(table.lengths)
    assert verify(path, deep=True) == []
    with Dataset.open(path) as dataset:
        keys = [column.key for column in schema.columns]
        rows = {"/".join(key): dataset.read(key, 0, dataset.num_rows) for key in keys}
        told = {name: getattr(dataset.episodes, name).tolist() for name in COLUMNS}
        unknown = dataset.unknown_next.tolist()
        return {**rows, **told, "unknown": unknown, "digest": dataset.digest}


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    is_open=st.booleans(),
    heap=st.booleans(),
    where=st.lists(st.floats(0, 1), max_size=3),
    chunk_rows=st.sampled_from([1, 4, 100]),
    segment_rows=st.sampled_from([5, 16, 64]),
    natively=st.booleans(),
)
def test_the_same_dataset_comes_of_any_parts(
    lengths: list[int],
    is_open: bool,
    heap: bool,
    where: list[float],
    chunk_rows: int,
    segment_rows: int,
    natively: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root, table = tmp_path_factory.mktemp("ends"), Table(lengths, is_open, heap)
    rows = sum(lengths)
    cuts = sorted({cut for cut in (int(share * rows) for share in where) if 0 < cut < rows})
    options = {"segment_rows": segment_rows}
    expected = written(root / "steps", table, step_by_step, [], chunk_rows=100, **options)
    assert expected["number"] == list(range(len(lengths)))
    assert expected["has_final"] == table.ends.known + [False] * is_open
    with layer.use(layer.current() if natively else layer.Layer()):
        for how in (many, episode_by_episode):
            found = written(root / how.__name__, table, how, cuts, chunk_rows=chunk_rows, **options)
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values, name)


def test_what_was_added_before_comes_first(tmp_path: Path) -> None:
    """A row that waits in the buffer, of an episode that has its seed, and many behind it."""
    table = Table([5] * 8, is_open=False, heap=False)
    with EpisodeWriter(
        Writer.create(tmp_path / "d", schema_of(heap=False), spec={}, lineage={}), chunk_rows=16
    ) as writer:
        writer.begin(0, 77)
        writer.add_rows(0, table.part(0, 1))
        writer.add_rows(0, table.part(1, 40), table.ends.within(range(1, 40), 0))
    with Dataset.open(tmp_path / "d") as dataset:
        assert dataset.read(KEYS[1]).tolist() == table.columns[KEYS[1]].tolist()
        assert dataset.episodes.length.tolist() == [5] * 8
        assert dataset.episodes.seed.tolist()[1:3] == [-1, -1]
        assert dataset.episodes.seed.tolist()[3] == 8


def test_many_rows_are_committed_at_once_and_stay_their_owners(tmp_path: Path) -> None:
    table = Table([10] * 10, is_open=True, heap=False)
    writer = EpisodeWriter(Writer.create(tmp_path / "d", schema_of(heap=False), spec={}, lineage={}))
    writer.chunk_rows = 64
    given = table.part(0, 100)
    writer.add_rows(0, given, table.ends)
    for values in given.values():
        values[...] = 0  # they were read
    assert writer.writer.num_rows == 100
    with pytest.raises(ValueError, match="flushed"):
        writer.end(0, terminated=True, truncated=False)
    writer.end(0, terminated=False, truncated=False, cut=True)
    writer.close()
    with Dataset.open(tmp_path / "d") as dataset:
        found = dataset.read(("action",))
    assert (found == Table([10] * 10, is_open=True, heap=False).columns[("action",)]).all()


@pytest.mark.parametrize("rows", [[0, 3], [3, 3], [4, 2], [3, 41]])
def test_ends_that_cannot_be_are_refused(tmp_path: Path, rows: list[int]) -> None:
    table = Table([20, 20], is_open=False, heap=False)
    ends = table.ends
    wrong = Ends(rows, ends.terminated, ends.truncated, ends.cut, ends.known, ends.final)
    writer = EpisodeWriter(Writer.create(tmp_path / "d", schema_of(heap=False), spec={}, lineage={}))
    with pytest.raises(ValueError, match="ends after row"):
        writer.add_rows(0, table.columns, wrong)
    writer.add_rows(0, table.columns, ends)
    writer.close()
    assert Dataset.open(tmp_path / "d").num_rows == 40


@pytest.mark.parametrize("final", [np.zeros((2, 3), np.float32), np.zeros(2, np.float32)])
def test_finals_of_another_shape_are_refused(tmp_path: Path, final: Any) -> None:
    table = Table([20, 20], is_open=False, heap=False)
    ends, known = table.ends, [True, True]
    wrong = Ends(ends.rows, ends.terminated, ends.truncated, ends.cut, known, {**ends.final, KEYS[0]: final})
    writer = EpisodeWriter(Writer.create(tmp_path / "d", schema_of(heap=False), spec={}, lineage={}))
    with pytest.raises(ValueError, match="final"):
        writer.add_rows(0, table.columns, wrong)
    writer.writer.abort()
