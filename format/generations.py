"""The generations of a dataset: numbered manifests, put if absent. The highest number is the dataset.

SPEC.md section 4.
"""

from __future__ import annotations

import hashlib
import re
import uuid as uuids
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, ResourceError
from rlcli.format import bulk, files, folders, strictjson
from rlcli.format.location import Inside
from rlcli.format.manifest import MAX_ROWS, MAX_SEGMENTS, Manifest, Segment, parse

CHAIN = 64
MAX_BYTES = files.MOST_BYTES  # of a manifest
_NUMBERS = re.compile(r"(?:\A|/)([0-9]{20})\.json(?=/|\Z)")  # of names with a / between them


def name_of(generation: int) -> str:
    """Where a generation is inside its dataset."""
    return f"manifests/{generation:020d}.json"


def path_of(root: Path, generation: int) -> Path:
    return root / name_of(generation)


class GenerationTaken(CorruptError):
    """Another writer has published under the same number."""


def publish(
    root: Path, manifest: Manifest, *, durable: bool, before_link: Callable[[], None] | None = None
) -> Manifest:
    """Writes a manifest as a new generation and returns it with its SHA-256.

    `before_link` runs when the temporary file is there and the number is not: seals append their
    record then. Raises `GenerationTaken` if the number is: another writer was at work; `ResourceError`, with
    nothing done, if no reader would accept so large a manifest.
    """
    if len(manifest.segments) > MAX_SEGMENTS:
        raise _too_large(root, f"{len(manifest.segments):,} segments, at most {MAX_SEGMENTS:,} are allowed")
    if any(segment.first + segment.alloc > MAX_ROWS for segment in manifest.segments):
        raise ResourceError(f"{root}: a stream has at most {MAX_ROWS:,} rows", path=root)
    data = put(root, manifest.generation, manifest.to_file(), durable=durable, before_link=before_link)
    return replace(manifest, sha256=hashlib.sha256(data).hexdigest())


def put(
    root: Path,
    generation: int,
    value: dict[str, Any],
    *,
    durable: bool,
    before_link: Callable[[], None] | None = None,
) -> bytes:
    """`publish` of a manifest as JSON; returns the bytes of its file."""
    data = strictjson.dump_checked(value)
    if len(data) > MAX_BYTES:
        raise _too_large(root, f"a manifest of {len(data):,} bytes, at most {MAX_BYTES:,} are allowed")
    temporary = root / "manifests" / f".tmp-{generation}-{uuids.uuid4().hex}"
    target = path_of(root, generation)
    with files.told_as(target, temporary):
        files.write_new(temporary, data, durable=durable)
        if before_link is not None:
            if durable:
                folders.sync(root / "manifests")  # a seal record must not outlive what excuses it
            before_link()
        try:
            files.link_new(temporary, target)
        except (FileExistsError, FileNotFoundError) as err:
            if not files.is_same(temporary, target):  # a server's answer may be lost, and it be asked again
                files.remove(temporary)
                if not files.exists(target):
                    raise
                # Who has taken the number may have removed the temporary of a writer that was dead to it.
                what = "exists already; two writers were at work"
                raise GenerationTaken(f"{target}: {what}", path=target) from err
        if durable:
            folders.sync(root / "manifests")
        files.remove(temporary)
    return data


def _too_large(root: Path, what: str) -> ResourceError:
    return ResourceError(f"{root}: {what}", hint="rl buffer compact joins segments", path=root)


def published(root: Path) -> list[int]:
    """The published generations, ascending."""
    return [int(number) for number in _NUMBERS.findall("/".join(bulk.names(root, "manifests")))]


def check_without_gap(root: Path, numbers: list[int]) -> None:
    """Raises `CorruptError` naming the first generation that is not there, or that cannot be.

    A folder that is listed while names are added may show a later one without an earlier one; so what was not
    listed is asked for.
    """
    expected = 1
    for found in numbers:
        while expected < found and files.exists(path_of(root, expected)):
            expected += 1
        if found != expected:
            path = path_of(root, min(found, expected))
            what = "missing" if found > expected else "generations begin at 1"
            raise CorruptError(f"{path}: {what}", path=path)
        expected += 1


def temporary_exists(root: Path, generation: int) -> bool:
    prefix = f".tmp-{generation}-"
    return any(name.startswith(prefix) for name in folders.names(root / "manifests"))


def load(root: Path, dataset: str, generation: int) -> Manifest:
    """One generation, checked by itself. Raises `CorruptError` or `IncompatibleError`, naming the file."""
    path = path_of(root, generation)
    return parse(files.read(path), path, dataset, generation)


def load_newest(root: Path, dataset: str, *, chain: int = CHAIN) -> Manifest:
    """The newest generation, with the hashes of the last `chain` ones checked. Never falls back to an older
    one.
    """
    numbers = published(root)
    if not numbers:
        raise CorruptError(f"{root / 'manifests'}: no manifest", path=root / "manifests")
    check_without_gap(root, numbers)
    names = [name_of(generation) for generation in numbers[:-3:-1]]
    first, *further = bulk.read_whole(root, names)
    newest = parse(first, Inside(root, names[0]), dataset, numbers[-1])
    parent = newest.parent
    for generation in numbers[-2 : -chain - 1 : -1]:
        data = further.pop() if further else files.read(path_of(root, generation))
        if parent != {"generation": generation, "sha256": hashlib.sha256(data).hexdigest()}:
            path = path_of(root, generation)
            raise CorruptError(
                f"{path}: SHA-256 differs from what generation {generation + 1} says", path=path
            )
        if generation > numbers[-1] - chain + 1 or generation == 1:
            parent = strictjson.load(data, path_of(root, generation)).get("parent")
    if numbers[-1] <= chain and parent is not None:
        path = path_of(root, 1)
        raise CorruptError(f"{path}: the first generation has a parent", path=path)
    return newest


def advance(root: Path, known: Manifest) -> Manifest:
    """The newest generation, found from one that was the newest before: each in between is checked."""
    while files.exists(path_of(root, known.generation + 1)):
        following = load(root, known.dataset, known.generation + 1)
        if following.parent != {"generation": known.generation, "sha256": known.sha256}:
            path = path_of(root, known.generation)
            raise CorruptError(
                f"{path}: SHA-256 differs from what generation {following.generation} says", path=path
            )
        known = following
    return known


def still_lists(root: Path, known: Manifest, segment: Segment) -> bool:
    """The newest generation, found from a `known` one, has the same entry: its files must all be there."""
    return segment in advance(root, known).segments
