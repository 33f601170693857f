"""`rl buffer verify`: what it proves, and that no damage of any file gets past it or a reader."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import CorruptError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box
from rlcli.format.trees import Leaf, meta_files
from rlcli.format.writer import Writer


@pytest.mark.parametrize("flags", [[], ["--deep"], ["--fast"], ["--semantics"], ["--deep", "--semantics"]])
def test_verify_says_what_it_proved(rl: Callable[..., Any], sealed: Path, flags: list[str]) -> None:
    ended = rl("verify", sealed, *flags)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == 1
    assert ended.out.startswith(f"{sealed}: sound: 60 rows, 10 episodes; ")
    assert ("rules of meaning" in ended.out) == ("--semantics" in flags)
    facts = rl("verify", sealed, *flags, "--json").json
    assert facts["ok"] is True
    (entry,) = facts["datasets"]
    assert entry["meaning_judged"] == ("--semantics" in flags)
    columns = 60 * Dataset.open(sealed).schema.row_bytes
    assert (entry["bytes_compared"] > columns) == ("--fast" not in flags)


def test_verify_checks_several_datasets_and_names_the_broken_one(
    rl: Callable[..., Any], sealed: Path, copy: Path
) -> None:
    (copy / "dataset.json").unlink()
    ended = rl("verify", sealed, copy)
    assert ended.code == 4
    assert f"{sealed}: sound" in ended.out
    assert f"{copy}: 1 problem\n  dataset.json: missing" in ended.out
    assert str(copy) in ended.err
    assert len(ended.err.splitlines()) == 1


def test_verify_finds_wrong_meaning_in_intact_bytes(rl: Callable[..., Any], tmp_path: Path) -> None:
    space, box = Box((3,)), Box((2,), "float32", -1.0, 1.0)
    schema = ted_schema(space, box)
    spec = {"observation": space.to_json(), "action": box.to_json()}
    writer = Writer.create(tmp_path / "d", schema, spec=spec, lineage={}, durability="process")
    with EpisodeWriter(writer) as episodes:
        for row in range(60):
            bad = row % 2 == 1
            episodes.add(
                0,
                observation=[0, np.nan if bad else 0, 0],
                action=[3.0, 0.0],
                reward=0.0,
                terminated=row % 2 == 1,
                truncated=False,
                next_observation=np.zeros(3) if row % 2 == 1 else None,
            )
    assert rl("verify", tmp_path / "d", "--deep").code == 0
    ended = rl("verify", tmp_path / "d", "--semantics")
    assert ended.code == 4
    lines = ended.out.splitlines()
    assert lines[0] == f"{tmp_path / 'd'}: 60 problems"  # 30 rows, and the rows before them by `next`
    assert lines[2].startswith("  segments/w00-000000000000/observation.memmap: ")
    assert lines[2].endswith("observation is NaN or infinite (block 0, row 1, episode 0)")
    assert "and 40 more" in lines[21]
    assert lines[22].endswith("action lies beyond its bounds (block 0, rows 0 to 59)")
    assert len(ended.err.splitlines()) == 1
    facts = json.loads(rl("verify", tmp_path / "d", "--semantics", "--json").out)["datasets"][0]
    assert facts["num_problems"] == len(facts["problems"]) == 60
    assert facts["warnings"][0]["count"] == 60


def _write_meta(root: Path, leaves: list[Leaf], rows: int) -> None:
    for relative, data in meta_files(leaves, rows).items():
        (root / relative).write_bytes(data)


def test_a_seal_under_way_is_no_damage(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    """The true number of rows stands in meta.json before the last rows are committed."""
    path = tmp_path / "data"
    writer = fill(path, close=False, rows=(10, 6))
    leaves = [(column.key, column.dtype, column.shape) for column in writer.schema.plain]
    columns = path / "segments" / "w01-000000000000"
    _write_meta(columns, leaves, 9)
    assert rl("verify", path).code == 0
    _write_meta(columns, leaves, 5)  # fewer than are committed
    ended = rl("verify", path)
    assert ended.code == 4
    assert "segments/w01-000000000000/meta.json: differs from the schema" in ended.out
    writer.abort()


def damages(path: Path) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """`(file, what, do it)`: every file deleted, cut to 0, half, all but one byte, and with a flipped bit."""
    rng = random.Random(0)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        data = file.read_bytes()
        name = file.relative_to(path).as_posix()
        yield name, "deleted", file.unlink
        for size in sorted({0, len(data) // 2, len(data) - 1}):
            yield name, f"cut to {size}", lambda file=file, size=size: os.truncate(file, size)
        for position in {rng.choice((0, len(data) - 1)), rng.randrange(len(data))}:
            flipped = bytearray(data)
            flipped[position] ^= 1 << rng.randrange(8)
            what = f"byte {position} flipped"
            yield name, what, lambda file=file, flipped=bytes(flipped): file.write_bytes(flipped)


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def read_everything(path: Path) -> list[bytes]:
    with Dataset.open(path) as data:
        assert data.digest
        assert len(data.episodes) == data.num_episodes
        return [data.read(column.key).tobytes() for column in data.schema.columns]


def test_no_damage_of_any_file_goes_unnoticed(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    """Each file, deleted, cut and flipped: `verify` exits 4 and names it, reading raises, nothing changes.

    Reading opens the newest manifest and its parent; those before are the business of `verify` alone, and so
    is what is behind the last row of a column.
    """
    path = tmp_path / "data"
    fill(path, rows=(10, 6), segment_rows=8)  # two segments and one
    sound = tree(path)
    history = sorted(name for name in sound if name.startswith("manifests/"))[:-2]
    missed, values = [], read_everything(path)
    for name, what, damage in damages(path):
        file = path / name
        damage()
        damaged = file.read_bytes() if file.exists() else None
        ended = rl("verify", path)
        if ended.code != 4 or f"{name}: " not in ended.out or name not in ended.err:
            missed.append(f"{name} {what}: verify exits {ended.code}: {ended.out}{ended.err}")
        try:
            is_same = read_everything(path) == values
            if name not in history and not (is_same and name.startswith("segments/") and "flipped" in what):
                missed.append(f"{name} {what}: read without an error")
        except CorruptError as err:
            if err.path is None:
                missed.append(f"{name} {what}: the error names no file: {err}")
        if damaged != (file.read_bytes() if file.exists() else None):
            missed.append(f"{name} {what}: the file was changed")
        file.unlink(missing_ok=True)
        file.write_bytes(sound[name])
    assert not missed, "\n".join(missed[:20])
    assert tree(path) == sound
    assert rl("verify", path).code == 0


@pytest.mark.parametrize("command", ["info", "head", "stats"])
def test_looking_at_damaged_data_is_exit_4(rl: Callable[..., Any], copy: Path, command: str) -> None:
    target = copy / "segments" / "w00-000000000000" / "observation" / "position.memmap"
    if command == "info":
        target = copy / "episodes" / "w01-000000000000" / "return.memmap"
    data = bytearray(target.read_bytes())
    data[5] ^= 8
    target.write_bytes(data)
    ended = rl(command, copy)
    assert (ended.code, ended.out) == (4, "")
    assert target.relative_to(copy).as_posix() in ended.err
    assert len(ended.err.splitlines()) == 1
