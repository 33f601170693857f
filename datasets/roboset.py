"""RoboSet HDF5 (RoboHive traces): `Trial<i>` groups, a file or a folder of them (one per seed).

A trial of an agent has `actions`, `observations`, `rewards`, `done`, `time`, `env_infos/…`. One of a robot
has `data`, in which cameras (`rgb_…`, `d_…`) and joints (`qp_…`, `qv_…`) are observed and what was commanded
(`ctrl_arm`, `ctrl_ee`) is the action; the rest goes along. What is per step is a column; the next observation
of a trial's last step is not in the file. In a folder every episode says its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from rlcli.datasets.contract import NoOptions, Request, Seen
from rlcli.datasets.episode_files import count_in, open_files
from rlcli.datasets.episode_groups import Layout, scan
from rlcli.datasets.episode_rows import DEMO, Group, GroupSource
from rlcli.datasets.hdf5_groups import Array, EpisodeGroup
from rlcli.format.keys import Key
from rlcli.format.schema import Heap, heap_column

_LAYOUT = Layout("actions", "observations", "rewards", "done", fallback="env_infos/obs_dict")
_GROUPS = ("/", "Trial")
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
    files, trials = count_in(path, *_GROUPS)
    if not files:
        return Seen(False, "not an HDF5 file" if path.is_file() else "no HDF5 files with Trial<i> groups")
    if not trials:
        return Seen(False, "no Trial<i> groups")
    return Seen(True, f"RoboSet HDF5, {files} files" if path.is_dir() else f"RoboSet HDF5, {trials} trials")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[GroupSource]:
    """All trials of all files. Raises `InputError` for other files, `CorruptError` for damage."""
    with open_files(path, *_GROUPS) as files:

        def trial(label: str) -> EpisodeGroup:
            return files.group(label, Trial)

        def open_group(label: str, rows: int) -> Group:
            group = trial(label)
            values: dict[Key, Any] = {DEMO: group.name.removeprefix("/"), **files.values(label)}
            return Group(group, values)

        extra = [heap_column(DEMO, Heap("text")), *files.columns]
        with files.fitting():
            found = scan(files.labels(), trial, _LAYOUT, request)
            source = GroupSource(found, _LAYOUT, open_group, extra, request, where=path, files=files.files)
        with closing(source):
            yield source
