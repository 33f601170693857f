"""Peers measured in a process of another Python, in turn with our own arms.

Requests and replies are JSON lines on the child's standard input and output; the child runs the folder
`peers`, which imports nothing of ours. An arm that fails there is left out with a warning.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.errors import InputError
from rlcli.pipeline.benchmark import Arm, Role

FOLDER = Path(__file__).parent / "peers"


@dataclass
class PeerArm:
    """An arm in the peers' process; it times itself there."""

    peer: Peer
    name: str
    units: float
    role: Role = "peer"

    def measure(self, repeats: int) -> float:
        return float(self.peer.ask({"measure": self.name, "repeats": repeats})["seconds"])


class Peer(AbstractContextManager["Peer"]):
    """The peers' process, started with `python`; `versions` says which peers it has."""

    def __init__(self, python: str, threads: int) -> None:
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
        """Of the peers' process."""
        return self._process.pid

    def arms(self, item: str, size: str, folder: Path) -> list[Arm]:
        """The peers' arms for an item, set up and ready; [] where no peer has one."""
        reply = self.ask({"open": item, "size": size, "folder": str(folder)})
        for name, reason in reply["failed"].items():
            console.warn(f"peer {name} is left out of {item}: {reason}")
        return [PeerArm(self, arm["name"], arm["units"]) for arm in reply["arms"]]

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
