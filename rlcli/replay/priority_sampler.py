"""What samplers that draw by priority share: the table of priorities, how it is told, saved and restored."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlcli.format.specs import Key
from rlcli.replay.block import Block, Layout
from rlcli.replay.priority_table import PriorityTable
from rlcli.replay.sampler import DatasetSampler, State
from rlcli.replay.streams import Rows

WEIGHT: Key = ("weight",)
ROW: Key = ("row",)
KEPT = "Keep priorities beside the data under this name, for the next who samples it; one process at a time."

_ROW, _PRIORITY = np.dtype(np.int64), np.dtype(np.float64)


class Options(Protocol):
    """What the options of every such sampler have."""

    @property
    def alpha(self) -> float: ...

    @property
    def epsilon(self) -> float: ...

    @property
    def persist(self) -> str | None: ...


P = TypeVar("P", bound=Options)


class PrioritySampler(DatasetSampler[P]):
    """Batches with two leaves more: `row` int64 `[B]`, for `update`, and `weight` float32 `[B, 1]`.

    With `persist` priorities lie beside the data too, in the side column of that name, written as they are
    told: they survive a kill, and a sampler that opens the dataset later, in any process, begins with them.
    An exact resume does not: `load_state` goes on from what was saved and puts that there. Close the sampler.
    """

    def prepare(self) -> None:
        config = self.config
        self.table = PriorityTable(
            self.source, config.alpha, config.epsilon, unusable=self.unusable, keep=config.persist
        )

    def unusable(self) -> Rows:
        """The logical rows that cannot be drawn for now, ascending: next observations that are unknown."""
        return self.source.unknown()

    def weighted(self, columns: Layout, batch_size: int) -> Layout:
        """These leaves, `row` and `weight`."""
        row, weight = (np.dtype(np.int64), (batch_size,)), (np.dtype(np.float32), (batch_size, 1))
        return {**columns, ROW: row, WEIGHT: weight}

    def drawn(self, block: Block) -> tuple[Rows, NDArray[np.float32]]:
        """The memory of a block's `row` and `weight`, `[B]` each, to be drawn into."""
        views = block.views.get("drawn")
        if views is None:
            views = block.views["drawn"] = [block.arrays[ROW], block.arrays[WEIGHT].reshape(-1)]
        return views[0], views[1]

    def update(self, rows: Any, priorities: Any) -> None:
        """Gives rows (a batch's `row`, `[B]`) new priorities `[B, …]`, at least 0; rows that were evicted, or
        are none (-1), are passed over. Both may be arrays, tensors or lists of numbers.

        Raises `ValueError` for a negative, infinite or undefined priority, or another number of them than of
        rows, and `TypeError` for what are no numbers; nothing is changed then.
        """
        ids = numbers("rows", rows, _ROW, "iu")
        values = numbers("priorities", priorities, _PRIORITY, "biuf")
        if len(ids) != len(values):
            raise ValueError(f"{len(values)} priorities for {len(ids)} rows")
        self.table.update(ids, values)

    def close(self) -> None:
        """Lets go of what is kept beside the data; drawing or updating raises `ValueError` from here on."""
        self.table.close()

    def position(self) -> State:
        return super().state()

    def seek(self, position: State) -> None:
        super().load_state(position)

    def state(self) -> State:
        return {**super().state(), "table": self.table.state()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.table.load_state(state["table"])


def numbers(what: str, given: Any, dtype: np.dtype[Any], kinds: str) -> NDArray[Any]:
    """What is given as a flat array of `dtype`: an array, a tensor or a list, of one of the `kinds` of dtype.

    Raises `TypeError` for anything else.
    """
    if type(given) is np.ndarray and given.dtype is dtype and given.ndim == 1 and given.flags.c_contiguous:
        return given  # as it mostly is
    if not isinstance(given, np.ndarray) and hasattr(given, "detach"):  # a tensor of any device
        tensor = given.detach()
        given = (tensor.double() if tensor.is_floating_point() else tensor).cpu().numpy()
    try:
        array = np.asarray(given)
    except ValueError:  # lists of several lengths
        array = np.array(None)
    if array.dtype.kind not in kinds and (array.size or array.dtype.kind == "O"):
        raise TypeError(f"{what} must be numbers, {dtype} or what becomes that, not {array.dtype}")
    return np.ascontiguousarray(array, dtype).reshape(-1)
