"""Checkpoints: everything a run needs to go on as if it had never stopped. No pickle.

    checkpoints/000000010000/state.safetensors    parameters, targets, optimiser moments, RNG states
    checkpoints/000000010000/checkpoint.json      counters, environment positions, score, digests

A checkpoint directory is complete or absent: it is written beside and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from rlcli.errors import CorruptError, InputError
from rlcli.pipeline.provenance import canonical, sha256, sha256_file

Tree = dict[str, Any]  # nested dicts with tensors at the leaves


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `progress` is the runner's own JSON; `score` is None if it was not evaluated."""

    path: Path
    step: int
    score: float | None
    progress: Mapping[str, Any]
    digest: str


def save(
    folder: Path, step: int, tensors: Tree, progress: Mapping[str, Any], score: float | None
) -> Checkpoint:
    """Write `folder/<step>` durably. The digest covers tensors, progress and score, not time or path.

    An older checkpoint of the same step is replaced, never without one of the two being whole.
    """
    final = folder / f"{step:012d}"
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
    try:
        state_file = temporary / "state.safetensors"
        state_file.write_bytes(to_bytes(flatten(tensors)))
        content: dict[str, Any] = {
            "rl": 1,
            "kind": "checkpoint",
            "format": [1, 0],
            "step": step,
            "score": score,
        }
        content["progress"] = progress
        content["state_sha256"] = sha256_file(state_file)
        content["digest"] = sha256(canonical(content))
        (temporary / "checkpoint.json").write_text(json.dumps(content, indent=1))
        for file in (state_file, temporary / "checkpoint.json", temporary):
            _fsync(file)
        temporary.chmod(0o755)
        replaced = folder / f".old-{temporary.name}"
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        _fsync(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Checkpoint(final, step, score, progress, content["digest"])


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, its JSON checked. Raises `CorruptError` if it was changed."""
    file = path / "checkpoint.json"
    try:
        content = json.loads(file.read_bytes())
        digest = content.pop("digest")
        if digest != sha256(canonical(content)):
            raise ValueError("it does not match its digest")
        return Checkpoint(path, content["step"], content["score"], content["progress"], digest)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        raise CorruptError(f"{file} is damaged: {err}", path=file) from err


def load_tensors(checkpoint: Checkpoint) -> Tree:
    """The nested state of a checkpoint, on the CPU. Raises `CorruptError` if any byte of it changed."""
    file = checkpoint.path / "state.safetensors"
    recorded = json.loads((checkpoint.path / "checkpoint.json").read_bytes())["state_sha256"]
    try:
        if sha256_file(file) != recorded:
            raise CorruptError(f"{file} does not match the digest in checkpoint.json", path=file)
        return unflatten(load_file(file))
    except (OSError, SafetensorError) as err:
        raise CorruptError(f"{file} is damaged: {err}", path=file) from err


def find(folder: Path) -> list[Checkpoint]:
    """All checkpoints in `folder`, oldest first; half-written ones do not count."""
    if not folder.is_dir():
        return []
    return [read(path) for path in sorted(folder.iterdir()) if path.name.isdigit()]


def select(folder: Path, which: str) -> Checkpoint:
    """The `best` (highest score, the later of equals), the `last`, or the one of step `which`.

    `best` is the last where none was scored. Raises `InputError` if there is no such checkpoint.
    """
    found = find(folder)
    if not found:
        raise InputError(f"{folder.parent} has no checkpoint yet", path=folder)
    scored = [checkpoint for checkpoint in found if checkpoint.score is not None]
    if which == "best" and scored:
        return max(scored, key=lambda checkpoint: (checkpoint.score, checkpoint.step))
    if which in ("best", "last"):
        return found[-1]
    for checkpoint in found:
        if which.isdigit() and checkpoint.step == int(which):
            return checkpoint
    steps = ", ".join(str(checkpoint.step) for checkpoint in found)
    raise InputError(f"{folder.parent} has no checkpoint {which!r}; it has best, last and steps {steps}")


def prune(folder: Path, *, keep_last: int, keep_best: int) -> None:
    """Remove all but the newest `keep_last` and the `keep_best` of highest score; also what a kill left."""
    found = find(folder)
    scored = [(checkpoint.score, checkpoint.step) for checkpoint in found if checkpoint.score is not None]
    best = [step for _, step in sorted(scored, reverse=True)[:keep_best]]
    kept = {*best, *(checkpoint.step for checkpoint in found[-keep_last:])}
    for checkpoint in found:
        if checkpoint.step not in kept:
            shutil.rmtree(checkpoint.path)
    for unfinished in folder.glob(".*-*"):
        shutil.rmtree(unfinished)


def flatten(tree: Tree, prefix: str = "") -> dict[str, torch.Tensor]:
    """`{"a": {"b": x}}` as `{"a/b": x}`, each tensor contiguous and with memory of its own."""
    flat: dict[str, torch.Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(dict(value), f"{prefix}{name}/"))
        else:
            flat[prefix + name] = value.detach().cpu().contiguous().clone()
    return flat


def unflatten(flat: Mapping[str, torch.Tensor]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
