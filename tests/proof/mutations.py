"""Datasets that are changed at will, by bytes that a fuzzer chooses, and what readers make of them.

`Target.run(data)` is one case: `data` chooses a dataset, some changes and a way of reading. A change is raw
(a bit, a cut, a copy, a swap of a file's bytes) or signed: JSON members and journal fields are edited, and
then every digest above them is worked out anew, so that the change gets past the hashes. A reader must either
say that the dataset is wrong, or, after raw changes, hand out what was written; in less than a second and
256 MiB, without changing a file, or looking at one that is elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import known_rows
import numpy as np
from known_rows import KnownWriter, Violation, require

from rlcli.errors import CorruptError, IncompatibleError, InputError, MissingExtraError
from rlcli.format import layer, strictjson, sums
from rlcli.format.dataset import Dataset
from rlcli.format.journal import RECORD
from rlcli.format.pack import pack, unpack
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

ALLOWED = (InputError, CorruptError, IncompatibleError)
SECONDS, BYTES = 1.0, 256 << 20
EXTREMES: tuple[Any, ...] = (
    *(0, 1, -1, 7, 255, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 53, -(1 << 53), 1 << 63, 0.5, 1e308),
    *(True, False, None, "", "..", "../../etc/passwd", "/etc/passwd", "segments", "\0", "é", "a" * 300),
    *("w00-000000000000", "w99-000000000000", [], {}, [[]], [{}], {"a": 1}),
)


class Choices:
    """Numbers from a fuzzer's bytes; when they run out, from a generator that they seed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._further = random.Random(zlib.crc32(data))

    def below(self, limit: int) -> int:
        size = 1 if limit <= 256 else 4
        part = self._data[self._at : self._at + size]
        self._at += size
        return (
            int.from_bytes(part, "little") if len(part) == size else self._further.getrandbits(8 * size)
        ) % limit

    def of(self, items: Any) -> Any:
        return items[self.below(len(items))]


class _Watching(layer.Layer):
    """Lets a reader read, below one folder only."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def _inside(self, path: Path) -> None:
        place = os.path.normpath(path)
        require(place == self._root or place.startswith(self._root + "/"), "wrong", f"{path} was looked at")

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        self._inside(path)
        require(
            not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC), "wrong", f"{path} to be written"
        )
        return super().open(path, flags, mode)

    def stat(self, path: Path) -> os.stat_result:
        self._inside(path)
        return super().stat(path)

    def names(self, path: Path) -> list[str]:
        self._inside(path)
        return super().names(path)


def _make(path: Path, *, window: int | None, close: bool) -> None:
    known = KnownWriter(
        Writer.create(
            path, known_rows.schema(heap=True), spec={"env": None}, lineage={"op": "test"}, num_streams=2,
            segment_rows=16, window=window, durability="process",
        )
    )  # fmt: skip
    for _ in range(7):
        for stream in range(2):
            known.write(stream, 5)
        known.commit()
    known.close() if close else known.writer.abort()


class Target:
    """Three datasets and a packed one in `folder`; `counts` says how cases ended."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.datasets = [folder / name / "ds" for name in ("sealed", "open", "window")]
        for path, (window, close) in zip(
            self.datasets, ((None, True), (None, False), (20, False)), strict=True
        ):
            path.parent.mkdir()
            _make(path, window=window, close=close)
        self.packed = folder / "packed.rlz"
        pack(self.datasets[0], self.packed)
        self._packed = self.packed.read_bytes()
        self._files = [
            {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
            for path in self.datasets
        ]
        for path in self.datasets:  # imports what is imported late, fills caches
            self._read(path, "touch", True)

    def run(self, data: bytes) -> None:
        """One case. Raises `Violation` if a promise is broken."""
        choices = Choices(data)
        self.counts["cases"] += 1
        if choices.below(8) == 0:
            self._run_packed(choices)
            return
        number = choices.below(len(self.datasets))
        path, files = self.datasets[number], self._files[number]
        changed: dict[Path, bytes] = {}
        signed = bool(choices.below(2))
        for _ in range(1 + choices.below(3)):
            change = _signed if signed else _raw
            changed.update(change(choices, path, {**files, **changed}))
        changed = {file: content for file, content in changed.items() if content != files[file]}
        try:
            for file, content in changed.items():
                file.write_bytes(content)
            before = _state(path)
            limits = _Limits()
            check = choices.of(("touch", "touch", "none"))
            with layer.use(_Watching(path)):
                self._case(path, check, exact=not signed)
            limits.check()
            require(_state(path) == before, "wrong", "a reader changed a file")
        finally:
            for file in changed:
                file.write_bytes(files[file])

    def _case(self, path: Path, check: Any, *, exact: bool) -> None:
        try:
            self._read(path, check, exact and check == "touch")
        except ALLOWED as err:
            self.counts[type(err).__name__] += 1
        except MissingExtraError:
            self.counts["codec not installed"] += 1
        else:
            self.counts["read"] += 1
        try:
            self.counts["verified" if not verify(path, deep=True) else "problems"] += 1
        except ALLOWED:
            self.counts["problems"] += 1
        except MissingExtraError:
            self.counts["codec not installed"] += 1

    def _run_packed(self, choices: Choices) -> None:
        out = self.packed.parent / "unpacked"
        limits = _Limits()
        self.packed.write_bytes(_bytes_changed(choices, self._packed))
        try:
            unpack(self.packed, out)
        except ALLOWED as err:
            self.counts[f"unpack: {type(err).__name__}"] += 1
        else:
            with Dataset.open(out) as dataset:
                known_rows.check(dataset)
            self.counts["unpacked"] += 1
        finally:
            shutil.rmtree(out, ignore_errors=True)
        limits.check()

    @staticmethod
    def _read(path: Path, check: Any, exact: bool) -> None:
        """Touches everything; `exact`: it must be what was written."""
        with Dataset.open(path, check=check) as dataset:
            dataset.read_rows()
            dataset.gather(np.arange(dataset.num_rows))
            assert len(dataset.episodes) <= len(dataset.episodes_all())
            assert dataset.digest
            assert dataset.snapshot["rows"] == dataset.stream_rows
            assert len(dataset.unknown_next) <= max(dataset.num_rows, 0)
            if exact:
                known_rows.check(dataset)


class _Limits:
    """The processor time and the memory of one case: not what a fuzzer's own notes grow by over many."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now
        self._resident = _high_water()
        self._begun = time.process_time()

    def check(self) -> None:
        seconds = time.process_time() - self._begun
        require(seconds < SECONDS, "wrong", f"{seconds:.2f} seconds")
        more = _high_water() - self._resident
        require(more < BYTES, "wrong", f"{more} bytes of memory")


def _high_water() -> int:
    """Bytes of memory, as many as were resident at once since the mark was last set back."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _state(path: Path) -> list[tuple[str, int, int]]:
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            stat = os.stat(os.path.join(folder, name))
            found.append((f"{folder}/{name}", stat.st_size, stat.st_mtime_ns))
    return sorted(found)


# Raw changes.


def _bytes_changed(choices: Choices, data: bytes) -> bytes:
    changed = bytearray(data)
    size = len(data)
    if not size:
        return bytes([choices.below(256)])
    at, length = choices.below(size), 1 + choices.below(min(size, 200))
    kind = choices.below(8)
    if kind == 0:
        changed[at] ^= 1 << choices.below(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        del changed[at : at + length]
    elif kind == 3:
        changed[at:at] = changed[at : at + length]
    elif kind == 4:
        other = choices.below(size)
        first, second = changed[at : at + length], changed[other : other + length]
        changed[at : at + len(second)] = second
        changed[other : other + len(first)] = first
    elif kind == 5:
        changed[at : at + length] = bytes(length)
    elif kind == 6:
        changed[at] = choices.below(256)
    else:
        changed += bytes(length)
    return bytes(changed)


def _raw(choices: Choices, path: Path, files: dict[Path, bytes]) -> dict[Path, bytes]:
    small = sorted(files)
    file = choices.of(small)
    if choices.below(10) == 0:  # a file in the place of another
        return {file: files[choices.of(small)]}
    return {file: _bytes_changed(choices, files[file])}


# Signed changes.


def _edit(choices: Choices, value: Any, everything: Any) -> Any:
    """Changes one place in a JSON value: another value, one from elsewhere in it, none, twice."""
    if isinstance(value, (dict, list)) and value and choices.below(5):
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = choices.of(list(copy)) if isinstance(copy, dict) else choices.below(len(copy))
        kind = choices.below(8)
        if kind == 0:
            del copy[key]
        elif kind == 1 and isinstance(copy, list):
            copy.insert(key, copy[key])
        elif kind == 1:
            copy[choices.of((f"{key}x", "..", "../x", "a/b"))] = copy[key]
        else:
            copy[key] = _edit(choices, copy[key], everything)
        return copy
    kind = choices.below(4)
    if kind == 0 and isinstance(value, int):
        return value + choices.of((1, -1, 2, 16, 4096, 1 << 32))
    if kind == 1:
        return _somewhere(choices, everything)
    return choices.of(EXTREMES)


def _somewhere(choices: Choices, value: Any) -> Any:
    while isinstance(value, (dict, list)) and value and choices.below(6):
        value = choices.of(list(value.values()) if isinstance(value, dict) else value)
    return value


def _newest(path: Path, files: dict[Path, bytes]) -> Path:
    return max(file for file in files if file.parent == path / "manifests")


def _signed(choices: Choices, path: Path, files: dict[Path, bytes]) -> dict[Path, bytes]:
    newest = _newest(path, files)
    kind = choices.below(4)
    try:
        if kind == 0:
            file = choices.of((newest, newest, newest, path / "dataset.json"))
            value = json.loads(files[file])
            return {file: strictjson.dump_checked(_edit(choices, value, value))}
        if kind == 1:
            file = choices.of(sorted(file for file in files if file.parent.name == "sums") or [newest])
            value = json.loads(files[file])
            return _resigned(path, files, {file: strictjson.dump(_edit(choices, value, value))})
        if kind == 2:
            file = choices.of(sorted(file for file in files if file.suffix == ".log"))
            return _resigned(path, files, {file: _journal_edited(choices, files[file])})
        names = (".json", ".memmap", ".heap", ".log")
        inside = [
            f for f in sorted(files) if f.suffix in names and f.parent.name not in ("manifests", "sums")
        ]
        file = choices.of([f for f in inside if f.name != "dataset.json"])
        if file.name == "meta.json" and choices.below(2):
            value = json.loads(files[file])
            return _resigned(path, files, {file: json.dumps(_edit(choices, value, value)).encode()})
        content = files[file]
        if choices.below(2) and len(content) >= 8:  # a handle, a length, a flag
            at = choices.below(len(content) // 8) * 8
            number = choices.of([n for n in EXTREMES if type(n) is int and n < 1 << 63])
            content = content[:at] + number.to_bytes(8, "little", signed=True) + content[at + 8 :]
        else:
            content = _bytes_changed(choices, content)
        return _resigned(path, files, {file: content})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}  # an earlier change has left nothing that could be signed


def _journal_edited(choices: Choices, data: bytes) -> bytes:
    """Records with other fields, in another order, twice or gone; CRCs, chain and numbers are right."""
    records = [bytearray(data[at : at + RECORD]) for at in range(0, len(data), RECORD)]
    at = choices.below(len(records))
    kind = choices.below(6)
    if kind == 0:
        del records[at]
    elif kind == 1:
        records.insert(at, bytearray(records[choices.below(len(records))]))
    elif kind == 2:
        other = choices.below(len(records))
        records[at], records[other] = records[other], records[at]
    else:
        offset = choices.of((4, 5, 6, 16, 24, 32, 40, 48))
        size = 1 if offset < 6 else 2 if offset == 6 else 8
        number = (
            choices.of([n for n in EXTREMES if type(n) is int]) if choices.below(2) else choices.below(64)
        )
        records[at][offset : offset + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
    crc = 0
    for number, record in enumerate(records):
        if len(record) == RECORD:
            record[8:16] = number.to_bytes(8, "little")
            record[56:60] = crc.to_bytes(4, "little")
            crc = zlib.crc32(bytes(record[:60]))
            record[60:64] = crc.to_bytes(4, "little")
    return b"".join(records)


def _resigned(path: Path, files: dict[Path, bytes], changed: dict[Path, bytes]) -> dict[Path, bytes]:
    """The changes with the sums and the newest manifest that they need."""
    newest = _newest(path, files)
    value = json.loads(files[newest])
    found = dict(changed)
    for entry in value["segments"]:
        if entry.get("state") != "sealed":
            continue
        file = path / "sums" / f"{entry['name']}.json"
        content = found.get(file, files.get(file))
        if content is None:
            continue
        table = json.loads(content)
        for name in list(table["files"]) if isinstance(table.get("files"), dict) else ():
            if (path / name) in changed:
                total = sums.of_bytes(changed[path / name])
                table["files"][name] = {"bytes": total.bytes, "blocks": list(total.blocks)}
        if file not in changed:
            content = strictjson.dump(table)
        found[file] = content
        entry["sums"] = hashlib.sha256(content).hexdigest()
        parts = table["files"].values() if isinstance(table.get("files"), dict) else ()
        sizes = [part["bytes"] for part in parts if isinstance(part, dict) and type(part.get("bytes")) is int]
        entry["bytes"] = max(sum(sizes), 0)
    found[newest] = strictjson.dump_checked(value)
    return {file: content for file, content in found.items() if file in files}


def fuzz(
    folder: Path, choose: Callable[[], bytes], until: Callable[[Target], bool]
) -> tuple[Target, list[str]]:
    """Cases until `until` says so; returns the target and what was violated, with the bytes that show it."""
    target, violations = Target(folder), []
    while not until(target):
        data = choose()
        try:
            target.run(data)
        except Violation as err:
            violations.append(f"{data.hex()}: {err}")
        except Exception as err:  # noqa: BLE001 - whatever is not an RLError is what is looked for
            frame = sys.exc_info()[2]
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = (
                "" if frame is None else f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
            )
            violations.append(f"{data.hex()}: {type(err).__name__}: {err} ({where})")
    return target, violations
