"""The run directory: what was trained, on what, with which options, and how it went.

run.json        kind, command, algorithm, config, settings, specs, versions, parents: written once
config.toml     the algorithm's resolved options, to read, to edit, to pass to `--config`
metrics.jsonl   one JSON object per report, `step` first
checkpoints/    see `checkpoint.py`
replay/         the replay of off-policy online training: an ordinary dataset
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli.console import to_json
from rlcli.errors import BusyError, CorruptError, IncompatibleError, InputError, UsageError
from rlcli.pipeline.provenance import canonical, sha256

RUN_FORMAT = [1, 0]


@dataclass(frozen=True)
class Run:
    """A run directory on disk. `info` is the content of `run.json`."""

    path: Path
    info: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of what `run.json` says: algorithm, options, specs, parents, when and how it was made."""
        return sha256(canonical(self.info))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains this run meanwhile. Raises `BusyError` if another process does already."""
        descriptor = os.open(self.path / "run.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            os.close(descriptor)
            raise BusyError(
                f"{self.path}: another process is training it", hint="wait for it or stop it", path=self.path
            ) from err
        try:
            yield
        finally:
            os.close(descriptor)

    def metrics(self) -> list[dict[str, Any]]:
        """Every reported line, oldest first. A torn last line (killed writer) is left out."""
        lines: list[dict[str, Any]] = []
        if self.metrics_path.exists():
            for line in self.metrics_path.read_text().splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return lines

    def cut_metrics(self, step: int) -> None:
        """Drop reports from after `step`: a resumed run writes them again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_atomically(self.metrics_path, "".join(to_json(line) + "\n" for line in kept).encode())


def create_run(path: Path, info: Mapping[str, Any], config_toml: str) -> Run:
    """A new run directory, complete or not there at all. Raises `UsageError` if `path` exists."""
    if path.exists():
        raise UsageError(f"{path} exists already", hint="choose another -o, or add --resume to continue it")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"rl": 1, "kind": "run", "format": RUN_FORMAT, **info}
    content["check"] = sha256(canonical(content))
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        (temporary / "checkpoints").mkdir()
        write_atomically(temporary / "run.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
        write_atomically(temporary / "config.toml", config_toml.encode())
        temporary.chmod(0o755)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Run(path, {name: value for name, value in content.items() if name != "check"})


def execution_text(execution: Mapping[str, Any]) -> str:
    """How a run's updates are executed, of what `run.json` says of it."""
    return "{reason}; matmul {matmul}, threads {threads}".format(**execution)


def open_run(path: Path) -> Run:
    """The run at `path`. Raises `InputError` if there is none, `CorruptError` if `run.json` is damaged."""
    file = path / "run.json"
    if not path.exists():
        raise InputError(f"there is no run at {path}", path=path)
    if not file.is_file():
        raise InputError(f"{path} is not a run: it has no run.json", path=path)
    try:
        info = json.loads(file.read_bytes())
        recorded = info.pop("check")
        intact = recorded == sha256(canonical(info))
    except (ValueError, KeyError, AttributeError, TypeError) as err:
        raise CorruptError(f"{file} is damaged: {err}", path=file) from err
    if not intact:
        raise CorruptError(
            f"{file} does not match its own check; it was changed after it was written", path=file
        )
    if info.get("kind") != "run" or info["format"][0] != RUN_FORMAT[0]:
        raise IncompatibleError(
            f"{file}: kind {info.get('kind')!r}, format {info.get('format')}; this rl reads run 1.x"
        )
    return Run(path, info)


def unique_path(base: Path) -> Path:
    """`base`, or `base-2`, `base-3`, … if taken."""
    candidate, number = base, 1
    while candidate.exists():
        number += 1
        candidate = base.with_name(f"{base.name}-{number}")
    return candidate


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: readers see the old content or the new, also after a crash."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
