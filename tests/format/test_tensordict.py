"""Segments, finals and episode tables are TensorDict trees, and loading them changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, InputError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import DTYPES
from rlcli.format.schema import Column, Schema
from rlcli.format.writer import Writer

tensordict = pytest.importorskip("tensordict")
torch = pytest.importorskip("torch")


def test_every_tree_loads_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    m.small(path, spec=m.NESTED, num_streams=1, steps=50, segment_rows=32)
    before = m.tree_hashes(path)
    with Dataset.open(path) as dataset:
        first = 0
        for segment in dataset.segments:
            for loaded in (
                tensordict.TensorDict.load_memmap(path / "segments" / segment.name),
                dataset.open_segment(segment.name),
            ):
                assert loaded.shape == (segment.rows,)
                for column in dataset.schema.plain:
                    expected = dataset.read(column.key, first, first + segment.rows)
                    assert np.array_equal(loaded[column.key].numpy(), expected), column.key
                    assert loaded[column.key].dtype == getattr(torch, column.dtype)
            first += segment.rows
            episodes = tensordict.TensorDict.load_memmap(path / "episodes" / segment.name)
            assert episodes.shape == (segment.episodes,)
            finals = tensordict.TensorDict.load_memmap(path / "finals" / segment.name)
            assert finals.shape == (segment.finals,)
            assert finals["next", "observation", "image"].dtype == torch.uint8
    assert m.tree_hashes(path) == before


def test_every_dtype_loads(tmp_path: Path) -> None:
    columns = tuple(Column((name,), name, (2,)) for name in DTYPES)
    with Writer.create(tmp_path / "ds", Schema(columns), spec={}, lineage={}) as writer:
        writer.write(0, {c.key: np.full((3, 2), 1).astype(c.numpy) for c in columns})
    loaded = tensordict.TensorDict.load_memmap(next((tmp_path / "ds" / "segments").iterdir()))
    for name in DTYPES:
        assert loaded[name].dtype == getattr(torch, name)
        assert loaded[name].shape == (3, 2)
    assert (loaded["float32"] == 1).all()


def test_an_open_segment_loads_at_its_full_size_and_is_not_changed(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", segment_rows=16)
    m.fill(model, 10)
    model.writer.flush()
    before = m.tree_hashes(tmp_path / "ds")
    segment = next((tmp_path / "ds" / "segments").iterdir())
    assert tensordict.TensorDict.load_memmap(segment).shape == (16,)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.open_segment(segment.name).shape == (10,)
    assert m.tree_hashes(tmp_path / "ds") == before
    model.writer.writer.abort()


def test_open_segment_looks_before_it_loads(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1, steps=10)
    dataset = Dataset.open(tmp_path / "ds")
    with pytest.raises(InputError, match=r"did you mean|known"):
        dataset.open_segment("w00-00000000001")
    name = dataset.segments[0].name
    column = tmp_path / "ds" / "segments" / name / "action.memmap"
    data = column.read_bytes()
    column.write_bytes(data[:-8])
    with pytest.raises(CorruptError, match=r"action\.memmap"):
        dataset.open_segment(name)
    assert column.read_bytes() == data[:-8]
