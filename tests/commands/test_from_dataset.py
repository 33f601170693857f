"""`--from-dataset` names several datasets in each way that one would write it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcli.commands.train import _repeat_flag
from rlcli.main import run


def test_words_behind_the_flag_are_datasets_until_the_next_option() -> None:
    words = [
        "train",
        "iql",
        "--from-dataset",
        "a:0.7",
        "b:0.3",
        "c",
        "--updates",
        "2",
        "--from-dataset=d",
        "e",
    ]
    _repeat_flag(words)
    assert words == [
        *("train", "iql", "--from-dataset", "a:0.7", "--from-dataset", "b:0.3", "--from-dataset", "c"),
        *("--updates", "2", "--from-dataset=d", "--from-dataset", "e"),
    ]


@pytest.mark.parametrize("form", ["several words", "one word", "repeated"])
def test_weighted_datasets_are_parents_with_their_weights(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        assert run(["collect", "CartPole-v1", "--steps", "40", "-o", name, "--quiet"]) == 0
    given = {
        "several words": ["--from-dataset", "a:0.7", "b:0.3"],
        "one word": ["--from-dataset", "a:0.7 b:0.3"],
        "repeated": ["--from-dataset", "a:0.7", "--from-dataset", "b:0.3"],
    }[form]
    assert run(["train", "bc", *given, "--updates", "2", "--eval-every", "0", "-o", "run", "--quiet"]) == 0
    parents = json.loads((tmp_path / "run" / "run.json").read_text())["parents"]
    assert [(Path(parent["path"]).name, parent["weight"]) for parent in parents] == [("a", 0.7), ("b", 0.3)]


def test_path_with_a_space_is_one_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["collect", "CartPole-v1", "--steps", "40", "-o", "my data", "--quiet"]) == 0
    given = ["--from-dataset", "my data:0.5", "--updates", "2", "--eval-every", "0"]
    assert run(["train", "bc", *given, "-o", "run", "--quiet"]) == 0
