"""The 64-byte records that commit rows and episodes. SPEC.md section 7."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from rlcli import _native

RECORD = 64
MAGIC = b"RLJ1"
HEADER, ROWS, EPISODE, SEAL = 0, 1, 2, 3
DURABLE = 1
TERMINATED, TRUNCATED, CUT, HAS_FINAL = 1, 2, 4, 8
NO_SEED = (1 << 64) - 1

_HEAD = struct.Struct("<4sBBHQ16s16sQI")
_ROWS = struct.Struct("<4sBBHQQQQQQI")
_EPISODE = struct.Struct("<4sBBHQQQdqQI")
_CRC = struct.Struct("<I")


class Episode(NamedTuple):
    """One episode record. Rows are stream rows; `seed` is `NO_SEED` if unknown."""

    first: int
    rows: int
    return_: float
    number: int
    seed: int
    flags: int


class Commit(NamedTuple):
    """One rows record: rows `first … first + rows` of the segment, `finals` of the segment before and after
    it.
    """

    first: int
    rows: int
    hash: int
    tag: int
    durable: bool
    finals_before: int
    finals: int
    end: int  # byte in the journal


class Packer(_native.JournalTail):
    """Makes the records of one segment's journal, each chained to the one before.

    The row path makes its rows records natively, from the same chain.
    """

    def _seal(self, body: bytes) -> bytes:
        self.crc = zlib.crc32(body)
        self.sequence += 1
        return body + _CRC.pack(self.crc)

    def header(self, dataset: str, boot: str, generation: int) -> bytes:
        self.size = RECORD
        uuid, boot_id = bytes.fromhex(dataset), bytes.fromhex(boot)
        return self._seal(
            _HEAD.pack(MAGIC, HEADER, 0, self.stream, self.sequence, uuid, boot_id, generation, self.crc)
        )

    def rows(self, first: int, rows: int, hash_: int, time_ns: int, tag: int, durable: bool) -> bytes:
        return self._seal(
            _ROWS.pack(
                MAGIC, ROWS, durable, self.stream, self.sequence, first, rows, hash_, time_ns, tag, self.crc
            )
        )

    def episode(self, episode: Episode) -> bytes:
        first, rows, return_, number, seed, flags = episode
        return self._seal(
            _EPISODE.pack(
                MAGIC,
                EPISODE,
                flags,
                self.stream,
                self.sequence,
                first,
                rows,
                return_,
                number,
                seed,
                self.crc,
            )
        )

    def seal(self, rows: int, episodes: int, finals: int, time_ns: int, generation: int) -> bytes:
        return self._seal(
            _ROWS.pack(
                MAGIC,
                SEAL,
                0,
                self.stream,
                self.sequence,
                rows,
                episodes,
                finals,
                time_ns,
                generation,
                self.crc,
            )
        )


@dataclass
class Journal:
    """What a journal says, read front to back and continued as it grows.

    `feed` takes the bytes from `offset` on. Everything up to `offset` is whole commits; `rows`, `episodes`
    and `finals` are the committed counts.
    """

    stream: int
    dataset: str
    first_row: int
    alloc: int
    boot: str = ""
    generation: int = 0
    offset: int = 0
    rows: int = 0
    finals: int = 0
    sealed_by: int | None = None
    commits: list[Commit] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    crc: int = 0
    sequence: int = 0
    episode_end: int | None = None
    _crc_before_seal: int = 0

    def unseal(self) -> int:
        """Forgets the seal record, which a writer may cut while no manifest lists the segment as sealed.

        Returns how long the journal is without it.
        """
        self.sealed_by = None
        self.crc, self.sequence, self.offset = self._crc_before_seal, self.sequence - 1, self.offset - RECORD
        return self.offset

    def cut(self, rows: int, ended: int) -> None:
        """Forgets what came after an older snapshot of `rows` stream rows, whose last episode ended before
        row `ended`. It cannot be continued then.
        """
        self.rows = min(self.rows, rows - self.first_row)
        self.episodes = [episode for episode in self.episodes if episode.first + episode.rows <= ended]
        self.finals = sum(bool(episode.flags & HAS_FINAL) for episode in self.episodes)
        self.commits = [c for c in self.commits if c.first < self.rows or c.finals <= self.finals]

    def feed(self, data: bytes) -> str | None:
        """Reads the whole commits in `data`. Returns why the rest is not one, or None if nothing is wrong.

        None also stands for an empty rest and for whole episode records whose rows record is not there.
        """
        pending: list[Episode] = []
        pending_finals = 0
        crc, sequence, end = self.crc, self.sequence, self.episode_end
        start = self.offset
        for position in range(0, len(data), RECORD):
            record = data[position : position + RECORD]
            if len(record) < RECORD:
                return f"ends in {len(record)} bytes of a record"
            magic, kind, flags, stream, number, a, b, c, _, e, chain = _ROWS.unpack_from(record)
            found = zlib.crc32(record[:60])
            if magic != MAGIC or found != _CRC.unpack_from(record, 60)[0]:
                return f"record {sequence} is damaged (CRC)"
            if chain != crc or number != sequence or stream != self.stream or self.sealed_by is not None:
                return f"record {sequence} does not continue the one before"
            if kind == EPISODE and number:
                first, length, return_, which, seed = _EPISODE.unpack_from(record)[5:10]
                episode = Episode(first, length, return_, which, seed, flags)
                stop = episode.first + episode.rows
                low = max(self.first_row + self.rows, self.first_row + 1)
                if episode.rows < 1 or flags > 15 or stop < low or episode.first < (end or 0):
                    return f"record {number} has episode rows {episode.first} to {stop}, which cannot be"
                pending.append(episode)
                pending_finals += flags >> 3
                crc, sequence, end = found, number + 1, stop
                continue
            if kind == ROWS and number:
                rows = self.rows + b
                if a != self.rows or rows > self.alloc or flags & ~DURABLE:
                    return (
                        f"record {number} commits rows {a} to {a + b}, expected them to begin at {self.rows}"
                    )
                if end is not None and end > self.first_row + rows:
                    return f"record {number} leaves an episode that ends at row {end} uncovered"
                finals = self.finals + pending_finals
                stop = start + position + RECORD
                self.commits.append(Commit(a, b, c, e, bool(flags), self.finals, finals, stop))
                self.rows, self.finals, self.episode_end = rows, finals, end
                self.episodes += pending
                pending, pending_finals = [], 0
            elif kind == SEAL and number:
                counts = (self.rows, len(self.episodes), self.finals)
                if (a, b, c) != counts or pending:
                    return f"record {number} seals {(a, b, c)} rows, episodes and finals, found {counts}"
                self.sealed_by, self._crc_before_seal = e, crc
            elif kind == HEADER and not number:
                uuid, boot, self.generation = _HEAD.unpack_from(record)[5:8]
                if uuid.hex() != self.dataset:
                    return f"belongs to dataset {uuid.hex()}"
                self.boot = boot.hex()
            else:
                return f"record {number} has the unknown kind {kind}"
            crc, sequence = found, number + 1
            self.crc, self.sequence, self.offset = crc, sequence, start + position + RECORD
        return None


def packer_after(journal: Journal) -> Packer:
    """A packer that continues a journal."""
    packer = Packer(journal.stream)
    packer.sequence, packer.crc = journal.sequence, journal.crc
    packer.size, packer.committed = journal.offset, journal.rows
    return packer
