"""A long look through a source is stopped by whoever began it, before its next item."""

from __future__ import annotations

import gzip
import pkgutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from rlcli import console
from rlcli.datasets.stopping import heeding, stoppable
from rlcli.errors import Interrupted
from rlcli.pipeline.convert import convert
from tests.datasets import rlds_files as files


def test_items_are_the_same_and_asked_about_in_the_block_and_its_thread_alone() -> None:
    asked: list[int] = []
    there: list[int] = []

    def look() -> None:
        there.extend(heeding(range(5)))

    with stoppable(lambda: asked.append(1)):
        assert list(heeding("abc")) == ["a", "b", "c"]
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert list(heeding([7])) == [7]
    assert (len(asked), there) == (3, [0, 1, 2, 3, 4])


def stop_in(monkeypatch: pytest.MonkeyPatch, step: str) -> list[str]:
    """Ctrl-C comes in the function `step`; returns a list that grows with its calls."""
    calls: list[str] = []
    stops: list[console.Stop] = []
    init, call = console.Stop.__init__, pkgutil.resolve_name(step)
    monkeypatch.setattr(console.Stop, "__init__", lambda self: (init(self), stops.append(self))[0])

    def note(*args: Any, **named: Any) -> Any:
        calls.append(step)
        stops[-1].requested = 2
        return call(*args, **named)

    monkeypatch.setattr(step, note)
    return calls


def rlds(folder: Path) -> Path:
    return files.toy(folder, *[files.episode(2) for _ in range(3)])


def atari(folder: Path) -> Path:
    log = {"observation": np.zeros((2, 4, 4), "u1"), "action": np.zeros(2, "i4")}
    log |= {"reward": np.zeros(2, "f4"), "terminal": np.zeros(2, "u1")}
    for number in range(3):
        for name, values in log.items():
            with gzip.open(folder / f"$store$_{name}_ckpt.{number}.gz", "wb") as stream:
                np.save(stream, values)
    return folder


def arrays_in_zarr(folder: Path) -> Path:
    root = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=2)
    for name in ("observation", "action", "terminals"):
        root.create_array(name, shape=(3,), chunks=(1,), dtype="f4")[:] = 1.0
    return folder / "x.zarr"


def parquet(folder: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"observation": [0.5, 1.5], "action": [1.0, 2.0], "task": ["lift", None]})
    for number in range(3):
        pytest.importorskip("pyarrow.parquet").write_table(table, folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize(
    ("make", "step"),
    [
        (rlds, "rlcli.datasets.rlds_scan._note_run"),
        (atari, "rlcli.datasets.atari_scan._count"),
        (arrays_in_zarr, "rlcli.datasets.zarr_chunks.check_blosc"),
        (arrays_in_zarr, "rlcli.datasets.zarr_rows.Chunks.get"),
        (parquet, "rlcli.datasets.parquet.read_bytes"),
        (parquet, "rlcli.datasets.parquet.ParquetTable._nulls_of"),
        (parquet, "rlcli.datasets.registry.load"),
    ],
)
def test_a_signal_during_the_first_look_stops_before_the_next_step(
    make: Callable[[Path], Path], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    source = make(tmp_path / "source")
    monkeypatch.setattr("rlcli.datasets.tfrecord._ROOM", 1)
    calls = stop_in(monkeypatch, step)
    with pytest.raises(Interrupted, match="nothing was written"):
        convert(source, tmp_path / "ds")
    assert len(calls) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_a_signal_while_the_format_is_found_out_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = stop_in(monkeypatch, "rlcli.datasets.rlds.detect")
    with pytest.raises(Interrupted, match="nothing was written"):
        convert(rlds(tmp_path), tmp_path / "ds")
    assert len(calls) == 1
    assert not (tmp_path / "ds").exists()
