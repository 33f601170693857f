"""Which keys and dtypes a dataset may hold. The grammar is closed; SPEC.md section 3."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from rlcli.errors import IncompatibleError

Key = tuple[str, ...]

MAX_DEPTH = 16
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+=@.-]{0,62}", re.ASCII)
_SUFFIXES = (".shape", ".memmap", ".json", ".")
_RESERVED = frozenset(
    ["shape", "device", "_type", "_class", "_names", "_format_version", "_tensordict", "_is_non_tensor"]
)
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))]
)

#: Stored dtype -> numpy dtype of the same bytes. bfloat16 has no numpy type; its bits are uint16.
DTYPES: dict[str, np.dtype[np.generic]] = {
    name: np.dtype("uint16" if name == "bfloat16" else name).newbyteorder("=")
    for name in [
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "complex64",
    ]
}


def check_key(key: Iterable[str]) -> Key:
    """`key` as a tuple. Raises `IncompatibleError` if it is outside the grammar."""
    parts = tuple(key)
    if not 1 <= len(parts) <= MAX_DEPTH:
        raise IncompatibleError(f"key {parts!r} has {len(parts)} parts, expected 1 to {MAX_DEPTH}")
    for part in parts:
        if not isinstance(part, str) or not _PART.fullmatch(part):
            raise IncompatibleError(
                f"key part {part!r} is not storable: expected 1 to 63 of A-Z a-z 0-9 _ + = @ . -, "
                "beginning with a letter, a digit or _"
            )
        lowered = part.lower()
        if lowered.endswith(_SUFFIXES) or lowered in _RESERVED or lowered.split(".")[0] in _DEVICES:
            raise IncompatibleError(f"key part {part!r} is reserved; rename it")
    return parts


def check_keys(keys: Iterable[Key]) -> None:
    """Raises `IncompatibleError` if two keys are equal, nest or differ by letter case only."""
    spelled: dict[Key, Key] = {}
    leaves: set[Key] = set()
    nodes: set[Key] = set()
    for key in keys:
        for depth in range(1, len(key) + 1):
            folded = tuple(part.lower() for part in key[:depth])
            if spelled.setdefault(folded, key[:depth]) != key[:depth]:
                raise IncompatibleError(
                    f"keys {spelled[folded]} and {key[:depth]} differ by letter case only"
                )
        if key in leaves:
            raise IncompatibleError(f"key {key} is there twice")
        leaves.add(key)
        nodes.update(key[:depth] for depth in range(1, len(key)))
    for key in leaves & nodes:
        raise IncompatibleError(f"key {key} is both a value and the parent of others")


def check_dtype(name: object) -> str:
    """`name` if it is a stored dtype; raises `IncompatibleError` otherwise."""
    if not isinstance(name, str) or name not in DTYPES:
        raise IncompatibleError(f"dtype {name!r} is not storable; known: {', '.join(DTYPES)}")
    return name


def path_of(key: Key) -> str:
    """Relative path of a key's file inside its tree."""
    return "/".join(key) + ".memmap"
