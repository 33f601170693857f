"""A sealed dataset at a URL, read through fsspec, or in a packed file: what it is now, and a copy of it.

SPEC.md section 17.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, InputError
from rlcli.format import dataset_json, manifest, snapshot
from rlcli.format.cache import Cache, default_bytes, default_folder
from rlcli.format.fetching import Fetcher
from rlcli.format.generations import name_of
from rlcli.format.journal import RECORD, Journal
from rlcli.format.location import URL, Location
from rlcli.format.manifest import Manifest
from rlcli.format.origin import Missing, Origin
from rlcli.format.view import Refreshed, View

_NUMBER = re.compile(r"([0-9]{20})\.json")
_MOST = 1 << 40  # generations: a server that has more says yes to every name
_PROBES = 8  # numbers that are asked for at a time; and behind the newest, in case one is missing


@dataclass(frozen=True)
class Remote:
    """How a dataset at a URL is read.

    `cache` is the folder of the cache (default: `$XDG_CACHE_HOME/rlcli/remote`) and `cache_bytes` how large
    it may become (`$RL_REMOTE_CACHE_BYTES`, or 20 GiB). A server may be silent for `timeout_seconds`; what
    fails is tried again `retries` times; `threads` requests are made at a time. `storage` goes to the file
    system, such as `{"anon": True}`.
    """

    cache: Path | None = None
    cache_bytes: int | None = None
    threads: int = 8
    timeout_seconds: float = 30.0
    retries: int = 4
    storage: Mapping[str, Any] = field(default_factory=dict)


def _origin(location: Location, options: Remote) -> Origin:
    if isinstance(location, URL):
        return Origin(
            location,
            timeout_seconds=options.timeout_seconds,
            retries=options.retries,
            options=options.storage,
        )
    from rlcli.format.packed import PackedOrigin

    return PackedOrigin(location)


class RemoteSource:
    """The dataset at a URL, or in a packed file."""

    def __init__(self, location: Location, options: Remote | None = None) -> None:
        options = options or Remote()
        self.url = location
        self.origin = _origin(location, options)
        self._options = options

    def load(self) -> snapshot.Snapshot:
        """The newest state. Raises `InputError` if it is no sealed dataset or cannot be read, `CorruptError`
        naming the file that is wrong, `IncompatibleError`.
        """
        identity = self.identity()
        number = self.newest_generation()
        newest = self.manifest(identity["uuid"], number)
        self._check_parent(newest)
        if not all(segment.sealed for segment in newest.segments):
            self._check_seals(newest)
            raise InputError(
                f"{self.url}: it is being written, or its writer was killed; through a URL only sealed "
                "datasets are read",
                path=self.url,
            )
        self._check_journals(newest)
        return snapshot.Snapshot(identity, newest, {})

    def identity(self) -> dict[str, Any]:
        """`dataset.json`. Raises `InputError` if there is none."""
        try:
            data = self.origin.read("dataset.json")
        except Missing as err:
            raise InputError(f"{self.url}: not a dataset (no dataset.json)", path=self.url) from err
        return dataset_json.parse(data, self.origin.path("dataset.json"))

    def fetcher(self, newest: Manifest) -> Fetcher:
        """What brings the files of its segments here."""
        options = self._options
        limit = default_bytes() if options.cache_bytes is None else options.cache_bytes
        cache = Cache(options.cache or default_folder(), newest.dataset, limit)
        return Fetcher(self.origin, cache, newest.schema, threads=options.threads)

    def manifest(self, dataset: str, generation: int) -> Manifest:
        """One generation, checked by itself."""
        name = name_of(generation)
        return manifest.parse(self.origin.read(name), self.origin.path(name), dataset, generation)

    def newest_generation(self) -> int:
        """The highest number: listed, or found by asking for names, as there are no gaps.

        Raises `CorruptError` naming a manifest that is missing, as far as can be seen.
        """
        listed = self.origin.names("manifests")
        found = (_NUMBER.fullmatch(name) for name in listed or ())
        numbers = sorted(int(match.group(1)) for match in found if match)
        for expected, number in enumerate(numbers, 1):
            if number != expected:
                raise self._gap(min(number, expected))
        newest = numbers[-1] if numbers else 0
        if self.origin.is_http or not numbers:  # a page about a folder may be old, or show a part of it
            newest = self._search(newest)
        if not newest:
            raise CorruptError(f"{self.origin.path('manifests')}: no manifest", path=self.url)
        return newest

    def _search(self, known: int) -> int:
        """The highest number, if `known` is there or 0: doubling steps, then parts of the last one."""
        low, high = known, 0  # there; not there
        while not high:
            low, high = self._narrow(low, [low + (1 << step) for step in range(_PROBES)])
            if low > _MOST:
                raise InputError(f"{self.url}: the server has a file of every name", path=self.url)
        while high - low > 1:
            between = {low + (high - low) * part // (_PROBES + 1) for part in range(1, _PROBES + 1)} - {low}
            low, found = self._narrow(low, sorted(between))
            high = found or high
        self._narrow(low, range(low + 1, low + 1 + _PROBES))
        return low

    def _narrow(self, low: int, numbers: Sequence[int]) -> tuple[int, int]:
        """The last of these ascending numbers that is there, or `low`, and the first that is not, or 0."""
        with ThreadPoolExecutor(_PROBES) as pool:
            there = list(pool.map(lambda number: self.origin.exists(name_of(number)), numbers))
        if all(there):
            return numbers[-1], 0
        first = there.index(False)
        if any(there[first:]):
            raise self._gap(numbers[first])
        return numbers[first - 1] if first else low, numbers[first]

    def _gap(self, generation: int) -> CorruptError:
        path = self.origin.path(name_of(generation))
        return CorruptError(f"{path}: missing", path=path)

    def _check_parent(self, newest: Manifest) -> None:
        if newest.parent is None and newest.generation == 1:
            return
        name = name_of(newest.generation - 1)
        expected = {
            "generation": newest.generation - 1,
            "sha256": hashlib.sha256(self.origin.read(name)).hexdigest(),
        }
        if newest.parent != expected:
            path = self.origin.path(name)
            raise CorruptError(
                f"{path}: SHA-256 differs from what generation {newest.generation} says", path=path
            )

    def _check_seals(self, newest: Manifest) -> None:
        """The journal of an open segment may not be sealed by a generation that is not there."""
        for entry in newest.segments:
            if not entry.sealed:
                state = Journal(entry.stream, newest.dataset, entry.first, entry.alloc)
                state.feed(self.origin.read(f"journal/{entry.name}.log"))
                if state.sealed_by is not None and not self._is_pending(state.sealed_by):
                    raise self._gap(state.sealed_by)

    def _check_journals(self, newest: Manifest) -> None:
        """No journal may name a generation that is not there. SPEC.md section 8."""
        known = {f"{segment.name}.log" for segment in newest.segments}
        for name in self.journals():
            if name in known:
                continue
            try:
                data = self.origin.read_range(f"journal/{name}", 0, RECORD + 1)[1]
            except (Missing, CorruptError):
                continue  # no more than a header, or gone
            generation = snapshot.newer_generation(data, newest)
            if generation is not None and not self._is_pending(generation):
                raise self._gap(generation)

    def journals(self) -> list[str]:
        """Names of all that are there, as far as that can be asked."""
        names = self.origin.names("journal") or []
        return [name for name in names if name.endswith(".log") and not name.startswith(".")]

    def _is_pending(self, generation: int) -> bool:
        names = self.origin.names("manifests") or []
        return any(name.startswith(f".tmp-{generation}-") for name in names)


class RemoteView(View):
    """What a reader sees of a dataset at a URL or in a packed file. It stays as it is: sealed datasets seldom
    change. Hashes are always compared.
    """

    def __init__(
        self, url: Location, options: Remote, *, single_range: bool, at: Mapping[str, Any] | None
    ) -> None:
        self._source = RemoteSource(url, options)
        self._options = options
        super().__init__(url, checked=True, single_range=single_range, at=at)

    @property
    def opened_with(self) -> dict[str, Any]:
        return {**super().opened_with, "remote": self._options}

    def _load(self) -> snapshot.Snapshot:
        return self._source.load()

    def _load_manifest(self, newest: Manifest, generation: int) -> Manifest:
        return self._source.manifest(newest.dataset, generation)

    def _fetcher(self, newest: Manifest) -> Fetcher:
        fetcher = self._source.fetcher(newest)
        if self._at is not None:  # then it takes their tables to know which episodes there were
            fetcher.begin(newest.segments)
        return fetcher

    def refresh(self) -> Refreshed:
        return Refreshed(self.generation)
