"""Checkpoints: whole or absent, checked when read, best and last kept."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import torch

from rlcli.errors import CorruptError, InputError
from rlcli.pipeline import checkpoint


def _save(folder: Path, step: int, score: float | None = None, value: float = 0.0) -> checkpoint.Checkpoint:
    tensors = {
        "state": {"w": torch.full((3,), value), "n": {"count": torch.tensor(step)}},
        "empty": torch.empty(0),
    }
    return checkpoint.save(folder, step, tensors, {"updates": step}, score)


def test_tensors_and_progress_come_back(tmp_path: Path) -> None:
    _save(tmp_path, 7, score=1.5, value=0.25)
    (found,) = checkpoint.find(tmp_path)
    loaded = checkpoint.load_tensors(found)
    assert (found.step, found.score, found.progress["updates"]) == (7, 1.5, 7)
    assert loaded["state"]["w"].tolist() == [0.25] * 3
    assert loaded["state"]["n"]["count"].item() == 7
    assert loaded["empty"].shape == (0,)


def test_equal_content_has_an_equal_digest_and_one_bit_changes_it(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first, second = _save(tmp_path / "a", 7), _save(tmp_path / "b", 7)
    other = _save(tmp_path / "c", 7, value=1e-45)
    assert first.digest == second.digest != other.digest


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json"])
def test_every_flipped_byte_is_noticed(tmp_path: Path, name: str) -> None:
    file = _save(tmp_path, 7).path / name
    original = file.read_bytes()
    for position in range(0, len(original), 3):
        changed = bytearray(original)
        changed[position] ^= 0x10
        file.write_bytes(changed)
        if name.endswith(".json") and original[position : position + 1].isspace():
            continue  # white space between tokens says nothing
        with pytest.raises(CorruptError, match=re.escape(str(tmp_path))):
            checkpoint.load_tensors(checkpoint.find(tmp_path)[0])


def test_best_is_the_highest_score_and_last_the_newest(tmp_path: Path) -> None:
    for step, score in ((1, 10.0), (2, 30.0), (3, 30.0), (4, None)):
        _save(tmp_path, step, score)
    assert checkpoint.select(tmp_path, "best").step == 3  # of equals the one trained longer
    assert checkpoint.select(tmp_path, "last").step == 4
    assert checkpoint.select(tmp_path, "2").step == 2
    with pytest.raises(InputError, match="steps 1, 2, 3, 4"):
        checkpoint.select(tmp_path, "5")


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step, score in enumerate((5.0, 50.0, 7.0, 6.0, 8.0), start=1):
        _save(tmp_path, step, score)
    checkpoint.prune(tmp_path, keep_last=2, keep_best=1)
    assert [found.step for found in checkpoint.find(tmp_path)] == [2, 4, 5]


def test_a_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (tmp_path / ".tmp-abc").mkdir()
    (tmp_path / ".tmp-abc" / "state.safetensors").write_bytes(b"half")
    assert [found.step for found in checkpoint.find(tmp_path)] == [1]
    checkpoint.prune(tmp_path, keep_last=1, keep_best=0)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


def test_a_full_disk_is_the_systems_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        _save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_whoever_may_read_the_run_may_read_its_state(tmp_path: Path) -> None:
    saved = _save(tmp_path, 1).path
    modes = {path.name: path.stat().st_mode for path in saved.iterdir()}
    assert modes["state.safetensors"] == modes["checkpoint.json"]


def test_writing_a_step_again_replaces_it(tmp_path: Path) -> None:
    _save(tmp_path, 1, value=1.0)
    _save(tmp_path, 1, value=2.0)
    assert checkpoint.load_tensors(checkpoint.find(tmp_path)[0])["state"]["w"][0] == 2.0
    assert len(list(tmp_path.iterdir())) == 1
