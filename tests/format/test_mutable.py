"""Side columns: values that change after their rows were committed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import BusyError, CorruptError, IncompatibleError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.mutable import SideColumn
from rlcli.format.verify import verify

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _ids(dataset: Dataset) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return dataset.row_ids(np.arange(dataset.num_rows))


@QUICK
@given(
    writes=st.lists(st.lists(st.tuples(st.integers(0, 149), st.integers(-9, 9)), min_size=1), max_size=6),
    shape=st.sampled_from([(), (2,)]),
    default=st.sampled_from([0, -1.5]),
)
def test_reads_what_was_written_last(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[list[tuple[int, int]]],
    shape: tuple[int, ...],
    default: float,
) -> None:
    path = tmp_path_factory.mktemp("side") / "ds"
    m.small(path)
    before = m.tree_hashes(path)
    with Dataset.open(path) as dataset:
        ids = _ids(dataset)
        expected = np.full((len(ids), *shape), default)
        for number, write in enumerate(writes):
            with SideColumn.open(dataset, "priority", default=default, shape=shape) as column:  # reopened
                rows = np.array([row for row, _ in write])
                values = np.array([np.full(shape, value + number) for _, value in write], float)
                assert column.write(ids[rows], values) == len(rows)
                for row, value in zip(rows, values, strict=True):
                    expected[row] = value
                assert np.array_equal(column.read(ids), expected)
        assert dataset.digest == Dataset.open(path).digest
    assert {k: v for k, v in m.tree_hashes(path).items() if not k.startswith("mutable/")} == before
    assert verify(path, deep=True) == []


def test_rows_that_are_not_there_read_as_the_default(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset, SideColumn.open(dataset, "count", "int32", 7) as column:
        strange = np.array([-1, 1 << 39, 5 << 40, (1 << 40) + (1 << 30)])
        assert column.write(strange, np.arange(4)) == 0
        assert column.read(strange).tolist() == [7] * 4
        assert column.read(_ids(dataset)).tolist() == [7] * dataset.num_rows


def test_there_is_one_owner(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        with SideColumn.open(dataset, "a"):
            with pytest.raises(BusyError):
                SideColumn.open(dataset, "a")
            SideColumn.open(dataset, "b").close()
        column = SideColumn.open(dataset, "a")
        column.close()
        with pytest.raises(ValueError, match="closed"):
            column.read(_ids(dataset))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dtype": "float32"}, IncompatibleError),
        ({"default": 3}, IncompatibleError),
        ({"shape": [2]}, IncompatibleError),
        ({"dataset": "0" * 32}, CorruptError),
        ({"magic": "x"}, CorruptError),
    ],
)
def test_a_description_that_differs_is_refused(
    tmp_path: Path, change: dict[str, object], error: type[Exception]
) -> None:
    m.small(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        SideColumn.open(dataset, "a").close()
        meta = tmp_path / "ds" / "mutable" / "a" / "meta.json"
        meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
        with pytest.raises(error):
            SideColumn.open(dataset, "a")
        for name in ("../x", "a/b", "", "shape"):
            with pytest.raises(IncompatibleError):
                SideColumn.open(dataset, name)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        with SideColumn.open(dataset, "a") as column:
            column.write(_ids(dataset)[:1], np.ones(1))
        (file,) = (tmp_path / "ds" / "mutable" / "a").glob("*.memmap")
        os.truncate(file, 8)
        with SideColumn.open(dataset, "a") as column, pytest.raises(CorruptError):
            column.read(_ids(dataset))


def _write_and_tell(path: Path, told: int) -> None:
    dataset = Dataset.open(path)
    column = SideColumn.open(dataset, "priority")
    ids = _ids(dataset)
    for round_ in range(1, 1_000_000):
        column.write(ids, np.full(len(ids), round_))
        os.write(told, round_.to_bytes(8, "little"))


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    for rounds in (1, 3, 20):
        heard, told = os.pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_write_and_tell, args=(tmp_path / "ds", told)
        )
        child.start()
        os.close(told)
        for _ in range(rounds):
            assert len(os.read(heard, 8)) == 8
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        last = rounds
        while data := os.read(heard, 8):
            last = int.from_bytes(data, "little")
        os.close(heard)
        with Dataset.open(tmp_path / "ds") as dataset, SideColumn.open(dataset, "priority") as column:
            found = column.read(_ids(dataset))
            assert set(found.tolist()) <= {last, last + 1}


def test_it_follows_a_window(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", segment_rows=8, window=20, chunk_rows=4)
    m.fill(model, 16)
    model.writer.flush()
    dataset = Dataset.open(tmp_path / "ds")
    with SideColumn.open(dataset, "priority", default=-1) as column:
        first = _ids(dataset)
        assert column.write(first, np.arange(len(first))) == len(first)
        m.fill(model, 80)
        model.writer.flush()
        dataset.refresh()
        present = {segment.name for segment in dataset.segments}
        files = {file.stem for file in (tmp_path / "ds" / "mutable" / "priority").glob("*.memmap")}
        assert files <= present, "side files leave with their segments"
        assert set(column.read(first).tolist()) == {-1.0}
        now = _ids(dataset)
        column.write(now, np.ones(len(now)))
        assert set(column.read(now).tolist()) == {1.0}
    model.writer.close()


@pytest.mark.parametrize("first_direct", [True, False])
def test_stores_and_writes_are_the_same(tmp_path: Path, first_direct: bool) -> None:
    """Of equal rows the last value counts, either way; each finds what the other one left."""
    m.small(tmp_path / "ds")
    direct, watched = layer.current(), layer.Layer()
    rng = np.random.default_rng(0)
    with Dataset.open(tmp_path / "ds") as dataset:
        ids, expected = _ids(dataset), np.full((dataset.num_rows, 2), -1.0)
        for way in [direct, watched] if first_direct else [watched, direct]:
            with layer.use(way), SideColumn.open(dataset, "a", default=-1, shape=(2,)) as column:
                assert column.read(ids).tolist() == expected.tolist()
                rows = rng.integers(0, len(ids), 400)
                values = rng.random((400, 2))
                column.write(ids[rows], values)
                for row, value in zip(rows, values, strict=True):
                    expected[row] = value
                assert column.read(ids).tolist() == expected.tolist()
