"""Run directories: written once, checked when read, never half there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from rlcli.errors import CorruptError, IncompatibleError, InputError, UsageError
from rlcli.pipeline.artifacts import describe
from rlcli.pipeline.provenance import canonical, sha256
from rlcli.pipeline.run import create_run, open_run, unique_path, write_atomically


def test_a_run_reads_back_what_was_written(tmp_path: Path) -> None:
    created = create_run(tmp_path / "run", {"algorithm": "dqn", "seed": 3}, "lr = 0.1\n")
    assert open_run(tmp_path / "run").info["seed"] == 3
    assert created.checkpoints.is_dir()
    assert (created.path / "config.toml").read_text() == "lr = 0.1\n"


def test_an_existing_path_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        create_run(tmp_path / "run", {}, "")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        create_run(tmp_path / "run", {"bad": object()}, "")
    assert list(tmp_path.iterdir()) == []


def test_every_changed_byte_of_run_json_is_noticed(tmp_path: Path) -> None:
    file = create_run(tmp_path / "run", {"algorithm": "dqn", "seed": 3}, "").path / "run.json"
    original = file.read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1
        file.write_bytes(changed)
        try:
            open_run(tmp_path / "run")
        except (CorruptError, IncompatibleError):
            continue
        assert json.loads(bytes(changed)) == json.loads(original)  # only white space changed


def test_what_is_not_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run at"):
        open_run(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no run\.json"):
        open_run(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = create_run(tmp_path / "run", {}, "").path / "run.json"
    content = json.loads(file.read_bytes())
    content.pop("check")
    content["format"] = [2, 0]
    file.write_text(json.dumps({**content, "check": sha256(canonical(content))}))
    with pytest.raises(IncompatibleError, match="reads run 1"):
        open_run(tmp_path / "run")


def test_metrics_after_a_checkpoint_are_cut_and_a_torn_line_is_ignored(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {}, "")
    run.metrics_path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]
    run.cut_metrics(2)
    assert run.metrics_path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_unique_path_counts_up(tmp_path: Path) -> None:
    assert unique_path(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert unique_path(tmp_path / "a") == tmp_path / "a-3"


def test_showing_a_run_with_a_damaged_checkpoint_names_the_file(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", {"algorithm": "bc", "source": "dataset"}, "")
    (run.checkpoints / "000000000010").mkdir()
    (run.checkpoints / "000000000010" / "checkpoint.json").write_text('{"step": 10')
    with pytest.raises(CorruptError, match=r"000000000010/checkpoint\.json is damaged"):
        describe(run.path)


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
