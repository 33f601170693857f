"""What a converter offers: rows of episodes out of a foreign source, and a foreign output out of a dataset.

A converter never writes a dataset and never decides where output goes; `rlcli.pipeline.convert` does.
One module per format has the functions of `ConverterModule`; the table is in `registry.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from rlcli.errors import UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.ends import Ends as Ends
from rlcli.format.episode_buffer import LayoutMismatch as LayoutMismatch
from rlcli.format.keys import Key
from rlcli.format.schema import Schema

Advance = Callable[[int], None]  # told how many bytes more are done; may raise to stop the work


@dataclass(frozen=True)
class Request:
    """What a user can tell every reader; what only one format knows are the fields of its `Options`.

    `env_id` names the environment where the source does not. `images="keep"` leaves encoded pictures as they
    are, in a heap column; `"decode"` makes uint8 HWC arrays. `mapping` is source key -> our key (see
    `mapping.py`), `confirmed` says that an inferred mapping is right. `offline` forbids the network,
    `trust_pickle` allows formats that run code. `derive=False` stores next observations in every row,
    `unstack=False` stacks of frames as they are (see `stacked.py`). `plan` is what an earlier `Source.plan`
    of the same source said, so that it need not be found out again. `again` says that the source is read a
    second time, to be compared: a format with two ways of reading takes the slow one then.
    """

    env_id: str | None = None
    images: Literal["keep", "decode"] = "keep"
    mapping: Mapping[str, str] = field(default_factory=dict)
    confirmed: bool = False
    offline: bool = False
    trust_pickle: bool = False
    derive: bool = True
    unstack: bool = True
    plan: Mapping[str, Any] | None = None
    again: bool = False


@dataclass(frozen=True)
class NoOptions:
    """The options of a format that has none."""


@dataclass(frozen=True)
class Seen:
    """What `detect` found: `what` is a noun phrase that names it, or a clause why it is not this format."""

    matches: bool
    what: str


@dataclass(frozen=True)
class End:
    """How an episode ended, at the last row of its last `Part`.

    `cut`: the source stops before the episode's end was seen. `final` is the true next observation, an array
    or a nested dict as the observation is, None where the source does not have it: unknown, not invented.
    `seed` is the one the episode was reset with, where the source tells.
    """

    terminated: bool
    truncated: bool
    cut: bool = False
    final: Any = None
    seed: int | None = None


@dataclass(frozen=True)
class Part:
    """Contiguous rows, of one episode or of several; `columns[key]` is `[n, ...]`, valid until the next part.

    A column in a heap is a sequence of n values instead: `str` for text, `bytes` for bytes and for pictures
    that stay encoded, arrays otherwise. `end` is None where the episode goes on, an `End` where it ends with
    the last row. Many short episodes are cheaper together: `Ends` say where each ends among the rows.
    `parts.py` makes one form of the other.
    """

    columns: Mapping[Key, Any]
    end: End | Ends | None


@dataclass(frozen=True)
class Piece:
    """Rows that can be read without the rest of the source; no episode crosses pieces.

    A file, a shard, or one episode where these can be reached. `num_bytes` is about their decoded size;
    `rows` and `episodes` are None where only reading tells.
    """

    name: str
    num_bytes: int
    rows: int | None = None
    episodes: int | None = None


@dataclass
class Report:
    """What a user should know of a conversion. Counts add up over the pieces of a source.

    `repaired`: episode ends that the source does not flag. `dropped`: rows of the source that are not in the
    result. `lossy` are sentences about what the result cannot hold, `remarks` about what was odd. `details`
    are facts of the format that are added to the report by name. The pipeline counts `rows`, `episodes`,
    `unknown_next`, `unfinished_rows`, `length_one_episodes` and `not_finite` (values per column) itself.
    """

    rows: int = 0
    episodes: int = 0
    repaired: int = 0
    dropped: int = 0
    unknown_next: int = 0
    unfinished_rows: int = 0
    length_one_episodes: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)
    lossy: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Counts and whole-number details add up, sentences join without repetition."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, count in other.not_finite.items():
            self.not_finite[name] = self.not_finite.get(name, 0) + count
        for ours, theirs in ((self.lossy, other.lossy), (self.remarks, other.remarks)):
            ours += [sentence for sentence in theirs if sentence not in ours]
        for name, value in other.details.items():
            before = self.details.get(name)
            self.details[name] = before + value if type(before) is type(value) is int else value

    def count(self, name: str, number: int = 1) -> None:
        """Adds to the detail `name`."""
        self.details[name] = self.details.get(name, 0) + number

    def to_json(self) -> dict[str, Any]:
        """One flat object: counts, sentences and details by name."""
        flat = dataclasses.asdict(self)
        return {**flat.pop("details"), **flat}

    @staticmethod
    def from_json(flat: Mapping[str, Any]) -> Report:
        """The inverse of `to_json`."""
        names = {item.name for item in dataclasses.fields(Report)} - {"details"}
        details = {name: value for name, value in flat.items() if name not in names}
        return Report(**{name: flat[name] for name in names}, details=details)


_COUNTS = (
    "rows",
    "episodes",
    "repaired",
    "dropped",
    "unknown_next",
    "unfinished_rows",
    "length_one_episodes",
)


@dataclass
class Comparison:
    """How a foreign source or output and a dataset differ, both read anew: sentences, and sums of both."""

    rows: int
    problems: list[str] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)


class AmbiguousMapping(UsageError):
    """Keys whose meaning had to be guessed: `mapping` (source key -> our key) is shown to be confirmed, or
    to be completed as `hint` says.
    """

    def __init__(
        self,
        message: str,
        mapping: Mapping[str, str],
        hint: str = "add --yes to take the mapping above, or save it and give it with --mapping",
    ) -> None:
        super().__init__(message, hint=hint)
        self.mapping = dict(mapping)


class Source(Protocol):
    """An opened foreign dataset.

    `record` is JSON that goes to the dataset's `extra["source"]` and holds whatever the way back needs.
    `files` are all files that are read; their sizes and hashes go to the lineage. `report` is what opening
    found. `plan` is JSON that makes opening again cheap; it comes back in `Request.plan`.
    """

    schema: Schema
    spec: dict[str, Any]
    record: dict[str, Any]
    report: Report
    plan: dict[str, Any]

    @property
    def files(self) -> Sequence[Path]: ...

    @property
    def pieces(self) -> Sequence[Piece]: ...

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one piece in order; what is found on the way is added to `report`.

        `advance` is told the piece's `num_bytes` bit by bit. At most one episode or 64 MiB are in memory.
        """
        ...


@runtime_checkable
class Ahead(Protocol):
    """A source whose parts stay as they are when others are made, and may be made by another thread: so many
    bytes of rows ahead, 0 for none. It tells `advance` of each part before that comes.
    """

    ahead_bytes: int


@runtime_checkable
class Joining(Protocol):
    """A source that begins anew with each piece, and loses time by that."""

    def joined(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """The same rows as `pieces`, which follow one another, in as few as can be read at once."""
        ...


class ConverterModule(Protocol):
    """The functions of a format's module. It has `Options`, a frozen dataclass of `rlcli.config.opt` fields
    that `--set` fills when reading, and `ExportOptions` for writing; either may be absent.

    A module may have `compare` (below), and `fetch(name, request, advance) -> Path`, which finds or downloads
    the dataset of that name for `rl convert FORMAT:NAME`.
    """

    def detect(self, path: Path) -> Seen:
        """What `path` is. Needs the base install only. Raises if it cannot be read."""
        ...

    def open_source(self, path: Path, request: Request, options: Any) -> AbstractContextManager[Source]:
        """The source, ready to read. Raises `InputError` for missing keys or lengths that disagree."""
        ...

    def export(self, dataset: Dataset, out: Path, options: Any, advance: Advance) -> Report:
        """Write `dataset` to the new file or folder `out`; says what is lost."""
        ...


@runtime_checkable
class Shared(Protocol):
    """A module whose first look through a source takes long, so that several processes share it."""

    def shares(self, path: Path, request: Request, options: Any) -> int:
        """Into how many shares of about equal work it is worth cutting; 1 or less if it is not."""
        ...

    def look(self, path: Path, request: Request, options: Any, share: int, shares: int) -> Any:
        """What is seen in share `share` of `shares`, JSON. Raises what `open_source` raises."""
        ...

    def plan(self, looks: Sequence[Any]) -> Mapping[str, Any]:
        """What `Source.plan` is, from the looks of all shares in order. Raises what `open_source` raises."""
        ...


class Comparing(Protocol):
    """A module that compares by itself, without code of its conversion; others are read a second time."""

    def compare(self, path: Path, dataset: Dataset, advance: Advance) -> Comparison | None:
        """How the whole of `path` and `dataset` differ, row by row; None if it has to be read again."""
        ...
