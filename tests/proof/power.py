"""What a disk may hold after the power went, worked out from a record of every call on files.

`Recorder` is a layer that does each call and writes it down. A `Disk` that is told the first n of them knows
what they made durable and what they left to chance; `draw` makes one of the states that chance allows:

* the bytes of a page (4 KiB) are those of its last sync, or of any write since, or a mixture of two of these
  by sectors (512 bytes);
* a file's size is that of its last sync, or any since;
* names: with `ordered`, as on journalling file systems, all changes up to some moment, not before the last
  sync of anything; otherwise those of each folder up to some moment of its own, not before the last sync of
  that folder. The name of a new file goes with that file's own sync only with `ordered`.
"""

from __future__ import annotations

import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rlcli.format import layer

PAGE, SECTOR = 4096, 512


class Call(NamedTuple):
    """One call that changes a disk. `names` are the changes of a folder: (folder, name, inode or None)."""

    kind: str  # write, size, sync, names, told
    inode: int = 0
    offset: int = 0
    data: bytes = b""
    names: tuple[tuple[int, str, int | None], ...] = ()
    folder: bool = False
    told: Any = None


class Recorder(layer.Layer):
    """Does every call and keeps those that matter, from the folder `root` on, which is durable already."""

    def __init__(self, root: Path) -> None:
        self.calls: list[Call] = []
        self._ids: dict[int, int] = {}  # by inode number, which the system uses again after a removal
        self._next = 0
        self.root = self._new(os.stat(root).st_ino)

    def tell(self, what: Any) -> None:
        """Puts a mark between calls: what a writer has been promised by now."""
        self.calls.append(Call("told", told=what))

    def _new(self, inode: int) -> int:
        self._next += 1
        self._ids[inode] = self._next
        return self._next

    def _of(self, fd: int | Path) -> int:
        return self._ids.get(os.stat(fd).st_ino, 0)

    def _place(self, path: Path) -> tuple[int, str]:
        return self._of(path.parent), path.name

    def _named(self, *changes: tuple[tuple[int, str], int | None]) -> None:
        self.calls.append(Call("names", names=tuple((*place, inode) for place, inode in changes)))

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        is_new = flags & os.O_CREAT and not os.path.lexists(path)
        fd = super().open(path, flags, mode)
        if is_new:
            inode = self._new(os.fstat(fd).st_ino)
            self.calls.append(Call("size", inode))
            self._named((self._place(path), inode))
        return fd

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        written = super().pwrite(fd, data, offset)
        content = bytes(memoryview(data).cast("B")[:written])
        self.calls.append(Call("write", self._of(fd), offset, content))
        return written

    def punch(self, fd: int, offset: int, size: int) -> None:
        super().punch(fd, offset, size)
        self.calls.append(Call("write", self._of(fd), offset, bytes(size)))

    def _sized(self, fd: int) -> None:
        self.calls.append(Call("size", self._of(fd), os.fstat(fd).st_size))

    def fallocate(self, fd: int, size: int) -> None:
        super().fallocate(fd, size)
        self._sized(fd)

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._sized(fd)

    def datasync(self, fd: int) -> None:
        self.sync(fd)

    def sync(self, fd: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        self.calls.append(Call("sync", self._of(fd), folder=is_folder))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._named((self._place(target), self._of(target)))

    def rename(self, source: Path, target: Path) -> None:
        inode = self._of(source)
        super().rename(source, target)
        self._named((self._place(source), None), (self._place(target), inode))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._named((self._place(path), None))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._named((self._place(path), self._new(os.stat(path).st_ino)))

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._named((self._place(path), None))


@dataclass
class _File:
    """Versions since the last sync, that one first; of pages that were never written there is none."""

    sizes: list[int] = field(default_factory=lambda: [0])
    pages: dict[int, list[bytes]] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            versions = self.pages.setdefault(page, [bytes(PAGE)])
            low, high = max(offset, page * PAGE), min(offset + len(data), (page + 1) * PAGE)
            new = bytearray(versions[-1])
            new[low - page * PAGE : high - page * PAGE] = data[low - offset : high - offset]
            versions.append(bytes(new))
        if offset + len(data) > self.sizes[-1]:
            self.sizes.append(offset + len(data))

    def resize(self, size: int) -> None:
        if size < self.sizes[-1]:
            self.write(size, bytes(self.sizes[-1] - size))
        if size != self.sizes[-1]:
            self.sizes.append(size)

    def sync(self) -> None:
        del self.sizes[:-1]
        for versions in self.pages.values():
            del versions[:-1]


class Disk:
    """What is certain and what is open after some calls."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.files: dict[int, _File] = {}
        self.changes: list[tuple[tuple[int, str, int | None], ...]] = []
        self.synced = 0  # changes before any sync
        self.synced_by_folder: dict[int, int] = {}
        self.told: Any = None

    def do(self, call: Call) -> None:
        if call.kind == "told":
            self.told = call.told
        elif call.kind == "names":
            self.changes.append(call.names)
        elif call.kind == "sync":
            self.synced = len(self.changes)
            if call.folder:
                self.synced_by_folder[call.inode] = len(self.changes)
            elif call.inode in self.files:
                self.files[call.inode].sync()
        else:
            file = self.files.setdefault(call.inode, _File())
            if call.kind == "write":
                file.write(call.offset, call.data)
            else:
                file.resize(call.offset)

    def draw(self, rng: random.Random, *, ordered: bool, keep: float) -> dict[str, bytes | None]:
        """One possible state: contents by path, None for a folder. Each page or size that is open is the
        newest with probability `keep`; with 1 everything was written, with 0 what need not be is not.
        """
        folders = self._folders(rng, ordered, keep)
        state: dict[str, bytes | None] = {}

        def walk(folder: int, prefix: str) -> None:
            for name, inode in folders.get(folder, {}).items():
                if inode in self.files:
                    state[prefix + name] = self._content(self.files[inode], rng, keep)
                else:
                    state[prefix + name] = None
                    walk(inode, f"{prefix}{name}/")

        walk(self.root, "")
        return state

    def _folders(self, rng: random.Random, ordered: bool, keep: float) -> dict[int, dict[str, int]]:
        total = len(self.changes)

        def moment(least: int) -> int:
            draw = rng.random()
            return total if draw < keep else least if draw > 1 - (1 - keep) / 3 else rng.randint(least, total)

        stop = moment(self.synced)
        stops: dict[int, int] = {}
        folders: dict[int, dict[str, int]] = {}
        for position, change in enumerate(self.changes):
            for folder, name, inode in change:
                if not ordered:
                    if folder not in stops:
                        stops[folder] = moment(self.synced_by_folder.get(folder, 0))
                    stop = stops[folder]
                if position >= stop:
                    continue
                if inode is None:
                    folders.setdefault(folder, {}).pop(name, None)
                else:
                    folders.setdefault(folder, {})[name] = inode
        return folders

    @staticmethod
    def _content(file: _File, rng: random.Random, keep: float) -> bytes:
        def one(versions: list[Any]) -> Any:
            return versions[-1] if len(versions) == 1 or rng.random() < keep else rng.choice(versions)

        content = bytearray(one(file.sizes))
        for page, versions in file.pages.items():
            chosen = one(versions)
            if len(versions) > 1 and rng.random() > keep and rng.random() < 0.5:
                other = rng.choice(versions)
                torn = bytearray(chosen)
                for at in range(0, PAGE, SECTOR):
                    if rng.random() < 0.5:
                        torn[at : at + SECTOR] = other[at : at + SECTOR]
                chosen = bytes(torn)
            begin = page * PAGE
            part = chosen[: max(0, len(content) - begin)]
            content[begin : begin + len(part)] = part
        return bytes(content)


def put(state: dict[str, bytes | None], folder: Path) -> None:
    """Makes the files of a state in an empty folder."""
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
