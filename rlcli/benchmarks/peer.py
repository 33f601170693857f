"""Peers measured in processes of other Pythons, in turn with our own arms.

Several Pythons may have a peer each, since peers pin versions that exclude one another: an arm runs in the
first of them that can import its package. Requests and replies are JSON lines on a child's standard input and
output; it runs the folder `peers`, which imports nothing of ours. An arm that fails there is left out with a
warning.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.errors import InputError
from rlcli.pipeline.benchmark import Arm
from rlcli.pipeline.benchmark_limits import Role

FOLDER = Path(__file__).parent / "peers"


@dataclass
class PeerArm:
    """An arm in the peers' process; it times itself there."""

    peer: Peer
    name: str
    units: float
    role: Role = "peer"
    cpu_seconds: float = math.nan

    def measure(self, repeats: int) -> float:
        return float(self.peer.ask({"measure": self.name, "repeats": repeats})["seconds"])


class Peers(AbstractContextManager["Peers"]):
    """The processes of several Pythons; each starts with the block and ends with it."""

    def __init__(self, pythons: Sequence[str], threads: int) -> None:
        self._stack = ExitStack()
        self._peers: list[Peer] = []
        try:
            for python in pythons:
                self._peers.append(self._stack.enter_context(Peer(python, threads)))
        except InputError:
            self._stack.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes."""
        return tuple(peer.pid for peer in self._peers)

    @property
    def found(self) -> list[dict[str, Any]]:
        """The Pythons, in order, with the versions of the peers that they have."""
        return [{"python": peer.python, "versions": peer.versions} for peer in self._peers]

    def arms(self, item: str, size: str, folder: Path) -> list[Arm]:
        """The peers' arms for an item, set up and ready; [] where no peer has one.

        `folder` is in the item's own and need not exist; every process has one beside it for itself.
        """
        arms: list[Arm] = []
        tried: set[str] = set()
        absent: dict[str, str] = {}
        for number, peer in enumerate(self._peers):
            own = folder.with_name(f"{folder.name}-{number}")
            reply = peer.ask({"open": item, "size": size, "folder": str(own), "without": sorted(tried)})
            for name, reason in reply["failed"].items():
                console.warn(f"peer {name} is left out of {item}: {reason} ({peer.python})")
            arms += [PeerArm(peer, arm["name"], arm["units"]) for arm in reply["arms"]]
            tried |= {*reply["failed"], *(arm["name"] for arm in reply["arms"])}
            absent |= reply["absent"]
        lacking = [f"{name} (needs {package})" for name, package in absent.items() if name not in tried]
        if lacking:
            console.log(f"{item}: not measured: {', '.join(lacking)}")
        return arms

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class Peer(AbstractContextManager["Peer"]):
    """The process of one `python`; `versions` says which peers it has."""

    def __init__(self, python: str, threads: int) -> None:
        self.python = python
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        try:
            self._process = subprocess.Popen(
                [python, str(FOLDER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        except OSError as err:
            raise InputError(
                f"cannot start the peers' Python {python!r}: {err.strerror}", path=python
            ) from err
        self.versions: dict[str, str] = self.ask({"hello": 1})["versions"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request. Raises `InputError` when the process fails or dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise InputError(f"the peers' process ended with {self._process.wait()} while asked {request}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise InputError(f"the peers' process failed: {reply['error']}")
        return reply

    def __exit__(self, *error: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
