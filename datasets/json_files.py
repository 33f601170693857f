"""The JSON objects that foreign datasets keep beside their data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlcli.datasets.regular import open_regular
from rlcli.errors import CorruptError, IncompatibleError, InputError

MAX_BYTES = 64 << 20


def read_object(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises `InputError` if it cannot be read, `IncompatibleError` if it has more than `limit` bytes,
    `CorruptError` if it is no JSON or another value.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}", path=path) from err
    if len(data) > limit:
        raise IncompatibleError(f"{path}: more than {limit:,} bytes of JSON", path=path)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise CorruptError(f"{path}: damaged JSON: {str(err)[:120]}", path=path) from err
    if not isinstance(found, dict):
        raise CorruptError(f"{path}: {type(found).__name__}, expected a JSON object", path=path)
    return found
