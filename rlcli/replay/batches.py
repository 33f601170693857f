"""Batch after batch into memory that is made once: as NumPy arrays, tensors or a TensorDict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from rlcli.format.nested import nest
from rlcli.format.specs import Key
from rlcli.replay.block import Block
from rlcli.replay.sampler import Sampler, State

Form = Literal["numpy", "torch", "tensordict"]


class Batches(Iterator[Any]):
    """Endless batches of a sampler, each in one of `keep` blocks in turn.

    A batch is valid until the sampler has given `keep` more; then its memory is the next batch's. `keep=0`
    gives every batch fresh memory. `form` says what a batch is: nested dicts of NumPy arrays or of tensors,
    or a TensorDict `[batch_size]`; the views are made once with the block. Tensors share memory with the
    block. `pinned` is for copying to a CUDA device without waiting.
    """

    def __init__(
        self, sampler: Sampler, batch_size: int, *, form: Form = "numpy", keep: int = 4, pinned: bool = False
    ) -> None:
        if batch_size < 1 or keep < 0:
            raise ValueError("a batch has at least one row, and `keep` is not negative")
        self.sampler = sampler
        self.batch_size = batch_size
        self.form: Form = form
        self.keep = keep
        self.pinned = pinned
        self._ring: list[tuple[Block, Any]] = []
        self._next = 0

    def __next__(self) -> Any:
        if len(self._ring) < self.keep:
            self._ring.append(self._make())
        block, batch = self._ring[self._next] if self.keep else self._make()
        self._next = (self._next + 1) % max(self.keep, 1)
        self.sampler.fill(block, self.batch_size)
        return batch

    def state(self) -> State:
        """The sampler's."""
        return self.sampler.state()

    def load_state(self, state: State) -> None:
        """Goes on behind the batch after which `state` was taken."""
        self.sampler.load_state(state)

    def _make(self) -> tuple[Block, Any]:
        layout = self.sampler.layout(self.batch_size)
        memory = pinned_memory(layout) if self.pinned else None
        block = Block(layout, memory)
        if self.form == "numpy":
            return block, block.nested
        tensors = as_tensors(block, self._bfloat16())
        if self.form == "torch":
            return block, tensors
        from tensordict import TensorDict  # takes a second to import

        return block, TensorDict(tensors, [self.batch_size])

    def _bfloat16(self) -> frozenset[Key]:
        """Columns whose 16 bits NumPy has no name for."""
        return frozenset(c.key for c in self.sampler.source.columns if c.dtype == "bfloat16")


def as_tensors(block: Block, bfloat16: frozenset[Key] = frozenset()) -> dict[str, Any]:
    """Tensors over a block's memory, nested as the batch is."""
    import torch

    def tensor(key: Key) -> torch.Tensor:
        found = torch.from_numpy(block.arrays[key])
        return found.view(torch.bfloat16) if key in bfloat16 else found

    return nest(block.arrays, map(tensor, block.arrays))


def pinned_memory(layout: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Page-locked memory for a block. Raises `RuntimeError` where torch has no CUDA device."""
    import torch

    from rlcli.replay.block import size_of

    memory: np.ndarray[Any, np.dtype[np.uint8]] = torch.empty(
        size_of(layout), dtype=torch.uint8, pin_memory=True
    ).numpy()
    return memory
