"""`docs/expressions.md` is true: its examples run, its names and functions are those there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.spans import Chunk, Spans
from rlcli.format.specs import Box
from rlcli.format.writer import Writer
from rlcli.pipeline.expression_syntax import COMPARISONS, MAX_DEPTH, MAX_LENGTH, MAX_NESTING
from rlcli.pipeline.expression_terms import ATTRIBUTES, FUNCTIONS
from rlcli.pipeline.expressions import Expression

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "expressions.md").read_text()


def lines(kind: str) -> list[str]:
    (block,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S)
    return [line for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("page") / "d"
    rng = np.random.default_rng(0)
    schema = ted_schema(Box((3,)), Box((2,)))
    with EpisodeWriter(Writer.create(path, schema, spec={}, lineage={})) as episodes:
        for number in range(40):
            length = int(rng.integers(20, 90))
            episodes.begin(0, number)
            for step in range(length):
                last = step == length - 1
                episodes.add(
                    0, observation=rng.normal(size=3), action=rng.uniform(-1, 1, 2), reward=rng.normal(2),
                    terminated=last and number % 2 == 0, truncated=last and number % 2 == 1,
                    next_observation=rng.normal(size=3) if last else None,
                )  # fmt: skip
    return Dataset.open(path)


@pytest.mark.parametrize("text", lines("where"))
def test_examples_choose_some_episodes_and_not_all(data: Dataset, text: str) -> None:
    found = Expression(text, data.schema, per="episode").on(data, Spans(data)).episodes()
    assert found.shape == (40,)
    if text.startswith(("all(finite", "first(step)")):
        assert found.any()
    else:
        assert 0 < found.sum() < 40


@pytest.mark.parametrize("text", lines("where-step"))
def test_examples_choose_some_steps_and_not_all(data: Dataset, text: str) -> None:
    spans = Spans(data)
    values = Expression(text, data.schema, per="step").on(data, spans)
    found = values.steps(Chunk(data, spans, 0, data.num_rows))
    assert 0 < found.sum() < data.num_rows


def test_commands_on_the_page_have_expressions_that_fit(data: Dataset) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines():
        words = shlex.split(line)
        per = "step" if words[2] == "cat" else "episode"
        Expression(words[words.index("--where") + 1], data.schema, per=per)  # type: ignore[arg-type]


def test_everything_is_on_the_page() -> None:
    quoted = set(re.findall(r"`([^`\n]+)`", PAGE))
    words = {re.split(r"[( ]", text)[0] for text in quoted}
    assert set(FUNCTIONS) <= words
    assert {f"episode.{name}" for name in ATTRIBUTES} <= quoted
    assert set(COMPARISONS) <= quoted
    for number in (MAX_LENGTH, MAX_NESTING, MAX_DEPTH):
        assert f"{number:,}" in PAGE
