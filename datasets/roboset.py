"""RoboSet HDF5 (RoboHive traces): `Trial<i>` groups, a file or a folder of them (one per seed).

A trial of an agent has `actions`, `observations`, `rewards`, `done`, `time`, `env_infos/…`. One of a robot
has `data`, in which cameras (`rgb_…`, `d_…`) and joints (`qp_…`, `qv_…`) are observed and what was commanded
(`ctrl_arm`, `ctrl_ee`) is the action; the rest goes along. What is per step is a column; the next observation
of a trial's last step is not in the file. In a folder every episode says its file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py

from rlcli.datasets import hdf5
from rlcli.datasets.contract import NoOptions, Request, Seen
from rlcli.datasets.episode_groups import Layout, numbered, scan
from rlcli.datasets.episode_rows import DEMO, EPISODE, Group, GroupSource
from rlcli.datasets.hdf5_groups import Array, EpisodeGroup, PlainGroups
from rlcli.errors import InputError
from rlcli.format.keys import Key
from rlcli.format.schema import Heap, heap_column

_LAYOUT = Layout("actions", "observations", "rewards", "done", fallback="env_infos/obs_dict")
_FILE: Key = (*EPISODE, "file")
_LOOKED_AT = 10_000  # entries of a folder, to see what it is
_MAX_FILES = 512  # that are open at once
_COMMANDED = ("data/ctrl_",)
_OBSERVED = ("data/rgb_", "data/d_", "data/depth_", "data/qp_", "data/qv_")


class Trial(EpisodeGroup):
    """A trial under the names of an agent's, whoever made it."""

    @cached_property
    def arrays(self) -> Mapping[str, Array]:
        found = super().arrays
        if "actions" in found or not any(name.startswith(_COMMANDED) for name in found):
            return found
        return {_agents_name(name): array for name, array in found.items()}


def _agents_name(name: str) -> str:
    for top, begins in (("actions", _COMMANDED), ("observations", _OBSERVED)):
        if name.startswith(begins):
            return f"{top}/{name.removeprefix('data/')}"
    return name


def detect(path: Path) -> Seen:
    """Whether `path` is HDF5 with `Trial<i>` groups, or a folder of such files."""
    files = _files(path, _LOOKED_AT)
    if not files or not hdf5.is_hdf5(files[0]):
        return Seen(False, "not an HDF5 file" if path.is_file() else "no HDF5 files with Trial<i> groups")
    with hdf5.reading(files[0]) as file, hdf5.damage(files[0]):
        trials = len(numbered(file, "Trial"))
    if not trials:
        return Seen(False, "no Trial<i> groups")
    return Seen(
        True, f"RoboSet HDF5, {len(files)} files" if path.is_dir() else f"RoboSet HDF5, {trials} trials"
    )


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[GroupSource]:
    """All trials of all files. Raises `InputError` for other files, `CorruptError` for damage."""
    files = _files(path)
    if len(files) > _MAX_FILES:
        raise InputError(f"{path}: {len(files):,} files, at most {_MAX_FILES} at once", path=path)
    with ExitStack() as stack:
        opened = [stack.enter_context(hdf5.reading(file)) for file in files]
        groups = [PlainGroups(file) for file in opened]

        def trial(label: str) -> EpisodeGroup:
            number, _, name = label.partition(":")
            return Trial(groups[int(number)], opened[int(number)], name)

        def open_group(label: str, rows: int) -> Group:
            group = trial(label)
            values: dict[Key, Any] = {DEMO: group.name.removeprefix("/")}
            if path.is_dir():
                values[_FILE] = group.path.relative_to(path).as_posix()
            return Group(group, values)

        found = scan(_labels(files, opened), trial, _LAYOUT, request)
        extra = [heap_column(DEMO, Heap("text"))]
        extra += [heap_column(_FILE, Heap("text"))] if path.is_dir() else []
        source = GroupSource(found, _LAYOUT, open_group, extra, request, where=path, files=files)
        with closing(source):
            yield source


def _labels(files: list[Path], opened: list[h5py.File]) -> Iterator[str]:
    """Every trial as `<number of its file>:<name>`."""
    for number, (path, file) in enumerate(zip(files, opened, strict=True)):
        with hdf5.damage(path):
            names = numbered(file, "Trial")
        yield from (f"{number}:{name}" for name in names)


def _files(path: Path, looked_at: int | None = None) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = itertools.islice(path.rglob("*"), looked_at)
    return sorted(file for file in found if file.suffix in (".h5", ".hdf5") and file.is_file())
