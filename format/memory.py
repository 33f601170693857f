"""How much memory this process may use: the machine's, or what its control group leaves of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def allowed_bytes(groups: Path = _PROC, mount: Path = _MOUNT) -> int:
    """The least of the machine's memory and the limits of the control groups (version 1 and 2) above us.

    Pages of mapped files count: beyond the limit they are dropped and read again.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder, name in group_folders(groups, mount):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue  # the root has none, and a container may not see its group
        if text.isdecimal():  # otherwise `max`
            limits.append(int(text))
    return min(limits)


def group_folders(groups: Path = _PROC, mount: Path = _MOUNT) -> Iterator[tuple[Path, str]]:
    """Folders of this process's control groups for memory, inner ones first, and the limit's file there."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        path = PurePosixPath(group)
        for above in (path, *path.parents):
            yield root / str(above).lstrip("/"), name
