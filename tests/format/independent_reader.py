"""A reader of the format written from SPEC.md alone: numpy, json and xxhash, nothing of rlcli.
`read(path)` checks every hash and returns what the dataset holds. Slow and simple; it raises ValueError for what is
corrupt, NotImplementedError for what version 1.0 does not know, FileNotFoundError if there is no dataset. Values of heaps
stay in their codec. As a program it takes a dataset's path and answers as `tests/conformance.py` asks.
"""
# ruff: noqa: B905, E501, E741, SIM905
# fmt: off

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import xxhash

BLOCK = 1 << 20
EPISODE = [("start", "int64"), ("length", "int64"), ("return", "float64"), ("terminated", "bool"), ("truncated", "bool"), ("cut", "bool"), ("has_final", "bool"), ("seed", "int64"), ("number", "int64")]

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+=@.-]{0,62}")
DTYPES = set("bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64".split())
CODECS = ("none", "zstd", "lz4", "png", "jpeg")

def know(condition, message):
    if not condition:
        raise NotImplementedError(message)

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
        need(manifest["magic"] == "rl-manifest", "not a manifest")
        know(manifest["format"][0] == 1, "not format 1")
        need(manifest["dataset"] == uuid and manifest["generation"] == number, f"manifest {number} is misplaced")
        need(manifest["parent"] == parent, f"manifest {number}: parent differs")
        parent = {"generation": number, "sha256": digest}
    know(set(manifest["features"]["incompat"]) <= {"derived", "heap", "window"}, "an unknown feature")
    know(manifest["kind"] in ("log", "window"), "an unknown kind")
    return manifest

def schema(columns):
    """Stored columns, finals, heaps and stacks of a schema: handles stand in the place of their heap."""
    stored, finals, heaps, of = [], [], [], {}
    for c in columns:
        key = tuple(c["key"])
        know(1 <= len(key) <= 16 and all(isinstance(p, str) and PART.fullmatch(p) for p in key), f"key {key}")
        know(c["encoding"] in ("plain", "heap", "derived"), f"encoding {c['encoding']}")
        if c["encoding"] == "plain" or (c["encoding"] == "heap" and c["value"] == "array"):
            know(c["dtype"] in DTYPES and all(type(n) is int and (n > 0 or c["encoding"] == "heap") for n in c["shape"]), f"{c}")
        if c["encoding"] == "plain":
            of[key] = (c["dtype"], c["shape"])
            stored.append((key, c["dtype"], c["shape"]))
        elif c["encoding"] == "heap":
            know(c["value"] in ("bytes", "text", "array") and c["codec"] in CODECS and 0 < c["limit"] <= 1 << 31, f"{c}")
            heaps.append((key, c))
            stored += [((*key, "off"), "int64", []), ((*key, "len"), "int64", [])]
    for c in (c for c in columns if c["encoding"] == "derived"):
        know(c["op"] == "stack" or (c["op"] == "shift" and c["by"] == 1), f"{c}")
        key, source = tuple(c["key"]), tuple(c["of"])
        if c["op"] == "shift" and source in of:
            finals.append((key, *of[source], source))
        elif c["op"] == "shift":
            know(source in [key for key, _ in heaps], f"{c}")
            finals += [((*key, n), "int64", [], (*source, n)) for n in ("off", "len")]
    stacks = [(tuple(c["key"]), tuple(c["of"]), c["frames"]) for c in columns if c.get("op") == "stack"]
    return stored, finals, heaps, stacks

def journal(path, segment, uuid):
    """Rows, finals, episodes, commits and the generation of a seal, of the longest valid prefix."""
    rows = finals = 0
    episodes, commits, waiting, seal, crc = [], [], [], None, 0
    data = path.read_bytes()
    for number, at in enumerate(range(0, len(data), 64)):
        record = data[at : at + 64]
        need(len(record) == 64 and zlib.crc32(record[:60]) == struct.unpack("<I", record[60:])[0], f"{path}: {number}")
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
                            "terminated": bool(flags & 1), "truncated": bool(flags & 2), "cut": bool(flags & 4), "has_final": bool(flags & 8)})
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
        need(len(data) == size or (exact == rows and not path.exists()), f"{path}: {len(data)} bytes, not {size}")
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

def heap_bytes(root, segment, heaps, stored, data, derived, last):
    found = []  # per heap its bytes, and a function that says where it ends after some rows and finals
    for key, entry in heaps:
        path = root / "heaps" / segment["name"] / ("/".join(key) + ".heap")
        off, length = (data[[k for k, *_ in stored].index((*key, n))] for n in ("off", "len"))
        of = [source for *_, source in derived]
        finals = [last[of.index((*key, n))] if (*key, n) in of else off[:0] for n in ("off", "len")]

        def end(rows, count, pairs=((off, length), finals)):
            parts = [(o[:n].astype(object) + l[:n].astype(object)) for (o, l), n in zip(pairs, (rows, count))]
            return max((int(v) for part in parts for v in part), default=0)

        need(all((a >= 0).all() for a in (off, length, *finals)), f"{path}: a handle is negative")
        content = path.read_bytes() if path.exists() else b""
        total = end(len(off), len(finals[0]))
        need(len(content) >= total, f"{path}: {len(content)} bytes, values reach to {total}")
        need(segment["state"] == "open" or len(content) == total, f"{path}: longer than its values")
        starts = zip([*off.tolist(), *finals[0].tolist()], [*length.tolist(), *finals[1].tolist()])
        for value in {content[a : a + n] for a, n in starts}:
            check_value(path, entry, value)
        found.append((content[:total], end))
    return found

def check_value(path, entry, value):
    """A stored value that needs no decoder has a lawful size; text is UTF-8; a PNG image declares the schema's size."""
    if entry["codec"] == "png":
        width, height, bits, colour = struct.unpack(">IIBB", value[16:26])
        need(value[:8] == b"\x89PNG\r\n\x1a\n" and colour in (0, 2, 3, 6), f"{path}: not a PNG")
        channels, shape = {0: 1, 2: 3, 3: 3, 6: 4}[colour], entry["shape"]
        need([height, width, channels] == [*shape, 1][:3], f"{path}: {height} x {width} x {channels}, not {shape}")
        need(max(bits, 8) == 8 * numpy_dtype(entry["dtype"]).itemsize, f"{path}: {bits} bits")
    if entry["codec"] != "none":
        return
    size = len(value)
    need(size <= entry["limit"], f"{path}: a value of {size} bytes, {entry['limit']} are allowed")
    if entry["value"] == "array":
        item = int(np.prod([n for n in entry["shape"] if n > 0], dtype=np.int64)) * numpy_dtype(entry["dtype"]).itemsize
        need(size % item == 0 if -1 in entry["shape"] else size == item, f"{path}: {size} bytes are no array")
    elif entry["value"] == "text" and entry["codec"] == "none":
        value.decode("utf-8")

def read(path):
    root = Path(path)
    if not (root / "dataset.json").exists() and not (root / "manifests").is_dir():
        raise FileNotFoundError(root)
    identity, _ = checked_json(root / "dataset.json")
    need(identity["magic"] == "rl-dataset", f"{root}: no dataset")
    know(identity["format"][0] == 1, "not format 1")
    manifest = newest_manifest(root, identity["uuid"])
    listed = {f"{s['name']}.log" for s in manifest["segments"]}
    for log in (p for p in root.glob("journal/*.log") if p.name not in listed and p.stat().st_size > 64):
        later = int.from_bytes(log.read_bytes()[48:56], "little")
        need(later <= manifest["generation"] or list(root.glob(f"manifests/.tmp-{later}-*")), f"manifest {later} is missing")
    columns = manifest["schema"]["columns"]
    plain, derived, heaps, stacks = schema(columns)
    of = {key: (dtype, shape) for key, dtype, shape, *_ in [*plain, *derived]}
    shifts = {tuple(c["key"]): tuple(c["of"]) for c in columns if c.get("op") == "shift"}
    values = {key: [] for key in [*of, *(key for key, *_ in stacks)]}
    stored = {key: [] for key in [key for key, _ in heaps] + [d for d, k in shifts.items() if k not in of]}
    result = {"rows": [], "episodes": [], "unknown_next": [], "parts": []}
    logical = 0
    window = manifest["window"]["rows"] if manifest["kind"] == "window" else None
    for number in range(len(manifest["streams"])):
        stream = {key: [] for key, *_ in plain}
        own = [s for s in manifest["segments"] if s["stream"] == number]
        begin = total = own[0]["first"] if own else 0
        need(begin == 0 or window is not None, "a log begins at row 0")
        ends, content = {}, {key: [] for key, _ in heaps}  # of each row its heap's bytes
        for segment in own:
            need(segment["first"] == total, f"{segment['name']} does not join")
            log = root / "journal" / f"{segment['name']}.log"
            rows, finals, episodes, commits, seal = journal(log, segment, identity["uuid"])
            data = tree(root / "segments" / segment["name"], plain, rows, segment["alloc"])
            last = tree(root / "finals" / segment["name"], [d[:3] for d in derived], finals, finals)
            need(segment["state"] == "sealed" or not seal or list(root.glob(f"manifests/.tmp-{seal}-*")), f"manifest {seal} is missing")
            if segment["state"] == "sealed":
                need(seal and (rows, finals) == (segment["rows"], segment["finals"]), f"{segment['name']}: counts")
                check_sums(root, segment)
                table = tree(root / "episodes" / segment["name"], [((n,), d, []) for n, d in EPISODE], len(episodes), len(episodes))
                need(all(c.tolist() == [e[n] for e in episodes] for (n, _), c in zip(EPISODE, table)), f"{segment['name']}: episodes")
            blobs = heap_bytes(root, segment, heaps, plain, data, derived, last)
            for first, count, digest, before, after in commits:
                parts = [a[first : first + count].tobytes() for a in data] + [a[before:after].tobytes() for a in last]
                parts += [blob[end(first, before) : end(first + count, after)] for blob, end in blobs]
                hashes = b"".join(xxhash.xxh3_64_digest(part) for part in parts)
                need(xxhash.xxh3_64_intdigest(hashes) == digest, f"{segment['name']}: commit at row {first}")
            parts = [["column", list(k), d, s, rows, xxhash.xxh3_128_hexdigest(a.tobytes())] for (k, d, s), a in zip(plain, data)]
            parts += [["final", list(k), d, s, finals, xxhash.xxh3_128_hexdigest(a.tobytes())] for (k, d, s, _), a in zip(derived, last)]
            parts += [["episode", n, d, len(episodes), xxhash.xxh3_128_hexdigest(np.array([e[n] for e in episodes], numpy_dtype(d)).tobytes())] for n, d in EPISODE]
            parts += [["heap", list(k), {n: v for n, v in entry.items() if n != "key"}, len(blob), xxhash.xxh3_128_hexdigest(blob)] for (k, entry), (blob, _) in zip(heaps, blobs)]
            digest = hashlib.sha256(compact(parts)).hexdigest()
            need(segment.get("content", digest) == digest, f"{segment['name']}: content digest")
            if rows:
                result["parts"].append([number, segment["first"], rows, digest])
            for k, episode in zip(np.cumsum([0, *(e["has_final"] for e in episodes)]), episodes):
                ends[episode["start"] + episode["length"] - 1 - begin] = [a[k] for a in last] if episode["has_final"] else None
                result["episodes"].append({**episode, "stream": number})
            for (key, _), (blob, _) in zip(heaps, blobs):
                content[key] += [blob] * rows
            for (key, *_), array in zip(plain, data):
                stream[key].append(array)
            total += rows
        joined = {k: np.concatenate(v) if v else np.zeros((0, *of[k][1]), numpy_dtype(of[k][0])) for k, v in stream.items()}
        count, skip = total - begin, 0 if window is None else max(0, total - begin - window)
        unknown = [row for row in range(count if shifts or derived else 0) if ends.get(row, 0) is None or (row not in ends and row + 1 == count)]
        for position, (key, _, _, source) in enumerate(derived):
            following = np.concatenate([joined[source][1:], np.zeros_like(joined[source][:1])])
            for row, final in ends.items():
                following[row] = 0 if final is None else final[position]
            joined[key] = following
        for key, source in [(k, k) for k, _ in heaps] + [(d, k) for d, k in shifts.items() if k not in of]:
            for row in range(skip, count):
                shifted = key != source
                blob = b"" if row in unknown and shifted else content[source][row + (shifted and row not in ends)]
                off, length = int(joined[*key, "off"][row]), int(joined[*key, "len"][row])
                stored[key].append(None if row in unknown and shifted else blob[off : off + length])
        for key, source, frames in stacks:
            start, found = skip, []
            for row in range(skip, count):
                late = source in shifts
                array = joined[shifts[source]] if late else joined[source]
                rows = [max(start, row + late - frames + 1 + j) for j in range(frames - late)]
                found.append(np.stack([array[r] for r in rows] + [joined[source][row]] * late))
                start = row + 1 if row in ends else start
            empty = np.zeros((0, frames, *joined[source].shape[1:]), joined[source].dtype)
            values[key].append(np.array(found, joined[source].dtype) if found else empty)
        for key, array in joined.items():
            values[key].append(array[skip:])
        mine = [e for e in result["episodes"] if e["stream"] == number]
        result["episodes"] = [e for e in result["episodes"] if e["stream"] != number]
        result["episodes"] += [{**e, "start": e["start"] - begin - skip + logical} for e in mine if e["start"] >= begin + skip]
        result["unknown_next"] += [logical + row - skip for row in unknown if row >= skip]
        result["rows"].append(total)
        logical += count - skip
    result["columns"] = {key: np.concatenate(parts) for key, parts in values.items()}
    digest = {"schema": manifest["schema"], "segments": result.pop("parts"), "spec": manifest["spec"]}
    result |= {"stored": stored, "digest": hashlib.sha256(compact(digest)).hexdigest(), "manifest": manifest}
    return result

def answer(path):
    try:
        found = read(path)
    except (ValueError, KeyError, TypeError, OSError, struct.error) as err:
        return {"error": "input" if isinstance(err, FileNotFoundError) and not (Path(path) / "manifests").exists() else "corrupt"}
    except NotImplementedError:
        return {"error": "incompatible"}
    sums = {}
    for column in found["manifest"]["schema"]["columns"]:
        key = tuple(column["key"])
        if key in found["stored"]:
            parts = [b"\xff" * 8 if v is None else len(v).to_bytes(8, "little") + v for v in found["stored"][key]]
            sums["/".join(key)] = hashlib.sha256(b"".join(parts)).hexdigest()
        else:
            sums["/".join(key)] = hashlib.sha256(found["columns"][key].tobytes()).hexdigest()
    names = [name for name, _ in EPISODE] + ["stream"]
    return {"schema": found["manifest"]["schema"], "rows": found["rows"], "digest": found["digest"], "columns": sums, "unknown_next": found["unknown_next"], "episodes": {n: [e[n] for e in found["episodes"]] for n in names}}

if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[1])))
