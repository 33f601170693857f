"""Pickles of other people, without running anything that is in them.

The unpickler knows plain containers and numpy's arrays, dtypes and scalars, which are rebuilt here from their
bytes with every size checked; it never calls numpy with what a file says. Any other global is refused, or
becomes an inert `Thing` where a caller wants the state of foreign objects.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_MAX_OPCODES = 1_000_000  # of data; more are only taken from whom the user trusts
_MAX_TRUSTED_OPCODES = 32_000_000  # a buffer of hindsight replay has a dict for each of its places
_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|\?|[SU]\d{1,6}|O8?)")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


class Refused(ValueError):
    """A pickle that wants something else than data: the message names it."""


class Thing:
    """An object of a class that was not loaded: its name, what it was made with, its state."""

    name = ""

    args: tuple[Any, ...]
    state: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Thing:
        self = super().__new__(cls)  # unpickling need not call `__init__`
        self.args, self.state = args, {}
        return self

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.state.update(part)

    def append(self, item: Any) -> None:
        """What a list's subclass is filled with is not kept."""

    def extend(self, items: Any) -> None:
        """See `append`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[key] = value


class _Dtype:
    """A simple dtype; structured ones are refused."""

    def __init__(self, code: Any, *rest: Any) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise Refused(f"values of dtype {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, subarray, names, fields = state[1], state[2], state[3], state[4]
        if subarray is not None or names is not None or fields is not None:
            raise Refused("a structured dtype")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array to be; `value` is None until its state came."""

    value: NDArray[Any] | None = None

    def __init__(self, *args: Any) -> None:
        """What `numpy` would be called with has no meaning before the state."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _build(data, dtype, shape, "F" if fortran else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *rest: Any) -> _Array:
    array = _Array()
    array.value = _build(data, dtype, shape, order)
    return array


def _build(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """The array of these bytes. Raises `ValueError` if they are not as many as `shape` needs."""
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array without dtype or shape")
    if any(type(n) is not int or n < 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"an array of shape {shape!r}")
    if dtype.dtype.hasobject:
        if not isinstance(data, list) or len(data) != math.prod(shape):
            raise ValueError("an array of objects without these")
        objects = np.empty(len(data), object)
        for number, item in enumerate(data):
            objects[number] = item
        return objects.reshape(shape)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError("an array without bytes")
    if memoryview(data).nbytes != math.prod(shape) * dtype.dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and {memoryview(data).nbytes:,} bytes")
    flat = np.frombuffer(data, dtype.dtype) if math.prod(shape) else np.empty(0, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _build(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused(f"text in {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    """How old protocols write empty bytes; with an argument it would make any number of them."""
    if args:
        raise Refused("bytes made of something else")
    return b""


def _numpy(names: dict[str, Callable[..., Any]], *modules: str) -> dict[tuple[str, str], Callable[..., Any]]:
    return {(f"{top}.{module}", name): to for top in ("numpy.core", "numpy._core") for module in modules
            for name, to in names.items()}  # fmt: skip


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    **_numpy({"_reconstruct": _Array, "scalar": _scalar}, "multiarray"),
    **_numpy({"_frombuffer": _from_buffer}, "numeric"),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, others: str) -> None:
        super().__init__(io.BytesIO(data))
        self._others = others

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if self._others == "things":
            return type("Thing", (Thing,), {"name": f"{module}.{name}"})
        raise Refused(f"{module}.{name}"[:120])

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("a reference to something outside the pickle")


def loads(data: bytes, others: Literal["refuse", "things"] = "refuse") -> Any:
    """The value of a pickle; arrays in it are taken out with `array_of`.

    Raises `Refused` if it wants anything that is not data (unless `others` is "things"), `ValueError` for
    damage. Memory is bounded by a small multiple of the pickle.
    """
    try:
        _check(data, _MAX_OPCODES if others == "refuse" else _MAX_TRUSTED_OPCODES)
        return _Unpickler(data, others).load()
    except Refused:
        raise
    except (pickle.UnpicklingError, EOFError, MemoryError, RecursionError) as err:
        raise ValueError(f"a damaged pickle: {str(err) or type(err).__name__}") from err
    except (AttributeError, TypeError, IndexError, KeyError, OverflowError, ImportError, ValueError) as err:
        raise ValueError(f"a damaged pickle: {' '.join(str(err).split())[:120]}") from err


def array_of(value: Any) -> NDArray[Any] | None:
    """The array that `loads` found here, None if it is none."""
    return value.value if isinstance(value, _Array) else None


def _check(data: bytes, most: int) -> None:
    """Refuses a memo index beyond what was stored: the unpickler would make a table of that length."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > most:
            raise Refused(f"more than {most:,} instructions")
        if opcode.name in _PUTS and int(argument or 0) > count:
            raise ValueError(f"memo index {argument} after {count:,} instructions")
