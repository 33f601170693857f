"""`rl algo`: what there is, and every option with its default and source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcli.algorithms import ALGORITHMS, bc
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


def test_the_users_own_module_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(bc.__file__).read_text().replace("Adam step size", "My own step size")
    (tmp_path / "my_cloning.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert run(["algo", "show", "my_cloning", "--json"]) == 0
    options = {option["name"]: option for option in json.loads(capsys.readouterr().out)["options"]}
    assert options["lr"]["help"].startswith("My own step size")


def test_help_shows_only_what_an_algorithm_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "ppo", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--env" in text
    assert "--from-dataset" not in text
    assert run(["train", "ppo", "--from-dataset", "ds", "--updates", "10"]) == 2
    assert "ppo cannot learn from a dataset" in capsys.readouterr().err
