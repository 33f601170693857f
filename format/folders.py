"""What the format does with folders: what is in them, and what is done with everything below one.

As in `files.py` what makes, renames, syncs or removes goes through `layer`. Links are not followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rlcli.errors import CorruptError
from rlcli.format import files, layer


def make(path: Path) -> None:
    """A folder with its parents; nothing happens if it is there."""
    with files.resources(path):
        try:
            layer.current().mkdir(path)
        except FileNotFoundError:
            make(path.parent)
            make(path)
        except FileExistsError:
            if not path.is_dir():
                raise


def rename_new(source: Path, target: Path) -> None:
    """Renames a folder to a name that is free; raises `FileExistsError` if something is there by now."""
    try:
        with files.resources(target):
            layer.current().rename(source, target)
    except OSError as err:
        if err.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from err
        raise


def names(path: Path) -> list[str]:
    """Sorted names in a folder; none if it is missing, as an empty folder is in a clone or an archive.

    Raises `CorruptError` for a link that leads to itself.
    """
    try:
        return sorted(layer.current().names(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise CorruptError(f"{path}: a symbolic link to itself", path=path) from err
        with files.resources(path):
            raise


def links(path: Path) -> list[Path]:
    """Symbolic links to folders below `path`, or `path` itself; names that begin with a dot are left out."""
    if path.is_symlink():
        return [path]
    found = []
    for folder, inside, _ in _walk(path):
        inside[:] = [name for name in inside if not name.startswith(".")]
        found += [Path(folder) / name for name in inside if (Path(folder) / name).is_symlink()]
    return found


def space(path: Path) -> int:
    """Bytes of disk that a file, or everything in a folder, takes; 0 if it is missing."""
    found = [path, *(Path(folder) / name for folder, _, inside in _walk(path) for name in inside)]
    total = 0
    for each in found:
        with suppress(FileNotFoundError, NotADirectoryError):
            total += 512 * layer.current().stat(each).st_blocks
    return total


def newest_change(path: Path) -> float:
    """When the folder, or a file or folder in it, was last modified: seconds since 1970."""
    found = [path, *(Path(folder) / name for folder, inside, names_ in _walk(path)
                     for name in (*inside, *names_))]  # fmt: skip
    newest = 0.0
    for each in found:
        with suppress(FileNotFoundError):
            newest = max(newest, layer.current().stat(each).st_mtime)
    return newest


def sync(path: Path) -> None:
    """Syncs a folder's entries; one that is not there has none."""
    if not path.exists():
        return
    with files.resources(path):
        fd = layer.current().open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        layer.current().sync(fd)
    finally:
        files.close(fd)


def sync_tree(path: Path, *, data: bool) -> None:
    """Syncs every folder under `path`, and with `data` every file. Nothing happens if it is missing."""
    for folder, _, found in _walk(path):
        for name in found if data else ():
            files.sync_path(Path(folder) / name)
        sync(Path(folder))


def remove_tree(path: Path) -> None:
    """Removes a file, or a folder and what is in it, as far as that is possible; links are not followed."""
    system = layer.current()
    with suppress(OSError):
        if not stat.S_ISDIR(system.stat(path).st_mode):
            system.unlink(path)
            return
        for name in system.names(path):
            remove_tree(path / name)
        system.rmdir(path)


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that does not pass over a folder that cannot be listed; one that is missing has nothing."""

    def give_up(err: OSError) -> None:
        if not isinstance(err, FileNotFoundError | NotADirectoryError):
            files.raise_resource(err, path)
            raise err

    return os.walk(path, onerror=give_up)
