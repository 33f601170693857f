"""What a reader sees of a dataset at one moment, and how that moves on with its writers.

SPEC.md sections 4 and 11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, InputError
from rlcli.format import files, generations, manifest, snapshot
from rlcli.format.checking import Checker
from rlcli.format.fetching import Fetcher
from rlcli.format.location import Location
from rlcli.format.manifest import Manifest
from rlcli.format.schema import Schema
from rlcli.format.stream_set import Gap, StreamSet
from rlcli.format.turns import Moving, Reading


@dataclass(frozen=True)
class Refreshed:
    """What a `refresh` found: per stream the rows that came and those that left, and the generation now.

    A row that came and left in between is in neither.
    """

    generation: int
    new_rows: tuple[int, ...] = ()
    evicted_rows: tuple[int, ...] = ()

    @property
    def is_changed(self) -> bool:
        """Rows came or left."""
        return any(self.new_rows) or any(self.evicted_rows)


class View:
    """A manifest and its streams; at an older snapshot if `at` is one. `checked`: hashes are compared."""

    identity: dict[str, Any]
    uuid: str
    schema: Schema
    manifest: Manifest
    generation: int
    checker: Checker | None
    stream_set: StreamSet

    def __init__(
        self, path: Location, *, checked: bool, single_range: bool, at: Mapping[str, Any] | None
    ) -> None:
        self.location = path
        self.path = path if isinstance(path, Path) else Path()  # nothing lies there then
        self.changes = 0  # how often other rows were seen
        self.ready: set[int] = set()  # numbers of columns of which every row was touched and compared
        self.reading = Reading()  # which rows there are stays the same inside
        self._checked = checked
        self._single_range = single_range
        self._at = at
        self._begin_newest()

    def _begin_newest(self) -> None:
        """Takes over the newest state. Segments may leave meanwhile: then there is a newer one, and whoever
        is slower than the writers tries again.
        """
        while True:
            found = self._load()
            try:
                self._begin(found)
                return
            except BaseException as err:
                found.close()
                if not snapshot.has_left(self.path, err, found.manifest):
                    raise

    # What a dataset that is elsewhere does otherwise.

    @property
    def opened_with(self) -> dict[str, Any]:
        """The arguments of `Dataset.open` that give one like it, in any process."""
        return {
            "path": self.location.absolute() if isinstance(self.location, Path) else self.location,
            "check": "touch" if self._checked else "none",
            "single_range": self._single_range,
            "at": self._at,
        }

    def _load(self) -> snapshot.Snapshot:
        return snapshot.load(self.path)

    def _load_manifest(self, newest: Manifest, generation: int) -> Manifest:
        return generations.load(self.path, newest.dataset, generation)

    def _fetcher(self, newest: Manifest) -> Fetcher | None:
        """What brings its files here, if they are not."""
        return None

    def _begin(self, found: snapshot.Snapshot) -> None:
        """Takes over a state as if nothing was known."""
        newest, limits = found.manifest, None
        if self._at is not None:
            load = partial(self._load_manifest, newest)
            newest, limits = snapshot.cut_back(self.location, newest, self._at, load)
        fetcher = self._fetcher(newest)
        checker = Checker(newest.schema, fetcher) if self._checked else None
        streams = StreamSet(
            self.path,
            newest.schema,
            checker,
            single_range=self._single_range,
            limits=limits,
            folder_of=None if fetcher is None else fetcher.segment,
        )
        streams.adopt(newest, found.journals)
        self.identity = found.identity
        self.uuid, self.schema = newest.dataset, newest.schema
        self.manifest, self.generation = newest, newest.generation if limits is None else limits.generation
        self.checker, self.stream_set = checker, streams
        self._changed()

    def _changed(self) -> None:
        """What was worked out from the rows does not hold any more."""
        self.ready.clear()
        self.changes += 1

    def refresh(self) -> Refreshed:
        """Moves on to what is committed now. Raises `InputError` if rows were taken back."""
        if self._at is not None:
            return Refreshed(self.generation)
        with Moving(self.reading):
            return self._refresh()

    def _refresh(self) -> Refreshed:
        before = [(stream.start, stream.rows) for stream in self.stream_set.streams]
        newest = self.manifest
        try:
            if self.stream_set.advance(window=newest.window is not None):
                self._changed()
            if files.exists(generations.path_of(self.path, self.generation + 1)):
                newest = generations.advance(self.path, newest)
                self._changed()
                self.stream_set.adopt(newest, {})
                self.manifest, self.generation = newest, newest.generation
            self.stream_set.slide(newest.window)
        except (Gap, CorruptError) as err:
            if not (isinstance(err, Gap) or snapshot.has_left(self.path, err, newest)):
                raise
            self._begin_again()
        after = [(stream.start, stream.rows) for stream in self.stream_set.streams]
        before += [(start, start) for start, _ in after[len(before) :]]
        pairs = list(zip(before, after, strict=True))
        return Refreshed(
            self.generation,
            tuple(now[1] - max(then[1], now[0]) for then, now in pairs),
            tuple(min(now[0], then[1]) - then[0] for then, now in pairs),
        )

    def _begin_again(self) -> None:
        """Begins anew where the newest state does not continue what is known."""
        before, then = [stream.rows for stream in self.stream_set.streams], self.manifest
        self.stream_set.close()
        self._begin_newest()
        after = [stream.rows for stream in self.stream_set.streams]
        fewer = any(now < known for now, known in zip(after, before, strict=False))
        if fewer or manifest.is_rewound(then, self.manifest):
            raise InputError(f"{self.path}: rows were taken back since it was opened; open it again")
