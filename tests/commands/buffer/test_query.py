"""`rl buffer query`: SQL gives what NumPy gives, and can neither write nor read what was not named."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pytest

from rlcli.format.dataset import Dataset
from rlcli.pipeline.buffer_query import step_column


def test_steps_have_every_value(rl: Callable[..., Any], sealed: Path) -> None:
    data = Dataset.open(sealed)
    facts = rl("query", sealed, "from steps", "--json").json
    names = [column["name"] for column in facts["columns"]]
    table = dict(zip(names, zip(*facts["rows"], strict=True), strict=True))
    assert not facts["truncated"]
    assert list(table["row"]) == list(range(60))
    for column in data.schema.columns:
        wanted = data.read(column.key).reshape(60, -1)
        for row, value in enumerate(table[".".join(column.key)]):
            if column.encoding == "derived" and row in data.unknown_next:
                assert value is None
            else:
                np.testing.assert_array_equal(np.array(value, column.numpy).reshape(-1), wanted[row])


def test_tables_join(rl: Callable[..., Any], sealed: Path) -> None:
    sql = (
        'select e."index", e.length, count(*), sum(s."next.reward"), e.return from steps s '
        'join episodes e on s.episode_index = e."index" group by all order by 1'
    )
    rows = rl("query", sealed, sql, "--json").json["rows"]
    assert len(rows) == 10
    assert all(length == count and total == return_ for _, length, count, total, return_ in rows)


def test_several_datasets_are_schemas(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    rl("filter", sealed, "--where", "episode.cut", "-o", tmp_path / "cut")
    sql = "select (select count(*) from a.steps), (select count(*) from b.steps), count(*) from episodes"
    assert rl("query", sealed, tmp_path / "cut", sql, "--json").json["rows"] == [[60, 4, 10]]


@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ('select avg("next.reward") from steps', {"next/reward"}),
        ("select count(*) from steps", set()),
        ("select max(s.episode * 2) from steps s where S.Step > 2", {"episode", "step"}),
        ("with x as (select action[1] a from steps) select max(a) from x", {"action"}),
        ("select s from steps s", None),
        ("select steps from steps", None),
        ("select columns('e.*') from steps", None),
        ("summarize steps", None),
        ("select count(*) from steps a join steps b using (row)", None),
    ],
)
def test_only_what_is_named_is_read(
    rl: Callable[..., Any], sealed: Path, monkeypatch: Any, sql: str, keys: set[str] | None
) -> None:
    read: set[str] = set()

    def spy_on(original: Callable[..., Any]) -> Callable[..., Any]:
        def spy(self: Dataset, key: Any, *bounds: Any) -> Any:
            read.add("/".join(key))
            return original(self, key, *bounds)

        return spy

    for name in ("read", "views"):
        monkeypatch.setattr(Dataset, name, spy_on(getattr(Dataset, name)))
    assert rl("query", sealed, sql).code == 0
    assert read == (
        keys if keys is not None else {"/".join(c.key) for c in Dataset.open(sealed).schema.columns}
    )


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("selec 1", "syntax error"),
        ("select reward from steps", """did you mean '"next.reward"'?"""),
        ("select next.reward from steps", "names with a dot are written in double quotes"),
        ("select * from step", "did you mean 'steps'?"),
        ("select 1; select 2", "a query is one SELECT, got SELECT, SELECT"),
        ("", "a query is one SELECT, got nothing"),
        ("drop view steps", "a query is one SELECT, got DROP"),
        ("create table x as select 1", "got CREATE"),
        ("select cast('x' as int)", "Conversion Error"),
    ],
)
def test_wrong_sql_is_exit_2(rl: Callable[..., Any], sealed: Path, sql: str, words: str) -> None:
    ended = rl("query", sealed, sql)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/*')",
        "copy steps to 'out.csv'",
        "attach 'x.db'",
        "install httpfs",
        "set enable_external_access = true",
        "select * from sealed",  # a variable of this function
        "export database 'x'",
        "load 'x.so'",
        "pragma enable_profiling",
    ],
)
def test_sql_reaches_nothing_outside(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, monkeypatch: Any, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = rl("query", sealed, sql)
    assert (ended.code, ended.out) == (2, "")
    assert "root:" not in ended.err
    assert os.listdir(tmp_path) == []


def test_a_table_has_a_limit_and_formats_have_none(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    sql = "select row from steps order by row"
    facts = rl("query", sealed, sql, "--limit", "7", "--json").json
    assert (facts["truncated"], facts["rows"]) == (True, [[row] for row in range(7)])
    text = rl("query", sealed, sql, "--limit", "7").out.splitlines()
    assert (len(text), text[-1][:18]) == (10, "(the first 7 rows;")
    lines = rl("query", sealed, sql, "--limit", "7", "-f", "ndjson").out.splitlines()
    assert [json.loads(line)["row"] for line in lines] == list(range(60))
    assert rl("query", sealed, sql, "-f", "csv").out.split() == ["row", *map(str, range(60))]
    assert rl("query", sealed, sql, "--limit", "-1").code == 2
    assert rl("query", sealed, sql, "--json", "-f", "csv").code == 2
    assert rl("query", sealed).code == 2


def test_arrow_goes_to_a_pipe(sealed: Path, start: Callable[..., Any]) -> None:
    ended = start("query", sealed, "select row, action from steps where row < 0", "-f", "arrow")
    assert ended.stdout is not None
    table = pyarrow.ipc.open_stream(ended.stdout.buffer.read()).read_all()
    ended.communicate()
    assert (table.num_rows, table.column_names) == (0, ["row", "action"])


def test_a_missing_library_is_exit_6(rl: Callable[..., Any], sealed: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    ended = rl("query", sealed, "select 1")
    assert ended.code == 6
    assert "pip install 'rlcli[sql]'" in ended.err


def test_damage_is_exit_4(rl: Callable[..., Any], copy: Path) -> None:
    with open(next((copy / "segments").glob("*/action.memmap")), "r+b") as file:
        file.write(b"\xff")
    assert rl("query", copy, "select max(step) from steps").code == 0
    assert rl("query", copy, "select count(action) from steps").code == 4


def test_unfinished_rows_have_no_episode(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "d", close=False)
    sql = "select count(*), count(episode_index) from steps"
    assert rl("query", tmp_path / "d", sql, "--json").json["rows"] == [[60, 56]]
    writer.abort()


def test_columns_are_not_copied(sealed: Path) -> None:
    data = Dataset.open(sealed)
    views = data.views(["observation", "position"])
    np.testing.assert_array_equal(np.concatenate(views), data.read(["observation", "position"]))
    column = step_column(data, "observation.position")
    for view, part in zip(views, column.chunks, strict=True):
        assert part.values.buffers()[1].address == view.ctypes.data
        assert not view.flags.writeable
