"""A reader of the format written from SPEC.md alone: numpy, json and xxhash, nothing of rlcli.
`read(path)` checks every hash and returns what the dataset holds. Slow and simple; it raises ValueError.
"""
# ruff: noqa: B905, E501

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import xxhash

BLOCK = 1 << 20
EPISODE = [("start", "int64"), ("length", "int64"), ("return", "float64"), ("terminated", "bool"),
           ("truncated", "bool"), ("cut", "bool"), ("has_final", "bool"), ("seed", "int64"),
           ("number", "int64")]  # fmt: skip


def need(condition, message):
    if not condition:
        raise ValueError(message)


def numpy_dtype(name):
    return np.dtype("uint16" if name == "bfloat16" else name).newbyteorder("<")


def checked_json(path):
    data = path.read_bytes()
    found = re.search(rb'"check": "([0-9a-f]{64})"\s*}\s*$', data)
    need(found, f"{path}: no check")
    zeroed = data[: found.start(1)] + b"0" * 64 + data[found.end(1) :]
    need(hashlib.sha256(zeroed).hexdigest() == found.group(1).decode(), f"{path}: check differs")
    return json.loads(data), hashlib.sha256(data).hexdigest()


def newest_manifest(root, uuid):
    numbers = sorted(int(p.stem) for p in (root / "manifests").glob("[0-9]*.json"))
    need(numbers == list(range(1, len(numbers) + 1)) and numbers, f"{root}: a manifest is missing")
    parent = None
    for number in numbers:
        manifest, digest = checked_json(root / "manifests" / f"{number:020d}.json")
        need(manifest["magic"] == "rl-manifest" and manifest["format"][0] == 1, "not a manifest of format 1")
        need(
            manifest["dataset"] == uuid and manifest["generation"] == number,
            f"manifest {number} is misplaced",
        )
        need(manifest["parent"] == parent, f"manifest {number}: parent differs")
        parent = {"generation": number, "sha256": digest}
    need(set(manifest["features"]["incompat"]) <= {"derived"}, "an unknown feature")
    need(manifest["kind"] == "log", "an unknown kind")
    return manifest


def journal(path, segment, uuid):
    """Rows, finals, episodes, commits and the generation of a seal, of the longest valid prefix."""
    rows = finals = 0
    episodes, commits, waiting, seal, crc = [], [], [], None, 0
    data = path.read_bytes()
    for number, at in enumerate(range(0, len(data), 64)):
        record = data[at : at + 64]
        need(
            len(record) == 64 and zlib.crc32(record[:60]) == struct.unpack("<I", record[60:])[0],
            f"{path}: {number}",
        )
        magic, kind, flags, stream, sequence = struct.unpack("<4sBBHQ", record[:16])
        need((magic, stream, sequence) == (b"RLJ1", segment["stream"], number), f"{path}: record {number}")
        need(struct.unpack("<I", record[56:60])[0] == crc and seal is None, f"{path}: chain at {number}")
        crc = struct.unpack("<I", record[60:])[0]
        a, b, c, _, e = struct.unpack("<5Q", record[16:56])
        if number == 0:
            need(kind == 0 and record[16:32].hex() == uuid, f"{path}: header")
        elif kind == 1:
            need(a == rows and rows + b <= segment["alloc"], f"{path}: rows of record {number}")
            new = sum(episode["has_final"] for episode in waiting)
            commits.append((a, b, c, finals, finals + new))
            rows, finals, episodes, waiting = rows + b, finals + new, episodes + waiting, []
        elif kind == 2:
            first, length, return_, which, seed = struct.unpack("<QQdqq", record[16:56])
            waiting.append({"start": first, "length": length, "return": return_, "number": which, "seed": seed,
                            "terminated": bool(flags & 1), "truncated": bool(flags & 2), "cut": bool(flags & 4),
                            "has_final": bool(flags & 8)})  # fmt: skip
        else:
            need(kind == 3 and (a, b, c) == (rows, len(episodes), finals) and not waiting, f"{path}: seal")
            seal = e
    return rows, finals, episodes, commits, seal


def tree(root, columns, rows, exact):
    """Arrays of a memmap tree: `columns` are (key, dtype, shape)."""
    arrays = []
    for key, dtype, shape in columns:
        path = root.joinpath(*key[:-1], key[-1] + ".memmap")
        size = exact * int(np.prod(shape, dtype=np.int64)) * numpy_dtype(dtype).itemsize
        data = path.read_bytes() if path.exists() or rows else b""
        need(
            len(data) == size or (exact == rows and not path.exists()),
            f"{path}: {len(data)} bytes, not {size}",
        )
        arrays.append(np.frombuffer(data, numpy_dtype(dtype)).reshape(-1, *shape)[:rows])
    return arrays


def check_sums(root, segment):
    path = root / "sums" / f"{segment['name']}.json"
    data = path.read_bytes()
    need(hashlib.sha256(data).hexdigest() == segment["sums"], f"{path}: differs from the manifest")
    for name, entry in json.loads(data)["files"].items():
        found = (root / name).read_bytes()
        blocks = [xxhash.xxh3_64_hexdigest(found[i : i + BLOCK]) for i in range(0, len(found), BLOCK)]
        need(len(found) == entry["bytes"] and blocks == entry["blocks"], f"{name}: differs from its sums")


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read(path):
    root = Path(path)
    identity, _ = checked_json(root / "dataset.json")
    need(identity["magic"] == "rl-dataset" and identity["format"][0] == 1, f"{root}: no dataset of format 1")
    manifest = newest_manifest(root, identity["uuid"])
    columns = manifest["schema"]["columns"]
    plain = [(tuple(c["key"]), c["dtype"], c["shape"]) for c in columns if c["encoding"] == "plain"]
    of = {key: (dtype, shape) for key, dtype, shape in plain}
    derived = [
        (tuple(c["key"]), *of[tuple(c["of"])], tuple(c["of"])) for c in columns if c["encoding"] == "derived"
    ]
    values = {key: [] for key, *_ in plain + derived}
    result = {"rows": [0] * len(manifest["streams"]), "episodes": [], "unknown_next": [], "parts": []}
    logical = 0
    for number in range(len(manifest["streams"])):
        stream = {key: [] for key, *_ in plain}
        ends, total = {}, 0
        for segment in (s for s in manifest["segments"] if s["stream"] == number):
            need(segment["first"] == total, f"{segment['name']} does not join")
            log = root / "journal" / f"{segment['name']}.log"
            rows, finals, episodes, commits, seal = journal(log, segment, identity["uuid"])
            data = tree(root / "segments" / segment["name"], plain, rows, segment["alloc"])
            last = tree(root / "finals" / segment["name"], [d[:3] for d in derived], finals, finals)
            if segment["state"] == "sealed":
                need(
                    seal and (rows, finals) == (segment["rows"], segment["finals"]),
                    f"{segment['name']}: counts",
                )
                check_sums(root, segment)
                table = tree(root / "episodes" / segment["name"], [((n,), d, []) for n, d in EPISODE], len(episodes),
                             len(episodes))  # fmt: skip
                for (name, _), column in zip(EPISODE, table):
                    need(
                        column.tolist() == [e[name] for e in episodes], f"{segment['name']}: episodes {name}"
                    )
            for first, count, digest, before, after in commits:
                parts = [a[first : first + count] for a in data] + [a[before:after] for a in last]
                hashes = b"".join(xxhash.xxh3_64_digest(p.tobytes()) for p in parts)
                need(xxhash.xxh3_64_intdigest(hashes) == digest, f"{segment['name']}: commit at row {first}")
            parts = [["column", list(k), d, s, rows, xxhash.xxh3_128_hexdigest(a.tobytes())]
                     for (k, d, s), a in zip(plain, data)]  # fmt: skip
            parts += [["final", list(k), d, s, finals, xxhash.xxh3_128_hexdigest(a.tobytes())]
                      for (k, d, s, _), a in zip(derived, last)]  # fmt: skip
            parts += [["episode", n, d, len(episodes), xxhash.xxh3_128_hexdigest(
                np.array([e[n] for e in episodes], numpy_dtype(d)).tobytes())] for n, d in EPISODE]  # fmt: skip
            content = hashlib.sha256(compact(parts)).hexdigest()
            need(segment.get("content", content) == content, f"{segment['name']}: content digest")
            if rows:
                result["parts"].append([number, segment["first"], rows, content])
            k = 0
            for episode in episodes:
                ends[episode["start"] + episode["length"] - 1] = (
                    [a[k] for a in last] if episode["has_final"] else None
                )
                k += episode["has_final"]
                result["episodes"].append({**episode, "start": episode["start"] + logical, "stream": number})
            for (key, *_), array in zip(plain, data):
                stream[key].append(array)
            total += rows
        joined = {
            k: np.concatenate(v) if v else np.zeros((0, *of[k][1]), numpy_dtype(of[k][0]))
            for k, v in stream.items()
        }
        for row in range(total if derived else 0):
            if ends.get(row, 0) is None or (row not in ends and row + 1 == total):
                result["unknown_next"].append(logical + row)
        for position, (key, _, _, source) in enumerate(derived):
            following = np.concatenate([joined[source][1:], np.zeros_like(joined[source][:1])])
            for row, final in ends.items():
                following[row] = 0 if final is None else final[position]
            values[key].append(following)
        for key, array in joined.items():
            values[key].append(array)
        result["rows"][number] = total
        logical += total
    result["columns"] = {key: np.concatenate(parts) for key, parts in values.items()}
    digest = {"schema": manifest["schema"], "segments": result.pop("parts"), "spec": manifest["spec"]}
    return {**result, "digest": hashlib.sha256(compact(digest)).hexdigest(), "manifest": manifest}
