"""Reading a dataset: opening it, its description, its episodes, what is committed later.

Everything is checked before it is believed; nothing is ever written. SPEC.md sections 4 to 9 and 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlcli.errors import InputError, nearest
from rlcli.format import digests, interop
from rlcli.format.episode_table import EpisodeRows, Episodes
from rlcli.format.location import Location, is_folder, locate
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.row_reader import RowReader
from rlcli.format.segment_reader import SegmentReader
from rlcli.format.stream_reader import StreamReader
from rlcli.format.view import Refreshed, View

if TYPE_CHECKING:
    from rlcli.format.remote import Remote

Rows = np.ndarray[Any, np.dtype[np.int64]]


class Dataset(RowReader):
    """A snapshot of a dataset, moved on by `refresh`. Logical rows number its streams' retained rows one
    after the other.

    Opening reads the manifest and the journals of open segments; a sealed segment is opened when it is first
    touched (those of a window at once). With `check="touch"` no byte is returned whose hash was not compared
    before; with `"none"` only structure and sizes are. Reading may run in several threads, and `refresh` in
    another: it waits for what they are reading, and they for it.

    A pickled one, such as a spawned worker gets, is opened anew where it is loaded: the newest snapshot then,
    or the older one that it was opened `at`.
    """

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.path = view.location

    @classmethod
    def open(
        cls,
        path: str | Location,
        *,
        check: Literal["touch", "none"] = "touch",
        single_range: bool = True,
        at: Mapping[str, Any] | None = None,
        remote: Remote | None = None,
    ) -> Dataset:
        """The newest snapshot at `path`, or `at` an older one, which stays as it is.

        Raises `InputError` if it is no dataset or rows of `at` are gone, `IncompatibleError` for another
        version, `CorruptError` naming the file where something is wrong. `single_range=False` maps each
        segment for itself, which is slower.

        `path` may be a URL of a sealed dataset (`https://…`, `s3://…`, `memory://…`), read as `remote` says:
        what is needed is fetched into a cache on disk, and always compared with its hash. It raises
        `InputError` too when a server cannot be reached, and `MissingExtraError`. A packed file, `x.rlz`, is
        read in the same way.
        """
        location = locate(path)
        if not is_folder(location):
            from rlcli.format.remote import Remote, RemoteView

            return cls(RemoteView(location, remote or Remote(), single_range=single_range, at=at))
        return cls(View(location, checked=check == "touch", single_range=single_range, at=at))

    def __reduce__(self) -> tuple[Callable[[], Dataset], tuple[()]]:
        return partial(Dataset.open, **self._view.opened_with), ()

    def close(self) -> None:
        """Closes the journals; maps live as long as the object."""
        self._view.stream_set.close()

    def release(self) -> None:
        """Gives back the memory of all pages that were read; they are read from the files when touched again.

        A long scan calls it now and then, so that it does not look as if it held the whole dataset.
        """
        with self._view.reading:
            for stream in self._view.stream_set.streams:
                stream.release()

    def expect_random(self, random: bool = True) -> None:
        """Rows will be read at random: of a page that is not in memory the neighbours are not read with it.

        For a dataset that does not fit in memory, where neighbours push out what is needed again. One that
        fits is in memory sooner with them, and so is what is read in order.
        """
        with self._view.reading:
            for stream in self._view.stream_set.streams:
                stream.expect_random(random)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def identity(self) -> dict[str, Any]:
        """`dataset.json`."""
        return self._view.identity

    @property
    def manifest(self) -> Manifest:
        """The newest one, without what an older snapshot had not."""
        return self._view.manifest

    @property
    def uuid(self) -> str:
        return self._view.uuid

    @property
    def generation(self) -> int:
        return self._view.generation

    @property
    def changes(self) -> int:
        """How often other rows were seen; what is worked out from the rows holds until it changes."""
        return self._view.changes

    @property
    def spec(self) -> dict[str, Any]:
        return self._view.manifest.spec

    @property
    def lineage(self) -> list[dict[str, Any]]:
        return self._view.manifest.lineage

    @property
    def extra(self) -> dict[str, Any]:
        return self._view.manifest.extra

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self._view.manifest.segments

    @property
    def state(self) -> Literal["sealed", "open"]:
        """`open` while a writer is at work, or after it was killed."""
        open_ = any(not s.sealed for s in self.segments) or any(
            s.get("owner") for s in self._view.manifest.streams
        )
        return "open" if open_ else "sealed"

    @property
    def stream_rows(self) -> list[int]:
        """Per stream the number behind its last committed row. Rows that have left a window count."""
        return [stream.rows for stream in self._view.stream_set.streams]

    @property
    def num_episodes(self) -> int:
        """Episodes with an end, also cut ones."""
        with self._view.reading:
            return sum(stream.num_episodes - stream.num_partial for stream in self._view.stream_set.streams)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of its segments; what was never written counts in an open one."""
        sealed = sum(segment.bytes for segment in self.segments)
        return sealed + sum(s.alloc * self.schema.row_bytes for s in self.segments if not s.sealed)

    @property
    def snapshot(self) -> dict[str, Any]:
        """What identifies the state: the generation, per stream the retained rows `starts … rows`, and
        `ended`, the row behind its last ended episode.
        """
        with self._view.reading:
            streams = self._view.stream_set.streams
            return {
                "generation": self.generation,
                "starts": [stream.start for stream in streams],
                "rows": [stream.rows for stream in streams],
                "ended": [stream.ended for stream in streams],
            }

    @property
    def digest(self) -> str:
        """SHA-256 of schema, spec and content; independent of time, place and commits. SPEC.md section 9."""
        parts = []
        with self._view.reading:
            for stream in self._view.stream_set.streams:
                for segment in stream.segments:
                    entry = segment.mapped.entry
                    if segment.rows:
                        whole = (entry.rows, entry.episodes) == (segment.rows, len(segment.episodes))
                        content = entry.content if whole else self._content(stream, segment)
                        parts.append((entry.stream, entry.first, segment.rows, content))
        return digests.dataset_digest(self.schema, self.spec, parts)

    def _content(self, stream: StreamReader, segment: SegmentReader) -> str:
        stream.touch(stream.position(segment.first))
        if self._view.checker is not None:
            self._view.checker.everything(segment.mapped)
        return digests.segment_content(segment.mapped, segment.rows, segment.episodes.arrays())

    @property
    def episodes(self) -> Episodes:
        """Every episode that has an end, in logical order; in a window only those with all their rows."""
        return self._episodes(whole=True)

    def episodes_all(self) -> Episodes:
        """Like `episodes`, with those of which rows have left a window: their `start` is that many rows
        before the first row of their stream.
        """
        return self._episodes(whole=False)

    def _episodes(self, *, whole: bool) -> Episodes:
        with self._view.reading:
            streams = zip(self._view.stream_set.starts, self._view.stream_set.streams, strict=True)
            return Episodes.join([(at - stream.start, stream.tables(whole=whole)) for at, stream in streams])

    def episode(self, index: int) -> EpisodeRows:
        """Where the episode of that place in `episodes` is. Only its segment's table is read.

        Raises `IndexError` if there is none.
        """
        at, left = 0, index
        with self._view.reading:
            for stream in self._view.stream_set.streams:
                partial = stream.num_partial
                count = stream.num_episodes - partial
                if 0 <= left < count:
                    start, length = stream.episode(left + partial)
                    return EpisodeRows(at + start - stream.start, length, stream.number)
                left -= count
                at += stream.rows - stream.start
        raise IndexError(f"episode {index} of {self.num_episodes}")

    @property
    def unknown_next(self) -> Rows:
        """Logical rows whose next observation is unknown, ascending: unless it is stored, these are episode
        ends without a final value, and the newest row of an unfinished episode.
        """
        found: list[int] = []
        if self.schema.derived:
            with self._view.reading:
                streams = self._view.stream_set.streams
                for at, stream in zip(self._view.stream_set.starts, streams, strict=True):
                    found += [row - stream.start + at for row in stream.unknown_next]
        return np.array(found, np.int64)

    def row_ids(self, rows: Rows) -> Rows:
        """The identities of logical rows, which are theirs for ever: `stream << 40 | row in the stream`."""
        index = np.asarray(rows, np.int64)
        with self._view.reading:
            if index.size and not (index.min() >= 0 and index.max() < self.num_rows):
                raise IndexError(f"a row is outside 0 to {self.num_rows - 1}")
            return self._view.stream_set.ids(index)

    def rows_of(self, ids: Rows) -> Rows:
        """The logical rows with these identities, −1 for those that are not there: evicted, or not seen."""
        with self._view.reading:
            return self._view.stream_set.rows_of(np.asarray(ids, np.int64))

    def open_segment(self, name: str) -> Any:
        """A segment's stored columns as a `tensordict.TensorDict` of its committed rows, for other libraries.

        Sizes (and with `check="touch"` hashes) are compared first, because the plain loader grows files that
        are too short. Do not write to it. Raises `InputError` for a name that is not there, `CorruptError`
        for damage.
        """
        with self._view.reading:
            for stream in self._view.stream_set.streams:
                for position, segment in enumerate(stream.segments):
                    if segment.mapped.entry.name == name:
                        stream.touch(position)
                        if self._view.checker is not None:
                            self._view.checker.everything(segment.mapped)
                        return interop.load_segment(segment.mapped, segment.rows)
        choices = nearest(name, (segment.name for segment in self.segments))
        raise InputError(f"{self.path}: no segment {name!r}; {choices}")

    def refresh(self) -> Refreshed:
        """Moves on to what is committed now, and says what changed. Cheap when little did.

        Logical rows move when an earlier stream has grown, or rows have left a window; identities (`row_ids`)
        do not. A dataset that was opened `at` a snapshot stays there. Raises `InputError` if rows were taken
        back (a rewind); open the dataset again then.
        """
        return self._view.refresh()
