"""What a seal adds to a segment: its small files, and the hashes of all its files. SPEC.md section 8."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import xxhash

from rlcli.format import bulk, files, folders, sums, trees
from rlcli.format.episode_table import episode_arrays
from rlcli.format.journal import Episode
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths

_EPISODE_LEAVES: tuple[trees.Leaf, ...] = tuple(((name,), dtype, ()) for name, dtype in sums.EPISODE_COLUMNS)


class Sealing:
    """The files of one segment, as they are added, and then its sums file.

    A dead writer's attempt may have left some of them; nobody has read those.
    """

    def __init__(self, paths: SegmentPaths) -> None:
        self.paths = paths
        self._found: dict[str, sums.FileSum] = {}

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self._found.values())

    def add(self, path: str, entry: sums.FileSum) -> None:
        """A file that is there, by its path in the dataset."""
        self._found[path] = entry

    def put(self, tree: str, found: Mapping[str, bytes], *, is_there: bool = False) -> None:
        """Small files of the segment's `tree`, by their names in it, whose folders are there."""
        if not is_there:
            self._write(tree, found)
        for name, data in found.items():
            self._found[f"{tree}/{self.paths.name}/{name}"] = sums.of_bytes(data)

    def _write(self, tree: str, found: Mapping[str, bytes]) -> None:
        folder = self.paths.root / tree / self.paths.name
        try:
            bulk.write(folder, found)
        except FileExistsError:
            for name, data in found.items():
                files.replace(folder / name, data, durable=False)

    def put_episodes(self, episodes: Sequence[Episode]) -> list[str]:
        """The episodes tree, if there are any; returns the XXH3-128 of its columns."""
        columns = {path_of((name,)): array.tobytes() for name, array in episode_arrays(episodes).items()}
        if episodes:
            folders.make(self.paths.episodes)
            self.put("episodes", columns | trees.meta_files(_EPISODE_LEAVES, len(episodes)))
        return [xxhash.xxh3_128_hexdigest(data) for data in columns.values()]

    def put_sums(self, journal: bytes, *, durable: bool) -> str:
        """The sums file, over the journal as it will be; returns its SHA-256. With `durable` everything but
        the journal is on the disk then.
        """
        self._found[f"journal/{self.paths.name}.log"] = sums.of_bytes(journal)
        data = sums.dump(self.paths.name, self._found)
        try:
            files.write_new(self.paths.sums, data, durable=False)
        except FileExistsError:
            files.replace(self.paths.sums, data, durable=False)
        if durable:  # all at once, after all was written: one turn of the disk instead of thirty
            for path in self._found:
                if not path.startswith("journal/"):
                    files.sync_path(self.paths.root / path)
            files.sync_path(self.paths.sums)
        return hashlib.sha256(data).hexdigest()
