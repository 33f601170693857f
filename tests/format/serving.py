"""A web server for tests: a folder on loopback, with ranges; it counts what it gives, fails when told to."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlcli.format.dataset import Dataset
from rlcli.format.remote import Remote

LARGE = ("/segments/", "/finals/", "/heaps/")


@dataclass(frozen=True)
class Request:
    """What was asked for, `start` to `stop` of a file, and how many bytes of it went out."""

    name: str
    start: int
    stop: int
    sent: int


Fault = Callable[[str, int], str | None]  # of a name and the number of earlier requests for it


@dataclass
class Web:
    """The server's settings, and what happened. `fault` says for a request how it fails, if it does: a
    status, "truncate", "flip", "swell" (zeros that a small answer is to be decompressed to), "hang" or
    "close".
    """

    root: Path
    url: str = ""
    lists: bool = False
    has_ranges: bool = True
    fault: Fault = lambda name, count: None
    requests: list[Request] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def data(self) -> list[Request]:
        """Requests for columns, finals and heaps."""
        return [
            r for r in self.requests if any(part in r.name for part in LARGE) and "meta.json" not in r.name
        ]

    @property
    def data_bytes(self) -> int:
        return sum(request.sent for request in self.data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        web, name = self.web, self.path
        with web.lock:
            count = web.counts[name] = web.counts.get(name, -1) + 1
        fault = web.fault(name, count)
        if fault == "hang":
            web.over.wait()
            self.close_connection = True
            return
        if fault == "close":
            self.close_connection = True
            return
        path = web.root / name.lstrip("/")
        if fault == "swell":
            self._answer(200, zlib.compress(bytes(1 << 26)), coding="deflate")
            return
        if fault is not None and fault.isdecimal():
            self._answer(int(fault), b"")
        elif path.is_file():
            self._file(path, name, fault)
        elif path.is_dir() and web.lists:
            links = "".join(f'<a href="{p.name}">{p.name}</a>' for p in sorted(path.iterdir()))
            self._answer(200, f"<html>{links}</html>".encode(), kind="text/html")
        else:
            self._answer(404, b"")

    def _file(self, path: Path, name: str, fault: str | None) -> None:
        size, wanted = path.stat().st_size, self.headers.get("Range")
        start, stop, status = 0, size, 200
        if wanted and self.web.has_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last) + 1, size), 206
            if start >= size:
                self._answer(416, b"")
                return
        with path.open("rb") as file:
            file.seek(start)
            data = bytearray(file.read(stop - start))
        if fault == "flip":
            data[len(data) // 2] ^= 1
        sent = len(data) // 2 if fault == "truncate" else len(data)
        with self.web.lock:
            self.web.requests.append(Request(name, start, stop, sent))
        self._answer(status, bytes(data), sent=sent)

    def _answer(
        self,
        status: int,
        data: bytes,
        *,
        kind: str = "text/plain",
        coding: str = "identity",
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Encoding", coding)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        if sent is not None and sent < len(data):
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that was killed, or gave up, is no news."""


@contextmanager
def serving(root: Path) -> Iterator[Web]:
    """The folder's files at `web.url`, while the block lasts."""
    web = Web(root)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def open_url(web: Web | str, cache: Path, name: str = "wide", **options: Any) -> Dataset:
    """The dataset at a URL, or of that name on the server, with a cache of its own and few retries."""
    url = web if isinstance(web, str) else f"{web.url}/{name}"
    return Dataset.open(url, remote=Remote(cache=cache, **{"retries": 2, "timeout_seconds": 20.0, **options}))


def in_memory(path: Path, name: str) -> str:
    """The URL of a copy of a folder in memory."""
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.put(str(path), f"/{name}", recursive=True)
    return f"memory://{name}"
