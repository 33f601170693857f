"""A long look through a source is stopped by whoever began it, before its next item."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

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


def test_a_signal_during_the_first_look_stops_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files.toy(tmp_path, *[files.episode(2) for _ in range(3)])
    seen = []

    def note(*_: object) -> None:
        seen.append(1)
        stops[0].requested = 2

    stops: list[console.Stop] = []
    init = console.Stop.__init__
    monkeypatch.setattr(console.Stop, "__init__", lambda self: (init(self), stops.append(self))[0])
    monkeypatch.setattr("rlcli.datasets.tfrecord._ROOM", 1)
    monkeypatch.setattr("rlcli.datasets.rlds_scan._note_run", note)
    with pytest.raises(Interrupted, match="nothing was written"):
        convert(folder, tmp_path / "ds")
    assert len(seen) == 1
    assert not (tmp_path / "ds").exists()
