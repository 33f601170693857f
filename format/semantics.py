"""Whether a dataset means what it says as reinforcement-learning data, beyond its bytes being intact.

The rules are those of the data model: flags, first rows, numbers, `next` values, finite numbers, values
within their specs, returns. They read through `Dataset` alone, a chunk of rows at a time, so memory is
bounded, and stored and derived columns are judged alike. Digests are the business of `verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rlcli.format.dataset import Dataset
from rlcli.format.heap_file import heap_name
from rlcli.format.keys import Key
from rlcli.format.semantic_rules import REWARD, RULES, Breach, Rule, SpecLeaves, spec_leaves
from rlcli.format.spans import Chunk, Rows, Spans, chunks
from rlcli.format.sums import BLOCK


@dataclass
class Finding:
    """Rows in which one column breaks one rule: those of one episode; of all episodes in a warning.

    `first_row` and `last_row` are logical rows, `count` is how many of these are meant; `file` (relative to
    the dataset) and `block` (of 1 MiB) hold the first. `episode` is its number. None: does not apply.
    """

    rule: str
    message: str
    key: Key | None = None
    episode: int | None = None
    first_row: int | None = None
    last_row: int | None = None
    count: int = 0
    file: str | None = None
    block: int | None = None


@dataclass(frozen=True)
class Report:
    """`errors` break the data model, `warnings` are lawful but notable, `proven` are the rules that hold."""

    errors: list[Finding]
    warnings: list[Finding]
    proven: tuple[str, ...]


def check(dataset: Dataset, *, progress: Callable[[int], None] | None = None) -> Report:
    """Judges the committed rows of an opened dataset. Rules whose columns it lacks are left out.

    `progress` is called with the number of rows that were just checked. Raises `CorruptError` when reading
    finds damaged bytes.
    """
    return _Check(dataset).run(progress)


class Locator:
    """Where on disk a value of a logical row is."""

    def __init__(self, dataset: Dataset, spans: Spans) -> None:
        self.schema = dataset.schema
        self.last_rows = spans.stop - 1
        stream_first = spans.stream_start - dataset.snapshot["starts"]  # where its row 0 is, or would be
        self.segments = [segment for segment in dataset.segments if segment.rows or not segment.sealed]
        self.first = np.array([stream_first[s.stream] + s.first for s in self.segments], np.int64)

    def file(self, key: Key | None, row: int) -> tuple[str, int | None]:
        """File, relative to the dataset, and block of 1 MiB. Without `key`: the episode table.

        A derived value is its source's following row, or, without block, among the finals.
        """
        position = int(np.searchsorted(self.first, row, side="right")) - 1
        name = self.segments[position].name
        if key is None:
            return f"episodes/{name}", None
        column = self.schema.column(key)
        if column.encoding == "heap":
            return f"heaps/{name}/{heap_name(key)}", None
        if column.encoding == "stack":
            return self.file(column.of, row)
        if column.of is None:
            block = (row - int(self.first[position])) * column.row_bytes // BLOCK
            return f"segments/{name}/{column.file}", block
        at = int(np.searchsorted(self.last_rows, row))
        if self.last_rows[at] == row:
            return f"finals/{name}/{column.file}", None
        return self.file(column.of, row + 1)


class _Check:
    """One run of all rules: collects what they find."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.spans = Spans(dataset)
        self.errors: dict[tuple[str, Key, int], Finding] = {}  # by rule, column, span
        self.warnings: dict[tuple[str, Key], Finding] = {}

    def run(self, progress: Callable[[int], None] | None) -> Report:
        dataset = self.dataset
        spec, disagreements = spec_leaves(dataset)
        table_errors, warnings = self._check_table()
        errors = [Finding("spec", message, key) for key, message in disagreements]
        rules = [rule for rule in RULES if rule.applies(dataset, spec)]
        names = ["episode table", *(rule.name for rule in rules)]
        if not table_errors:  # else rows belong to no certain episode
            returns = _Returns(self.spans) if REWARD in dataset.schema.by_key else None
            for start, stop in chunks(dataset):
                chunk = Chunk(dataset, self.spans, start, stop)
                for rule in rules:
                    self._apply(rule, chunk, spec)
                if returns is not None:
                    returns.add(chunk)
                if progress is not None:
                    progress(stop - start)
            if returns is not None:
                names.append("return")
                errors += returns.findings()
        found = [*table_errors, *errors, *self.errors.values()]
        found.sort(key=lambda finding: -1 if finding.first_row is None else finding.first_row)
        warnings += self.warnings.values()
        locator = Locator(dataset, self.spans)
        for finding in (*found, *warnings):
            if finding.first_row is not None:
                finding.file, finding.block = locator.file(finding.key, finding.first_row)
        broken = {finding.rule for finding in found}
        return Report(found, warnings, tuple(name for name in names if name not in broken))

    def _apply(self, rule: Rule, chunk: Chunk, spec: SpecLeaves) -> None:
        for breach in rule.find(chunk, spec):
            rows = np.flatnonzero(breach.rows)
            if not len(rows):
                continue
            if breach.is_warning:
                warning = self.warnings.get((rule.name, breach.key))
                if warning is None:
                    warning = Finding(rule.name, breach.message, breach.key, None, int(rows[0]) + chunk.start)
                    self.warnings[rule.name, breach.key] = warning
                warning.count += len(rows)
                warning.last_row = int(rows[-1]) + chunk.start
            else:
                self._add_errors(rule.name, chunk, breach, rows)

    def _add_errors(self, rule: str, chunk: Chunk, breach: Breach, rows: Rows) -> None:
        found = np.unique(chunk.span[rows], return_index=True, return_counts=True)
        for span, first, count in zip(*(array.tolist() for array in found), strict=True):
            error = self.errors.get((rule, breach.key, span))
            if error is None:
                row = int(rows[first])
                message = breach.message + (f": {breach.detail(row)}" if breach.detail else "")
                error = Finding(rule, message, breach.key, int(self.spans.number[span]), row + chunk.start)
                self.errors[rule, breach.key, span] = error
            error.count += count
            error.last_row = int(rows[first + count - 1]) + chunk.start

    def _check_table(self) -> tuple[list[Finding], list[Finding]]:
        """The episode table by itself: episodes join, have a number each, and a reason to end."""
        rule, table, spans = "episode table", self.spans.table, self.spans
        errors, warnings = [], []
        begins = np.append(spans.start, self.dataset.num_rows)
        expected = np.insert(spans.stop, 0, 0)
        for at in np.flatnonzero(begins != expected)[:1].tolist():
            message = f"an episode begins at row {begins[at]}, expected row {expected[at]}"
            errors.append(Finding(rule, message, None, None, int(expected[at])))
        ends = spans.stream_stop
        for low, high in pairwise([0, *ends.tolist()]):
            inside = (spans.start >= low) & (spans.start < high)
            found, counts = np.unique(spans.number[inside], return_counts=True)
            for number in found[(counts > 1) & (found >= 0)].tolist():
                again = int(spans.start[np.flatnonzero(inside & (spans.number == number))[1]])
                errors.append(Finding(rule, "an episode number is used twice", None, number, again))
        numbers = np.unique(spans.number)
        endless = ~(table.terminated | table.truncated | table.cut)
        for at in np.flatnonzero(endless).tolist():
            row = int(table.start[at] + table.length[at] - 1)
            message = "ends neither terminated, truncated nor cut"
            errors.append(Finding(rule, message, None, int(table.number[at]), row))
        gaps = int(numbers[-1] - numbers[0] + 1 - len(numbers)) if len(numbers) else 0
        if gaps:
            warnings.append(Finding(rule, f"{gaps} episode numbers are not used", count=gaps))
        return errors, warnings


class _Returns:
    """Each ended episode's rewards, summed in order as float64, against the return in the episode table."""

    def __init__(self, spans: Spans) -> None:
        self.spans = spans
        self.sums = np.zeros(len(spans.start))

    def add(self, chunk: Chunk) -> None:
        rewards = chunk.read(REWARD).reshape(len(chunk), -1).real.astype(np.float64)
        first = int(chunk.span[0]) if len(chunk) else 0
        spans = np.repeat(chunk.span - first, rewards.shape[1])
        # bincount adds in order; what an earlier chunk summed goes first: chunking does not change the bits
        weights = np.concatenate(([self.sums[first]], rewards.reshape(-1)))
        sums = np.bincount(np.concatenate(([0], spans)), weights)
        self.sums[first : first + len(sums)] = sums

    def findings(self) -> list[Finding]:
        spans = self.spans
        expected = np.zeros(len(self.sums))
        expected[spans.finished] = spans.table.return_[spans.entry[spans.finished]]
        same = (self.sums == expected) | (np.isnan(self.sums) & np.isnan(expected))
        found = []
        for span in np.flatnonzero(spans.finished & ~same).tolist():
            sum_, said = float(self.sums[span]), float(expected[span])
            message = f"rewards sum to {sum_!r}, the episode table says {said!r}"
            first, last = int(spans.start[span]), int(spans.stop[span]) - 1
            number = int(spans.number[span])
            found.append(Finding("return", message, REWARD, number, first, last, last - first + 1))
        return found
