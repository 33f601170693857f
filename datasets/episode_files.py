"""HDF5 files with one group per episode: one of them, or a folder of several as one dataset.

So are suites of tasks published, a file each. Files come in the order of the numbers in their names, those of
folders inside too, and every episode says its file. An episode is known by a label: the name of its group,
in a folder after that of its file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py

from rlcli.datasets import hdf5
from rlcli.datasets.episode_groups import numbered
from rlcli.datasets.episode_rows import EPISODE
from rlcli.datasets.hdf5_groups import EpisodeGroup, PlainGroups
from rlcli.datasets.mapping import storable
from rlcli.datasets.plain_folder import ONE_BY_ONE
from rlcli.datasets.regular import by_numbers
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Heap, heap_column

_SUFFIXES = (".h5", ".hdf5")
_FILE: Key = (*EPISODE, "file")
_LOOKED_AT = 10_000  # entries of a folder, to see what it is
_MAX_FILES = 512  # that are open at once


class EpisodeFiles:
    """Opened files by name; "" is the name of one that is no folder's. The groups are `<top>/<prefix><i>`."""

    def __init__(self, path: Path, opened: Mapping[str, h5py.File], top: str, prefix: str) -> None:
        self.path, self.opened, self.top, self._prefix = path, opened, top, prefix
        self._groups = {name: PlainGroups(file) for name, file in opened.items()}
        self._tops: dict[str, h5py.Group] = {}
        self.is_folder = path.is_dir()
        self.columns: list[Column] = [heap_column(_FILE, Heap("text"))] if self.is_folder else []

    @property
    def files(self) -> Sequence[Path]:
        """All of them, in order."""
        return [self.path / name for name in self.opened]

    def labels(self) -> Iterator[str]:
        """Those of all episodes in order. Raises `InputError` for a file without any."""
        for name, file in self.opened.items():
            where = self.path / name
            with hdf5.damage(where):
                found = _numbered(file, self.top, self._prefix)
            if not found:
                top = f"{self.top}/" if self.top != "/" else ""
                raise InputError(f"{where}: no {top}{self._prefix}<i> groups", path=where)
            yield from (self.label(name, episode) for episode in found)

    def label(self, name: str, episode: str) -> str:
        """That of an episode in the file of this name."""
        return f"{name}:{episode}" if name else episode

    def split(self, label: str) -> tuple[str, str]:
        """The names of the file and of the group."""
        name, _, episode = label.rpartition(":")
        return name, episode

    def group(self, label: str, kind: type[EpisodeGroup] = EpisodeGroup) -> EpisodeGroup:
        """The group of an episode."""
        name, episode = self.split(label)
        if name not in self._tops:
            self._tops[name] = self.opened[name][self.top]
        return kind(self._groups[name], self._tops[name], episode)

    def values(self, label: str) -> dict[Key, str]:
        """What an episode says of its file: of `columns`."""
        return {_FILE: self.split(label)[0]} if self.is_folder else {}

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Where files of a folder do not fit together, the hint is to take them one by one."""
        try:
            yield
        except (InputError, IncompatibleError) as err:
            if self.is_folder and err.hint is None:
                err.hint = ONE_BY_ONE
            raise


class Attributes:
    """Those of files and of `top` in them: `shared` by all files by place; others are of each.

    Texts that differ are `columns`, of which `values` are those of a file; what else differs is `by_file`.
    Those of a file named `apart` are only told as that, in the order of the files.
    """

    def __init__(self, files: EpisodeFiles, apart: str) -> None:
        places = {"": "attributes", files.top: files.top}
        each = {
            name: {place: hdf5.attributes_of(file[place] if place else file) for place in places}
            for name, file in files.opened.items()
        }
        self.apart = [found[""].pop(apart, "") for found in each.values()]
        self.shared: dict[str, dict[str, Any]] = {place: {} for place in places}
        self.values: dict[str, dict[Key, str]] = {name: {} for name in each}
        self.by_file: dict[str, dict[str, Any]] = {}
        names = dict.fromkeys(
            (place, name) for one in each.values() for place in places for name in one[place]
        )
        for place, attribute in names:
            told = {name: found[place].get(attribute) for name, found in each.items()}
            first = next(iter(told.values()))
            if all(value is first or value == first for value in told.values()):
                self.shared[place][attribute] = first
            elif all(value is None or isinstance(value, str) for value in told.values()):
                for name, value in told.items():
                    self.values[name][*EPISODE, places[place], *storable(attribute)] = value or ""
            else:
                where = f"{place}/{attribute}" if place else attribute
                self.by_file[where] = {name: value for name, value in told.items() if value is not None}
        self.columns = [heap_column(key, Heap("text")) for key in next(iter(self.values.values()))]


@contextmanager
def open_files(path: Path, top: str, prefix: str) -> Iterator[EpisodeFiles]:
    """A file, or those of a folder. Raises what `hdf5.reading` does, `InputError` for none or too many."""
    files = _files(path)
    if path.is_dir() and not files:
        raise InputError(f"{path}: no HDF5 file there", path=path)
    if len(files) > _MAX_FILES:
        raise InputError(f"{path}: {len(files):,} files, at most {_MAX_FILES} at once", path=path)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(hdf5.reading(file)) for name, file in files.items()}
        yield EpisodeFiles(path, opened, top, prefix)


def count_in(path: Path, top: str, prefix: str) -> tuple[int, int]:
    """How many files `path` is, and episodes in the first; 0 of both where that is not HDF5."""
    files = list(_files(path, _LOOKED_AT).values())
    if not files or not hdf5.is_hdf5(files[0]):
        return 0, 0
    with hdf5.reading(files[0]) as file, hdf5.damage(files[0]):
        return len(files), len(_numbered(file, top, prefix))


def _numbered(file: h5py.File, top: str, prefix: str) -> list[str]:
    parent = file.get(top)
    return numbered(parent, prefix) if isinstance(parent, h5py.Group) else []


def _files(path: Path, looked_at: int | None = None) -> dict[str, Path]:
    if not path.is_dir():
        return {"": path}
    entries = itertools.islice(path.rglob("*"), looked_at)
    found = {
        file.relative_to(path).as_posix(): file
        for file in entries
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()
    }
    return {name: found[name] for name in sorted(found, key=by_numbers)}
