"""What every sampler is: a seed, a number of batches drawn, and how the next one is made.

Batch number k is a function of the seed, k, the snapshot, the sampler's arguments and what it was told about
earlier batches: not of the process, the number of threads, or whether the run was interrupted between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.replay.block import Batch, Block, Layout
from rlcli.replay.source import Source
from rlcli.transforms.transform import NEWEST, Episodic

_NO_GAPS = np.zeros(0, np.int64)

State = dict[str, Any]  # nested dicts of numbers, text, lists of them, and arrays
C = TypeVar("C")


class Sampler(ABC):
    """Draws batches from `source`. Not for several threads at once, but for `Prioritized.update`."""

    NAME: ClassVar[str]  # in the table of samplers
    STREAM: ClassVar[int]  # of random numbers, so that two samplers of one seed draw independently

    def __init__(self, source: Source, seed: int = 0) -> None:
        self.source = source
        self.seed = seed
        self.batches = 0

    def __len__(self) -> int:
        """How many rows can be drawn now."""
        return self.source.eligible().count

    @abstractmethod
    def layout(self, batch_size: int) -> Layout:
        """The leaves of a batch."""

    @abstractmethod
    def fill(self, block: Block, batch_size: int) -> None:
        """Makes the next batch in a block of `layout(batch_size)`.

        Raises `IncompatibleError` if nothing can be drawn.
        """

    def sample(self, batch_size: int) -> Batch:
        """The next batch in fresh memory: nested dicts of arrays `[batch_size, …]`."""
        block = Block(self.layout(batch_size))
        self.fill(block, batch_size)
        return block.nested

    def close(self) -> None:  # noqa: B027 - most keep nothing
        """Lets go of what is kept beside the data, if anything is; do not draw afterwards."""

    def state(self) -> State:
        """What `load_state` needs to go on as if nothing had happened between."""
        return {"sampler": self.NAME, "seed": self.seed, "batches": self.batches}

    def load_state(self, state: State) -> None:
        """Goes on where the sampler that gave `state` was. Raises `IncompatibleError` for another kind's."""
        if state.get("sampler") != self.NAME:
            raise IncompatibleError(
                f"a sampler {self.NAME!r} cannot go on from the state of {state.get('sampler')!r}"
            )
        self.seed, self.batches = int(state["seed"]), int(state["batches"])

    def position(self) -> State:
        """The part of `state` that drawing changes; small. `seek` goes back to it."""
        return self.state()

    def seek(self, position: State) -> None:
        """Draws on from there; what `update` told stays."""
        self.load_state(position)

    def below(self, limit: int, count: int, part: int = 0) -> NDArray[np.int64]:
        """`count` whole numbers of this batch, uniform in `[0, limit)`."""
        out = np.empty(count, np.int64)
        _native.uniform_rows(self.seed, self.STREAM + 256 * part, self.batches, 0, limit, _NO_GAPS, out)
        return out

    def units(self, count: int, part: int = 0) -> NDArray[np.float64]:
        """`count` numbers in [0, 1) of this batch; each `part` is a stream of its own."""
        return (self.numbers(count, part) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def numbers(self, count: int, part: int = 0) -> NDArray[np.uint64]:
        """`count` random 64-bit numbers of this batch."""
        out = np.empty(count, np.uint64)
        _native.random_numbers(self.seed, self.STREAM + 256 * part, self.batches, out)
        return out


class DatasetSampler(Sampler, Generic[C]):
    """A sampler of one dataset, with options: the frozen dataclass `CONFIG`, of which `config` is one.

    See `Source` for `keys`, `capacity` and `episodic`. Raises `IncompatibleError` if the dataset lacks a
    column, or what is asked of its episodes.
    """

    CONFIG: ClassVar[type[Any]]
    PLAIN: ClassVar[bool] = False  # whether it can give nothing but columns as they are

    def __init__(
        self,
        dataset: Dataset,
        keys: Sequence[Key] | None = None,
        capacity: int | None = None,
        *,
        config: C | None = None,
        seed: int = 0,
        episodic: Episodic = NEWEST,
    ) -> None:
        if self.PLAIN and episodic != NEWEST:
            raise IncompatibleError(
                f"sampler {self.NAME} takes rows as they are: no frame-stack, no reward-to-go"
            )
        super().__init__(Source(dataset, keys, capacity, episodic), seed)
        self.config: C = self.CONFIG() if config is None else config
        self.prepare()

    def prepare(self) -> None:
        """What a kind keeps besides; called once, when the source and the options are there."""

    def layout(self, batch_size: int) -> Layout:
        """The columns `[B, …]`; a kind that adds leaves puts them behind."""
        return self.source.layout(batch_size)


class RowSampler(DatasetSampler[C]):
    """A sampler whose batches are nothing but rows of the dataset."""

    @abstractmethod
    def rows(self, batch_size: int) -> NDArray[np.int64]:
        """The logical rows `[B]` of the next batch. Raises `IncompatibleError` if it cannot be drawn."""

    def fill(self, block: Block, batch_size: int) -> None:
        self.source.gather(self.rows(batch_size), block)


def below(unit: NDArray[np.float64], counts: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Whole numbers in `[0, counts)` from numbers in [0, 1); counts up to 2^52."""
    drawn: NDArray[np.int64] = np.minimum((unit * counts).astype(np.int64), np.asarray(counts) - 1)
    return drawn
