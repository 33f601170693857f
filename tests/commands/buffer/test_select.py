"""`rl buffer filter` and `split`: the right episodes, each of them whole, in datasets that verify."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer

Told = tuple[str, bool, bool, bool, bool, int, int, float]


def told(path: Path) -> list[Told]:
    """What is known of each episode: content, flags, seed, number, return."""
    with Dataset.open(path) as data:
        table = data.episodes
        return [
            (
                episode_digest(data, table, i), bool(table.terminated[i]), bool(table.truncated[i]),
                bool(table.cut[i]), bool(table.has_final[i]), int(table.seed[i]), int(table.number[i]),
                float(table.return_[i]),
            )
            for i in range(len(table))
        ]  # fmt: skip


def test_filter_copies_whole_episodes_exactly(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = rl("filter", sealed, "--where", "episode.terminated and first(info/speed) < 10", "-o", out)
    assert (ended.code, ended.out) == (0, f"{out}\n")
    assert ended.err == "2 of 10 episodes (20.0 %), 14 of 60 rows\n"
    first = [i for i, start in enumerate(Dataset.open(sealed).episodes.start) if start % 30 == 0]
    assert told(out) == [told(sealed)[i] for i in first]
    assert rl("verify", "--deep", "--semantics", out).code == 0


def test_filter_and_its_inversion_are_all_episodes(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    where = ["--where", "any(abs(action) > 0.95) and not episode.cut"]
    for name, flags in (("yes", []), ("no", ["--invert"])):
        assert rl("filter", sealed, *where, *flags, "-o", tmp_path / name).code == 0
    yes, no = told(tmp_path / "yes"), told(tmp_path / "no")
    assert yes
    assert no
    assert sorted(yes + no) == sorted(told(sealed))


def test_the_lineage_says_what_it_was_made_of(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    rl("filter", sealed, "--where", "length > 3", "-o", tmp_path / "out")
    entry = Dataset.open(tmp_path / "out").lineage[-1]
    assert entry["op"] == "filter"
    assert entry["options"] == {"where": "length > 3", "invert": False}
    assert entry["parents"][0]["digest"] == Dataset.open(sealed).digest


def test_unfinished_episodes_are_left_out(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "open", close=False)
    ended = rl("filter", tmp_path / "open", "--where", "true", "-o", tmp_path / "out", "--json")
    writer.abort()
    assert (ended.json["episodes"], ended.json["rows"], ended.json["unfinished_rows"]) == (8, 56, 4)
    assert "4 rows of unfinished episodes are left out" in ended.err


def test_no_episode_left_is_exit_8_and_leaves_nothing(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    ended = rl("filter", sealed, "--where", "return > 1e9", "-o", tmp_path / "out")
    assert ended.code == 8
    assert "none of 10 episodes satisfies" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["filter"], ["split"]])
def test_a_wrong_expression_is_exit_2_with_its_place(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, command: list[str]
) -> None:
    ended = rl(*command, sealed, "--where", "length > 3 and retrun > 1", "-o", tmp_path / "out")
    assert ended.code == 2
    first, shown, caret = ended.err.splitlines()
    assert first == "error: --where: there is no 'retrun'; did you mean 'return'?"
    assert shown[caret.index("^") :].startswith("retrun")
    assert list(tmp_path.iterdir()) == []
    ended = rl(*command, sealed, "--where", "retrun > 1", "-o", tmp_path / "out", "--json")
    assert json.loads(ended.err)["error"]["detail"].endswith("  ^")


def test_nothing_is_overwritten(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "out-val").write_text("mine")
    assert rl("split", sealed, "--frac", "0.5", "-o", tmp_path / "out").code == 2
    assert rl("filter", sealed, "--where", "true", "-o", tmp_path / "out-val").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out-val"]


@pytest.mark.parametrize(
    ("frac", "sizes"),
    [("0.9", {"train": 9, "val": 1}), ("0.6,0.2,0.2", {"train": 6, "val": 2, "test": 2})],
)
def test_split_gives_every_episode_to_one_part(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, frac: str, sizes: dict[str, int]
) -> None:
    ended = rl("split", sealed, "--frac", frac, "-o", tmp_path / "part")
    assert ended.out.splitlines() == [str(tmp_path / f"part-{name}") for name in sizes]
    parts = {name: told(tmp_path / f"part-{name}") for name in sizes}
    assert {name: len(part) for name, part in parts.items()} == sizes
    assert sorted(episode for part in parts.values() for episode in part) == sorted(told(sealed))
    order = told(sealed)
    for name, part in parts.items():
        assert [order.index(episode) for episode in part] == sorted(order.index(e) for e in part)
        assert rl("verify", "--deep", "--semantics", tmp_path / f"part-{name}").code == 0


def test_the_seed_decides_who_goes_where(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        rl("split", sealed, "--frac", "0.5", "--seed", seed, "-o", tmp_path / name)
    digests = [Dataset.open(tmp_path / f"{name}-train").digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_split_by_a_condition(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    assert rl("split", sealed, "--where", "episode.cut", "-o", tmp_path / "s").code == 0
    assert [episode[3] for episode in told(tmp_path / "s-match")] == [True, True]
    assert not any(episode[3] for episode in told(tmp_path / "s-rest"))
    ended = rl("split", sealed, "--where", "episode.cut", "--names", "cut,whole", "-o", tmp_path / "t")
    assert ended.out.splitlines() == [str(tmp_path / "t-cut"), str(tmp_path / "t-whole")]


def test_split_by_seed_keeps_seeds_together(rl: Callable[..., Any], tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "d", ted_schema(Box((1,)), Discrete(2)), spec={}, lineage={})
    with EpisodeWriter(writer) as episodes:
        for number in range(40):
            episodes.begin(0, None if number % 5 == 4 else number % 5)
            value = {"observation": [number], "action": 0, "reward": 1.0, "next_observation": [0]}
            episodes.add(0, **value, terminated=True, truncated=False)
    apart = rl("split", tmp_path / "d", "--frac", "0.5", "-o", tmp_path / "a", "--json")
    assert apart.json["shared_seeds"] == 4
    assert "--by seed keeps" in apart.err
    together = rl("split", tmp_path / "d", "--frac", "0.5", "--by", "seed", "-o", tmp_path / "b", "--json")
    assert together.json["shared_seeds"] == 0
    assert [part["episodes"] for part in together.json["datasets"]] != [0, 40]
    assert rl("diff", tmp_path / "a-train", tmp_path / "a-val", "--leakage").code == 8
    assert rl("diff", tmp_path / "b-train", tmp_path / "b-val", "--leakage").code == 0


@pytest.mark.parametrize(
    "flags",
    [
        [], ["--frac", "0.5", "--where", "true"], ["--frac", "0"], ["--frac", "1"], ["--frac", "nan"],
        ["--frac", "0.5,0.6"], ["--frac", "half"], ["--frac", "0.01"], ["--where", "true"],
        ["--frac", "0.5", "--names", "a"], ["--frac", "0.5", "--names", "a,a"],
        ["--frac", "0.5", "--names", "a,b/c"],
        ["--frac", "0.5", "--seed", "-1"],
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_exit_2(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, flags: list[str]
) -> None:
    ended = rl("split", sealed, *flags, "-o", tmp_path / "s")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_damage_is_exit_4_and_leaves_nothing(rl: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    column = next((copy / "segments").glob("*/action.memmap"))
    with open(column, "r+b") as file:
        file.write(b"\xff")
    assert rl("filter", copy, "--where", "true", "-o", tmp_path / "out").code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupted_filter_leaves_nothing(tmp_path: Path, start: Callable[..., Any]) -> None:
    schema = ted_schema(Box((64, 64, 3), "uint8"), Discrete(2))
    writer = Writer.create(tmp_path / "d", schema, spec={}, lineage={}, durability="process")
    with EpisodeWriter(writer, chunk_rows=64) as episodes:
        rows = {
            column.key: np.zeros((64, *column.shape), column.numpy)
            for column in schema.plain
            if column.key[0] in ("observation", "action") or column.key == ("next", "reward")
        }
        for _ in range(60):
            episodes.add_rows(0, rows)
            episodes.end(0, terminated=True, truncated=False)
    ended = start("filter", tmp_path / "d", "--where", "true", "-o", tmp_path / "out", stdin=subprocess.PIPE)
    while ended.poll() is None and not list(tmp_path.glob(".out.tmp-*/segments/*")):
        pass
    ended.send_signal(signal.SIGINT)
    _, err = ended.communicate(timeout=300)
    assert ended.returncode == 130
    assert "nothing was written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
