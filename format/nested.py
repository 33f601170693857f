"""Columns as nested dicts of arrays, the shape in which batches are handed out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rlcli.format.keys import Key

Array = np.ndarray[Any, Any]


def nest(keys: Iterable[Key], arrays: Iterable[Any]) -> dict[str, Any]:
    """A nested dict with each array, or tensor, at its key."""
    nested: dict[str, Any] = {}
    for key, array in zip(keys, arrays, strict=True):
        node = nested
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = array
    return nested


def pick(nested: dict[str, Any], key: Key) -> Array:
    """The array at a key."""
    node: Any = nested
    for part in key:
        node = node[part]
    array: Array = node
    return array


def put(nested: dict[str, Any], key: Key, value: Array) -> None:
    """Sets the entry at a key; an array that is there and fits is filled instead."""
    node = nested
    for part in key[:-1]:
        node = node.setdefault(part, {})
    target = node.get(key[-1])
    if isinstance(target, np.ndarray) and (target.dtype, target.shape) == (value.dtype, value.shape):
        target[...] = value
    else:
        node[key[-1]] = value
