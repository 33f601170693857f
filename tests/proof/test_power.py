"""Cuts of power at any call: what was synced is there, what was not is right or refused."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from power import PAGE, Disk, Recorder, put
from power_cuts import PLANS, Cuts

from rlcli.format import layer


@pytest.mark.parametrize("part", range(3))
def test_no_cut_of_power_makes_a_wrong_row_or_takes_a_synced_one(memory_path: Path, part: int) -> None:
    cuts = Cuts(memory_path, random.Random(part))
    cuts.run(110, PLANS[part::3])
    assert cuts.violations == []
    assert cuts.counts["rows"] > 1000


def test_the_model_of_a_disk(tmp_path: Path) -> None:
    """Everything written is the newest state; synced bytes are in every state; others may be old or torn."""
    recorder = Recorder(tmp_path)
    with layer.use(recorder):
        system = layer.current()
        fd = system.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
        system.pwrite(fd, b"1" * 2 * PAGE, 0)
        system.sync(fd)
        folder = system.open(tmp_path, os.O_RDONLY)
        system.sync(folder)
        system.pwrite(fd, b"2" * PAGE, PAGE)
        system.rename(tmp_path / "a", tmp_path / "b")
        system.close(fd)
        system.close(folder)
    disk = Disk(recorder.root)
    for call in recorder.calls:
        disk.do(call)
    newest = disk.draw(random.Random(0), ordered=True, keep=1.0)
    assert newest == {"b": b"1" * PAGE + b"2" * PAGE}
    rng = random.Random(1)
    names, tails = set(), set()
    for _ in range(200):
        ((name, content),) = disk.draw(rng, ordered=rng.random() < 0.5, keep=0.3).items()
        assert content is not None
        assert content[:PAGE] == b"1" * PAGE
        names.add(name)
        tails.add(content[PAGE:])
    assert names == {"a", "b"}
    assert {b"1" * PAGE, b"2" * PAGE} < tails
    (tmp_path / "put").mkdir()
    put(newest, tmp_path / "put")
    assert (tmp_path / "put" / "b").read_bytes() == newest["b"]
