"""Makes the damaged golden datasets: one per way to be wrong. Like `make.py`, run it only into new names:

    python tests/golden/make_bad.py tests/golden/bad

Each is a small sound dataset, then changed; `expected.json` says what a reader must answer, and its exit
code.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.format import strictjson
from rlcli.format.heap_file import HeapWriter
from rlcli.format.schema import Column, Heap, Schema, heap_column, shift_column
from rlcli.format.writer import Writer

CODES = {"corrupt": 4, "incompatible": 5, "input": 3}
X, TEXT = Column(("x",), "float32", (2,)), heap_column(("prompt",), Heap("text", "none", 100))
IMAGE = heap_column(("image",), Heap("array", "png", 100), "uint8", (2, 3, 3))
SCHEMA = Schema((X, TEXT, shift_column(("next", "x"), X)))

Change = Callable[[Path], object]


def _write(path: Path, schema: Schema = SCHEMA, values: dict[tuple[str, ...], Any] | None = None) -> Writer:
    writer = Writer.create(path, schema, spec={}, lineage={"op": "golden"}, segment_rows=4)
    rows = [np.arange(6, dtype=np.float32).reshape(3, 2), [b"go", b"stop", b"go"]]
    if values is not None:
        rows = [values[column.key] for column in schema.given]
    writer.write_arrays(0, rows, len(rows[0]))  # not compared with the schema
    return writer


def _live(path: Path) -> None:
    """Left open by a writer that died, three rows committed."""
    writer = _write(path)
    writer.commit()
    writer.abort()


def _sealed(path: Path) -> None:
    writer = _write(path)
    writer.end_episode(0, terminated=True, truncated=False, final={X.key: np.ones(2, np.float32)})
    writer.close()


def _file(path: Path, pattern: str) -> Path:
    return sorted(path.glob(pattern))[-1]


def _flip(pattern: str, at: int = 3) -> Change:
    def change(path: Path) -> None:
        file = _file(path, pattern)
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)

    return change


def _resize(pattern: str, by: int) -> Change:
    def change(path: Path) -> None:
        file = _file(path, pattern)
        data = file.read_bytes()
        file.write_bytes(data[:by] if by < 0 else data + bytes(by))

    return change


def _delete(pattern: str) -> Change:
    return lambda path: _file(path, pattern).unlink()


def _rewrite(pattern: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """Changes a JSON file and gives it the right `check`."""

    def rewrite(path: Path) -> None:
        file = _file(path, pattern)
        value = json.loads(file.read_text())
        change(value)
        file.write_bytes(strictjson.dump_checked(value))

    return rewrite


def _newest(**members: Any) -> Change:
    return _rewrite("manifests/*.json", lambda value: value.update(members))


def _column(number: int, **members: Any) -> Change:
    return _rewrite("manifests/*.json", lambda value: value["schema"]["columns"][number].update(members))


def _link(path: Path) -> None:
    column = _file(path, "segments/*/x.memmap")
    column.unlink()
    column.symlink_to("meta.json")


def _handle(path: Path) -> None:
    """A writer that makes a mistake: the hashes are right, a handle is not."""

    class Mistaken(HeapWriter):
        def add(self, values: Any) -> Any:
            off, length = super().add(values)
            return off + np.arange(len(off)) // 2 * 1000, length

    import rlcli.format.segment as segment

    segment.HeapWriter = Mistaken  # type: ignore[misc]
    try:
        _live(path)
    finally:
        segment.HeapWriter = HeapWriter  # type: ignore[misc]


def _text(path: Path) -> None:
    values = {X.key: np.zeros((1, 2), np.float32), TEXT.key: [b"\xff\xfe"]}
    writer = _write(path, values=values)
    writer.commit()
    writer.abort()


def _image(path: Path) -> None:
    from make import png

    writer = _write(path, Schema((IMAGE,)), {IMAGE.key: [png(np.zeros((3, 2, 3), np.uint8))]})
    writer.commit()
    writer.abort()


def _long_text(path: Path) -> None:
    values = {X.key: np.zeros((1, 2), np.float32), TEXT.key: [b"a" * 101]}
    writer = _write(path, values=values)
    writer.commit()
    writer.abort()


def _nothing(path: Path) -> None:
    path.mkdir()
    (path / "note.txt").write_text("no dataset\n")


BAD: dict[str, tuple[str, Change, Change | None]] = {
    "identity-flipped": ("corrupt", _live, _flip("dataset.json", 60)),
    "identity-missing": ("corrupt", _live, _delete("dataset.json")),
    "manifest-flipped": ("corrupt", _live, _flip("manifests/*.json", 90)),
    "manifest-first-missing": ("corrupt", _live, _delete("manifests/*1.json")),
    "manifest-newest-missing": ("corrupt", _sealed, _delete("manifests/*.json")),
    "manifest-parent": ("corrupt", _live, _newest(parent={"generation": 1, "sha256": "0" * 64})),
    "column-flipped": ("corrupt", _live, _flip("segments/*/x.memmap")),
    "column-short": ("corrupt", _live, _resize("segments/*/x.memmap", -1)),
    "column-long": ("corrupt", _live, _resize("segments/*/x.memmap", 1)),
    "column-missing": ("corrupt", _live, _delete("segments/*/x.memmap")),
    "column-linked": ("corrupt", _live, _link),
    "sealed-column-flipped": ("corrupt", _sealed, _flip("segments/*/x.memmap")),
    "final-flipped": ("corrupt", _sealed, _flip("finals/*/next/x.memmap")),
    "episodes-flipped": ("corrupt", _sealed, _flip("episodes/*/return.memmap")),
    "sums-flipped": ("corrupt", _sealed, _flip("sums/*.json", 200)),
    "meta-flipped": ("corrupt", _sealed, _flip("segments/*/meta.json", 10)),
    "journal-flipped": ("corrupt", _live, _flip("journal/*.log", 100)),
    "journal-sealed-cut": ("corrupt", _sealed, _resize("journal/*.log", -64)),
    "heap-flipped": ("corrupt", _live, _flip("heaps/*/prompt.heap")),
    "heap-short": ("corrupt", _live, _resize("heaps/*/prompt.heap", -1)),
    "heap-missing": ("corrupt", _live, _delete("heaps/*/prompt.heap")),
    "heap-handle-outside": ("corrupt", _handle, None),
    "heap-text-not-utf8": ("corrupt", _text, None),
    "heap-value-beyond-limit": ("corrupt", _long_text, None),
    "heap-image-of-another-size": ("corrupt", _image, None),
    "major-two": ("incompatible", _live, _rewrite("dataset.json", lambda value: value.update(format=[2, 0]))),
    "feature-unknown": (
        "incompatible",
        _live,
        _newest(features={"incompat": ["telepathy"], "ro_compat": [], "compat": []}),
    ),
    "kind-unknown": ("incompatible", _live, _newest(kind="ring")),
    "encoding-unknown": ("incompatible", _live, _column(0, encoding="delta")),
    "dtype-unknown": ("incompatible", _live, _column(0, dtype="float8")),
    "codec-unknown": ("incompatible", _live, _column(1, codec="pickle")),
    "key-outside": ("incompatible", _live, _column(0, key=["..", "x"])),
    "no-dataset": ("input", _nothing, None),
}


def main(folder: Path) -> None:
    expected = {}
    for name, (error, make, change) in BAD.items():
        expected[name] = {"error": error, "exit": CODES[error]}
        if (folder / name).exists():
            continue
        make(folder / name)
        if change is not None:
            change(folder / name)
        for empty in [
            path for path in (folder / name).iterdir() if path.is_dir() and not any(path.iterdir())
        ]:
            shutil.rmtree(empty)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
