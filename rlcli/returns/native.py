"""What the estimators of this package share: the way into the native kernels, and the checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_MANY = 1 << 17  # transitions from which a second thread pays for starting it


def check(reward: Tensor, others: tuple[Tensor, ...], **fractions: float) -> None:
    """Raises `ValueError` unless all tensors are `[T]` or `[T, E]` of one shape and `fractions` in [0, 1]."""
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, it must lie in [0, 1]")
    shape = reward.shape
    if len(shape) not in (1, 2):
        raise ValueError(f"reward must be [T, E] or [T], got {list(shape)}")
    for other in others:
        if other.shape != shape:
            shapes = [list(x.shape) for x in (reward, *others)]
            raise ValueError(f"all tensors must be [T, E] or [T] of one shape, got {shapes}")


def run(kernel: Callable[..., Any], *tensors: Tensor | None, **numbers: float) -> Any:
    """What `kernel` makes of the tensors as they lie in memory, None if they are not for it.

    Not for it: another device or dtype than the CPU's float32 and float64, or a gradient that is wanted.
    Tensors of mixed float types take the first one's, strided ones are copied.
    """
    first = tensors[0]
    assert first is not None
    threads = torch.get_num_threads() if first.numel() >= _MANY else 1
    try:
        return kernel(*[x if x is None else x.numpy() for x in tensors], **numbers, threads=threads)
    except (TypeError, RuntimeError):  # not as the kernel wants it; a copy may be
        if not _is_convertible([x for x in tensors if x is not None]):
            return None
    return kernel(*[x if x is None else _array(x, first.dtype) for x in tensors], **numbers, threads=threads)


def bootstraps(next_value: Tensor, terminated: Tensor) -> Tensor:
    """`next_value`, and 0 where terminated, whatever stood there."""
    return torch.where(terminated, torch.zeros_like(next_value), next_value)


def _is_convertible(tensors: list[Tensor]) -> bool:
    return (
        tensors[0].dtype in (torch.float32, torch.float64)
        and all(x.device.type == "cpu" for x in tensors)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    )


def _array(x: Tensor, dtype: torch.dtype) -> Any:
    return x.detach().to(torch.bool if x.dtype == torch.bool else dtype).contiguous().numpy()
