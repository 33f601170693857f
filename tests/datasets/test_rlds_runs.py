"""Records read many at once: the same rows, ends and errors as of each record alone, by another reader."""

from __future__ import annotations

import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli import _native
from rlcli.datasets import rlds
from rlcli.datasets.contract import Piece, Report, Request
from rlcli.errors import CorruptError, RLError
from tests.datasets import rlds_files as files
from tests.datasets.rlds_files import Found, episodes_tree, picture, pixels, toy, write_rlds

AGAIN = Request(again=True)
STEPS = files.PLAIN | {
    "observation": files.group(
        state=files.tensor("float32", 3), eye=files.image(4, 5, 3), mask=files.tensor("bool", 2)
    ),
    "said": files.text(),
    "blob": files.tensor("uint8", -1, -1, encoding="bytes"),
    "token": files.tensor("int64"),
    "tags": files.sequence(files.tensor("int64")),
}
PICTURES = [picture(pixels(4, 5, 3, seed=seed)) for seed in range(3)]


def episode(length: int, seed: int) -> dict[str, Any]:
    """Features of every kind, small and large integers; some are absent, empty, or in another order."""
    chance = random.Random(seed)
    sizes = [chance.randrange(3) for _ in range(length)]
    big = chance.choice([100, 2**40])
    told = files.episode(length, seed, terminal=chance.random() < 0.5, padded=chance.random() < 0.5) | {
        "steps/observation/eye": [chance.choice(PICTURES) for _ in range(length)],
        "steps/observation/mask": np.array([chance.random() < 0.5 for _ in range(2 * length)]),
        "steps/said": [b"go"] * length,
        "steps/token": np.array([chance.randrange(-big, big) for _ in range(length)], np.int64),
        "steps/blob/value": [bytes(6)] * length,
        "steps/blob/shape": np.array([[2, 3]] * length, np.int64),
        "steps/tags/ragged_flat_values": np.arange(sum(sizes)),
        "steps/tags/ragged_row_lengths_0": np.array(sizes, np.int64),
        "name": [str(seed).encode()],
        "embedding": np.arange(2, dtype=np.float32) + seed,
    }
    kind = chance.randrange(6)
    if kind == 0:
        del told["steps/said"]
    elif kind == 1:
        told["steps/token"] = np.zeros(0, np.int64)
    elif kind == 2:
        told = dict(sorted(told.items()))
    return told


def folder_of(tmp_path: Path, *episodes: Any, **rest: Any) -> Path:
    tree = episodes_tree(STEPS, name=files.text(), embedding=files.tensor("float32", 2))
    return write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [episodes]}, **rest)


def same(ours: Found, theirs: Found) -> None:
    assert ours.source.plan == theirs.source.plan
    assert ours.schema == theirs.schema
    assert ours.report == theirs.report
    assert ours.lengths == theirs.lengths
    assert ours.rows.keys() == theirs.rows.keys()
    for key, rows in theirs.rows.items():
        if isinstance(rows[0], np.ndarray | np.generic):
            assert [row.tobytes() for row in ours.rows[key]] == [row.tobytes() for row in rows]
        else:
            assert ours.rows[key] == rows
    for one, other in zip(ours.ends, theirs.ends, strict=True):
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
        assert str(plain(one.final)) == str(plain(other.final))


def plain(final: Any) -> Any:
    """The same with bytes where there are views of them."""
    if isinstance(final, dict):
        return {name: plain(value) for name, value in final.items()}
    return bytes(final) if isinstance(final, memoryview) else final


@pytest.mark.parametrize("last_step", ["keep", "drop"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_many_records_at_once_are_each_of_them(tmp_path: Path, last_step: str, compression: str) -> None:
    chance = random.Random(1)
    episodes = [episode(chance.choice([1, 2, 5]), seed) for seed in range(40)]
    folder = folder_of(tmp_path, *episodes, {}, *episodes[:3], compression=compression)
    same(Found(folder, last_step=last_step), Found(folder, AGAIN, last_step=last_step))


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("last_step", ["keep", "drop"])
def test_slices_may_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, last_step: str
) -> None:
    folder = toy(tmp_path, *[files.episode(length, length, padded=True) for length in (1, 3, 2, 7, 1, 6)])
    whole = Found(folder, AGAIN, last_step=last_step)
    monkeypatch.setattr("rlcli.datasets.rlds.slice_rows", lambda row_bytes: step)
    same(Found(folder, last_step=last_step), whole)


def test_the_second_reading_needs_no_native_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy(tmp_path, files.episode(3), files.episode(2))

    def broken(*args: Any) -> Any:
        raise AssertionError("the reader that shall be checked")

    monkeypatch.setattr(_native, "merge_examples", broken)
    monkeypatch.setattr(_native, "whole_records", broken)
    assert Found(folder, AGAIN).lengths == [3, 2]
    with pytest.raises(AssertionError, match="shall be checked"):
        Found(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps/observation/mask": np.array([0, 1, 2, 0])},
        {"steps/observation/eye": [PICTURES[0], b"no picture"]},
        {"steps/token": np.zeros(3, np.int64)},
        {"steps/tags/ragged_row_lengths_0": np.array([1, 5])},
        {"steps/blob/shape": np.array([2, 3, 2], np.int64)},
        {"steps/observation/state": np.zeros(7, np.float32)},
        {"embedding": np.zeros(3, np.float32)},
    ],
)
def test_what_is_wrong_in_one_of_many_is_told_of_it(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Lengths that are wrong in one record and make up for it in the next are wrong all the same."""
    right = [episode(2, 8) | {"steps/said": [b"go"] * 2, "steps/token": np.arange(2)} for _ in range(3)]
    folder = folder_of(tmp_path, right[0], right[1] | wrong, right[2])
    says = []
    for request in (Request(images="decode"), Request(images="decode", again=True)):
        with pytest.raises(RLError) as caught:
            Found(folder, request)
        assert isinstance(caught.value, CorruptError)
        says.append(caught.value.message)
    assert says[0] == says[1]
    assert "record at " in says[0]
    assert "record at 0:" not in says[0]


def test_rows_before_the_damage_come_first(tmp_path: Path) -> None:
    steps = files.PLAIN | {"flag": files.tensor("bool")}
    flags = [[0, 1], [1, 0], [0, 2]]
    folder = toy(
        tmp_path, *[files.episode(2) | {"steps/flag": np.array(each)} for each in flags], steps=steps
    )
    with rlds.open_source(folder, Request(), rlds.Options()) as source:
        parts = source._parts(source.shards[0], Report())
        for each in flags[:2]:
            assert next(parts).columns["flag",].tolist() == each
        with pytest.raises(CorruptError, match="bool cannot hold"):
            next(parts)


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_parts_of_shards_hold_their_episodes_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    episodes = [episode(length, length) for length in (3, 1, 4, 1, 5, 9, 2, 6)]
    folder = folder_of(tmp_path, *episodes, {}, compression=compression)
    whole = Found(folder)
    monkeypatch.setattr("rlcli.datasets.tfrecord._ROOM", 2000)
    monkeypatch.setattr("rlcli.datasets.rlds_scan._SPAN_BYTES", 1000)
    monkeypatch.setattr("rlcli.datasets.rlds._PIECE_BYTES", 3000)
    pieces = Found(folder).source.pieces
    assert (len(pieces) > 2) == (compression == "none")
    assert sum(piece.rows or 0 for piece in pieces) == sum(whole.lengths)
    for request in (Request(), AGAIN):
        found = Found(folder, request)
        assert (found.lengths, found.report) == (whole.lengths, whole.report)
        for key, rows in whole.rows.items():
            assert [np.asarray(row).tobytes() for row in found.rows[key]] == [
                np.asarray(row).tobytes() for row in rows
            ]


def test_parts_of_shards_are_read_as_one_where_they_follow_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [[episode(length, length) for length in lengths] for lengths in ((3, 1, 4), (1, 5, 9, 2), (6,))]
    folder = write_rlds(
        tmp_path / "toy" / "1.0.0",
        episodes_tree(STEPS, name=files.text(), embedding=files.tensor("float32", 2)),
        {"train": shards},
    )
    monkeypatch.setattr("rlcli.datasets.tfrecord._ROOM", 2000)
    monkeypatch.setattr("rlcli.datasets.rlds_scan._SPAN_BYTES", 1000)
    monkeypatch.setattr("rlcli.datasets.rlds._PIECE_BYTES", 1000)
    with rlds.open_source(folder, Request(), rlds.Options()) as source:
        pieces = source.pieces
        assert len(pieces) > 4
        for first in range(len(pieces)):
            for stop in range(first + 1, len(pieces) + 1):
                some = pieces[first:stop]
                joined = source.joined(some)
                assert len(joined) <= min(len(some), len(shards))
                rows, whole = ([_steps(source, piece) for piece in each] for each in (some, joined))
                assert list(chain(*rows)) == list(chain(*whole))
                assert [piece.rows for piece in joined] == list(map(len, whole))


def _steps(source: rlds.RLDSSource, piece: Piece) -> list[float]:
    told: list[int] = []
    found = [
        float(reward)
        for part in source.parts(piece, Report(), told.append)
        for reward in part.columns["next", "reward"].reshape(-1)
    ]
    assert sum(told) == piece.num_bytes
    return found


@pytest.mark.parametrize("shares", [2, 3, 5])
def test_shares_of_a_look_make_the_plan_of_one(tmp_path: Path, shares: int) -> None:
    """Shards that differ in what they hold, and in whether their ends are padded."""
    tree = episodes_tree(STEPS, name=files.text(), embedding=files.tensor("float32", 2))
    shards = [[episode(1 + seed % 3, seed), {}] if seed % 4 else [] for seed in range(9)]
    folder = write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": shards})
    with rlds.open_source(folder, Request(), rlds.Options()) as source:
        told = source.plan
    looks = [rlds.look(folder, Request(), rlds.Options(), share, shares) for share in range(shares)]
    assert rlds.plan(json.loads(json.dumps(looks))) == told
