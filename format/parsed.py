"""What files were parsed to: a process that opens a dataset again and again parses equal bytes once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Concatenate, ParamSpec, TypeVar

_MOST_BYTES = 1 << 20
_Value = TypeVar("_Value")
_Rest = ParamSpec("_Rest")
_Parse = Callable[Concatenate[str, bytes, object, _Rest], _Value]


def once(parse: _Parse[_Rest, _Value]) -> _Parse[_Rest, _Value]:
    """`parse` of a file's SHA-256, its bytes, its path and more, done once for equal bytes: the newest values
    are kept, of files of at most 1 MiB together. Nobody changes a value; its path is only for messages.
    """
    kept: dict[Hashable, tuple[_Value, int]] = {}

    def parsed(sha256: str, data: bytes, path: object, /, *rest: _Rest.args, **named: _Rest.kwargs) -> _Value:
        key = (sha256, *rest)
        found = kept.get(key)
        if found is not None:
            return found[0]
        value = parse(sha256, data, path, *rest, **named)
        kept[key] = value, len(data)
        known = list(kept.items())  # other threads may add some meanwhile
        total = sum(size for _, (_, size) in known)
        for oldest, (_, size) in known:
            if total <= _MOST_BYTES:
                break
            kept.pop(oldest, None)
            total -= size
        return value

    return parsed
