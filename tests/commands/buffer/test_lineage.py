"""`rl buffer lineage`: the chain of what made a dataset, and whether its parents are still what they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.writer import Writer


@pytest.fixture
def chain(rl: Callable[..., Any], sealed: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """`c` is made of `b`, which is made of `a`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sealed, "a")
    assert rl("filter", "a", "--where", "length > 3", "-o", "b").code == 0
    assert rl("filter", "b", "--where", "episode.terminated", "-o", "c").code == 0
    return tmp_path


def test_the_chain_goes_to_the_beginning(rl: Callable[..., Any], chain: Path) -> None:
    facts = rl("lineage", "c", "--json").json
    assert facts["digest"] == Dataset.open("c").digest
    ops, node = [], facts
    while node:
        (entry,) = node["lineage"]
        ops.append(entry["op"])
        node = entry.get("parents", [None])[0]
        assert node is None or node["status"] == "same"
    assert ops == ["filter", "filter", "test"]
    lines = rl("lineage", "c").out.splitlines()
    assert lines[0].startswith("c  28 rows, 4 episodes")
    assert lines[-1].endswith("rl test it")
    assert [line.index("─") for line in lines if "─ " in line] == sorted(
        line.index("─") for line in lines if "─ " in line
    )


def test_what_became_of_a_parent_is_told(rl: Callable[..., Any], chain: Path) -> None:
    def status() -> str:
        (entry,) = rl("lineage", "c", "--json").json["lineage"]
        return str(entry["parents"][0]["status"])

    with Writer.append("b", lineage={"op": "append"}) as writer:
        columns = Dataset.open("a").read_rows(0, 1)
        del columns["next"]["observation"]
        flat = {c.key: _pick(columns, c.key) for c in writer.schema.plain}
        writer.write(0, flat)
        writer.end_episode(0, terminated=True, truncated=False, final=None, seed=None)
        writer.commit()
    assert status() == "changed"
    shutil.rmtree("b")
    assert status() == "missing"
    assert "no longer there" in rl("lineage", "c").out
    shutil.copytree("a", "b")
    assert status() == "other"
    (chain / "b" / "dataset.json").write_text("{}")
    assert status() == "unreadable"
    assert rl("lineage", "c").code == 0


def _pick(nested: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        nested = nested[part]
    return nested


def test_a_dataset_that_is_its_own_parent_ends(rl: Callable[..., Any], chain: Path) -> None:
    parent = {"path": "a", "uuid": Dataset.open("a").uuid}
    Writer.append("a", lineage={"op": "loop", "parents": [parent]}).close()
    facts = rl("lineage", "a", "--json").json
    assert "lineage" not in facts["lineage"][0]["parents"][0]
    assert len(facts["lineage"]) == 2


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(rl: Callable[..., Any], chain: Path, monkeypatch: Any, width: int) -> None:
    rl("filter", "c", "--where", f"return > 1 and length in [{', '.join(map(str, range(50)))}]", "-o", "d")
    monkeypatch.setenv("COLUMNS", str(width))
    assert max(map(len, rl("lineage", "d").out.splitlines())) <= width
