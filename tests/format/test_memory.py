"""The memory a process may use, from made-up control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlcli.format.memory import allowed_bytes

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def tree(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mount" / name).write_text(text)
    (folder / "groups").write_text(groups)
    return folder / "groups", folder / "mount"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "4096\n"}, 4096),
        ("0::/a/b\n", {"a/b/memory.max": "1024\n", "a/memory.max": "4096\n"}, 1024),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "8192\n"}, 8192),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, MACHINE),
        ("7:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "1\n"}, MACHINE),
        ("0::/gone\n", {}, MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str, files: dict[str, str], limit: int) -> None:
    assert allowed_bytes(*tree(tmp_path, groups, files)) == limit


def test_without_groups_it_is_the_machine(tmp_path: Path) -> None:
    assert allowed_bytes(tmp_path / "none", tmp_path) == MACHINE
