"""Outputs that appear whole or not at all: they grow under a hidden name beside their place, then take it.

Nothing is ever overwritten, and what an error, a signal or a full disk leaves behind is removed.
"""

from __future__ import annotations

import glob
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rlcli import console
from rlcli.errors import InputError, UsageError
from rlcli.format import files, folders
from rlcli.format.creation import stale_siblings
from rlcli.format.gc import GRACE_SECONDS


def refuse_existing(out: Path) -> None:
    """Raise `UsageError` if there is something at `out`, a dangling link too, or if it lies in a dataset; and
    for `-`, which is no name for what is more than a stream of bytes.
    """
    if str(out) == "-":
        raise UsageError("-: this output cannot go to standard output; name a new file or folder")
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; nothing is overwritten", path=out)
    refuse_inside(out)


def refuse_inside(out: Path) -> None:
    """Raise `UsageError` if `out` lies in a dataset, where `rl buffer gc` might take it for garbage."""
    for folder in Path(os.path.realpath(out)).parents:
        if os.path.isfile(folder / "dataset.json") and os.path.isdir(folder / "manifests"):
            raise UsageError(f"{out}: lies inside the dataset {folder}; choose another place", path=out)


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A free name beside `out` for the output while it grows, in a folder that is made if need be.

    What is left there at the end is removed, and made folders with it; so is what a process that was killed
    left there more than an hour ago. Errors about what is in it are told as errors about `out`.
    """
    temporary = out.with_name(f".{out.name}.tmp-{uuid.uuid4().hex}")
    made = [folder for folder in out.absolute().parents if not folder.exists()]
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as err:
        raise InputError(f"{out}: {err.filename} is a file, expected a folder", path=out) from err
    _remove_stale(out.absolute())
    try:
        with console.terminable(), files.told_as(out, temporary):
            try:
                yield temporary
            except OSError as err:
                if err.filename is None:  # of a write, which knows no name
                    files.raise_resource(err, out)
                raise
    finally:
        folders.remove_tree(temporary)
        for folder in made:
            with suppress(OSError):  # not empty: the output is there
                folder.rmdir()


def _remove_stale(out: Path) -> None:
    """Removes what killed processes left beside `out`: files, datasets, and datasets in their creation."""
    for folder in stale_siblings(out, older_than=GRACE_SECONDS):
        shutil.rmtree(folder, ignore_errors=True)
    for file in out.parent.glob(f".{glob.escape(out.name)}.tmp-*"):
        with suppress(OSError):  # another conversion was faster
            if stat.S_ISREG(file.lstat().st_mode) and time.time() - file.lstat().st_mtime > GRACE_SECONDS:
                file.unlink()


def publish(temporary: Path, out: Path) -> None:
    """The finished output takes its name, unless something took it meanwhile."""
    publish_all([(temporary, out)])


def publish_all(outputs: Sequence[tuple[Path, Path]]) -> None:
    """Finished outputs, each with its place, take their names: all of them or, after an error, none."""
    with ExitStack() as undone:
        for temporary, out in outputs:
            refuse_existing(out)
            folder = os.open(out.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.rename(temporary, out)
                undone.callback(_take_back, out, temporary)
                os.fsync(folder)
            finally:
                os.close(folder)
        undone.pop_all()


def _take_back(out: Path, temporary: Path) -> None:
    with suppress(OSError):  # the error before is the one to tell
        os.rename(out, temporary)
