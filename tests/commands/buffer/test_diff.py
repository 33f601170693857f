"""`rl buffer diff`: equal is exit 0, and a difference is exit 8 that names where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box
from rlcli.format.writer import Writer

LENGTHS = (4, 1, 6)


def write(
    path: Path,
    *,
    layout: Any = "derived",
    lengths: tuple[int, ...] = LENGTHS,
    extra: tuple[Column, ...] = (Column(("x",), "int64"),),
    spec: dict[str, Any] | None = None,
    change: Callable[[int, dict[str, Any]], None] = lambda row, step: None,
    segment_rows: int = 3,
    streams: int = 1,
    final: bool = True,
) -> Path:
    """Episodes whose values follow from the row; `change` may alter a step before it is written."""
    schema = ted_schema(Box((2,)), Box((1,)), extra=extra, next_observation=layout)
    writer = Writer.create(
        path,
        schema,
        spec=spec or {"env": {"id": "A"}},
        lineage={},
        segment_rows=segment_rows,
        num_streams=streams,
    )
    row = 0
    with EpisodeWriter(writer, chunk_rows=2) as episodes:
        for number, length in enumerate(lengths):
            stream = number * streams // len(lengths)
            episodes.begin(stream, number)
            for step in range(length):
                values: dict[str, Any] = {
                    "observation": np.array([row, np.nan], np.float32),
                    "action": np.array([0.5 * row], np.float32),
                    "reward": float(row),
                    **{column.key[0]: 2**60 + row for column in extra},
                }
                change(row, values)
                last = step == length - 1
                known = final if last else layout == "plain"
                following = np.array([row + 1 if not last else -1, np.nan], np.float32) if known else None
                episodes.add(stream, **values, terminated=last, truncated=False, next_observation=following)
                row += 1
    return path


def set_to(row: int, name: str, value: Any) -> Callable[[int, dict[str, Any]], None]:
    def change(at: int, step: dict[str, Any]) -> None:
        if at == row:
            step[name] = value

    return change


def test_a_dataset_equals_itself_and_its_copies(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed, tmp_path / "copy")
    ended = rl("diff", sealed, tmp_path / "copy")
    assert (ended.code, ended.out, ended.err) == (0, "equal: 60 rows, 10 episodes\n", "")


@pytest.mark.parametrize("options", [{"segment_rows": 50}, {"streams": 3}, {"layout": "plain"}])
def test_how_it_is_stored_makes_no_difference(
    rl: Callable[..., Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", **options)
    assert rl("diff", a, b).code == 0


@pytest.mark.parametrize(
    ("name", "value", "key", "element", "largest"),
    [
        ("action", np.array([7.0], np.float32), "action", None, 4.0),
        ("observation", np.array([6, 3.0], np.float32), "observation", [1], 0.0),
        ("x", 2**60 + 7, "x", None, 0.0),  # beyond what a float64 tells apart
    ],
)
def test_a_value_is_named_by_episode_row_and_column(
    rl: Callable[..., Any], tmp_path: Path, name: str, value: Any, key: str, element: Any, largest: float
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", change=set_to(6, name, value))
    ended = rl("diff", a, b, "--json")
    assert ended.code == 8
    found = {entry["key"]: entry for entry in ended.json["values"]}[key]
    assert (found["rows"], found["largest"]) == (1, largest)
    first = found["first"]
    assert (first["episode"], first["step"], first["row_a"], first["row_b"]) == (2, 1, 6, 6)
    assert first["element"] == element
    assert "differ: values" in ended.err
    assert rl("diff", a, b, "--ignore", f"{key},next/{key}" if key == "observation" else key).code == 0


def test_tolerance(rl: Callable[..., Any], tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", change=set_to(2, "reward", 2.25))
    ended = rl("diff", a, b, "--json")
    assert ended.json["values"][0]["largest"] == 0.25
    assert ended.json["episodes"]["first"] == [{"episode": 0, "what": "return", "a": 6.0, "b": 6.25}]
    assert rl("diff", a, b, "--tol", "0.24").code == 8
    assert rl("diff", a, b, "--tol", "0.25").code == 0
    assert rl("diff", a, b, "--tol", "-1").code == 2


def test_the_table_of_episodes_is_compared(rl: Callable[..., Any], tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", lengths=(4, 2, 5))
    facts = rl("diff", a, b, "--json", "--ignore", "return").json
    lengths = [entry for entry in facts["episodes"]["first"] if entry["what"] == "length"]
    assert lengths == [
        {"episode": 1, "what": "length", "a": 1, "b": 2}, {"episode": 2, "what": "length", "a": 6, "b": 5}
    ]  # fmt: skip
    shorter = rl("diff", a, write(tmp_path / "c", lengths=(4, 1)), "--json")
    assert shorter.code == 8
    assert (shorter.json["episodes"]["count"], shorter.json["values"]) == ([3, 2], [])


def test_an_unknown_final_is_a_difference_of_the_episode_not_of_values(
    rl: Callable[..., Any], tmp_path: Path
) -> None:
    facts = rl("diff", write(tmp_path / "a"), write(tmp_path / "b", final=False), "--json").json
    assert facts["values"] == []
    assert {entry["what"] for entry in facts["episodes"]["first"]} == {"final_known"}


def test_columns_and_specs_are_compared(rl: Callable[..., Any], tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    other = (Column(("x",), "int32"), Column(("y",), "int64"))
    b = write(
        tmp_path / "b", extra=other, spec={"env": {"id": "B"}},
        change=lambda row, step: step.update(x=1, y=1),
    )  # fmt: skip
    facts = rl("diff", a, b, "--json").json
    assert facts["schema"] == [
        {"key": "x", "a": "int64", "b": "int32"}, {"key": "y", "a": None, "b": "int64"}
    ]  # fmt: skip
    assert facts["spec"] == [{"where": "env.id", "a": "A", "b": "B"}]
    assert facts["values"] == []
    text = rl("diff", a, b).out
    for words in ("env.id", "int32", "int64"):
        assert words in text


def test_a_wrong_name_to_ignore_is_exit_2(rl: Callable[..., Any], sealed: Path) -> None:
    ended = rl("diff", sealed, sealed, "--ignore", "sede")
    assert ended.code == 2
    assert "did you mean 'seed'?" in ended.err
    assert rl("diff", sealed, sealed, "--leakage", "--tol", "1").code == 2


def test_a_flipped_bit_is_corrupt_not_different(rl: Callable[..., Any], sealed: Path, copy: Path) -> None:
    with open(next((copy / "segments").glob("*/action.memmap")), "r+b") as file:
        file.write(b"\xff")
    assert rl("diff", sealed, copy).code == 4


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_fits_a_terminal(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, width: int, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rl("filter", sealed, "--where", "episode.cut", "-o", "cut")
    rl("filter", sealed, "--where", "not episode.cut", "-o", "whole")
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, rl("diff", "cut", "whole").out.splitlines())) <= 80


def test_leakage_finds_equal_episodes_whatever_their_numbers(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    rl("split", sealed, "--frac", "0.5", "-o", tmp_path / "s")
    parts = tmp_path / "s-train", tmp_path / "s-val"
    ended = rl("diff", *parts, "--leakage")
    assert (ended.code, ended.err) == (0, "")
    with Dataset.open(parts[1]) as data:
        number = int(data.episodes.number[0])
    rl("filter", sealed, "--where", f"number == {number}", "-o", tmp_path / "one")
    leaking = rl("diff", tmp_path / "one", parts[1], "--leakage", "--json")
    assert leaking.code == 8
    (pair,) = leaking.json["pairs"]
    assert (pair["common"], pair["number_a"], pair["number_b"]) == ("content", number, number)
    assert "in common" in leaking.err


def test_leakage_finds_common_seeds(rl: Callable[..., Any], tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", lengths=(4,), change=set_to(0, "reward", 9.0))
    facts = rl("diff", a, b, "--leakage", "--json").json
    assert [(pair["a"], pair["b"], pair["common"]) for pair in facts["pairs"]] == [(0, 0, "seed")]
