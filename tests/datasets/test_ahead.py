"""Results that are made ahead: the right ones in any order, errors in their turn, one call at a time."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from rlcli.datasets.ahead import InTurn, SideBySide


def test_results_are_those_of_the_call_in_any_order():
    asked, running = [], threading.Lock()

    def call(number: int) -> int:
        assert running.acquire(blocking=False)  # no two at once
        asked.append(number)
        running.release()
        return number * number

    results = InTurn(call, 5)
    order = [0, 1, 2, 4, 1, 2, 3, 3, 0]
    assert [results(number) for number in order] == [number * number for number in order]
    assert max(asked) == 4
    results.close()


def test_an_error_comes_when_its_number_is_asked_for():
    def call(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        return number

    results = InTurn(call, 3)
    assert results(0) == 0
    with pytest.raises(ValueError, match="one"):
        results(1)
    assert results(2) == 2
    results.close()


def test_closing_waits_for_the_call_that_runs():
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def call(number: int) -> int:
        if number == 1:
            begun.set()
            may_end.wait()
            ended.append(number)
        return number

    results = InTurn(call, 9)
    assert results(0) == 0
    assert begun.wait(60)
    threading.Timer(0.01, may_end.set).start()
    results.close()
    assert ended == [1]


def test_columns_are_those_of_their_calls_whatever_their_sizes():
    side_by_side = SideBySide()
    for size in (0, 1 << 20):
        calls = {f"column {number}": partial(pow, number, 2) for number in range(20)}
        found = side_by_side(calls, {name: size * at for at, name in enumerate(calls)})
        assert list(found.items()) == [(f"column {number}", number**2) for number in range(20)]
    assert side_by_side({}, {}) == {}
    side_by_side.close()


def test_no_call_runs_any_more_when_an_error_of_one_comes():
    side_by_side, may_end, ended = SideBySide(), threading.Event(), []

    def waits() -> None:
        may_end.wait(60)
        ended.append("it")

    def fails() -> None:
        may_end.set()
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        side_by_side({"a": waits, "b": fails}, {"a": 1 << 20, "b": 1 << 20})
    assert ended == ["it"]
    side_by_side.close()
