"""Files from public addresses, into a cache: resumed where they broke off, checked, never half there.

A finished file has its SHA-256 beside it, written when it arrived, so that damage in the cache is noticed.
Nothing here is reached with `--offline`.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rlcli.datasets.contract import Advance
from rlcli.errors import BusyError, CorruptError, InputError

_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


def cache_folder() -> Path:
    """`$RL_CACHE`, else `rl` in the user's cache folder."""
    if told := os.environ.get("RL_CACHE"):
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl"


def cached(place: Path) -> bool:
    """Whether a finished download is at `place`. Raises `CorruptError` if it is not what arrived."""
    told = place.with_name(f"{place.name}.sha256")
    if not place.is_file():
        return False
    if told.is_file():
        with open(place, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != told.read_text().split()[0]:
            raise CorruptError(
                f"{place}: differs from what was downloaded",
                hint="remove it to download it again",
                path=place,
            )
    return True


def fetch(url: str, place: Path, advance: Advance, *, offline: bool) -> Path:
    """The file of `url` at `place`, from the cache or downloaded.

    Raises `InputError` if it is not there and may not or cannot be had, `CorruptError` if the cache is
    damaged, `BusyError` while another process downloads it. A download that broke off goes on next time.
    """
    if cached(place):
        return place
    if offline:
        raise InputError(
            f"{place.name} is not in the cache ({place.parent}), and --offline forbids the network"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    with open(part, "ab", buffering=0) as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{place}: another process downloads it", path=place) from None
        try:
            _download(url, part, out, advance)
        except urllib.error.HTTPError as err:
            _forget_empty(part)
            raise InputError(f"{url}: the server says {err.code} {err.reason}") from err
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as err:
            _forget_empty(part)
            reason = getattr(err, "reason", None) or err
            raise InputError(f"{url}: {reason}", hint="the same command goes on where it broke off") from err
        os.fsync(out.fileno())
        with open(part, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        place.with_name(f"{place.name}.sha256").write_text(f"{digest}  {place.name}\n")
        os.rename(part, place)
    _told(part).unlink(missing_ok=True)
    return place


def _download(url: str, part: Path, out: Any, advance: Advance) -> None:
    """Appends the rest of the file to `out`; begins anew if the server's file is another one by now."""
    have = out.tell()
    before = json.loads(_told(part).read_text()) if have and _told(part).is_file() else {}
    headers = {}
    if have and before.get("version") and before.get("url") == url:
        headers = {"Range": f"bytes={have}-", "If-Range": before["version"]}
    request = urllib.request.Request(url, headers=headers)
    if request.type not in ("http", "https"):
        raise InputError(f"{url}: only http and https addresses are fetched")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as err:
        if err.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or have != before.get("size"):
            raise
        return  # all of it was there already
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            out.truncate(0)
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise InputError(f"{url}: the server sends another range than was asked for")
        length = response.headers.get("Content-Length")
        size = None if length is None else have + int(length)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        _told(part).write_text(json.dumps({"url": url, "version": version, "size": size}))
        advance(have)
        while block := response.read1(_BLOCK):  # `read` would drop what came before a break
            out.write(block)
            have += len(block)
            advance(len(block))
    if size is not None and have != size:
        raise ConnectionError(f"the connection broke off after {have:,} of {size:,} bytes")


def _told(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _forget_empty(part: Path) -> None:
    if part.stat().st_size == 0:
        part.unlink()
        _told(part).unlink(missing_ok=True)
