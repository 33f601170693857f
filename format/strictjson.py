"""JSON files that say whether they are whole: strict parsing, and a SHA-256 of the file inside it.

SPEC.md section 2.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import files

MAX_DEPTH = 32
_ZEROS = b"0" * 64
_encode = json.JSONEncoder(allow_nan=False).encode
_CHECK = re.compile(rb'"check": "([0-9a-f]{64})"\s*\}\s*\Z')


def canonical(value: Any) -> bytes:
    """The bytes that digests are taken of: compact, names sorted, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class Encoded(str):
    """JSON that stands in a file as it is: what many generations repeat is encoded once."""

    @classmethod
    def member(cls, value: Any) -> Encoded:
        """As a member of the file, in lines."""
        return cls(_lines(value))

    @classmethod
    def item(cls, value: Any) -> Encoded:
        """As an item of a list that is a member."""
        return cls(_encode(value))


def dump(value: dict[str, Any]) -> bytes:
    """A readable file without `check`: a line per member, and per item of a list or an object in it."""
    members = [f"{_encode(name)}: {_lines(item)}" for name, item in value.items()]
    return ("{\n" + ",\n".join(members) + "\n}\n").encode()


def _lines(value: Any) -> str:
    if isinstance(value, Encoded):
        return value
    if isinstance(value, list) and value and isinstance(value[0], (dict, list, Encoded)):
        items = [item if isinstance(item, Encoded) else _encode(item) for item in value]
        return "[\n  " + ",\n  ".join(items) + "\n]"
    if isinstance(value, dict) and any(isinstance(item, (dict, list)) for item in value.values()):
        members = [f"{_encode(name)}: {_encode(item)}" for name, item in value.items()]
        return "{\n  " + ",\n  ".join(members) + "\n}"
    return _encode(value)


def dump_checked(value: dict[str, Any]) -> bytes:
    """A readable file that ends in `check`."""
    data = dump({**{k: v for k, v in value.items() if k != "check"}, "check": _ZEROS.decode()})
    start = data.rindex(_ZEROS)
    return data[:start] + hashlib.sha256(data).hexdigest().encode() + data[start + 64 :]


def load(data: bytes, path: object) -> dict[str, Any]:
    """The object in a file. Raises `CorruptError` for anything that strict JSON forbids."""
    try:
        depth, digits, has_exponent = _native.json_limits(data)
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        decoder = _DECODER if digits < _MANY_DIGITS and not has_exponent else _NUMBERS_DECODER
        value = decoder.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise CorruptError(f"{path}: not strict JSON ({err})", path=path) from err
    if not isinstance(value, dict):
        raise CorruptError(f"{path}: expected a JSON object", path=path)
    return value


def load_checked(path: Path, magic: str) -> tuple[dict[str, Any], bytes]:
    """The object in a checked file, and the file's bytes. Raises `CorruptError` naming the file."""
    data = files.read(path)
    return checked(data, path, magic), data


def checked(data: bytes, path: object, magic: str) -> dict[str, Any]:
    """The object in the bytes of a checked file. Raises `CorruptError` naming the file."""
    found = _CHECK.search(data)
    if found is None:
        raise CorruptError(f"{path}: the check value at the end is missing; the file is damaged", path=path)
    zeroed = data[: found.start(1)] + _ZEROS + data[found.end(1) :]
    if hashlib.sha256(zeroed).hexdigest().encode() != found.group(1):
        raise CorruptError(f"{path}: SHA-256 differs from its check value; the file is damaged", path=path)
    value = load(data, path)
    if value.get("magic") != magic:
        raise CorruptError(f"{path}: magic is {value.get('magic')!r}, expected {magic!r}", path=path)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _bounded_int(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > 1 << 53:
        raise ValueError(f"integer {text[:20]} is beyond 2^53")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number {text[:20]} is too large")
    return value


_MANY_DIGITS = 16  # of the smallest number beyond 2^53
_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
_NUMBERS_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_bounded_int,
    parse_float=_finite_float,
)  # fmt: skip
