"""Sources whose observations are stacks of frames: each frame is stored once, the stacks are derived.

For every format alike: `unstacked` stands between a source and what writes it, `whole` between a dataset
and what compares or exports it. A stack under ("observation", *rest) is made of the frames under
("frame", *rest), and so is the next one of the next frames. SPEC.md 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from rlcli.datasets.contract import Advance, Ahead, LayoutMismatch, Part, Piece, Report, Source
from rlcli.datasets.parts import alone
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import FRAME, Column, Schema, shift_column, stack_column
from rlcli.format.stack import Unstacking

_FRAMES = range(2, 9)  # an axis in front of as many uint8 pictures may be one of time


class StackMismatch(LayoutMismatch):
    """An observation is not the stack of the last frames of its episode, so it has to be stored whole."""


def unstacked(source: Source) -> Source:
    """The source with single frames where observations look like stacks of them, else the same source.

    What looks so is a plain uint8 observation `[2 to 8, height, width, …]` whose next one is derived. Its
    `parts` raise `StackMismatch` when a row is not the stack of the last frames of its episode.
    """
    stacks = _candidates(source.schema)
    return _Unstacked(source, stacks) if stacks else source


def whole(dataset: Dataset) -> Dataset:
    """The dataset as its source was: observations that are stacks look stored, their frames are no columns.

    It reads what `dataset` reads, and is the same object where there is no such stack.
    """
    schema = _joined(dataset.schema)
    return dataset if schema is dataset.schema else cast(Dataset, _Whole(dataset, schema))


def _candidates(schema: Schema) -> dict[Key, Column]:
    if any(FRAME in key[:2] for key in schema.by_key):
        return {}
    return {
        column.key: column
        for column in schema.given
        if column.key[0] == "observation"
        and (column.encoding, column.dtype) == ("plain", "uint8")
        and len(column.shape) >= 3
        and column.shape[0] in _FRAMES
        and (following := schema.by_key.get(("next", *column.key))) is not None
        and following.encoding == "derived"
    }


def _frame(key: Key) -> Key:
    """Where the frames are that the observations or next observations under `key` are made of."""
    at = int(key[0] == "next")
    return (*key[:at], FRAME, *key[at + 1 :])


def _is_observation(key: Key) -> bool:
    return key[:1] == ("observation",) or key[:2] == ("next", "observation")


def _split(schema: Schema, stacks: Mapping[Key, Column]) -> Schema:
    """The schema with frames, their shifts, and the stacks of both in place of `stacks` and their shifts."""
    columns: list[Column] = []
    for column in schema.columns:
        if (source := stacks.get(column.of or column.key)) is None:
            columns.append(column)
            continue
        frame = Column(_frame(source.key), source.dtype, source.shape[1:])
        if column.encoding == "derived":
            frame = shift_column(_frame(column.key), frame)
        columns += [frame, stack_column(column.key, frame, source.shape[0])]
    return Schema(tuple(columns))


def _joined(schema: Schema) -> Schema:
    """The schema with stacks of observations as if they were stored, without the frames of `_split`.

    It is the same object where there are none.
    """
    stacks = {column.key: column for column in schema.stacks if _is_observation(column.key)}
    if not stacks:
        return schema
    frames = {column.of for column in stacks.values() if not _is_observation(column.of or ())}
    columns: list[Column] = []
    for column in schema.columns:
        if column.key in stacks:
            stored = Column(column.key, column.dtype, column.shape)
            now = stacks.get(column.key[1:])
            follows = (
                now is not None
                and now.frames == column.frames
                and (schema.column(column.of or ()).of == now.of)
            )
            columns.append(
                shift_column(column.key, replace(stored, key=column.key[1:])) if follows else stored
            )
        elif column.key not in frames:
            columns.append(column)
    return Schema(tuple(columns))


class _Whole:
    """A dataset of which only the schema is another one."""

    def __init__(self, dataset: Dataset, schema: Schema) -> None:
        self._dataset = dataset
        self.schema = schema

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


class _Unstacked:
    """See `unstacked`."""

    def __init__(self, source: Source, stacks: Mapping[Key, Column]) -> None:
        self._source, self._stacks = source, stacks
        self.schema = _split(source.schema, stacks)
        self.spec, self.record, self.plan = source.spec, source.record, source.plan
        self.ahead_bytes = source.ahead_bytes if isinstance(source, Ahead) else 0
        self.report = Report()
        self.report.add(source.report)
        for key, column in stacks.items():
            self.report.remarks.append(f"{'/'.join(key)}: {column.shape[0]} frames a row, each stored once")

    @property
    def files(self) -> Sequence[Path]:
        return self._source.files

    @property
    def pieces(self) -> Sequence[Piece]:
        return self._source.pieces

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """Those of the source with frames instead of stacks. Raises `StackMismatch`."""
        proofs = {key: Unstacking() for key in self._stacks}
        for whole_columns, end in alone(self._source.parts(piece, report, advance)):
            columns = dict(whole_columns)
            for key, proof in proofs.items():
                stacks = np.asarray(columns.pop(key))
                stacks = stacks.reshape(len(stacks), *self._stacks[key].shape)
                columns[_frame(key)] = (
                    stacks[:, -1] if not len(stacks) else _held(key, proof.frames_of(stacks))
                )
            if end is not None:
                final = end.final
                for key, proof in proofs.items():
                    if final is not None:
                        final = self._newest(final, key, proof, key[1:])
                    proof.end()
                end = replace(end, final=final)
            yield Part(columns, end)

    def _newest(self, final: Any, key: Key, proof: Unstacking, path: Key) -> Any:
        """The final observation with the newest frame in place of the stack at `path`."""
        if path:
            return {**final, path[0]: self._newest(final[path[0]], key, proof, path[1:])}
        column = self._stacks[key]
        return _held(key, proof.final_of(np.asarray(final, column.numpy).reshape(column.shape)))


def _held(key: Key, frames: Any) -> Any:
    if frames is None:
        raise StackMismatch(f"{'/'.join(key)} is not the stack of the last frames of its episode")
    return frames
