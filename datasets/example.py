"""`tf.train.Example`, decoded and encoded by hand: four small protobuf messages, no protobuf needed.

    Example   { Features features = 1; }
    Features  { map<string, Feature> feature = 1; }
    Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    *List     { repeated (bytes | float | int64) value = 1; }        // numbers packed or not

(TensorFlow, `core/example/example.proto` and `feature.proto`; protobuf's encoding guide.) Records as writers
lay them out are decoded natively. What else a parser of protobuf must accept is accepted here: unknown
fields, repeated and split messages, numbers that are not packed; and here damage is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli._native import merge_examples
from rlcli.errors import CorruptError, IncompatibleError

#: Decoded: float32 `[n]`, int64 `[n]`, a list of byte strings, or None where the feature has no kind.
Values = NDArray[np.float32] | NDArray[np.int64] | list[bytes] | None

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EMPTY_FLOATS = np.empty(0, np.float32)
_EMPTY_INTS = np.empty(0, np.int64)
_START = np.zeros(1, np.int64)


def decode(record: bytes) -> dict[str, Values]:
    """The features of an Example by name. Arrays may be views into `record`, or not be writable.

    Raises `CorruptError` that names the byte for what is not an Example, `IncompatibleError` for a
    `SequenceExample`.
    """
    number, found, _ = merge_examples(record, _START, np.array([len(record)], np.int64))
    return found if number else decode_any(record)


def decode_any(record: bytes) -> dict[str, Values]:
    """What `decode` returns, however the record is laid out."""
    found: dict[str, Values] = {}
    for field, wire, start, stop in _fields(record, 0, len(record)):
        if field == 2 and wire == _BYTES:
            raise IncompatibleError("the record is a tf.train.SequenceExample, expected a tf.train.Example")
        if field == 1 and wire == _BYTES:
            for inner, kind, low, high in _fields(record, start, stop):
                if inner == 1 and kind == _BYTES:
                    name, values = _entry(record, low, high)
                    found[name] = values
    return found


def encode(features: Mapping[str, NDArray[Any] | Sequence[bytes]]) -> bytes:
    """An Example of `features`: floats as float32, integers and bools as int64, or byte strings.

    uint64 keeps its bits, as TensorFlow Datasets does. Arrays are flattened in C order.
    """
    entries = []
    for name, values in features.items():
        if isinstance(values, np.ndarray):
            flat = values.reshape(-1)
            if flat.dtype.kind == "f":
                kind, payload = 2, flat.astype("<f4", copy=False).tobytes()
            elif flat.dtype.kind in "iub":
                kind, payload = 3, _encode_varints(flat.astype(np.int64))
            else:
                raise ValueError(f"{name}: an Example cannot hold {flat.dtype}")
            body = _delimited(1, payload) if payload else b""
        else:
            kind, body = 1, encode_strings(values)
        feature = _delimited(kind, body)
        entries.append(_delimited(1, _delimited(1, name.encode()) + _delimited(2, feature)))
    return _delimited(1, b"".join(entries))


def encode_strings(values: Sequence[bytes]) -> bytes:
    """A `BytesList` of `values`."""
    return b"".join([_delimited(1, value) for value in values])


def decode_strings(data: bytes) -> list[bytes]:
    """The inverse of `encode_strings`. Raises `CorruptError`."""
    return _byte_strings(data, 0, len(data))


def _entry(data: bytes, at: int, end: int) -> tuple[str, Values]:
    """One entry of the map: its name and its values."""
    name, parts = "", []
    for field, wire, start, stop in _fields(data, at, end):
        if field == 1 and wire == _BYTES:
            try:
                name = data[start:stop].decode()
            except UnicodeDecodeError as err:
                raise CorruptError(f"byte {start:,} of the record: a feature's name is not UTF-8") from err
        elif field == 2 and wire == _BYTES:
            parts += [part for part in _fields(data, start, stop) if part[0] in _LISTS and part[1] == _BYTES]
    if not parts:
        return name, None
    kind = parts[-1][0]  # of a oneof the last kind counts, and lists of one kind run on
    others = [index for index, part in enumerate(parts) if part[0] != kind]
    running = parts[others[-1] + 1 if others else 0 :]
    lists: list[Any] = [_LISTS[kind](data, start, stop) for _, _, start, stop in running]
    return name, lists[0] if len(lists) == 1 else _joined(lists)


def _joined(lists: list[Any]) -> Values:
    if isinstance(lists[0], list):
        return [value for values in lists for value in values]
    joined: NDArray[Any] = np.concatenate(lists)
    return joined


def _byte_strings(data: bytes, at: int, end: int) -> list[bytes]:
    found: list[bytes] = []
    while at < end:
        if data[at] != 0x0A:
            return found + [data[a:b] for f, w, a, b in _fields(data, at, end) if (f, w) == (1, _BYTES)]
        start = at
        length, at = _varint(data, at + 1, end)
        if length > end - at:
            raise _overrun(start, length)
        found.append(data[at : at + length])
        at += length
    return found


def _floats(data: bytes, at: int, end: int) -> NDArray[np.float32]:
    size = end - at
    if size and size % 5 == 0 and data[at] == 0x0D:  # not packed: a tag before each
        tagged = np.frombuffer(data, np.dtype([("tag", "u1"), ("value", "<f4")]), size // 5, at)
        if (tagged["tag"] == 0x0D).all():
            return np.ascontiguousarray(tagged["value"])
    parts: list[NDArray[np.float32]] = []
    for field, wire, start, stop in _fields(data, at, end):
        if field == 1 and wire in (_BYTES, _FIXED32):
            if (stop - start) % 4:
                raise CorruptError(
                    f"byte {start:,} of the record: {stop - start} bytes of floats, not in fours"
                )
            parts.append(np.frombuffer(data, "<f4", (stop - start) // 4, start))
    return _concatenated(parts, _EMPTY_FLOATS)


def _integers(data: bytes, at: int, end: int) -> NDArray[np.int64]:
    if at < end and data[at] == 0x08:  # not packed: a tag before each
        every = _decode_varints(data, at, end)
        if len(every) % 2 == 0 and (every[::2] == 0x08).all():
            return np.ascontiguousarray(every[1::2])
    parts: list[NDArray[np.int64]] = []
    for field, wire, start, stop in _fields(data, at, end):
        if field == 1 and wire in (_BYTES, _VARINT):
            parts.append(_decode_varints(data, start, stop))
    return _concatenated(parts, _EMPTY_INTS)


_LISTS = {1: _byte_strings, 2: _floats, 3: _integers}


def _concatenated(parts: list[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    if not parts:
        return empty
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _decode_varints(data: bytes, at: int, end: int) -> NDArray[np.int64]:
    """All varints of `data[at:end]`, int64. Raises `CorruptError` if the last is cut or one is too long."""
    if at == end:
        return _EMPTY_INTS
    raw = np.frombuffer(data, np.uint8, end - at, at)
    last = np.flatnonzero(raw < 0x80)
    if len(last) == len(raw):
        return raw.astype(np.int64)
    if not len(last) or last[-1] != len(raw) - 1:
        raise CorruptError(f"byte {end:,} of the record: a list of integers ends inside a number")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    longest = int(lengths.max())
    if longest > 10:
        at += int(first[int(lengths.argmax())])
        raise CorruptError(f"byte {at:,} of the record: an integer of {longest} bytes, at most 10 can be")
    values = np.zeros(len(last), np.uint64)
    for k in range(longest):
        longer = slice(None) if k == 0 else np.flatnonzero(lengths > k)
        bits = (raw[first[longer] + k] & np.uint8(0x7F)).astype(np.uint64)
        values[longer] |= bits << np.uint64(7 * k)
    return values.view(np.int64)


def _encode_varints(values: NDArray[np.int64]) -> bytes:
    unsigned = values.view(np.uint64)
    bits = int(unsigned.max()).bit_length() if len(unsigned) else 0
    if bits < 8:
        return unsigned.astype(np.uint8).tobytes()
    shifts = np.arange(-(-bits // 7), dtype=np.uint64) * np.uint64(7)
    pieces = []
    for low in range(0, len(unsigned), 1 << 16):
        rest = unsigned[low : low + (1 << 16), None] >> shifts
        out = (rest & np.uint64(0x7F)).astype(np.uint8)
        out[:, :-1] |= (rest[:, 1:] > 0).astype(np.uint8) << np.uint8(7)
        used = rest > 0
        used[:, 0] = True
        pieces.append(out[used].tobytes())
    return b"".join(pieces)


def _delimited(field: int, payload: bytes) -> bytes:
    size, length = len(payload), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((field << 3 | _BYTES,)) + length + payload


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """`(field, wire type, start, stop)` of each field of the message `data[at:end]`, values unread."""
    while at < end:
        begin = at
        tag, at = _varint(data, at, end)
        field, wire = tag >> 3, tag & 7
        start = at
        if wire == _BYTES:
            length, start = _varint(data, at, end)
            at = start + length
        elif wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise CorruptError(f"byte {begin:,} of the record: wire type {wire} is not of an Example")
        if at > end:
            raise _overrun(begin, at - start)
        if not 0 < field < 1 << 29:
            raise CorruptError(f"byte {begin:,} of the record: there is no field number {field}")
        yield field, wire, start, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The varint at `at` and where it ends."""
    value = shift = 0
    for index in range(at, min(end, at + 10)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, index + 1
        shift += 7
    raise CorruptError(f"byte {at:,} of the record: not a number, or the record ends inside it")


def _overrun(at: int, length: int) -> CorruptError:
    return CorruptError(f"byte {at:,} of the record: a field of {length:,} bytes runs past its message")
