"""Batches on their way to a device: the copies of a stand-in happen as late as those of CUDA may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcli.replay import batches as module
from rlcli.replay.batches import Batches
from rlcli.replay.block import size_of
from rlcli.replay.prefetch import Prefetch
from rlcli.replay.uniform import Uniform
from tests.replay.made_up import counting, flat


class Stream:
    """Work that is done when somebody waits for it, and not before."""

    current: Stream

    def __init__(self, device: Any = None) -> None:
        self.device = device
        self.work: list[Callable[[], object]] = []

    def synchronize(self) -> None:
        for step in self.work:
            step()
        self.work.clear()


class Tensor:
    """An array that goes to a device, on the stream that is current, when that gets to it."""

    def __init__(self, values: Any) -> None:
        self.values = values
        self.used_on: list[Stream] = []

    def to(self, device: torch.device, *, non_blocking: bool) -> Tensor:
        assert (device.type, non_blocking) == ("cuda", True)
        there = Tensor(np.full_like(self.values, 77))
        Stream.current.work.append(lambda: np.copyto(there.values, self.values))
        return there

    def record_stream(self, stream: Stream) -> None:
        self.used_on.append(stream)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Streams of a device that is not there; returns the one that kernels would run on."""
    main = Stream.current = Stream()

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        Stream.current = chosen
        yield
        Stream.current = main

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(module, "as_tensors", lambda block, _: {"x": Tensor(block.arrays["observation",])})
    return main


def test_a_batch_is_there_before_its_memory_is_the_next_ones(cuda: Stream, tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [40])
    ring, plain = Batches(Uniform(dataset), 8, form="torch", keep=4), Uniform(dataset)
    taken = []
    with Prefetch(ring, depth=2, device="cuda") as prefetch:
        for _ in range(20):
            batch = next(prefetch)
            taken.append((flat(batch["x"].values), flat(plain.sample(8)["observation"])))
            assert batch["x"].used_on == [cuda]
    assert all(found == expected for found, expected in taken)
    assert not cuda.work  # nothing was queued behind kernels


@pytest.mark.parametrize("form", ["torch", "tensordict"])
def test_batches_for_the_cpu_are_the_same(form: Any, tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [40])
    plain = Uniform(dataset)
    with Prefetch(Batches(Uniform(dataset), 8, form=form), device="cpu") as prefetch:
        for _ in range(6):
            batch, expected = next(prefetch), plain.sample(8)
            assert flat(batch["next"]["observation"]) == flat(expected["next"]["observation"])


def test_blocks_lie_in_the_memory_that_was_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Any] = []

    def pin(layout: Any) -> Any:
        pinned.append(np.zeros(size_of(layout), np.uint8))
        return pinned[-1]

    monkeypatch.setattr(module, "pinned_memory", pin)
    batches = Batches(Uniform(counting(tmp_path / "a", [40])), 8, form="torch", keep=3, pinned=True)
    for number in range(6):
        batch = next(batches)
        assert np.shares_memory(batch["observation"].numpy(), pinned[number % 3])
    assert len(pinned) == 3


def test_what_cannot_go_to_a_device_is_refused(tmp_path: Path) -> None:
    sampler = Uniform(counting(tmp_path / "a", [40]))
    with pytest.raises(ValueError, match="form"):
        Prefetch(Batches(sampler, 8), device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            next(Batches(sampler, 8, form="torch", pinned=True))
