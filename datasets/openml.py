"""Tables of features and a label (OpenML, scikit-learn): ARFF, CSV or Parquet; a row is an episode of a step.

The features are the observation, the label is the action that was right; there is no reward and no next
observation. Labels of text are numbered in the order that ARFF declares, else in that of the alphabet; the
record has them as `classes`. CSV and Parquet look like any other table, so they are read with
`--from openml` only. Columns of text stay text, as `("info", …)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlcli.config import opt
from rlcli.datasets import csv_text, parquet
from rlcli.datasets.arff import ArffTable, is_arff
from rlcli.datasets.contract import Request, Seen
from rlcli.datasets.csv_text import CsvTable
from rlcli.datasets.mapping import storable
from rlcli.datasets.parquet import ParquetTable
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_table import Arrays, Field, Table
from rlcli.errors import InputError, UsageError, nearest

_FEATURES, _END = "rl:features", "rl:end"
_CHUNK = 65_536
_MAX_CLASSES = 65_536
_TARGETS = ("class", "target", "label", "y")  # with any capitals


@dataclass(frozen=True)
class Options:
    """Reading tables of features and a label."""

    target: str = opt("", "The column of the label; class, target, label or y if empty.")


def detect(path: Path) -> Seen:
    """Whether `path` is an ARFF file; nothing tells another table of labels from one of steps."""
    if is_arff(path):
        return Seen(True, "ARFF table of features and a label")
    return Seen(False, "no ARFF file; other tables are read with --from openml only")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[PlainSource]:
    """The table. Raises `UsageError` for a label that is not there, `InputError` without numeric features."""
    with closing(_opened(path)) as inner:
        target = _target(path, inner, options.target)
        table = _OneStepTable(inner, target)
        mapping = {_FEATURES: "observation", target: "action", _END: "terminated"}
        mapping |= {name: "/".join(("info", *storable(name))) for name in table.kept}
        mapping |= request.mapping
        source = PlainSource(table, dataclasses.replace(request, mapping=mapping, confirmed=True))
        source.record |= {"alignment": "one step per episode", "features": table.features, "label": target}
        source.record |= {"classes": table.classes} if table.classes else {}
        yield source


def _opened(path: Path) -> ArffTable | CsvTable | ParquetTable:
    if is_arff(path):
        return ArffTable(path)
    if parquet.detect(path).matches:
        return ParquetTable(path)
    if csv_text.detect(path).matches:
        return CsvTable(path, vectors=False)
    raise InputError(f"{path}: neither ARFF nor Parquet nor CSV with a header", path=path)


def _target(path: Path, table: Table, given: str) -> str:
    names = list(table.fields)
    if given and given not in names:
        raise UsageError(f"{path}: no column {given!r}; {nearest(given, names)}", path=path)
    known = {name.lower(): name for name in reversed(names)} | {name: name for name in names}
    found = given or next((known[name] for name in _TARGETS if name in known), "")
    if not found:
        raise UsageError(f"{path}: no column {', '.join(_TARGETS)}", hint="add --set target=NAME", path=path)
    return found


class _OneStepTable(Table):
    """A table whose numeric columns are one vector, and every row ends an episode."""

    layout = "openml"

    def __init__(self, inner: Table, target: str) -> None:
        super().__init__(inner.path)
        self.inner, self.files, self.can_seek = inner, inner.files, inner.can_seek
        self.chunk_rows = inner.chunk_rows
        numeric = {
            name: field
            for name, field in inner.fields.items()
            if field.dtype.kind in "biuf" and field.shape == () and name != target
        }
        if not numeric:
            raise InputError(f"{inner.path}: has no columns of numbers beside {target}", path=inner.path)
        self.remarks = inner.remarks
        self.features = list(numeric)
        self.target = target
        declared = list(inner.nominal.get(target, ())) if isinstance(inner, ArffTable) else []
        self.classes = self._classes(declared) if inner.fields[target].dtype.kind == "O" else []
        self.kept = [name for name in inner.fields if name not in numeric and name != target]
        rows = inner.fields[target].rows
        dtype = np.result_type(*(field.dtype for field in numeric.values()))
        self.fields = {
            _FEATURES: Field(dtype, (len(numeric),), rows),
            target: Field(np.dtype(np.int64), (), rows) if self.classes else inner.fields[target],
            _END: Field(np.dtype(bool), (), rows),
            **{name: inner.fields[name] for name in self.kept},
        }

    def _classes(self, declared: list[str]) -> list[str]:
        """The texts of the label: those that are declared, then the others that are there, sorted."""
        found: set[str] = set()
        rows = self.inner.fields[self.target].rows
        for start in range(0, rows, _CHUNK):
            found.update(
                self.inner.read([self.target], start, min(start + _CHUNK, rows))[self.target].tolist()
            )
            if len(found) > _MAX_CLASSES:
                raise InputError(
                    f"{self.path}: {self.target} has more than {_MAX_CLASSES:,} different texts",
                    path=self.path,
                )
        return [*declared, *sorted(found.difference(declared))]

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some fields; the features are read together."""
        wanted = [name for name in names if name not in (_FEATURES, _END)]
        features = self.features if _FEATURES in names else []
        found = self.inner.read([*wanted, *features], start, stop)
        arrays = {name: found[name] for name in wanted}
        if self.classes and self.target in arrays:
            number = {text: n for n, text in enumerate(self.classes)}
            arrays[self.target] = np.array([number[text] for text in arrays[self.target].tolist()], np.int64)
        if features:
            dtype = self.fields[_FEATURES].dtype
            arrays[_FEATURES] = np.stack([found[name].astype(dtype) for name in features], axis=1)
        if _END in names:
            arrays[_END] = np.ones(stop - start, np.bool_)
        return arrays
