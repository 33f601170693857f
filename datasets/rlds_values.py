"""The values of a feature of an Example: arrays, byte strings or ragged rows.

Bools and integers are stored as int64 lists, every float as float32 (float64 lost precision when it was
written, float16 and bfloat16 did not), images and strings as byte strings. A tensor with an `encoding` is
the bytes of one array per element, perhaps compressed by zlib.

Each sequence around a feature adds a leading axis. With one, the values of all elements follow each other.
With more, `…/ragged_flat_values` holds all values and `…/ragged_row_lengths_k` the lengths of the k-th inner
level. Tensors of which more than one axis varies are `…/value` and `…/shape`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.example import Values
from rlcli.datasets.features import MAX_ELEMENT_BYTES, Field, show_shape
from rlcli.datasets.inflating import InflateError, inflate
from rlcli.errors import CorruptError
from rlcli.format.keys import DTYPES


@dataclass(frozen=True)
class Ragged:
    """Values of different length per element: element i has `lengths[i]` of the rows of `flat`, in order."""

    flat: NDArray[Any]
    lengths: NDArray[np.int64]


#: `[n, *shape]`; byte strings, or lists of them; arrays of a shape each; or values of different length.
Decoded = NDArray[Any] | list[bytes] | list[list[bytes]] | list[NDArray[Any]] | Ragged


def count(field: Field, example: Mapping[str, Values]) -> int:
    """How many elements of its outermost sequence are there, 1 without; 0 if the feature is absent or empty.

    Raises `CorruptError` where that is not a whole number.
    """
    sizes = {name: np.array([len(values)]) for name, values in example.items() if values is not None}
    return int(counts(field, sizes, 1)[0])


def counts(field: Field, sizes: Mapping[str, NDArray[np.int64]], number: int) -> NDArray[np.int64]:
    """`count` of `number` Examples; `sizes` has how many values each has under each name, `[number]`."""
    lengths = sizes.get(f"{field.name}/ragged_row_lengths_0") if len(field.lengths) > 1 else None
    if lengths is not None:
        return lengths
    values = sizes.get(f"{field.name}/value" if field.is_dynamic else field.name)
    if values is None:
        return np.zeros(number, np.int64)
    if not field.lengths:
        return (values > 0).astype(np.int64)
    if field.elements_size == 1:
        return values
    elements, rest = np.divmod(values, field.elements_size)
    if rest.any():
        message = f"{values[rest > 0][0]:,} values are not a multiple of {field.elements_size:,}"
        raise CorruptError(f"{field.name}: {message}")
    return elements


def read(field: Field, example: Mapping[str, Values], start: int, stop: int) -> Decoded:
    """Its elements `start … stop - 1`: an array `[stop - start, *shape]`, byte strings, or ragged values.

    Raises `CorruptError` if they are of another kind or number than `features.json` says.
    """
    if len(field.lengths) > 1 and f"{field.name}/ragged_row_lengths_0" in example:
        return _ragged(field, example, start, stop)
    values, size = _stored(field, example), field.elements_size
    inner = tuple(n or 1 for n in field.lengths[1:])
    if not field.lengths:
        size = 0 if values is None else len(values)
    part = [] if values is None else values[start * size : stop * size]
    shapes = _shapes(field, example, start, stop) if field.is_dynamic else None
    elements = _decoded(field, part, (stop - start) * math.prod(inner), shapes)
    if isinstance(elements, list):
        several = len(field.lengths) > 1 or (field.kind == "tensor" and field.shape)
        return _grouped(elements, [size] * (stop - start)) if field.is_bytes and several else elements
    return elements.reshape(stop - start, *inner, *elements.shape[1:])


def _stored(field: Field, example: Mapping[str, Values]) -> Values:
    if field.is_dynamic:
        return example.get(f"{field.name}/value")
    return example.get(field.name)


def _ragged(field: Field, example: Mapping[str, Values], start: int, stop: int) -> Decoded:
    lengths = np.asarray(example[f"{field.name}/ragged_row_lengths_0"])
    flat = example.get(f"{field.name}/ragged_flat_values")
    values = [] if flat is None else flat
    size = field.innermost_size
    if lengths.dtype != np.int64 or ((lengths < 0) | (lengths > len(values))).any():
        raise CorruptError(f"{field.name}: its row lengths do not fit its {len(values):,} values")
    if int(lengths.sum()) * size != len(values):
        raise CorruptError(f"{field.name}: {len(values):,} values, its row lengths say {lengths.sum():,}")
    first, total = int(lengths[:start].sum()), int(lengths[start:stop].sum())
    rows = _decoded(field, values[first * size : (first + total) * size], total, None)
    fixed = field.lengths[1]
    if fixed is not None and (lengths != fixed).any():
        raise CorruptError(f"{field.name}: a sequence of another length than {fixed}")
    if isinstance(rows, list):
        return _grouped(rows, (lengths[start:stop] * (size if field.is_bytes else 1)).tolist())
    if fixed is not None:
        return rows.reshape(stop - start, fixed, *rows.shape[1:])
    return Ragged(rows, lengths[start:stop])


def _grouped(values: list[Any], lengths: Sequence[int]) -> list[list[bytes]]:
    """`values` in lists of these lengths."""
    rest = iter(values)
    return [list(islice(rest, length)) for length in lengths]


def _shapes(field: Field, example: Mapping[str, Values], start: int, stop: int) -> NDArray[np.int64]:
    """The shapes that dynamic elements say they have, `[stop - start, axes]`."""
    axes = len(field.shape)
    shapes = np.asarray(example.get(f"{field.name}/shape"))
    if shapes.dtype != np.int64 or shapes.size < stop * axes or (shapes < 0).any():
        raise CorruptError(f"{field.name}: its shapes are not {axes} numbers per element")
    return shapes[start * axes : stop * axes].reshape(-1, axes)


def _decoded(
    field: Field, values: Any, count: int, shapes: NDArray[np.int64] | None
) -> NDArray[Any] | list[bytes] | list[NDArray[Any]]:
    """`values` as `count` elements, `[count, *shape]`, byte strings or arrays of a shape each."""
    if field.is_bytes:
        wanted = count * (math.prod(n or 1 for n in field.shape) if field.kind == "tensor" else 1)
        return _byte_strings(field.name, values, wanted)
    if field.encoding != "none":
        return _unpacked(field, _byte_strings(field.name, values, count), shapes)
    if isinstance(values, list):
        if values:
            raise CorruptError(f"{field.name}: byte strings, features.json says {field.dtype}")
        values = np.empty(0, np.float32 if field.dtype.lstrip("b").startswith("float") else np.int64)
    shape = field.shape
    if None in shape:  # of an episode's own feature; in steps such a shape cannot be told
        known = count * math.prod(n for n in shape if n is not None)
        shape = tuple((len(values) // known if known else 0) if n is None else n for n in shape)
    full = tuple(n or 0 for n in shape)
    if len(values) != count * math.prod(full):
        raise CorruptError(
            f"{field.name}: {len(values):,} values, expected {count:,} of shape {show_shape(field.shape)}"
        )
    return _cast(field.name, values, field.dtype).reshape(count, *full)


def _unpacked(
    field: Field, parts: list[bytes], shapes: NDArray[np.int64] | None
) -> NDArray[Any] | list[NDArray[Any]]:
    """Elements that are each the bytes of an array; a list of them where an axis may vary."""
    if None not in field.shape:
        shape = tuple(n or 0 for n in field.shape)
        limit = math.prod(shape) * DTYPES[field.dtype].itemsize
        raw = [_raw(field, part, limit) for part in parts]
        if any(len(part) != limit for part in raw):
            raise CorruptError(f"{field.name}: an element that is not {limit:,} bytes")
        return _from_bytes(field, b"".join(raw), (len(parts), *shape))
    found = []
    for index, part in enumerate(parts):
        told = list(field.shape) if shapes is None else shapes[index].tolist()
        if any(ours not in (None, theirs) for ours, theirs in zip(field.shape, told, strict=True)):
            raise CorruptError(
                f"{field.name}: a shape of {told}, features.json says {show_shape(field.shape)}"
            )
        known = math.prod(n for n in told if n is not None) * DTYPES[field.dtype].itemsize
        data = _raw(field, part, MAX_ELEMENT_BYTES if None in told else min(known, MAX_ELEMENT_BYTES))
        full = tuple((len(data) // known if known else 0) if n is None else n for n in told)
        if math.prod(full) * DTYPES[field.dtype].itemsize != len(data):
            raise CorruptError(
                f"{field.name}: {len(data):,} bytes are no array of shape {show_shape(tuple(told))}"
            )
        found.append(_from_bytes(field, data, full))
    return found


def _raw(field: Field, data: bytes, limit: int) -> bytes:
    """An element's bytes, at most `limit` where they were compressed."""
    return _inflated(field.name, data, limit) if field.encoding == "zlib" else data


def _from_bytes(field: Field, data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    if field.dtype == "bool":
        flags: NDArray[Any] = np.frombuffer(data, np.uint8) != 0
        return flags.reshape(shape)
    dtype = DTYPES[field.dtype].newbyteorder("<")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _byte_strings(name: str, values: Any, count: int) -> list[bytes]:
    if not isinstance(values, list) and len(values):
        raise CorruptError(f"{name}: numbers, features.json says byte strings")
    if len(values) != count:
        raise CorruptError(f"{name}: {len(values):,} values, expected {count:,}")
    return list(values)


def _inflated(name: str, data: bytes, limit: int) -> bytes:
    """`data` decompressed, at most `limit` bytes."""
    try:
        return inflate(data, "zlib", limit)
    except InflateError as err:
        raise CorruptError(f"{name}: its zlib data is damaged: {err}") from err


def _cast(name: str, values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored float32 or int64 as what was declared; no value changes."""
    target = DTYPES[dtype]
    if dtype == "bfloat16":
        if values.dtype != np.float32:
            raise CorruptError(f"{name}: integers, features.json says {dtype}")
        return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if (values.dtype.kind == "f") != (target.kind in "fc"):
        found = "floats" if values.dtype.kind == "f" else "integers"
        raise CorruptError(f"{name}: {found}, features.json says {dtype}")
    if dtype == "uint64":
        return values.astype(np.int64, copy=False).view(np.uint64)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(target, copy=False)
    if target.kind in "iub" and target != values.dtype and (cast.astype(np.int64) != values).any():
        raise CorruptError(f"{name}: a value that {dtype} cannot hold")
    return cast
