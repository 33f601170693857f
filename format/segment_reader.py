"""One segment of a stream as a reader sees it: listed, then inspected, then mapped. SPEC.md 5, 7 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import files
from rlcli.format.checking import Checker
from rlcli.format.episode_table import SegmentEpisodes
from rlcli.format.mapping import MappedSegment


class SegmentReader:
    """A listed segment: `rows` of it are visible. Its memory may be read once it is touched."""

    def __init__(self, mapped: MappedSegment, rows: int, ended: int | None) -> None:
        self.mapped = mapped
        self.rows = rows
        self.episodes = SegmentEpisodes(mapped.paths, mapped.entry, ended)
        self.is_touched = False
        self.is_inspected = False
        self.is_kept = False
        self.was_read = False  # without being mapped
        self.records = b""  # the journal, once inspected and until it is mapped

    @property
    def first(self) -> int:
        return self.mapped.entry.first

    @property
    def stop(self) -> int:
        return self.first + self.rows

    @property
    def name(self) -> str:
        return self.mapped.entry.name

    def inspect(self, checker: Checker) -> None:
        """Compares the small files of a sealed segment with their hashes."""
        entry, data = self.mapped.entry, checker.inspect(self.mapped)
        if not self.is_touched:
            if entry.episodes:
                self.episodes.read_by(partial(_episode_files, checker, self.mapped, data))
            self.records = data.get(f"journal/{entry.name}.log", b"")
        self.is_inspected = True

    def fill(self, table: _native.RowMap, stream: int) -> None:
        """Maps the rows and finals of a sealed segment, for a table that lists it in that stream."""
        mapped, entry = self.mapped, self.mapped.entry
        mapped.map()
        mapped.map_finals(entry.finals)
        ends, has_final = self.episodes.ends, self.episodes.column("has_final")
        table.fill(stream, entry.first, self.rows, ends, has_final, mapped.final_addresses)
        self.is_touched, self.records = True, b""

    def keep(self) -> None:
        """Maps or reads everything of a touched segment of a window, whose files may go away at any time.

        Raises `CorruptError` if they have.
        """
        if self.is_kept:
            return
        if self.mapped.entry.sealed:
            self.episodes.arrays()
        for number in range(len(self.mapped.schema.heaps)):
            self.mapped.heap(number)
        journal = self.mapped.paths.journal  # of a segment's files it is removed first
        if not files.exists(journal):
            raise CorruptError(f"{journal}: missing", path=journal)
        self.is_kept = self.mapped.entry.sealed


def _episode_files(
    checker: Checker,
    mapped: MappedSegment,
    known: dict[str, bytes],
    names: Sequence[str],
    sizes: Sequence[int],
) -> list[bytes]:
    """Files of an inspected segment's episodes tree: `known` ones, or read and compared now."""
    if late := [name for name in names if name not in known]:
        known.update(zip(late, checker.small(mapped, late), strict=True))
    for name, size in zip(names, sizes, strict=True):
        if len(known[name]) != size:
            path = mapped.paths.root / name
            raise CorruptError(f"{path}: its sums do not name it with {size} bytes", path=path)
    return [known[name] for name in names]
