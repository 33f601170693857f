"""Where the files of a segment are, and how many rows it gets. SPEC.md sections 1 and 5."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from rlcli.format import folders
from rlcli.format.schema import Schema

FOLDERS = ("segments", "finals", "journal", "episodes", "sums", "manifests")
SEGMENT_FOLDERS = ("segments", "finals", "journal", "episodes", "sums", "heaps")
FIRST_ROWS = 4096
STEPPED_ROWS = 16_384  # expected of a stream that is written step by step
EXPECTED_ROWS = 131_072
MANY_AT_ONCE = 256
FEW_BYTES = 16 << 20
MANY_ROWS = 65_536
MANY_BYTES = 64 << 20
MAX_BYTES = 1 << 30


def choose_alloc(
    schema: Schema,
    previous: int | None,
    segment_rows: int | None,
    window: int | None = None,
    *,
    is_fast: bool = False,
    at_once: int = 0,
    num_streams: int = 1,
    expected: int = EXPECTED_ROWS,
) -> int:
    """How many rows the next segment of a stream gets: always `segment_rows`, or doubling until it is large.

    Large is 65,536 rows or 64 MiB, whichever is more, and never above 1 GiB. The files of a small segment
    take longer than its rows where these come many at a time. So a first segment that begins with hundreds of
    rows `at_once` has room for as many as are `expected`, up to 131,072, and a fast stream gets eight times
    as many as before; both up to 16 MiB, of all `num_streams` together. In a window of that many rows it is
    at most an eighth, but 4,096 rows: a window's disk has up to one segment too many.
    """
    if segment_rows is not None:
        return segment_rows
    rows = FIRST_ROWS if previous is None else previous
    few_rows = FEW_BYTES // (num_streams * schema.row_bytes)
    if previous is None and at_once >= MANY_AT_ONCE:
        while rows < min(expected, EXPECTED_ROWS) and 2 * rows <= few_rows:
            rows *= 2
    if previous is not None and (rows < MANY_ROWS or 2 * rows * schema.row_bytes <= MANY_BYTES):
        factor = 8 if is_fast and 8 * rows <= few_rows else 2
        rows = max(factor * rows, FIRST_ROWS)
    while window is not None and rows > FIRST_ROWS and 8 * rows > window:
        rows //= 2
    while rows > 1 and rows * schema.row_bytes > MAX_BYTES:
        rows //= 2
    return rows


class SegmentPaths:
    """Where the files of a segment are."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name

    @cached_property
    def columns(self) -> Path:
        return self.root / "segments" / self.name

    @cached_property
    def finals(self) -> Path:
        return self.root / "finals" / self.name

    @cached_property
    def episodes(self) -> Path:
        return self.root / "episodes" / self.name

    @cached_property
    def heaps(self) -> Path:
        return self.root / "heaps" / self.name

    @cached_property
    def journal(self) -> Path:
        return self.root / "journal" / f"{self.name}.log"

    @cached_property
    def sums(self) -> Path:
        return self.root / "sums" / f"{self.name}.json"

    @property
    def trees(self) -> tuple[Path, ...]:
        """Its folders; some may be missing."""
        return (self.columns, self.finals, self.episodes, self.heaps)

    @property
    def parts(self) -> tuple[Path, ...]:
        """Every file and folder of it, its mutable side columns too; some may be missing."""
        mutable = self.root / "mutable"
        side = (mutable / name / f"{self.name}.memmap" for name in folders.names(mutable))
        return (self.journal, self.sums, *self.trees, *side)

    def remove(self) -> int:
        """Deletes everything of the segment; returns the bytes freed."""
        freed = 0
        for path in self.parts:
            freed += folders.space(path)
            folders.remove_tree(path)
        return freed


def segment_of(root: Path, path: Path) -> str | None:
    """The name of the segment that a file of the dataset belongs to, if there is one of a name like that."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    if len(parts) < 2 or parts[0] not in SEGMENT_FOLDERS:
        return None
    return parts[1].removesuffix(".log").removesuffix(".json")


def free_name(root: Path, stream: int, first: int, retired: Collection[str] = ()) -> str:
    """The name of a new segment; with a suffix if there are files of that name, or it is one of `retired`.

    A reader knows a segment by its name: one that was published once must never be another.
    """
    base = name = f"w{stream:02d}-{first:012d}"
    suffix = 0
    while (
        name in retired
        or os.path.exists(f"{root}/journal/{name}.log")
        or os.path.exists(f"{root}/segments/{name}")
    ):
        suffix += 1
        name = f"{base}.{suffix}"
    return name
