"""How a writer comes to a dataset that is there: alone, or beside others. SPEC.md section 10.

In both ways what killed writers left is recovered first. What the writer then does is in `writer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlcli.format import dataset_json, generations, recover
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest
from rlcli.format.publishing import cut_leftovers
from rlcli.format.recovery_report import RecoveryReport


class Entered(NamedTuple):
    """What a writer then holds: its lock, the newest manifest, and the numbers of its streams in it."""

    lock: WriterLock
    newest: Manifest
    streams: Sequence[int]
    report: RecoveryReport


def alone(
    path: Path, *, lineage: dict[str, Any], owner: dict[str, Any], rewind: Sequence[int] | None
) -> Entered:
    """With all streams. See `Writer.append`."""
    identity = dataset_json.load(path)
    lock = WriterLock.exclusive(path)
    try:
        before = generations.load_newest(path, identity["uuid"])
        own = range(len(before.streams))
        owners = dict.fromkeys(own, owner)
        newest, report = recover.take_over(path, before, lineage=[lineage], owners=owners, rewind=rewind)
    except BaseException:
        lock.close()
        raise
    return Entered(lock, newest, own, report)


def beside_others(path: Path, *, lineage: dict[str, Any], owner: dict[str, Any], num_streams: int) -> Entered:
    """With streams that no living writer has, and new ones where these are too few. See `Writer.join`."""
    identity = dataset_json.load(path)
    lock = WriterLock.shared(path)
    try:
        with lock.publishing():
            before = generations.load_newest(path, identity["uuid"])
            known = len(before.streams)
            free = [number for number in range(known) if lock.take(number)]
            own = (free + list(range(known, known + num_streams)))[:num_streams]
            for number in own[len(free) :]:
                lock.take(number)
            dead = [number for number in free if recover.is_left_open(before, number)]
            owners = {number: owner if number in own else None for number in sorted({*own, *dead})}
            cut_leftovers(path, before, lock)
            newest, report = recover.take_over(path, before, lineage=[lineage], owners=owners)
            for number in lock.streams.difference(own):
                lock.release(number)
    except BaseException:
        lock.close()
        raise
    return Entered(lock, newest, own, report)
