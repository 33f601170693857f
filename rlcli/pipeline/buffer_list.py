"""`rl buffer ls`: which datasets there are below some folders, one line each, broken ones too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.errors import InputError, RLError
from rlcli.format.dataset import Dataset

SIZE_WIDTH = 10
MIN_ERROR_WIDTH = 24


def list_datasets(paths: Iterable[Path]) -> tuple[dict[str, Any], str]:
    """Every dataset at or below `paths`, also those inside runs: facts and one line of text each.

    What looks like a dataset but cannot be opened is listed with its error. Hidden folders and symbolic links
    to folders that are no datasets are passed by. Raises `InputError` for a path that does not exist.
    """
    entries = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such folder", path=path)
        entries += [_entry(found) for found in find(path)]
    return {"datasets": entries}, _list_text(entries) if entries else "no datasets"


def find(folder: Path) -> Iterator[Path]:
    """The datasets at or below a folder, by name, not descending into any."""
    if is_dataset(folder):
        yield folder
        return
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except NotADirectoryError:
        return
    except PermissionError as err:
        console.warn(f"{folder}: {err.strerror}")
        return
    for child in children:
        path = Path(child.path)
        if child.name.startswith(".") or not child.is_dir():
            continue
        if not child.is_symlink():
            yield from find(path)
        elif is_dataset(path):
            yield path


def is_dataset(folder: Path) -> bool:
    """It is one, or was one before it lost its `dataset.json`."""
    inside = ("manifests", "journal", "segments")
    return os.path.isfile(folder / "dataset.json") or all(os.path.isdir(folder / name) for name in inside)


def disk_bytes(folder: Path) -> int:
    """Bytes that a folder's files occupy; reserved or punched ranges count as the file system counts them."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:  # a writer replaced it
                continue
    return total


def _entry(path: Path) -> dict[str, Any]:
    try:
        with Dataset.open(path) as dataset:
            env = dataset.spec.get("env")
            return {
                "path": path,
                "env": env and env["id"],
                "rows": dataset.num_rows,
                "episodes": dataset.num_episodes,
                "bytes": dataset.size_bytes,
                "disk_bytes": disk_bytes(path),
                "state": dataset.state,
                "uuid": dataset.uuid,
            }
    except RLError as err:
        return {
            "path": path,
            "error": err.message.removeprefix(f"{path}").lstrip("/: "),
            "code": int(err.code),
        }
    except OSError as err:
        return {"path": path, "error": err.strerror or str(err), "code": 3}


def _list_text(entries: list[dict[str, Any]]) -> str:
    """One line each; of an error as much as fits, `rl buffer verify` has the rest."""
    names = ["dataset", "rows", "episodes", "on disk", "state", "environment"]
    rows: list[list[Any]] = []
    for entry in entries:
        if "error" in entry:
            rows.append([entry["path"], None, None, None, "broken", ""])
        else:
            size = console.bytes_text(entry["disk_bytes"]).rjust(SIZE_WIDTH)
            rows.append(
                [entry["path"], entry["rows"], entry["episodes"], size, entry["state"], entry["env"] or "–"]
            )
    widest = max(len(line) for line in console.table(names[:-1], [row[:-1] for row in rows]).splitlines())
    room = max(MIN_ERROR_WIDTH, shutil.get_terminal_size().columns - widest - 2)
    for entry, row in zip(entries, rows, strict=True):
        if "error" in entry:
            error = entry["error"]
            row[-1] = error if len(error) <= room else f"…{error[1 - room :]}"  # what is wrong stands last
    return console.table(names, rows)
