"""Every rule of the data model is broken once, alone, and found: rule, row, episode, file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format import spans
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.semantics import Finding, Report, check
from rlcli.format.specs import Box, Composite, Discrete, MultiBinary, MultiDiscrete, Spec
from rlcli.format.writer import Writer

Columns = dict[tuple[str, ...], np.ndarray[Any, Any]]
OBSERVATION = Box((2,), "float32", -1.0, 1.0)
THREE = Discrete(3)
LENGTHS = (3, 1, 4)  # rows 0–2 terminated, row 3 truncated, rows 4–7 cut
ROWS = sum(LENGTHS)


def columns(plain: bool, action: Spec) -> Columns:
    """Three lawful episodes as stored columns."""
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
    step = np.concatenate([np.arange(n) for n in LENGTHS])
    ends = np.cumsum(LENGTHS) - 1
    values: Columns = {
        ("observation",): observation,
        ("action",): rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
        if isinstance(action, Box)
        else np.zeros((ROWS, *action.shape), action.dtype),  # type: ignore[union-attr]
        ("next", "reward"): rng.normal(size=(ROWS, 1)).astype(np.float32),
        ("next", "terminated"): np.zeros((ROWS, 1), bool),
        ("next", "truncated"): np.zeros((ROWS, 1), bool),
        ("next", "done"): np.zeros((ROWS, 1), bool),
        ("is_init",): (step == 0)[:, None],
        ("episode",): np.repeat(np.arange(3), LENGTHS),
        ("step",): step,
        ("info", "speed"): np.zeros(ROWS, np.float64),
    }
    values["next", "terminated"][ends[0]] = values["next", "done"][ends[0]] = True
    values["next", "truncated"][ends[1]] = values["next", "done"][ends[1]] = True
    if plain:
        following = np.roll(observation, -1, axis=0)
        following[ends] = rng.uniform(-1, 1, (3, 2))
        values["next", "observation"] = following
    return values


def dataset(
    path: Path,
    break_: Callable[[Columns], None] = lambda values: None,
    *,
    plain: bool = False,
    action: Spec = THREE,
    table: dict[str, Any] | None = None,
    close: bool = True,
    lengths: tuple[int, ...] = LENGTHS,
    finals: tuple[Any, ...] = ([0.5, 0.5],) * 3,
) -> Dataset:
    """A dataset with these columns, whatever they mean; `table` changes the first episode record."""
    schema = ted_schema(
        OBSERVATION,
        action,
        extra=[Column(("info", "speed"), "float64")],
        next_observation="plain" if plain else "derived",
    )
    spec = {"env": None, "observation": OBSERVATION.to_json(), "action": action.to_json()}
    values = columns(plain, action)
    break_(values)
    writer = Writer.create(path, schema, spec=spec, lineage={}, durability="process", segment_rows=5)
    ends = [
        {"terminated": True, "truncated": False},
        {"terminated": False, "truncated": True},
        {"terminated": False, "truncated": False, "cut": True},
    ]
    if table is not None:
        ends[0] = ends[0] | table
    start = 0
    for length, end, final in zip(lengths, ends, finals, strict=True):
        writer.write(0, {key: value[start : start + length] for key, value in values.items()})
        start += length
        known = None if final is None else {("observation",): np.array(final, np.float32)}
        writer.end_episode(0, **end, final=known)
    writer.commit()
    if close:
        writer.close()
    else:
        writer.abort()
    return Dataset.open(path)


def only(report: Report) -> Finding:
    assert len(report.errors) == 1, report.errors
    return report.errors[0]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("action", [Discrete(3), Box((2,), "float32", -1.0, 1.0)])
def test_lawful_data_have_no_findings(tmp_path: Path, plain: bool, close: bool, action: Spec) -> None:
    report = check(dataset(tmp_path / "d", plain=plain, close=close, action=action))
    assert report.errors == []
    assert report.warnings == []
    assert {"return", "is_init", "ends", "finite"} <= set(report.proven)
    assert ("unknown next" in report.proven) is not plain


BREAKS: dict[str, tuple[Any, str, int, int | None, str]] = {
    "done": (
        lambda v: v["next", "done"].__setitem__(1, True),
        "done = terminated | truncated",
        1,
        0,
        "next/done",
    ),
    "init inside": (lambda v: v["is_init",].__setitem__(5, True), "is_init", 5, 2, "is_init"),
    "init missing": (lambda v: v["is_init",].__setitem__(3, False), "is_init", 3, 1, "is_init"),
    "step": (lambda v: v["step",].__setitem__(2, 7), "episode and step", 2, 0, "step"),
    "episode": (lambda v: v["episode",].__setitem__(6, 9), "episode and step", 6, 2, "episode"),
    "observation nan": (
        lambda v: v["observation",].__setitem__((6, 1), np.nan),
        "finite",
        6,
        2,
        "observation",
    ),
    "reward inf": (lambda v: v["next", "reward"].__setitem__(1, np.inf), "finite", 1, 0, "next/reward"),
    "action": (lambda v: v["action",].__setitem__(4, 3), "within spec", 4, 2, "action"),
    "negative action": (lambda v: v["action",].__setitem__(7, -1), "within spec", 7, 2, "action"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_found_alone(tmp_path: Path, name: str) -> None:
    break_, rule, row, episode, column = BREAKS[name]
    found = check(dataset(tmp_path / "d", break_)).errors
    if name == "observation nan":  # the row before has it as its next observation
        assert {(f.key, f.first_row) for f in found} == {(("observation",), 6), (("next", "observation"), 5)}
        found = [f for f in found if f.key == ("observation",)]
    (finding,) = found
    assert (finding.rule, finding.first_row, finding.last_row, finding.count) == (rule, row, row, 1)
    assert finding.episode == episode
    segment = "w00-000000000000" if row < 5 else "w00-000000000005"
    assert finding.file == f"segments/{segment}/{column}.memmap"
    assert finding.block == 0


def test_a_flag_inside_an_episode_is_found(tmp_path: Path) -> None:
    def break_(values: Columns) -> None:
        values["next", "terminated"][5] = values["next", "done"][5] = True

    finding = only(check(dataset(tmp_path / "d", break_)))
    assert (finding.rule, finding.first_row, finding.episode) == ("ends", 5, 2)
    assert "before the episode's last row" in finding.message


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_last_row_and_episode_table_agree(tmp_path: Path, flag: str) -> None:
    end = {"terminated": False, "truncated": True} if flag == "terminated" else {"truncated": True}
    found = check(dataset(tmp_path / "d", table=end)).errors
    assert {f.first_row for f in found} == {2}
    assert flag in {f.key[1] for f in found if f.key}
    assert all(f.rule == "ends" for f in found)


def test_an_episode_without_a_reason_to_end_is_found(tmp_path: Path) -> None:
    found = check(dataset(tmp_path / "d", table={"terminated": False})).errors
    assert found[0].rule == "episode table"
    assert found[0].file == "episodes/w00-000000000000"
    assert (found[0].episode, found[0].first_row) == (0, 2)


def test_a_stored_next_observation_is_compared_bit_for_bit(tmp_path: Path) -> None:
    def break_(values: Columns) -> None:
        values["observation",][5, 0] = 0.0
        values["next", "observation"][4, 0] = -0.0  # equal as a number

    finding = only(check(dataset(tmp_path / "d", break_, plain=True)))
    assert (finding.rule, finding.first_row, finding.episode) == ("next[t] = observation[t+1]", 4, 2)
    assert finding.file == "segments/w00-000000000000/next/observation.memmap"


def test_next_is_compared_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "CHUNK_BYTES", 1)

    def break_(values: Columns) -> None:
        values["next", "observation"][6] += 1

    finding = only(check(dataset(tmp_path / "d", break_, plain=True)))
    assert (finding.first_row, finding.episode) == (6, 2)


def test_a_final_observation_that_is_nan_is_found(tmp_path: Path) -> None:
    finals = ([0.5, 0.5], [np.nan, 0.5], [0.5, 0.5])
    finding = only(check(dataset(tmp_path / "d", finals=finals)))
    assert (finding.rule, finding.first_row, finding.episode) == ("finite", 3, 1)
    assert finding.file == "finals/w00-000000000000/next/observation.memmap"


def test_an_unknown_next_observation_is_lawful(tmp_path: Path) -> None:
    data = dataset(tmp_path / "d", finals=([0.5, 0.5], None, None))
    assert data.unknown_next.tolist() == [3, 7]
    assert check(data).errors == []


def test_returns_are_exact_however_rows_are_chunked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_(values: Columns) -> None:
        values["next", "reward"][:3, 0] = [1e8, 1.0, -1e8]

    data = dataset(tmp_path / "d", break_)
    assert check(data).errors == []
    monkeypatch.setattr(spans, "CHUNK_BYTES", 1)
    assert check(data).errors == []
    assert data.episodes.return_[0] == 1.0


def test_a_return_that_is_not_the_sum_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(tmp_path / "d")
    table = data.episodes
    table.return_[1] = np.nextafter(table.return_[1], np.inf)
    monkeypatch.setattr(Dataset, "episodes", property(lambda self: table))
    finding = only(check(data))
    assert (finding.rule, finding.episode, finding.first_row, finding.count) == ("return", 1, 3, 1)
    assert "rewards sum to" in finding.message


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("length", 2, "an episode begins at row 3, expected row 2"),
        ("number", 1, "an episode number is used twice"),
    ],
)
def test_an_episode_table_that_cannot_be_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: int, text: str
) -> None:
    data = dataset(tmp_path / "d")
    table = data.episodes
    getattr(table, field)[0] = value
    monkeypatch.setattr(Dataset, "episodes", property(lambda self: table))
    finding = only(check(data))
    assert (finding.rule, finding.message) == ("episode table", text)


def test_box_values_beyond_bounds_are_warnings_that_count_rows(tmp_path: Path) -> None:
    def break_(values: Columns) -> None:
        values["action",][2] = [1.5, -3.0]
        values["action",][6, 0] = -1.01
        values["observation",][1, 0] = 2.0

    report = check(dataset(tmp_path / "d", break_, action=Box((2,), "float32", -1.0, 1.0)))
    assert report.errors == []
    found = {(w.key, w.first_row, w.last_row, w.count) for w in report.warnings}
    assert found == {(("action",), 2, 6, 2), (("observation",), 1, 1, 1)}


@pytest.mark.parametrize(
    ("action", "bad"), [(MultiDiscrete((2, 3)), [1, 3]), (MultiBinary(2), [0, 2]), (Discrete(2, start=5), 4)]
)
def test_other_discrete_actions_are_checked(tmp_path: Path, action: Spec, bad: Any) -> None:
    lawful = {MultiDiscrete: [1, 2], MultiBinary: [1, 0], Discrete: 6}[type(action)]

    def break_(values: Columns) -> None:
        values["action",][:] = lawful
        values["action",][3] = bad

    finding = only(check(dataset(tmp_path / "d", break_, action=action)))
    assert (finding.rule, finding.first_row) == ("within spec", 3)
    assert f"found {bad}" in finding.message


def test_nan_in_other_columns_is_a_warning(tmp_path: Path) -> None:
    report = check(dataset(tmp_path / "d", lambda v: v["info", "speed"].__setitem__(2, np.nan)))
    assert report.errors == []
    assert [(w.key, w.count) for w in report.warnings] == [(("info", "speed"), 1)]


def test_errors_are_grouped_by_episode(tmp_path: Path) -> None:
    report = check(dataset(tmp_path / "d", lambda v: v["step",].__setitem__([1, 2, 5, 7], 99)))
    assert [(f.episode, f.first_row, f.last_row, f.count) for f in report.errors] == [
        (0, 1, 2, 2),
        (2, 5, 7, 2),
    ]
    assert report.errors[0].message.endswith("found 99, expected 1")


def test_a_spec_that_does_not_fit_its_column_is_found(tmp_path: Path) -> None:
    schema = ted_schema(OBSERVATION, Discrete(2))
    spec = {"observation": Box((3,)).to_json(), "action": Composite({"x": Discrete(2)}).to_json()}
    with Writer.create(tmp_path / "d", schema, spec=spec, lineage={}):
        pass
    report = check(Dataset.open(tmp_path / "d"))
    assert [(f.rule, f.key) for f in report.errors] == [("spec", ("observation",)), ("spec", ("action", "x"))]


def test_streams_and_unfinished_episodes_are_judged(tmp_path: Path) -> None:
    schema = ted_schema(Composite({"a": Box((1,)), "b": Box((2, 2))}), Discrete(2))
    spec = {"observation": Composite({"a": Box((1,)), "b": Box((2, 2))}).to_json()}
    writer = Writer.create(tmp_path / "d", schema, spec=spec, lineage={}, num_streams=3, segment_rows=4)
    rng = np.random.default_rng(1)
    episodes = EpisodeWriter(writer, chunk_rows=3)
    for step in range(11):
        for stream in (0, 2):  # stream 1 stays empty
            observation, following = (
                {"a": rng.normal(size=1), "b": rng.normal(size=(2, 2))} for _ in range(2)
            )
            episodes.add(
                stream,
                observation=observation,
                action=step % 2,
                reward=1.0,
                terminated=step % 4 == 3,
                truncated=False,
                next_observation=following if step % 4 == 3 else None,
            )
    episodes.flush()
    data = Dataset.open(tmp_path / "d")
    assert data.state == "open"
    report = check(data)
    assert report.errors == []
    assert report.warnings == []
    episodes.close()
    report = check(Dataset.open(tmp_path / "d"))
    assert report.errors == []
