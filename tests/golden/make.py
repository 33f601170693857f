"""Makes the golden datasets of the current format version. Run it only for a new version, into new names:

    python tests/golden/make.py tests/golden

Existing ones are never made again: they stand for what earlier releases wrote.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.heap import Encoded
from rlcli.format.keys import DTYPES, Key
from rlcli.format.schema import Column, Heap, Schema, heap_column, shift_column, stack_column, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer

LINEAGE = {"op": "golden"}


def dtypes(path: Path) -> None:
    """Every dtype, shapes of several axes, nested keys; no derived column, two segments."""
    columns = [Column((name,), name, (n % 3 + 1,)) for n, name in enumerate(DTYPES)]
    columns.append(Column(("a", "b", "c.d"), "int16", (2, 1, 3)))
    rng = np.random.default_rng(1)
    with Writer.create(path, Schema(tuple(columns)), spec={}, lineage=LINEAGE, segment_rows=6) as writer:
        for rows in (1, 4, 5):
            values = {c.key: rng.integers(0, 2, (rows, *c.shape)).astype(c.numpy) for c in columns}
            writer.write(0, values)
            writer.commit(tag=rows)
        writer.end_episode(0, terminated=True, truncated=False, seed=2**63 + 1)


def derived(path: Path, *, finish: str = "close") -> None:
    """Two streams, nested observations, episodes over segment ends, finals known and unknown."""
    spec = Composite({"image": Box((2, 2), "uint8"), "speed": Box((), "float64")})
    rng = np.random.default_rng(2)
    schema = ted_schema(spec, Discrete(3), extra=[Column(("log_prob",), "float32")])
    writer = EpisodeWriter(
        Writer.create(
            path,
            schema,
            spec={"env": None, "observation": spec.to_json(), "action": Discrete(3).to_json()},
            lineage=LINEAGE,
            num_streams=2,
            segment_rows=16,
            extra={"note": "golden"},
        ),
        chunk_rows=5,
    )

    def value() -> dict[str, Any]:
        return {"image": rng.integers(0, 255, (2, 2)).astype(np.uint8), "speed": rng.normal()}

    writer.begin(0, 7)
    for t in range(21):
        for stream in range(2):
            end = t % (6 + stream) == 5
            observation, following = value(), None if t == 12 else value()
            writer.add(
                stream,
                observation=observation,
                action=t % 3,
                reward=float(np.float32(0.1 * t)),
                terminated=end and stream == 0,
                truncated=end and stream == 1,
                next_observation=following if end else None,
                log_prob=-0.5 * t,
            )
    if finish == "close":
        writer.close({0: value()})
    else:
        writer.flush()
        writer.writer.abort()


def killed(path: Path) -> None:
    """The same, left open by a writer that died."""
    derived(path, finish="kill")


def recovered(path: Path) -> None:
    """The same, taken over twice and rewound: early sealed segments, a cut episode, a suffixed segment."""
    derived(path, finish="kill")
    Writer.append(path, lineage={"op": "golden again"}).close()
    Writer.append(path, lineage={"op": "golden rewind"}, rewind=[19, 10]).close()


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """An 8-bit RGB image, not compressed, so that its bytes depend on no library."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    data = stored + struct.pack(">I", zlib.adler32(rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def zstd(data: bytes) -> bytes:
    """A Zstandard frame of one raw block that declares its size."""
    return (
        struct.pack("<IBB", 0xFD2FB528, 0x20, len(data)) + (len(data) << 3 | 1).to_bytes(3, "little") + data
    )


def lz4(data: bytes) -> bytes:
    """An LZ4 frame of one block that is not compressed and declares its size."""
    header = struct.pack("<BBQ", 0x68, 0x40, len(data))
    check = bytes([xxhash.xxh32_intdigest(header) >> 8 & 0xFF])
    block = struct.pack("<I", 1 << 31 | len(data)) + data
    return struct.pack("<I", 0x184D2204) + header + check + block + bytes(4)


JPEG = base64.b64decode(  # 8 x 8 grey pixels, libjpeg, quality 20
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDACgcHiMeGSgjISMtKygwPGRBPDc3PHtYXUlkkYCZlo+AjIqgtObDoKrarYqMyP/L2u71"
    "////m8H////6/+b9//j/wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUF"
    "BAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
    "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi"
    "4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/AIFsPav/2Q=="
)


def heaps(path: Path) -> None:
    """A heap column of every kind of value and codec, in two streams of several segments, killed and resumed.
    Finals of shifted text and images are known but one.
    """
    limit = 1000
    image = heap_column(("observation", "image"), Heap("array", "png", limit), "uint8", (2, 3, 3))
    text = heap_column(("observation", "text"), Heap("text", "none", limit))
    columns = [image, text]
    packs: dict[Any, Callable[[bytes], bytes]] = {"none": bytes, "zstd": zstd, "lz4": lz4}
    for codec in packs:
        columns.append(heap_column(("b", codec), Heap("bytes", codec, limit)))
        columns.append(heap_column(("a", codec), Heap("array", codec, limit), "int16", (-1, 2)))
    columns.append(heap_column(("a", "jpeg"), Heap("array", "jpeg", limit), "uint8", (8, 8)))
    columns.append(Column(("next", "reward"), "float32", (1,)))
    columns += [shift_column(("next", *c.key), c) for c in (image, text)]
    rng = np.random.default_rng(3)
    writer = Writer.create(
        path, Schema(tuple(columns)), spec={}, lineage=LINEAGE, num_streams=2, segment_rows=8
    )
    for t in range(11):
        for stream in range(2):
            pixels = rng.integers(0, 256, (2, 3, 3)).astype(np.uint8)
            row: dict[Key, Any] = {
                image.key: [png(pixels)],
                text.key: [("", "go left", "zurück ←", "go left")[t % 4]],
                ("a", "jpeg"): [JPEG],
                ("next", "reward"): np.full((1, 1), t, np.float32),
            }
            for codec, pack in packs.items():
                value = rng.bytes(t % 3 * 4)
                row["b", codec] = [Encoded(pack(value) if value else b"")]
                row["a", codec] = [Encoded(pack(value) if value else b"")]
            writer.write(stream, row)
            if t % 5 == 4:
                final = {image.key: png(255 - pixels), text.key: f"end {t}"}
                known = (t, stream) != (4, 1)
                writer.end_episode(stream, terminated=True, truncated=False, final=final if known else None)
        writer.commit()
        if t == 6:
            rows = writer.stream_rows
            writer.abort()
            writer = Writer.append(path, lineage=LINEAGE, rewind=rows)
    writer.close()


def open_heaps(path: Path) -> None:
    """A text heap that a killed writer left open, with bytes behind the last commit."""
    column = heap_column(("prompt",), Heap("text", "none", 100))
    schema = Schema((column, Column(("n",), "int32")))
    writer = Writer.create(path, schema, spec={}, lineage=LINEAGE, segment_rows=8)
    for n in range(5):
        writer.write(0, {column.key: [f"prompt {n % 2}"], ("n",): np.array([n], np.int32)})
        if n < 4:
            writer.commit()
    writer.write(0, {column.key: ["not committed"], ("n",): np.array([9], np.int32)})
    writer.abort()


def stacks(path: Path, *, window: int | None = None) -> None:
    """Stacks of frames and of next frames over segments, short episodes, known and unknown finals."""
    base = ted_schema(Composite({"frame": Box((2, 2), "uint8")}), Discrete(3))
    frame, following = base.column(("observation", "frame")), base.column(("next", "observation", "frame"))
    extra = [stack_column(("stacked",), frame, 3), stack_column(("next", "stacked"), following, 3)]
    schema = Schema((*base.columns, *extra))
    writer = EpisodeWriter(
        Writer.create(path, schema, spec={}, lineage=LINEAGE, num_streams=2, segment_rows=8, window=window),
        chunk_rows=3,
    )
    rng = np.random.default_rng(4)
    for t in range(18):
        for stream in range(2):
            end = (t + stream) % 7 in (1, 6)
            now, then = ({"frame": rng.integers(0, 256, (2, 2)).astype(np.uint8)} for _ in range(2))
            writer.add(
                stream,
                observation=now,
                action=0,
                reward=1.0,
                terminated=end,
                truncated=False,
                next_observation=then if end and t != 6 else None,
            )
    writer.close()


def windowed(path: Path) -> None:
    """A window of 10 rows a stream out of 18: segments have left, episodes lost their beginning."""
    stacks(path, window=10)


GOLDEN = {
    "v1-dtypes": dtypes,
    "v1-derived": derived,
    "v1-killed": killed,
    "v1-recovered": recovered,
    "v1-heaps": heaps,
    "v1-heap-open": open_heaps,
    "v1-stacks": stacks,
    "v1-window": windowed,
}


def expectation(path: Path) -> dict[str, Any]:
    """What every reader must find: SPEC.md in one object. See `tests/conformance.py`."""
    with Dataset.open(path) as dataset:
        columns = {}
        rows = np.arange(dataset.num_rows)
        for column in dataset.schema.columns:
            if column.heap is None:
                data = dataset.read(column.key).tobytes()
            else:
                values = dataset.encoded(column.key, rows)
                parts = (b"\xff" * 8 if v is None else len(v).to_bytes(8, "little") + v for v in values)
                data = b"".join(parts)
            columns["/".join(column.key)] = hashlib.sha256(data).hexdigest()
        episodes = {name.rstrip("_"): values.tolist() for name, values in vars(dataset.episodes).items()}
        return {
            "schema": dataset.schema.to_json(),
            "rows": dataset.stream_rows,
            "digest": dataset.digest,
            "columns": columns,
            "unknown_next": dataset.unknown_next.tolist(),
            "episodes": episodes,
        }


def hashes(folder: Path) -> str:
    """SHA-256 of every golden file, as `sha256sum` writes it; of a link, of where it points."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            lines.append(f"{hashlib.sha256(str(path.readlink()).encode()).hexdigest()}  {name}")
        elif path.is_file() and path.suffix != ".py" and "/" in name:
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    for name, make in GOLDEN.items():
        if not (folder / name).exists():
            make(folder / name)
            text = json.dumps(expectation(folder / name), indent=1)
            (folder / f"{name}.expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
