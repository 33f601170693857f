"""Batches of values of a spec: an array `[n, *shape]`, or a dictionary of these where the spec is nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.errors import IncompatibleError
from rlcli.format.specs import Composite, Discrete, Key, Spec

Batch = Any  # NDArray | dict[str, Batch]; recursive types help no reader of `batch["position"]`


def allocate(spec: Spec, n: int) -> Batch:
    """Room for `n` values of `spec`, zeroed."""
    if isinstance(spec, Composite):
        return {name: allocate(child, n) for name, child in spec.fields.items()}
    return np.zeros((n, *spec.shape), spec.dtype)


def put(batch: Batch, index: int, value: Any) -> None:
    """Copy one value into row `index`."""
    if isinstance(batch, dict):
        for name, child in batch.items():
            put(child, index, value[name])
    else:
        batch[index] = value


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """A view of the rows `start … stop - 1`."""
    if isinstance(batch, dict):
        return {name: rows(child, start, stop) for name, child in batch.items()}
    return batch[start:stop]


def row(batch: Batch, index: int) -> Batch:
    """A view of one row."""
    if isinstance(batch, dict):
        return {name: row(child, index) for name, child in batch.items()}
    return batch[index]


def copy(batch: Batch) -> Batch:
    """A batch that shares no memory with `batch`."""
    if isinstance(batch, dict):
        return {name: copy(child) for name, child in batch.items()}
    return batch.copy()


def flatten(batch: Batch, prefix: Key) -> Iterator[tuple[Key, NDArray[Any]]]:
    """The arrays in `batch` with their full keys."""
    if isinstance(batch, dict):
        for name, child in batch.items():
            yield from flatten(child, (*prefix, name))
    else:
        yield prefix, batch


def same_bits(first: Batch, second: Batch) -> bool:
    """Whether two batches are equal bit for bit; NaN equals itself, 0.0 does not equal -0.0."""
    left, right = dict(flatten(first, ())), dict(flatten(second, ()))
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype
        and left[key].shape == right[key].shape
        and left[key].tobytes() == right[key].tobytes()
        for key in left
    )


def conform(values: Any, spec: Spec, n: int, where: str) -> Batch:
    """`values` as a batch of `n` values of `spec`, in its dtype.

    Raises `IncompatibleError` naming `where` if nesting or shape differ, if a number would change its kind
    (0.5 for a discrete action), or if a discrete value is out of range.
    """
    if isinstance(spec, Composite):
        if not isinstance(values, Mapping) or set(values) != set(spec.fields):
            raise IncompatibleError(f"{where}: expected a dictionary with the keys {sorted(spec.fields)}")
        return {
            name: conform(values[name], child, n, f"{where}/{name}") for name, child in spec.fields.items()
        }
    array = np.asarray(values)
    if array.shape != (n, *spec.shape):
        raise IncompatibleError(f"{where}: shape {array.shape}, expected {(n, *spec.shape)}")
    if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise IncompatibleError(f"{where}: dtype {array.dtype}, expected {spec.dtype}")
    array = array.astype(spec.dtype, copy=False)
    if isinstance(spec, Discrete) and n and not spec.contains(array).all():
        bad = int(array[~spec.contains(array)][0])
        raise IncompatibleError(f"{where}: {bad} is not one of {spec.start} … {spec.start + spec.n - 1}")
    return array


def singles(batch: Batch) -> list[Any]:
    """One value per row: NumPy scalars where rows have no axis, else views (dictionaries of these)."""
    if isinstance(batch, dict):
        columns = {name: singles(child) for name, child in batch.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return list(batch)
