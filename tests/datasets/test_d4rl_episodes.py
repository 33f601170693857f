"""Where episodes end, against a loop that looks at one row after the other."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli.datasets.d4rl_episodes import Rule, Splitter, jumps
from rlcli.errors import InputError
from rlcli.pipeline.convert import convert


def slow_split(terminals, timeouts, changes, limit, use_terminals=True):
    """`[(last row, terminated, truncated, cut)]`, row by row."""
    ends, length = [], 0
    for row, terminal in enumerate(terminals):
        length += 1
        timeout = bool(timeouts is not None and timeouts[row])
        changed = bool(changes is not None and changes[row])
        limited = limit is not None and length == limit
        last = row == len(terminals) - 1
        flagged = (terminal and use_terminals) or timeout or changed or limited
        if flagged or last:
            ends.append((row, bool(terminal), timeout or not terminal, not flagged))
            length = 0
    return ends


def fast_split(rule, terminals, timeouts, changes, cuts):
    splitter, found, start = Splitter(rule), [], 0
    size = len(terminals)
    for stop in [*sorted({cut for cut in cuts if 0 < cut < size}), size]:
        part = slice(start, stop)
        ends = splitter(
            terminals[part],
            None if timeouts is None else timeouts[part],
            None if changes is None else changes[part],
            last=stop == size,
        )
        for row in ends.rows:
            cut = bool(ends.cut and row == ends.rows[-1])
            found.append((int(start + row), bool(ends.terminated[row]), bool(ends.truncated[row]), cut))
        start = stop
    return found


flags = st.lists(st.booleans(), min_size=1, max_size=40)


@settings(deadline=None, max_examples=150)
@given(
    data=st.data(),
    terminals=flags,
    kind=st.sampled_from(["timeouts", "index", "limit", "none", "both", "jump"]),
    cuts=st.lists(st.integers(1, 40), max_size=5),
)
def test_any_flags_in_any_slices_end_where_a_slow_loop_ends_them(data, terminals, kind, cuts):
    size = len(terminals)
    column = st.lists(st.booleans(), min_size=size, max_size=size)
    timeouts = np.array(data.draw(column)) if kind in ("timeouts", "both") else None
    changes = np.array(data.draw(column)) if kind in ("index", "both", "jump") else None
    if changes is not None:
        changes[-1] = False
    limit = data.draw(st.integers(1, 9)) if kind == "limit" else None
    rule = Rule.choose(
        timeouts=timeouts is not None,
        index=kind in ("index", "both"),
        max_episode_steps=limit,
        jump=kind == "jump",
    )
    terminals = np.array(terminals)
    expected = slow_split(terminals, timeouts, changes, limit, use_terminals=kind != "jump")
    assert fast_split(rule, terminals, timeouts, changes, cuts) == expected


def test_a_time_limit_is_only_used_where_nothing_better_is_known():
    known = {"max_episode_steps": 100, "jump": False}
    assert Rule.choose(timeouts=False, index=False, **known).names() == ["terminals", "max_episode_steps"]
    assert Rule.choose(timeouts=True, index=False, **known).names() == ["terminals", "timeouts"]
    assert Rule.choose(timeouts=False, index=True, **known).names() == ["terminals", "infos"]


@pytest.mark.parametrize(("distance", "jumped"), [(4.9, False), (5.1, True)])
def test_more_than_five_metres_in_a_step_is_a_jump(distance, jumped):
    assert jumps(np.zeros((1, 2)), np.array([[0, distance]])).tolist() == [jumped]


@pytest.mark.parametrize("name", ["actions", "rewards", "terminals"])
def test_a_chunk_of_carla_without_an_array_is_named(name, d4rl_file, tmp_path):
    path = d4rl_file("carla")
    with h5py.File(path, "a") as file:
        del file[f"virtual/1/{name}"]
    with pytest.raises(InputError, match=f"{name} is in some of the file's chunks only"):
        convert(path, tmp_path / "ds")
