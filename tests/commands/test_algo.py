"""`rl algo`: what there is, and every option with its default and source."""

from __future__ import annotations

import json

import pytest

from rlcli.algorithms import ALGORITHMS
from rlcli.main import run


def test_every_algorithm_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["algo", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["algorithms"]
    assert [row["name"] for row in listed] == list(ALGORITHMS)
    assert all(row["sources"] and row["summary"] and row["takes"] for row in listed)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_option_has_a_meaning_and_a_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["algo", "show", name, "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert {"lr", "hidden", "batch_size"} & {option["name"] for option in options}
    assert all(option["help"] and option["type"] for option in options)


def test_an_unknown_algorithm_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["algo", "show", "dqm"]) == 2
    assert "did you mean 'dqn'?" in capsys.readouterr().err
