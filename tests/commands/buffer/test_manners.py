"""How `rl buffer` ends: exit codes, signals, pipes, and what it does not import."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format import strictjson
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer


@pytest.mark.parametrize("command", ["info", "head", "stats", "verify", "ls"])
def test_a_wrong_path_is_exit_3(rl: Callable[..., Any], tmp_path: Path, command: str) -> None:
    assert rl(command, tmp_path / "nowhere").code == 3
    if command != "ls":
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_text("no dataset")
        for name in ("folder", "file"):
            ended = rl(command, tmp_path / name)
            assert ended.code == 3
            assert "not a dataset" in ended.err


@pytest.mark.parametrize("command", ["info", "head", "stats", "verify"])
@pytest.mark.parametrize("place", ["dataset.json", "manifest", "feature"])
def test_a_newer_format_is_exit_5(rl: Callable[..., Any], copy: Path, command: str, place: str) -> None:
    file = copy / "dataset.json" if place == "dataset.json" else max((copy / "manifests").iterdir())
    value = json.loads(file.read_text())
    if place == "feature":
        value["features"]["incompat"].append("not-yet")
    else:
        value["format"] = [2, 0]
    file.write_bytes(strictjson.dump_checked(value))
    ended = rl(command, copy)
    assert ended.code == 5
    assert "upgrade rl" in ended.err


def test_a_wrong_combination_is_exit_2(rl: Callable[..., Any], sealed: Path) -> None:
    assert rl("verify", sealed, "--fast", "--deep").code == 2
    assert rl("head", sealed, "-n", "lots").code == 2
    assert rl("head", sealed, "-n", "-1").code == 2
    assert rl("head", sealed, "-n", "0", "--json").json["rows"] == []
    assert rl("verify").code == 2


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 MB, mostly zeros: long enough to interrupt its verification."""
    path = tmp_path_factory.mktemp("large") / "data"
    schema = ted_schema(Box((64, 64, 3), "uint8"), Discrete(2))
    writer = Writer.create(path, schema, spec={}, lineage={}, durability="process")
    with EpisodeWriter(writer) as episodes:
        rows = {
            column.key: np.zeros((4096, *column.shape), column.numpy)
            for column in schema.plain
            if column.key[0] in ("observation", "action") or column.key == ("next", "reward")
        }
        for _ in range(4):
            episodes.add_rows(0, rows)
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_verification(large: Path, number: int, code: int, start: Callable[..., Any]) -> None:
    ended = start("verify", "--deep", *[large] * 50)
    time.sleep(1.0)
    assert ended.poll() is None
    ended.send_signal(number)
    out, err = ended.communicate(timeout=300)
    assert (ended.returncode, out) == (code, "")
    assert err == ("interrupted\n" if number == signal.SIGINT else "")


def test_a_closed_pipe_is_quiet(sealed: Path, start: Callable[..., Any]) -> None:
    ended = start("stats", sealed, "--by", "episode")
    assert ended.stdout is not None
    assert ended.stderr is not None
    ended.stdout.close()
    assert ended.wait(timeout=300) == 141
    assert ended.stderr.read() == ""
    ended.stderr.close()


def test_nothing_heavy_is_imported(sealed: Path) -> None:
    script = (
        "import sys; from rlcli.main import run; "
        "codes = [run(['buffer', *words, sys.argv[1]]) for words in (['info'], ['ls'], ['head'], ['stats'], "
        "['verify', '--deep', '--semantics'])]; "
        "heavy = {'torch', 'tensordict', 'gymnasium', 'h5py', 'zarr', 'rich.progress'} & set(sys.modules); "
        "print('CODES', codes, 'HEAVY', sorted(heavy))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(sealed)], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"CODES \[0, 0, 0, 0, 0\] HEAVY \[\]", out), out[-300:]


def test_no_output_lies_inside_a_dataset(rl: Callable[..., Any], copy: Path) -> None:
    """Where `rl buffer gc` would take it for garbage."""
    before = sorted(copy.rglob("*"))
    out = copy / "segments" / "w07-000000000000"
    for verb in (
        ("filter", "--where", "length > 0"),
        ("merge",),
        ("sample", "-n", 3),
        ("split", "--frac", 0.5),
    ):
        ended = rl(verb[0], copy, *verb[1:], "-o", out)
        assert ended.code == 2
        assert "inside the dataset" in ended.err
    assert rl("pack", copy, copy / "x.rlz").code == 2
    assert sorted(copy.rglob("*")) == before


def test_a_path_that_is_no_text_is_wrong_use(rl: Callable[..., Any], tmp_path: Path) -> None:
    """Names in files and messages are UTF-8; bytes that are not would have to be guessed."""
    ended = rl("merge", os.fsdecode(bytes(tmp_path) + b"/\xff"), "-o", tmp_path / "out")
    assert ended.code == 2
    assert "is not UTF-8" in ended.err
    assert rl("info", tmp_path / "漢字").code == 3


@pytest.mark.parametrize("folder", ["manifests", "journal"])
def test_a_folder_that_links_to_itself_is_damage(rl: Callable[..., Any], copy: Path, folder: str) -> None:
    shutil.rmtree(copy / folder)
    (copy / folder).symlink_to(folder)
    ended = rl("info", copy)
    assert ended.code == 4
    assert f"{folder}: a symbolic link to itself" in ended.err


def test_a_dataset_that_links_to_itself_is_none(rl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    ended = rl("info", tmp_path / "loop")
    assert ended.code == 3
    assert "not a dataset" in ended.err


def test_a_packed_file_elsewhere_is_refused(rl: Callable[..., Any]) -> None:
    ended = rl("info", "http://localhost:1/data.rlz")
    assert ended.code == 2
    assert "download it first" in ended.err


def test_a_name_that_is_too_long_while_it_is_made_says_so(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    ended = rl("compact", sealed, "-o", tmp_path / ("a" * 230))
    assert ended.code == 3
    assert "up to 76 bytes longer" in ended.err
