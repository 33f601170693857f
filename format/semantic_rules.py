"""The rules of the data model, each a function from a chunk of rows to the rows that break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.spans import EPISODE, Array, Chunk, Mask
from rlcli.format.specs import Box, Discrete, Leaf, MultiDiscrete, leaves, spec_from_json

REWARD = ("next", "reward")
TERMINATED = ("next", "terminated")
TRUNCATED = ("next", "truncated")
DONE = ("next", "done")
IS_INIT = ("is_init",)
STEP = ("step",)

SpecLeaves = dict[Key, Leaf]


@dataclass(frozen=True)
class Breach:
    """The rows of a chunk in which `key` breaks a rule; `detail(i)` describes row i of the chunk."""

    key: Key
    rows: Mask
    message: str
    detail: Callable[[int], str] | None = None
    is_warning: bool = False


@dataclass(frozen=True)
class Rule:
    """`find` yields the breaches in a chunk; it is asked when `applies` to the dataset."""

    name: str
    applies: Callable[[Dataset, SpecLeaves], bool]
    find: Callable[[Chunk, SpecLeaves], Iterator[Breach]]


def spec_leaves(dataset: Dataset) -> tuple[SpecLeaves, list[tuple[Key, str]]]:
    """The specs of stored observation and action columns by key, and where spec and schema disagree."""
    fitting: SpecLeaves = {}
    errors: list[tuple[Key, str]] = []
    for name in ("observation", "action"):
        if name not in dataset.spec:
            continue
        try:
            found = leaves(spec_from_json(dataset.spec[name]), (name,))
        except IncompatibleError as err:
            errors.append(((name,), err.message))
            continue
        for key, leaf in found.items():
            column = dataset.schema.by_key.get(key)
            if column is None:
                errors.append((key, f"{'/'.join(key)} is in the spec and no column"))
            elif not column.is_sized:
                what = f"values of any length, the spec says {leaf.dtype}{list(leaf.shape)}"
                errors.append((key, f"{'/'.join(key)} has {what}"))
            elif (column.dtype, column.shape) != (leaf.dtype, leaf.shape):
                what = f"{column.dtype}{list(column.shape)}, the spec says {leaf.dtype}{list(leaf.shape)}"
                errors.append((key, f"{'/'.join(key)} is {what}"))
            else:
                fitting[key] = leaf
    return fitting, errors


def _has(*keys: Key) -> Callable[[Dataset, SpecLeaves], bool]:
    return lambda dataset, spec: all(key in dataset.schema.by_key for key in keys)


def _booleans(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """Each is a byte that is 0 or 1."""
    for column in chunk.dataset.schema.columns:
        if column.dtype == "bool":
            wrong = ~_are_booleans(chunk.read(column.key))
            yield Breach(column.key, wrong, f"{'/'.join(column.key)} is neither 0 nor 1")


def _done(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    wrong = chunk.flag(DONE) != (chunk.flag(TERMINATED) | chunk.flag(TRUNCATED))
    yield Breach(DONE, wrong, "done differs from terminated | truncated")


def _is_init(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """True exactly on first rows."""
    found, expected = chunk.flag(IS_INIT), chunk.step == 0
    wrong = found != expected
    yield Breach(IS_INIT, wrong & found, "is_init is true inside the episode")
    yield Breach(IS_INIT, wrong & expected, "is_init is false on the episode's first row")


def _numbers(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """`episode` is the table's number, `step` counts 0, 1, 2, … in each episode."""
    for key, expected in ((EPISODE, chunk.spans.number[chunk.span]), (STEP, chunk.step)):
        if key in chunk.dataset.schema.by_key:
            found = chunk.read(key).reshape(len(chunk))
            yield Breach(key, found != expected, f"{key[0]} number is wrong", _difference(found, expected))


def _difference(found: Array, expected: Array) -> Callable[[int], str]:
    return lambda row: f"found {found[row]}, expected {expected[row]}"


def _ends(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """Only an episode's last row is terminated or truncated, and it is what the episode table says."""
    spans = chunk.spans
    ends = chunk.is_last & spans.ended[chunk.span]
    for key, flags in ((TERMINATED, spans.terminated), (TRUNCATED, spans.truncated)):
        found = chunk.flag(key)
        yield Breach(key, found & ~ends, f"{key[1]} is true before the episode's last row")
        differs = np.zeros(len(chunk), np.bool_)
        differs[ends] = found[ends] != flags[chunk.span[ends]]
        yield Breach(key, differs, f"{key[1]} of the last row differs from the episode table")


def _next(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """`next[t]` is the observation of row t + 1, bit for bit, inside an episode."""
    dataset = chunk.dataset
    stop = min(chunk.stop + 1, dataset.num_rows)
    if stop - 1 == chunk.start:  # only the newest row: nothing follows it
        return
    for key in _next_keys(dataset):
        own = dataset.read(key, chunk.start, stop - 1)
        following = dataset.read(key[1:], chunk.start + 1, stop)
        wrong = np.zeros(len(chunk), np.bool_)
        wrong[: len(own)] = _differ(own, following)
        wrong &= ~chunk.is_last
        yield Breach(key, wrong, f"{'/'.join(key)} differs from {'/'.join(key[1:])} of the following row")


def _next_keys(dataset: Dataset) -> list[Key]:
    by_key = dataset.schema.by_key
    return [c.key for c in dataset.schema.columns if c.key[0] == "next" and c.key[1:] in by_key]


def _differ(values: Array, others: Array) -> Array:
    """Which rows differ in a bit; text, bytes and arrays of any length are compared one by one."""
    if values.dtype == object:
        pairs = zip(values, others, strict=True)
        return np.array([_content(one) != _content(other) for one, other in pairs], bool)
    differing: Array = (_bytes(values) != _bytes(others)).any(axis=1)
    return differing


def _bytes(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)


def _content(value: object) -> object:
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def _is_finite(values: Array) -> Array:
    """Of each row, whether all its numbers are finite."""
    if values.dtype == object:
        return np.array([np.isfinite(value).all() for value in values], bool)
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))


def _are_booleans(values: Array) -> Array:
    """Of each row, whether all its bytes are 0 or 1."""
    if values.dtype == object:
        return np.array([(value.view(np.uint8) <= 1).all() for value in values], bool)
    return np.asarray((_bytes(values) <= 1).all(axis=1))


def _unknown(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """Next values are unknown exactly where an episode ends without a final one or has not ended."""
    dataset = chunk.dataset
    expected = chunk.is_last & ~chunk.spans.final_known[chunk.span]
    wrong = expected != chunk.unknown_next
    for column in dataset.schema.derived:
        yield Breach(
            column.key,
            wrong,
            f"{'/'.join(column.key)}: the episode table and the reader disagree on whether it is known",
        )


def _finite(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """No NaN or infinity in observations, actions and rewards; in other columns they are counted."""
    for column in chunk.dataset.schema.columns:
        if "float" not in column.dtype and "complex" not in column.dtype:
            continue
        wrong: Array = ~_is_finite(chunk.read(column.key))
        if column.encoding == "derived":
            wrong = np.asarray(wrong & ~chunk.unknown_next)
        key = column.key
        essential = key[key[0] == "next" and len(key) > 1] in ("observation", "action", "reward")
        yield Breach(key, wrong, f"{'/'.join(key)} is NaN or infinite", is_warning=not essential)


def _within_spec(chunk: Chunk, spec: SpecLeaves) -> Iterator[Breach]:
    """Values lie in their specs. Beyond the bounds of a Box is a warning only: the data model stores what the
    policy emitted, before clipping."""
    for key, leaf in spec.items():
        values = chunk.read(key)
        outside = ~leaf.contains(values)
        name = "/".join(key)
        if not isinstance(leaf, Box):
            yield Breach(key, outside, f"{name} is not in its spec", _outside(values, leaf))
        elif leaf.low is not None or leaf.high is not None:
            nan = np.isnan(values.reshape(len(chunk), -1)).any(axis=1)  # those are `_finite`'s
            yield Breach(key, outside & ~nan, f"{name} lies beyond its bounds", is_warning=True)


def _outside(values: Array, leaf: Leaf) -> Callable[[int], str]:
    match leaf:
        case Discrete(n, start):
            expected = f"{start} to {start + n - 1}"
        case MultiDiscrete(nvec):
            expected = f"below {list(nvec)}"
        case _:
            expected = "0 or 1"
    return lambda row: f"found {values[row].tolist()}, expected {expected}"


def _one_step(*keys: Key) -> Callable[[Dataset, SpecLeaves], bool]:
    """What follows a row is the next row, not one some steps later (`rl buffer map --n-step`)."""
    return lambda dataset, spec: "n_step" not in dataset.extra and _has(*keys)(dataset, spec)


RULES = (
    Rule("booleans", lambda *_: True, _booleans),
    Rule("done = terminated | truncated", _has(DONE, TERMINATED, TRUNCATED), _done),
    Rule("is_init", _has(IS_INIT), _is_init),
    Rule("episode and step", lambda d, _: not {EPISODE, STEP}.isdisjoint(d.schema.by_key), _numbers),
    Rule("ends", _one_step(TERMINATED, TRUNCATED), _ends),
    Rule("next[t] = observation[t+1]", lambda d, spec: bool(_next_keys(d)) and _one_step()(d, spec), _next),
    Rule("unknown next", lambda dataset, _: bool(dataset.schema.derived), _unknown),
    Rule("finite", lambda *_: True, _finite),
    Rule("within spec", lambda _, spec: bool(spec), _within_spec),
)
