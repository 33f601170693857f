"""Batches on their way to a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Transfer:
    """Copies batches of tensors, nested dicts or TensorDicts, to `device`.

    On a CUDA device the copies have a stream of their own, beside the kernels of whoever uses the batches.
    One thread may `send` while another one does `take`.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self.device = torch.device(device)
        self._cuda: Any = torch.cuda
        self._stream = self._cuda.Stream(self.device) if self.device.type == "cuda" else None

    def send(self, batch: Any) -> Any:
        """The batch on the device. When it returns the copy is done: the memory may be filled anew."""
        if self._stream is None:
            return _to(batch, self.device)
        with self._cuda.stream(self._stream):
            there = _to(batch, self.device)
        self._stream.synchronize()
        return there

    def take(self, batch: Any) -> Any:
        """What was sent, for kernels on the caller's stream: its memory is not used again before they end."""
        if self._stream is not None:
            stream = self._cuda.current_stream(self.device)
            for tensor in _tensors(batch):
                tensor.record_stream(stream)
        return batch


def _to(batch: Any, device: Any) -> Any:
    if isinstance(batch, dict):
        return {name: _to(value, device) for name, value in batch.items()}
    return batch.to(device, non_blocking=True)


def _tensors(batch: Any) -> Iterator[Any]:
    if isinstance(batch, dict):
        for value in batch.values():
            yield from _tensors(value)
    elif hasattr(batch, "keys"):  # a TensorDict
        yield from batch.values(include_nested=True, leaves_only=True)
    else:
        yield batch
