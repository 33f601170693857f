"""What a converter offers: rows of episodes out of a foreign file, and a foreign file out of a dataset.

A converter never writes a dataset and never decides where output goes; `rlcli.pipeline.convert` does.
One module per format has the functions of `ConverterModule`; the table is in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Schema

Advance = Callable[[int], None]  # told how many bytes more are done; may raise to stop the work


@dataclass(frozen=True)
class End:
    """How an episode ended, at the last row of its last `Part`.

    `cut`: the source stops before the episode's end was seen. `final` is the true next observation, an array
    or a nested dict as the observation is, None where the source does not have it: unknown, not invented.
    """

    terminated: bool
    truncated: bool
    cut: bool = False
    final: Any = None


@dataclass(frozen=True)
class Part:
    """Contiguous rows of one episode; `columns[key]` is `[n, ...]`, valid until the next part."""

    columns: Mapping[Key, NDArray[Any]]
    end: End | None


class LayoutMismatch(Exception):
    """Rows do not fit the schema that was announced: open the source again with `derive=False`."""


@dataclass(frozen=True)
class Options:
    """What a user can tell a reader.

    `env_id` names the environment when the file does not; `split` is where episodes end, see the format's
    reader; `derive=False` stores next observations in every row.
    """

    env_id: str | None = None
    split: str = "flags"
    derive: bool = True


class Source(Protocol):
    """An opened foreign dataset.

    `num_bytes` is the decoded size, for progress. `record` is JSON that goes to the dataset's
    `extra["source"]` and holds whatever the way back needs. `report` is complete after `parts` ran out.
    """

    num_rows: int
    num_bytes: int
    schema: Schema
    spec: dict[str, Any]
    record: dict[str, Any]

    def parts(self, advance: Advance) -> Iterator[Part]: ...

    def report(self) -> dict[str, Any]: ...


class ConverterModule(Protocol):
    """The functions of a format's module."""

    def detect(self, path: Path) -> str | None:
        """None if `path` is of this format, otherwise why not, as a clause. Raises if it cannot be read."""
        ...

    def open_source(self, path: Path, options: Options) -> AbstractContextManager[Source]:
        """The file, ready to read. Raises `InputError` for missing keys or lengths that disagree."""
        ...

    def export(self, dataset: Dataset, out: Path, advance: Advance) -> dict[str, Any]:
        """Write `dataset` to the new file `out`; returns what there is to report."""
        ...

    def compare(self, path: Path, dataset: Dataset, advance: Advance) -> dict[str, Any]:
        """`{"problems": [sentence, ...], "rows": n, "sums": {...}}`: how they differ, both read anew."""
        ...
