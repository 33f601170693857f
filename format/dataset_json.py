"""`dataset.json`: what a dataset is known by; written once, never changed. SPEC.md section 2."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import Any

from rlcli import __version__
from rlcli.errors import CorruptError, InputError
from rlcli.format import bulk, files, parsed, strictjson
from rlcli.format.location import Inside
from rlcli.format.manifest import FORMAT, check_format


def new(uuid: str) -> bytes:
    """`dataset.json` of a new dataset."""
    return strictjson.dump_checked(
        {
            "magic": "rl-dataset",
            "format": FORMAT,
            "uuid": uuid,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "writer": f"rl {__version__}",
            "byteorder": "little",
        }
    )


def load(root: Path) -> dict[str, Any]:
    """`dataset.json`. Raises `InputError` if `root` is no dataset, `CorruptError` if it is damaged."""
    try:
        [data] = bulk.read_whole(root, ["dataset.json"])
        return parse(data, Inside(root, "dataset.json"))
    except CorruptError:
        path = root / "dataset.json"
        if not files.exists(root):
            raise InputError(f"{root}: no such dataset", path=root) from None
        if not files.exists(path) and not (root / "manifests").is_dir():
            raise InputError(f"{root}: not a dataset (no dataset.json)", path=root) from None
        raise


def parse(data: bytes, path: object) -> dict[str, Any]:
    """`dataset.json` from its bytes; `path` is for messages."""
    return dict(_parsed(hashlib.sha256(data).hexdigest(), data, path))


@parsed.once
def _parsed(sha256: str, data: bytes, path: object) -> dict[str, Any]:
    value = strictjson.checked(data, path, "rl-dataset")
    check_format(value, path)
    if value.get("byteorder") != "little" or not re.fullmatch("[0-9a-f]{32}", str(value.get("uuid"))):
        raise CorruptError(f"{path}: uuid or byteorder is malformed", path=path)
    return value
