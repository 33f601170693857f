"""What a path is, told from its own files: a dataset, a run, a checkpoint or a report. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.errors import CorruptError, InputError
from rlcli.pipeline.run import execution_text, open_run


def describe(path: Path) -> tuple[str, dict[str, Any], str]:
    """`(kind, facts, text)` of the artifact at `path`. Raises `InputError` if it is none."""
    if not path.exists():
        raise InputError(f"there is nothing at {path}", path=path)
    if (path / "dataset.json").exists():
        from rlcli.pipeline.buffer import info

        return info(path)
    if (path / "run.json").exists():
        return _run(path)
    if (path / "checkpoint.json").exists():
        return _document(path / "checkpoint.json")
    if path.is_file() and path.suffix == ".json":
        return _document(path)
    raise InputError(f"{path} is no dataset, run, checkpoint or report", path=path)


def _run(path: Path) -> tuple[str, dict[str, Any], str]:
    run = open_run(path)
    info = dict(run.info)
    checkpoints = [_checkpoint(folder) for folder in sorted(run.checkpoints.glob("[0-9]*"))]
    metrics = run.metrics()
    facts = {
        "path": path,
        **info,
        "checkpoints": checkpoints,
        "last_report": metrics[-1] if metrics else None,
    }
    unit = "steps" if info["source"] == "online" else "updates"
    total = info["settings"][unit]
    step = checkpoints[-1]["step"] if checkpoints else 0
    env = info["spec"].get("env")
    text = console.fields(
        {
            "run": path,
            "algorithm": info["algorithm"],
            "environment": env and env["id"],
            "datasets": ", ".join(parent["path"] for parent in info["parents"]) or None,
            "progress": f"{step:,} of {total:,} {unit}" + ("" if step >= total else " (resumable)"),
            "seed": info["seed"],
            "created": info["created"],
            "command": info["command"],
            "git": info["git"] and info["git"]["commit"][:12] + (" (dirty)" if info["git"]["dirty"] else ""),
            "execution": execution_text(info["execution"]),
        }
    )
    if checkpoints:
        rows = [[c["step"], c["score"], c["digest"][:16]] for c in checkpoints]
        text += "\n\n" + console.table(["checkpoint", "score", "digest"], rows)
    text += "\n\n" + console.fields({name: _text(value) for name, value in info["config"].items()})
    return "run", facts, text


def _checkpoint(folder: Path) -> dict[str, Any]:
    file = folder / "checkpoint.json"
    try:
        content = json.loads(file.read_bytes())
        return {"path": folder, **{name: content[name] for name in ("step", "score", "digest")}}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CorruptError(f"{file} is damaged: {err}", path=file) from err


def _document(path: Path) -> tuple[str, dict[str, Any], str]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as err:
        raise InputError(f"{path} is not JSON: {err}", path=path) from err
    if not isinstance(content, Mapping) or content.get("rl") != 1:
        raise InputError(f"{path} is no artifact of rl", path=path)
    kind = str(content["kind"])
    if kind == "evaluation":
        from rlcli.pipeline.evaluate import table

        return kind, dict(content), table(content["runs"])
    flat = {name: value for name, value in content.items() if not isinstance(value, dict | list)}
    return kind, dict(content), console.fields(flat)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
