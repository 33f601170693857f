"""Where episodes end is the same however few rows are looked at at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcli.datasets import plain_scan
from rlcli.datasets.mapping import roles_of
from rlcli.datasets.plain_table import Field, Table
from rlcli.errors import InputError


class Given(Table):
    """Arrays in memory."""

    def __init__(self, arrays: dict) -> None:
        super().__init__(Path("given"))
        self.arrays = arrays
        self.asked: set[str] = set()
        self.fields = {name: Field(v.dtype, v.shape[1:], len(v)) for name, v in arrays.items()}

    def read(self, names, start, stop):
        self.asked.update(names)
        return {name: self.arrays[name][start:stop].copy() for name in names}


def look(monkeypatch, rows: int, **arrays) -> tuple[plain_scan.Scan, Given]:
    monkeypatch.setattr(plain_scan, "_LOOK_BYTES", 1)
    size = len(next(iter(arrays.values())))
    table = Given({"observations": np.zeros((size, 2), "f4"), "actions": np.zeros((size, 2), "f4"), **arrays})
    roles = roles_of(list(table.fields), {}, confirmed=True, where=table.path)
    return plain_scan.look_through(table, roles, size, rows), table


@pytest.mark.parametrize("dtype", ["i8", "u2", "f4", "?"])
@pytest.mark.parametrize("first", [0, 1])
def test_episode_numbers_end_episodes(monkeypatch, dtype, first):
    rng = np.random.default_rng(5)
    for trial in range(20):
        lengths = rng.integers(1, 9, 2 if dtype == "?" else 7)
        numbers = (np.repeat(np.arange(len(lengths)), lengths) + first * (trial % 2)).astype(dtype)
        ends = [at for at in range(len(numbers)) if at + 1 == len(numbers) or numbers[at] != numbers[at + 1]]
        counted = np.repeat(np.arange(len(ends)), np.diff([-1, *ends]))
        for rows in (1, 2, 3, 5, 100):
            scan, _ = look(monkeypatch, rows, episode_id=numbers)
            assert scan.last_rows.tolist() == ends
            assert ("episode_id" in scan.inexact) == (numbers != counted).any()


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_an_episode_number_that_is_none_is_told(monkeypatch, rows):
    for at in range(5):
        numbers = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
        numbers[at] = np.nan
        with pytest.raises(InputError, match="episode_id is not a number in some rows"):
            look(monkeypatch, rows, episode_id=numbers)


def test_rewards_that_are_as_ours_are_not_looked_at(monkeypatch):
    for dtype, exact in (("f4", True), ("f8", False)):
        rewards = np.array([0.1, 0.2, 0.3], dtype)
        scan, table = look(monkeypatch, 2, rewards=rewards, terminals=np.array([False, False, True]))
        assert ("rewards" in scan.inexact) is not exact
        assert ("rewards" in table.asked) is not exact
    with pytest.raises(InputError, match=r"rewards has float32\[2\] per row"):
        look(monkeypatch, 2, rewards=np.zeros((3, 2), "f4"))


def test_slices_cut_what_is_decoded_together_at_their_ends_only():
    for start, stop, rows in ((0, 10, 4), (3, 10, 4), (4, 5, 4), (3, 4, 9), (9, 30, 1)):
        found = list(Given({"a": np.zeros(30)}).slices(start, stop, rows))
        assert [row for low, high in found for row in range(low, high)] == list(range(start, stop))
        assert all(0 < high - low <= rows for low, high in found)
        assert all(high % rows == 0 for _, high in found[:-1])
