"""Expressions give what plain Python loops give, and what is wrong with one is said where it is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rlcli.errors import UsageError
from rlcli.format import spans as format_spans
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.spans import Chunk, Spans, chunks
from rlcli.format.specs import Box, Composite
from rlcli.format.writer import Writer
from rlcli.pipeline.expressions import Expression

OBSERVATION = Composite({"p": Box((2,)), "image": Box((2, 3), "uint8")})
SCHEMA = ted_schema(
    OBSERVATION,
    Box((2,)),
    extra=[Column(("x",), "int16"), Column(("ok",), "bool"), Column(("big",), "uint64")],
)
FINAL = {"p": [9, 9], "image": np.zeros((2, 3))}  # the other stream gives no last observation
LENGTHS = [[4, 1, 7], [2, 6, 3]]  # per stream; the last of each has no end

Row = dict[str, Any]
Episode = dict[str, Any]


@dataclass(frozen=True, repr=False)
class World:
    """A dataset and the same as plain Python: episodes with their attributes and rows."""

    data: Dataset
    episodes: list[Episode]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("expressions") / "d"
    rng = np.random.default_rng(0)
    writer = Writer.create(path, SCHEMA, spec={}, lineage={}, num_streams=2, segment_rows=5)
    adder = EpisodeWriter(writer, chunk_rows=3)
    streams: list[list[Episode]] = [[], []]
    for index in range(3):
        for stream in range(2):
            length = LENGTHS[stream][index]
            seed = None if index == 1 else 2**63 - 1 - stream
            adder.begin(stream, seed)
            rows: list[Row] = []
            for step in range(length):
                row: Row = {
                    "p": (rng.integers(-8, 9, 2) / 4).tolist(),
                    "action": (rng.integers(-8, 9, 2) / 4).tolist(),
                    "image": rng.integers(0, 256, (2, 3)).tolist(),
                    "reward": int(rng.integers(-4, 5)) / 2,
                    "x": int(rng.integers(-3, 4)),
                    "ok": bool(rng.integers(2)),
                    "big": int(rng.integers(2**63, 2**64 - 1, dtype=np.uint64)),
                    "terminated": step == length - 1 and index < 2 and stream == 0,
                    "truncated": step == length - 1 and index < 2 and stream == 1,
                }
                rows.append(row)
                adder.add(
                    stream,
                    observation={"p": row["p"], "image": row["image"]},
                    action=row["action"],
                    reward=row["reward"],
                    terminated=row["terminated"],
                    truncated=row["truncated"],
                    next_observation=FINAL if stream and step == length - 1 else None,
                    x=row["x"],
                    ok=row["ok"],
                    big=row["big"],
                )
            streams[stream].append(
                {
                    "rows": rows,
                    "return": sum(row["reward"] for row in rows),
                    "length": length,
                    "terminated": rows[-1]["terminated"],
                    "truncated": rows[-1]["truncated"],
                    "seed": -1 if seed is None or index == 2 else seed,
                    "finished": index < 2,
                }
            )
    adder.flush()
    writer.abort()
    data = Dataset.open(path)
    yield World(data, [*streams[0], *streams[1]])
    data.close()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes go over the edges of chunks."""
    monkeypatch.setattr(format_spans, "MAX_CHUNK_ROWS", 3)


def per_episode(world: World, text: str, kind: Any = "condition") -> list[Any]:
    found = Expression(text, SCHEMA, per="episode", kind=kind).on(world.data, Spans(world.data)).episodes()
    assert len(found) == len(world.episodes)
    return list(found.tolist())


def per_step(world: World, text: str, kind: Any = "condition") -> list[list[Any]]:
    spans = Spans(world.data)
    values = Expression(text, SCHEMA, per="step", kind=kind).on(world.data, spans)
    flat: list[Any] = []
    for start, stop in chunks(world.data):
        flat += values.steps(Chunk(world.data, spans, start, stop)).tolist()
    assert len(flat) == world.data.num_rows
    rows = iter(flat)
    return [[next(rows) for _ in episode["rows"]] for episode in world.episodes]


def quantile_of(found: list[float], q: float) -> float:
    """Linear interpolation, by hand."""
    ordered = sorted(found)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Made:
    """An expression, and the same as a function of (world, episode, row)."""

    text: str
    value: Callable[[World, Episode, Row], Any]


def leaf(text: str, get: Callable[[Episode, Row], Any]) -> Made:
    return Made(text, lambda world, episode, row: get(episode, row))


STEP_NUMBERS = [
    leaf("reward", lambda e, r: r["reward"]),
    leaf("next/reward", lambda e, r: r["reward"]),
    leaf("next.reward", lambda e, r: r["reward"]),
    leaf("action[1]", lambda e, r: r["action"][1]),
    leaf("observation/p[-2]", lambda e, r: r["p"][0]),
    leaf("image[1, -1]", lambda e, r: r["image"][1][2]),
    leaf("x", lambda e, r: r["x"]),
    leaf("big", lambda e, r: r["big"]),
    leaf("step", lambda e, r: next(i for i, row in enumerate(e["rows"]) if row is r)),
]
EPISODE_NUMBERS = [
    leaf("return", lambda e, r: e["return"]),
    leaf("episode.return", lambda e, r: e["return"]),
    leaf("length", lambda e, r: e["length"]),
    leaf("seed", lambda e, r: e["seed"]),
]
STEP_CONDITIONS = [leaf("ok", lambda e, r: r["ok"]), leaf("terminated", lambda e, r: r["terminated"])]
EPISODE_CONDITIONS = [leaf("episode.truncated", lambda e, r: e["truncated"])]
CONSTANTS = [leaf(text, lambda e, r, v=value: v) for text, value in (("2", 2), ("-0.5", -0.5), ("1e1", 10.0))]  # type: ignore[misc]


def remainder(a: float, b: float) -> float:
    return a % b if b else math.nan


def divided(a: float, b: float) -> float:
    if b:
        return a / b
    return math.copysign(math.inf, a) if a else math.nan


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": divided, "%": remainder,
}  # fmt: skip
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip
UP: dict[str, Callable[[list[Any]], Any]] = {
    "mean": lambda v: sum(v) / len(v), "min": min, "max": max, "sum": sum, "first": lambda v: v[0],
    "last": lambda v: v[-1],
}  # fmt: skip


def binary(sign: str, table: dict[str, Callable[[Any, Any], Any]], a: Made, b: Made) -> Made:
    return Made(f"({a.text} {sign} {b.text})", lambda *at: table[sign](a.value(*at), b.value(*at)))


def aggregate(name: str, function: Callable[[list[Any]], Any], a: Made) -> Made:
    return Made(f"{name}({a.text})", lambda w, e, r: function([a.value(w, e, row) for row in e["rows"]]))


def with_steps(a: Made) -> Made:
    """Not a constant, which no aggregate takes."""
    return Made(f"{a.text} and (ok or x > 0)", lambda w, e, r: a.value(w, e, r) and (r["ok"] or r["x"] > 0))


def step_quantile(a: Made, q: float) -> Made:
    def value(world: World, episode: Episode, row: Row) -> float:
        return quantile_of([a.value(world, e, r) for e in world.episodes for r in e["rows"]], q)

    return Made(f"quantile({a.text}, {q})", value)


def beyond_quantile(sign: str, a: Made, q: float) -> Made:
    """`a > quantile(q)` of an episode quantity: over the episodes that have ended."""

    def value(world: World, episode: Episode, row: Row) -> bool:
        ended = [a.value(world, e, e["rows"][0]) for e in world.episodes if e["finished"]]
        return COMPARE[sign](a.value(world, episode, row), quantile_of(ended, q))

    return Made(f"{a.text} {sign} quantile({q})", value)


def numbers(leaves: list[Made]) -> st.SearchStrategy[Made]:
    return st.recursive(
        st.sampled_from([*leaves, *CONSTANTS]),
        lambda inner: st.one_of(
            st.builds(lambda s, a, b: binary(s, ARITHMETIC, a, b), st.sampled_from("+-*"), inner, inner),
            inner.map(lambda a: Made(f"abs({a.text})", lambda *at: abs(a.value(*at)))),
            inner.map(lambda a: Made(f"-{a.text}", lambda *at: -a.value(*at))),
        ),
        max_leaves=4,
    )


def conditions(quantities: st.SearchStrategy[Made], leaves: list[Made]) -> st.SearchStrategy[Made]:
    compared = st.builds(
        lambda s, a, b: binary(s, COMPARE, a, b), st.sampled_from(sorted(COMPARE)), quantities, quantities
    )
    return st.recursive(
        st.one_of(compared, st.sampled_from(leaves)),
        lambda inner: st.one_of(
            st.builds(
                lambda a, b: Made(f"({a.text} and {b.text})", lambda *at: a.value(*at) and b.value(*at)),
                inner, inner,
            ),
            st.builds(
                lambda a, b: Made(f"({a.text} or {b.text})", lambda *at: a.value(*at) or b.value(*at)),
                inner, inner,
            ),
            inner.map(lambda a: Made(f"not {a.text}", lambda *at: not a.value(*at))),
        ),
        max_leaves=4,
    )  # fmt: skip


BIG = [made for made in STEP_NUMBERS if made.text == "big"]  # compares exactly, its sums are rounded
SMALL = [made for made in STEP_NUMBERS if made.text != "big"]
STEP = conditions(st.one_of(numbers(SMALL), numbers(SMALL), st.sampled_from(BIG)), STEP_CONDITIONS)
AGGREGATED = st.one_of(
    st.builds(
        lambda name, a: aggregate(name, UP[name], a), st.sampled_from(sorted(UP)), st.sampled_from(SMALL)
    ),
    st.sampled_from(EPISODE_NUMBERS),
)
EPISODE = st.one_of(
    conditions(AGGREGATED, EPISODE_CONDITIONS),
    STEP.map(lambda a: aggregate("any", any, with_steps(a))),
    STEP.map(lambda a: aggregate("all", all, with_steps(a))),
    st.builds(
        beyond_quantile,
        st.sampled_from([">", "<="]),
        st.sampled_from(EPISODE_NUMBERS[:3]),
        st.sampled_from([0.0, 0.25, 0.9, 1.0]),
    ),
)
MIXED = conditions(
    st.one_of(
        st.sampled_from(SMALL),
        AGGREGATED,
        st.builds(step_quantile, st.sampled_from(SMALL), st.sampled_from([0.0, 0.5, 0.95])),
    ),
    [*STEP_CONDITIONS, *EPISODE_CONDITIONS],
)
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(EPISODE)
def test_a_condition_on_episodes_is_what_loops_say(world: World, made: Made) -> None:
    assert per_episode(world, made.text) == [made.value(world, e, e["rows"][0]) for e in world.episodes]


@MANY
@given(st.one_of(STEP, MIXED))
def test_a_condition_on_steps_is_what_loops_say(world: World, made: Made) -> None:
    wanted = [[made.value(world, e, row) for row in e["rows"]] for e in world.episodes]
    assert per_step(world, made.text) == wanted


@MANY
@given(st.sampled_from(sorted(ARITHMETIC)), st.sampled_from(STEP_NUMBERS), st.sampled_from(STEP_NUMBERS))
def test_arithmetic_is_pythons(world: World, sign: str, a: Made, b: Made) -> None:
    assume(sign != "%" or "big" not in (a.text, b.text))  # beyond 63 bits it is that of rounded numbers
    found = np.array([v for rows in per_step(world, f"{a.text} {sign} {b.text}", "number") for v in rows])
    made = binary(sign, ARITHMETIC, a, b)
    wanted = [made.value(world, e, row) for e in world.episodes for row in e["rows"]]
    np.testing.assert_allclose(found, np.array(wanted, np.float64), rtol=1e-15)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("not ok and x > 0", "(not ok) and (x > 0)"),
        ("ok or ok and x > 0", "ok or (ok and (x > 0))"),
        ("1 + 2 * x == 5 - x - 1", "(1 + (2 * x)) == ((5 - x) - 1)"),
        ("-x * 2 < x % 3 / 2", "((-x) * 2) < ((x % 3) / 2)"),
        ("-1 < x <= 2", "-1 < x and x <= 2"),
        ("x in [1, -2, 0.5]", "x == 1 or x == -2"),
        ("x not in [1, -2, 300000]", "not (x == 1 or x == -2)"),
        ("action[0] in [0.25, 1]", "action[0] == 0.25 or action[0] == 1"),
        ("ok in [1]", "ok"),
        ("ok == true", "ok"),
        ("big in [3]", "big < 0"),
        ("x > quantile(0.5) + 1", "x > quantile(x, 0.5) + 1"),
        ("quantile(.5) * 2 <= x", "quantile(x, 0.5) * 2 <= x"),
        ("`next/reward` > 0", "reward > 0"),
        ("finite(reward / x)", "x != 0"),
        ("seed - 1 < seed", "true"),
        ("9223372036854775807 + x > 9223372036854775806 and x < 0", "false"),
    ],
)
def test_precedence_and_other_ways_to_say_it(world: World, text: str, same: str) -> None:
    assert per_step(world, text) == per_step(world, same)


def test_a_constant_has_the_precision_of_the_column(world: World) -> None:
    found = per_step(world, "reward * 1 in [0.5] and reward == 0.5 and 0.1 + 0.2 != 0.3")
    assert found == [[row["reward"] == 0.5 for row in e["rows"]] for e in world.episodes]


def test_unknown_next_values_are_nan(world: World) -> None:
    known = per_step(world, "finite(next/observation/p[0])")
    for episode, rows in zip(world.episodes, known, strict=True):
        has_final = episode["truncated"]  # the other stream gave no last observation
        assert rows == [True] * (len(rows) - 1) + [has_final]


def test_aggregates_of_episodes_are_over_those_that_ended(world: World) -> None:
    whole = [e for e in world.episodes if e["finished"]]
    ended = [e["return"] for e in whole]
    for text, wanted in (
        ("max(return)", max(ended)), ("sum(length)", sum(e["length"] for e in whole)),
        ("mean(return)", sum(ended) / len(ended)), ("first(return)", ended[0]), ("last(return)", ended[-1]),
        ("min(max(reward))", min(max(r["reward"] for r in e["rows"]) for e in whole)),
    ):  # fmt: skip
        assert per_episode(world, text, "number") == [wanted] * len(world.episodes)
    assert per_episode(world, "any(episode.terminated) and not all(episode.terminated)") == [True] * 6


def test_vectors_are_reduced_over_their_elements_too(world: World) -> None:
    wanted = [max(abs(v) for r in e["rows"] for v in r["action"]) for e in world.episodes]
    assert per_episode(world, "max(abs(action))", "number") == wanted
    mean = [sum(sum(r["action"]) for r in e["rows"]) / 2 / e["length"] for e in world.episodes]
    assert per_episode(world, "mean(action)", "number") == mean
    above = [any(v > r["reward"] for r in e["rows"] for v in r["action"]) for e in world.episodes]
    assert per_episode(world, "any(action > reward)") == above


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("episode.retrun > 3", "there is no 'episode.retrun'; did you mean 'episode.return'?", 0),
        ("length > 3 and rewrad > 1", "did you mean 'reward'?", 15),
        ("return/length > 1", "a division has blanks around its /", 0),
        ("image > 1", "this has 6 values per step", 6),
        ("return >", "expected a name, a number or '(', found the end", 8),
        ("return = 3", "there is no '='; write '=='", 7),
        ("x ** 2 > 1", "there is no '**'", 2),
        ("(x > 1", "expected ')'", 6),
        ("x > 1 ok", "expected an operator or the end, found 'ok'", 6),
        ("x in [x]", "constants only", 6),
        ("x > 'a'", "a text and a number do not compare", 2),
        ("x contains 'a'", "'contains' takes a text column", 2),
        ("medain(x) > 1", "there is no function 'medain'; did you mean", 0),
        ("mean(x, 2) > 1", "mean() takes one argument, got 2", 0),
        ("any(x)", "this is a number, expected a condition", 4),
        ("not x", "this is a number, expected a condition", 4),
        ("x", "this is a number, expected a condition", 0),
        ("quantile(0.5)", "quantile(q) is of what it is compared with", 0),
        ("x > quantile(2)", "a number from 0 to 1", 13),
        ("x > quantile(x, ok)", "a number from 0 to 1", 16),
        ("quantile(.1) > quantile(.2)", "quantile(q) on both sides", 13),
        ("action[2] > 0", "there is no element 2", 0),
        ("image[1] > 0", "2 indices expected", 0),
        ("action[0.5] > 0", "an index is a whole number", 7),
        ("action[0] + image > 1", "this has 6 values", 18),
        ("action + image > 1", "vectors of 2 and 6 values do not go together", 7),
        ("length[0] > 1", "it has no elements", 0),
        ("observation > 1", "could be observation/p, observation/image; write which", 0),
        ("mean(3) > 1", "mean() of a constant", 0),
        ("x > 1e999", "the number is too large", 4),
        ("x > 'a", "a quote that is not closed", 4),
        ("x > §", "the character '§'", 4),
        ("first(action) > 0", "name an element", 0),
    ],
)  # fmt: skip
def test_what_is_wrong_is_shown_where_it_is(text: str, message: str, at: int) -> None:
    with pytest.raises(UsageError) as caught:
        Expression(text, SCHEMA, per="step")
    assert message in caught.value.message
    assert caught.value.message.startswith("--where: ")
    assert caught.value.detail is not None
    shown, caret = caught.value.detail.splitlines()
    assert shown.strip() == text
    assert caret.index("^") - 2 == at


def test_a_condition_that_differs_from_step_to_step_is_not_one_on_episodes() -> None:
    with pytest.raises(UsageError, match=r"any\(…\), all\(…\) or last\(…\)"):
        Expression("terminated", SCHEMA, per="episode")


def test_an_empty_expression_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        Expression("  ", SCHEMA, per="step")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "x.__class__ == 1",
        "().__class__",
        "[x for x in y]",
        "lambda: 1",
        "x if x else x",
        "f'{x}' == 'a'",
        "exec('1')",
        "x; y",
        "9**9**9**9 > 1",
        "(" * 100_000,
        "(" * 5_000 + "x" + ")" * 5_000,
        "not " * 2_000 + "ok",
        "-" * 9_000 + "x > 1",
        "x" + " + 1" * 2_000 + " > 1",
        "abs(" * 2_000 + "x" + ")" * 2_000,
        "1" * 9_000 + " > x",
        "x > 1" + " and x > 1" * 3_000,
        "x in [" + "1, " * 5_000 + "1]",
        "\0",
        "x > 1\ud800",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_text_is_a_clean_error_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(UsageError):
        Expression(text, SCHEMA, per="step")
    assert time.process_time() - started < 1


def test_nested_quantiles_do_not_explode(world: World) -> None:
    text = "reward"
    for _ in range(30):
        text = f"({text} > quantile(0.5)) * 1"
    assert len(per_step(world, f"{text} >= 0")) == 6


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*"()[]<>=!+-*/%,'`_.19e", "x", " and ", " not ", " in ", "reward", "mean("]))
)
def test_any_text_is_an_expression_or_a_usage_error(parts: list[str]) -> None:
    with contextlib.suppress(UsageError):
        Expression("".join(parts), SCHEMA, per="step")
