"""`rl buffer query`: SQL over the episode table and the columns of steps, by DuckDB on our own arrays.

The database lives in memory and may touch no file, so a query can neither change a dataset nor read anything
that was not named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import string
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np

from rlcli import console
from rlcli.errors import MissingExtraError, ResourceError, RLError, UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location
from rlcli.format.spans import Spans
from rlcli.format.values import as_numbers
from rlcli.pipeline.buffer_cat import episode_columns
from rlcli.pipeline.row_formats import Batch, Format, arrow_array, write_batches, write_record_batches

TABLES = ("steps", "episodes")
_CONFIG = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_BATCH_ROWS = 65_536
_MEMORY_SHARE = 0.8  # of what is free, for columns that a query needs in memory


def query(
    paths: Sequence[Location], sql: str, *, limit: int = 1000, format: Format | None = None
) -> tuple[dict[str, Any], str] | None:
    """The answer to one SELECT: facts and a table of at most `limit` rows; with `format` all rows go to
    standard output as they come, and None is returned.

    One dataset has the tables `steps` and `episodes`; several are the schemas `a`, `b`, …, and the names
    alone mean `a`. Keys are joined by ".", which SQL wants in double quotes: `"next.reward"`. Only columns
    that the query names are read, and checked as any read is.

    Raises `UsageError` for SQL that is wrong or no SELECT, `ResourceError` if memory does not suffice.
    """
    database = _database()
    if limit < 0:
        raise UsageError(f"--limit must not be negative, got {limit}")
    if len(paths) > len(string.ascii_lowercase):
        raise UsageError(f"{len(paths)} datasets, at most {len(string.ascii_lowercase)}")
    with ExitStack() as stack:
        connection = stack.enter_context(database.connect(":memory:", config=_CONFIG))
        connection.execute("SET lock_configuration = true")
        datasets = [stack.enter_context(Dataset.open(path)) for path in paths]
        known = {name for dataset in datasets for name in _names(dataset)}
        try:
            needed = _needed(database, connection, sql, known)
            for letter, dataset in zip(string.ascii_lowercase, datasets, strict=False):
                _register(connection, letter, dataset, needed, alone=letter == "a")
            if format is not None:
                _write(connection.sql(sql), format)
                return None
            answer = connection.execute(sql)
            names = [column[0] for column in answer.description]
            types = [str(column[1]) for column in answer.description]
            rows = answer.fetchmany(limit + 1)
        except database.InterruptException as err:
            raise KeyboardInterrupt from err
        except database.Error as err:
            raise _explained(database, err, known) from err
    more = len(rows) > limit
    shown = rows[:limit]
    text = _fit(names, [[_cell(value) for value in row] for row in shown])
    if more:
        text += f"\n(the first {console.count_text(limit, 'row')}; --limit shows more, --format ndjson all)"
    facts = {
        "datasets": list(paths),
        "columns": [{"name": name, "type": type_} for name, type_ in zip(names, types, strict=True)],
        "rows": [[_plain(value) for value in row] for row in shown],
        "truncated": more,
    }
    return facts, text


def _database() -> Any:
    try:
        import duckdb
        import pyarrow  # noqa: F401  # DuckDB reads columns through it
    except ImportError as err:
        raise MissingExtraError(err.name or "duckdb", "sql", needed_for="rl buffer query") from err
    return duckdb


def _names(dataset: Dataset) -> list[str]:
    """The columns of steps, in SQL."""
    return ["row", "episode_index", *(".".join(column.key) for column in dataset.schema.columns)]


def _needed(database: Any, connection: Any, sql: str, known: set[str]) -> set[str]:
    """The columns of steps that a query may read: those it names, or all if it has a star or a whole row."""
    statements = database.extract_statements(sql)
    kinds = [statement.type for statement in statements]
    if kinds != [database.StatementType.SELECT]:
        found = ", ".join(str(kind).rsplit(".", 1)[-1] for kind in kinds) or "nothing"
        raise UsageError(f"a query is one SELECT, got {found}")
    (text,) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    tree = json.loads(text)
    if tree.get("error"):
        return known
    named: set[str] = set()
    ends: set[str] = set()  # of qualified names: an alias there means a whole row
    aliases: set[str] = set(TABLES)
    everything = False
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            everything |= node.get("class") == "STAR" or node.get("type") in ("SHOW_REF", "PIVOT")
            everything |= bool(node.get("using_columns")) or node.get("ref_type") == "NATURAL"
            if node.get("class") == "COLUMN_REF":
                parts = [str(name).lower() for name in node["column_names"]]
                named |= set(parts)
                ends.add(parts[-1])
            elif node.get("alias") and "table_name" in node:
                aliases.add(str(node["alias"]).lower())
            waiting += node.values()
    if everything or ends & (aliases - {name.lower() for name in known}):
        return known
    return {name for name in known if name.lower() in named}


def _register(connection: Any, letter: str, dataset: Dataset, needed: set[str], *, alone: bool) -> None:
    """The tables of a dataset as `letter.steps` and `letter.episodes`."""
    import pyarrow

    names = [name for name in _names(dataset) if name in needed] or ["row"]
    steps = pyarrow.table([step_column(dataset, name) for name in names], names=names)
    columns = episode_columns(dataset)
    arrays = [arrow_array(values, unknown) for values, unknown in columns.values()]
    episodes = pyarrow.table(arrays, names=list(columns))
    connection.execute(f"CREATE SCHEMA {letter}")
    for table, found in zip(TABLES, (steps, episodes), strict=True):
        connection.register(f"{letter}_{table}_data", found)
        connection.execute(f"CREATE VIEW {letter}.{table} AS SELECT * FROM {letter}_{table}_data")
        if alone:
            connection.execute(f"CREATE VIEW {table} AS SELECT * FROM {letter}_{table}_data")


def step_column(dataset: Dataset, name: str) -> Any:
    """A column of steps as a `pyarrow.Array` or `ChunkedArray`, compared with its hashes."""
    import pyarrow

    if name == "row":
        return pyarrow.array(np.arange(dataset.num_rows))
    if name == "episode_index":
        spans = Spans(dataset)
        lengths = spans.stop - spans.start
        index = np.repeat(spans.entry, lengths)
        return arrow_array(index, index < 0)
    column = next(column for column in dataset.schema.columns if ".".join(column.key) == name)
    if column.encoding == "plain":  # of most types Arrow takes the mapped memory as it is
        parts = [arrow_array(as_numbers(column, view), None) for view in dataset.views(column.key)]
        return pyarrow.chunked_array(parts or [arrow_array(dataset.read(column.key, 0, 0), None)])
    _refuse_beyond_memory(name, dataset.num_rows * column.row_bytes)
    values = dataset.read(column.key)
    unknown = None
    if column.encoding == "derived":
        unknown = np.zeros(dataset.num_rows, np.bool_)
        unknown[dataset.unknown_next] = True
    if column.heap is not None:
        return pyarrow.array([v if isinstance(v, str | bytes) else v.tolist() for v in values])
    return arrow_array(values, unknown)


def _refuse_beyond_memory(name: str, size: int) -> None:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > _MEMORY_SHARE * free:
        raise ResourceError(
            f"{name} has {console.bytes_text(size)} and {console.bytes_text(free)} of memory are free",
            hint="rl buffer cat streams; rl buffer filter makes a smaller dataset",
        )


def _write(answer: Any, format: Format) -> None:
    """All rows to standard output, a batch at a time."""
    read = getattr(answer, "to_arrow_reader", None) or answer.fetch_record_batch  # as before DuckDB 2
    reader = read(_BATCH_ROWS)
    stream = sys.stdout.buffer
    if format == "arrow":
        write_record_batches(reader, reader.schema, stream)
    else:
        names = [(name,) for name in reader.schema.names]
        columns = (
            [[_plain(value) for value in column.to_pylist()] for column in batch.columns] for batch in reader
        )
        first = Batch([(name, [], None) for name in names])
        later = (Batch([(n, values, None) for n, values in zip(names, c, strict=True)]) for c in columns)
        write_batches(chain([first], later), stream, format)
    stream.flush()


def _explained(database: Any, err: Exception, known: set[str]) -> RLError:
    """DuckDB's first line, and what to do where that is known."""
    lines = str(err).splitlines()
    message = lines[0].rstrip(".")
    if isinstance(err, database.OutOfMemoryException):
        return ResourceError(f"SQL: {message}")
    hint = None
    quoted = re.search(r'"([^"]+)"|name (\S+)', message)
    word = (quoted[1] or quoted[2]) if quoted else ""
    if isinstance(err, database.BinderException | database.CatalogException) and word:
        starts = sorted(name for name in known if name.startswith(f"{word}."))
        if starts:
            hint = f"names with a dot are written in double quotes, e.g. '\"{starts[0]}\"'"
        elif "column" in message:
            ends = sorted(name for name in known if name.endswith(f".{word}"))
            hint = f"""did you mean '"{ends[0]}"'?""" if ends else nearest(word, known)
        elif "Table" in message:
            hint = nearest(word, TABLES)
    shown = [line for line in lines if line.startswith("LINE ") or set(line.strip()) == {"^"}]
    return UsageError(f"SQL: {message}", hint=hint, detail="\n".join(f"  {line}" for line in shown) or None)


def _fit(names: list[str], rows: list[list[Any]]) -> str:
    """The table; on a terminal without the last columns that it has no room for."""
    shown = len(names)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        edges = [len(line) for line in console.table(names, rows).splitlines()[1].split("  ")]
        while shown > 1 and sum(edges[:shown]) + 2 * (shown - 1) > width:
            shown -= 1
    text = console.table(names[:shown], [row[:shown] for row in rows])
    left = len(names) - shown
    more = f" and {left - 1} more" if left > 1 else ""
    return text + (f"\n(no room for {names[shown]}{more}; see --json and --format)" if left else "")


def _cell(value: Any) -> Any:
    """For a table: lists and long texts shortened."""
    if isinstance(value, Decimal):
        value = float(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    text = f"[{', '.join(map(_short, value))}]" if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """For JSON: dates, decimals and the like as text or numbers."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
