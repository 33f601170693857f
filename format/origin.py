"""Files of a dataset that is elsewhere, through fsspec: whole or in part, tried again when the network fails.

It knows names, offsets and errors; what the bytes must be is `remote`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from rlcli.errors import CorruptError, InputError, MissingExtraError, UsageError, nearest
from rlcli.format.location import URL, Location

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP says: try later
_REFUSED = frozenset({401, 403, 407})
_FIRST_WAIT_SECONDS = 0.1
_TRICKLE = 20  # a request may take so many times as long as the wait for its first byte


class Missing(CorruptError):
    """There is no file of that name."""


class Short(CorruptError):
    """A file ends before the bytes that were asked for."""


class Origin:
    """Reads files below a URL. Safe in several threads, and in a forked child.

    A failure that may pass is tried again `retries` times, after 0.1, 0.2, 0.4, … seconds.
    """

    def __init__(
        self, url: URL, *, timeout_seconds: float, retries: int, options: Mapping[str, Any] | None = None
    ) -> None:
        self.url: Location = url
        self.bytes_read = 0
        self.has_ranges: bool | None = (
            None  # the server sends the part that was asked for; None: not known yet
        )
        self._full = url.full
        self.is_http = url.full.startswith(("http://", "https://"))
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._options = dict(options or {})
        self._opened: tuple[int, Any, str] | None = None

    def path(self, name: str) -> str:
        """How a file is called in messages."""
        return str(self.url / name)

    def read(self, name: str) -> bytes:
        """A whole file. Raises `Missing`, or `InputError` where it cannot be read."""
        data: bytes = self._try(name, lambda fs, root: fs.cat_file(f"{root}/{name}"))
        self.bytes_read += len(data)
        return data

    def read_range(self, name: str, start: int, stop: int) -> tuple[int, bytes]:
        """Bytes `start … stop` of a file, or, from a server that sends no parts, all of it: where what came
        begins, and what came. Raises `Missing`, `Short`, or `InputError`.
        """
        data: bytes = self._try(name, lambda fs, root: fs.cat_file(f"{root}/{name}", start=start, end=stop))
        self.bytes_read += len(data)
        if len(data) == stop - start:
            self.has_ranges = True if start else self.has_ranges
            return start, data
        if len(data) < stop - start:
            raise Short(f"{self.path(name)}: ends early, at byte {start + len(data)}", path=self.path(name))
        self.has_ranges = False
        return 0, data

    def exists(self, name: str) -> bool:
        """Whether there is a file, found out by reading a byte of it. A refusal is an error, not a no."""
        try:
            self.read_range(name, 0, 1)
        except Missing:
            return False
        except Short:
            return True
        return True

    def names(self, folder: str) -> list[str] | None:
        """What is in a folder, or None where that cannot be asked."""
        try:
            found = self._try(folder, lambda fs, root: fs.ls(f"{root}/{folder}", detail=False))
        except Missing:
            return None
        except InputError:
            if self.is_http:
                return None
            raise
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found}
        return sorted(names) or None

    def _try(self, name: str, call: Callable[[Any, str], Any]) -> Any:
        for attempt in range(self._retries + 1):
            fs, root = self._filesystem()
            try:
                return call(fs, root)
            except FileNotFoundError as err:
                raise Missing(f"{self.path(name)}: missing", path=self.path(name)) from err
            except _errors() as err:
                status = getattr(err, "status", None)
                if status == 416:
                    raise Short(f"{self.path(name)}: ends early", path=self.path(name)) from err
                if status == 410:
                    raise Missing(f"{self.path(name)}: missing", path=self.path(name)) from err
                passes = not isinstance(err, PermissionError | NotADirectoryError | IsADirectoryError)
                passes = passes and (status is None or status in _AGAIN)
                if not passes or attempt == self._retries:
                    raise self._unreadable(name, err, status, attempt + 1) from err
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def _unreadable(self, name: str, err: Exception, status: int | None, tries: int) -> InputError:
        reason = " ".join(str(err).replace(self._full, str(self.url)).split()) or type(err).__name__
        if isinstance(err, TimeoutError):
            reason = f"no answer within {self._timeout_seconds:g} s"
        if status is not None:
            reason = f"the server answers {status}"
        often = f" ({tries} tries)" if tries > 1 else ""
        hint = "the server asks for credentials" if status in _REFUSED else None
        path = self.path(name)
        return InputError(f"{path}: cannot be read: {reason[:200]}{often}", hint=hint, path=path)

    def _filesystem(self) -> tuple[Any, str]:
        """The file system, opened once in each process, and the dataset's place in it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), *self._open())
        return self._opened[1:]

    def _open(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError as err:
            raise MissingExtraError("fsspec", "remote", needed_for=f"reading {self.url}") from err
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if self.is_http:
            try:
                import aiohttp
            except ImportError as err:
                raise MissingExtraError("aiohttp", "remote", needed_for=f"reading {self.url}") from err
            most = self._timeout_seconds
            wait = aiohttp.ClientTimeout(total=_TRICKLE * most, sock_connect=most, sock_read=most)
            # No answer is decompressed, which a megabyte could make a gigabyte of: none was asked for.
            client = {"timeout": wait, "auto_decompress": False}
            options |= {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}
        try:
            fs, root = fsspec.core.url_to_fs(self._full, **{**options, **self._options})
        except ValueError as err:
            scheme = self._full.partition("://")[0]
            known = nearest(scheme, fsspec.available_protocols())
            raise UsageError(f"{self.url}: no file system {scheme!r}; {known}", path=self.url) from err
        except ImportError as err:
            missing = MissingExtraError("fsspec", "remote", needed_for=f"reading {self.url}")
            missing.message, missing.hint = f"{self.url}: {err}", None
            raise missing from err
        return fs, root


def _errors() -> tuple[type[Exception], ...]:
    """What file systems raise when they cannot read."""
    try:
        from aiohttp import ClientError
    except ImportError:
        return (OSError, EOFError)
    return (OSError, EOFError, TimeoutError, ClientError)
