"""What all samplers promise: drawn ahead or not, in whatever memory, the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli import _native
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.replay import SAMPLERS
from rlcli.replay.batches import Batches
from rlcli.replay.choice import make_sampler
from rlcli.replay.mixture import Mixture
from rlcli.replay.prefetch import Prefetch
from rlcli.replay.sampler import Sampler
from rlcli.replay.uniform import Uniform
from tests.replay.made_up import counting, flat, goals

SETS = {"slices": ["length=3"], "prioritized-slices": ["length=3"], "top-return": ["share=0.5"]}


def _sampler(name: str, dataset: Dataset, seed: int = 0) -> Sampler:
    return make_sampler(name, dataset, sets=SETS.get(name, []), seed=seed)


def _dataset(path: Path) -> Dataset:
    return goals(path, [5, 9, 3, 20, 4])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_drawn_ahead_are_the_same_and_not_in_the_state(name: str, tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "a")
    plain, ahead = _sampler(name, dataset), _sampler(name, dataset)
    with Prefetch(Batches(ahead, 4, keep=0), depth=2) as prefetch:
        for _ in range(3):
            assert _equal(next(prefetch), plain.sample(4))
        resumed = _sampler(name, dataset)
        resumed.load_state(prefetch.state())
        for _ in range(2):
            expected = plain.sample(4)
            assert _equal(next(prefetch), expected)
            assert _equal(resumed.sample(4), expected)


def test_an_error_in_the_thread_comes_where_the_batch_is_taken(tmp_path: Path) -> None:
    sampler = make_sampler("consuming", counting(tmp_path / "a", [6]))
    with Prefetch(Batches(sampler, 4, keep=0)) as prefetch:
        next(prefetch)
        with pytest.raises(IncompatibleError, match="2 rows"):
            next(prefetch)


def test_the_state_of_another_kind_is_refused(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [6])
    with pytest.raises(IncompatibleError, match="uniform"):
        make_sampler("uniform", dataset).load_state(make_sampler("consuming", dataset).state())


def test_a_mixture_resumes_its_sources(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [30])

    def mixture() -> Mixture:
        return Mixture([Uniform(dataset, seed=1), Uniform(dataset, seed=2)], [0.5, 0.5])

    first, second = mixture(), mixture()
    first.sample(9)
    second.load_state(first.state())
    assert _equal(first.sample(9), second.sample(9))


@pytest.mark.parametrize("form", ["numpy", "torch", "tensordict"])
def test_a_ring_gives_the_same_batches_in_memory_made_once(form: Any, tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [40])
    ring, plain = Batches(Uniform(dataset), 8, form=form, keep=2), Uniform(dataset)
    batches = []
    for _ in range(4):
        batch, expected = next(ring), plain.sample(8)
        batches.append(batch)
        assert flat(batch["observation"]) == flat(expected["observation"])
        assert flat(batch["next"]["reward"]) == flat(expected["next"]["reward"])
    assert batches[2] is batches[0]
    assert batches[1] is not batches[0]


def test_names_and_options_are_checked(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [6])
    with pytest.raises(UsageError, match="uniform"):
        make_sampler("unifrom", dataset)
    with pytest.raises(UsageError, match="alpha"):
        make_sampler("prioritized", dataset, sets=["sampler.alhpa=1"])
    with pytest.raises(UsageError):
        make_sampler("prioritized", dataset, sets=["alpha=-1"])
    with pytest.raises(UsageError, match="derive"):
        make_sampler("pathlib:Path", dataset)


def test_values_of_any_length_are_in_no_batch() -> None:
    """Text and arrays of any length are left out where all columns are asked for; asked by name, said."""
    with Dataset.open(Path(__file__).parent.parent / "golden" / "v1-heaps") as dataset:
        batch = make_sampler("uniform", dataset).sample(2)
        assert batch["observation"].keys() == {"image"}
        assert batch["a"]["jpeg"].shape == (2, 8, 8)
        with pytest.raises(IncompatibleError, match="observation/text are of any length"):
            make_sampler("slices", dataset, keys=[("observation",)])


@given(seed=st.integers(0, 2**64 - 1), stream=st.integers(0, 2**64 - 1), batch=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_random_numbers_are_those_of_philox(seed: int, stream: int, batch: int) -> None:
    """NumPy's generator counts up before it gives a block, so it begins one block earlier."""
    out = np.empty(10, np.uint64)
    _native.random_numbers(seed, stream, batch, out)
    counter = ((batch << 64) - 1) % 2**256
    reference = np.random.Philox(counter=counter, key=seed + (stream << 64))
    assert out.tolist() == reference.random_raw(10).tolist()
