"""Frame stacks, and next observations that are compared with what follows, against lists in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import IncompatibleError
from rlcli.format import stack
from rlcli.format.dataset import Dataset
from rlcli.format.episode_buffer import LayoutMismatch
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Schema, shift_column, stack_column, ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OBSERVATION, NEXT = ("observation",), ("next", "observation")


def _schema(frames: int) -> Schema:
    base = ted_schema(Box((2,), "int32"), Discrete(4))
    now = stack_column(("stacked",), base.column(OBSERVATION), frames)
    return Schema((*base.columns, now, stack_column(("next", "stacked"), base.column(NEXT), frames)))


def _fifo(frames: int, first: Any) -> list[Any]:
    return [first] * frames


def _expected(steps: list[m.Step], frames: int) -> tuple[list[Any], list[Any]]:
    """Stacks and next stacks as an environment wrapper would make them: a queue, refilled at a reset."""
    now, following = [], []
    queue: list[Any] = []
    for step in steps:
        queue = _fifo(frames, step.observation) if step.step == 0 else [*queue[1:], step.observation]
        now.append(np.array(queue))
        newest = np.zeros_like(step.observation) if step.next_observation is None else step.next_observation
        following.append(np.array([*queue[1:], newest]))
    return now, following


@QUICK
@given(
    ends=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["no"] * 5 + ["terminated", "truncated", "unknown"])),
        min_size=1,
        max_size=60,
    ),
    frames=st.sampled_from([1, 2, 4, 9]),
    segment_rows=st.sampled_from([1, 3, 8, 4096]),
    sealed=st.booleans(),
    single_range=st.booleans(),
    seed=st.integers(0, 9),
)
def test_stacks_are_those_of_a_queue(
    tmp_path_factory: pytest.TempPathFactory,
    ends: list[tuple[int, str]],
    frames: int,
    segment_rows: int,
    sealed: bool,
    single_range: bool,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("stack") / "ds"
    model = m.create(
        path,
        Box((2,), "int32"),
        schema=_schema(frames),
        num_streams=2,
        segment_rows=segment_rows,
        chunk_rows=4,
    )
    for stream, end in ends:
        model.add(stream, end=end)
    if sealed:
        model.writer.close()
    else:
        model.writer.flush()
        model.writer.writer.abort()
    pairs = [_expected(steps, frames) for steps in model.streams]
    now = np.array([value for pair in pairs for value in pair[0]])
    following = np.array([value for pair in pairs for value in pair[1]])
    with Dataset.open(path, single_range=single_range) as dataset:
        assert np.array_equal(dataset.read(("stacked",)), now)
        assert np.array_equal(dataset.read(("next", "stacked")), following)
        rows = np.random.default_rng(seed).integers(0, len(now), 40)
        for found in (dataset.gather(rows), _into(dataset, rows, frames)):
            assert np.array_equal(found["stacked"], now[rows])
            assert np.array_equal(found["next"]["stacked"], following[rows])
        low, high = sorted(rows[:2].tolist())
        assert np.array_equal(dataset.read(("next", "stacked"), low, high), following[low:high])
        with pytest.raises(IndexError):
            dataset.gather(np.array([len(now)]), [("stacked",)])


def _into(dataset: Dataset, rows: Any, frames: int) -> dict[str, Any]:
    out = {"stacked": np.empty((len(rows), frames, 2), np.int32)}
    out["next"] = {"stacked": np.empty_like(out["stacked"])}
    keys = (("stacked",), ("next", "stacked"))
    dataset.gather_into(rows, keys, [out["stacked"], out["next"]["stacked"]])
    return dataset.gather(rows, keys, out=out)


def test_runs_of_stacks_are_read_in_place(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", Box((2,), "int32"), schema=_schema(3), chunk_rows=4)
    m.fill(model, 40)
    model.writer.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        whole, steps = dataset.read(("stacked",)), dataset.read(("step",))
        out = [np.full((12, 3, 2), -1, np.int32), np.full(12, -1)]
        starts, counts, at = np.array([3, 30]), np.array([5, 4]), np.array([0, 7])
        dataset.read_runs(starts, counts, at, (("stacked",), ("step",)), out)
        assert np.array_equal(out[0][:5], whole[3:8])
        assert np.array_equal(out[0][7:11], whole[30:34])
        assert out[1].tolist() == [*steps[3:8], -1, -1, *steps[30:34], -1]
        assert (out[0][5:7] == -1).all()


def test_stacks_end_at_episodes_where_nothing_is_shifted_too(tmp_path: Path) -> None:
    plain = Column(("value",), "int32", (1,))
    writer = Writer.create(
        tmp_path / "ds", Schema((plain, stack_column(("stacked",), plain, 3))), spec={}, lineage={}
    )
    for first in (10, 20):
        writer.write(0, {plain.key: np.arange(first, first + 2, dtype=np.int32)[:, None]})
        writer.end_episode(0, terminated=True, truncated=False)
    writer.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        found = dataset.read(("stacked",))[:, :, 0].tolist()
    assert found == [[10, 10, 10], [10, 10, 11], [20, 20, 20], [20, 20, 21]]


def test_in_a_window_stacks_begin_with_the_first_retained_row(tmp_path: Path) -> None:
    schema = _schema(4)
    model = m.create(
        tmp_path / "ds", Box((2,), "int32"), schema=schema, segment_rows=8, window=10, chunk_rows=1
    )
    for _ in range(30):  # one long episode
        model.add(0)
    model.writer.flush()
    with Dataset.open(tmp_path / "ds") as dataset:
        kept = [step.observation for step in model.streams[0][-10:]]
        found = dataset.read(("stacked",))
        assert len(found) == 10
        for row in range(10):
            assert np.array_equal(found[row], [kept[max(0, row - 3 + j)] for j in range(4)])
    model.writer.writer.abort()


def _unstacked(episodes: list[Any], finals: list[Any], sizes: list[int]) -> list[Any] | None:
    """The frames that `Unstacking` finds in episodes and what follows each, a few rows at a time."""
    proof, found = stack.Unstacking(), []
    for stacks, final in zip(episodes, finals, strict=True):
        at = 0
        while at < len(stacks):
            size = sizes[at % len(sizes)]
            if (frames := proof.frames_of(stacks[at : at + size])) is None:
                return None
            found += list(frames.copy())
            at += size
        if (newest := proof.final_of(final)) is None:
            return None
        found.append(newest)
        proof.end()
    return found


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_stacks_are_taken_apart_only_where_every_bit_is_that_of_a_frame(frames: int, dtype: str) -> None:
    rng = np.random.default_rng(frames)
    values = [rng.integers(0, 9, (length + 1, 2, 3)).astype(dtype) for length in range(1, 2 * frames + 2)]
    if dtype == "float32":
        values[-1][1] = np.nan
    queues = []
    for own in values:
        shown = _fifo(frames, own[0])
        queues.append(np.array([shown := [*shown[1:], frame] for frame in own]))
    episodes, finals = [queue[:-1] for queue in queues], [queue[-1] for queue in queues]
    for sizes in ([1], [3], [100], [2, 1]):
        found = _unstacked(episodes, finals, sizes)
        assert found is not None
        assert np.array(found).tobytes() == np.concatenate(values).tobytes()
    for queue in queues:
        for index in np.ndindex(queue.shape[:2]):
            at = (*index, *rng.integers(0, 2, 2).tolist())
            bits = queue.view(np.uint8 if dtype == "uint8" else np.uint32)
            bits[at] ^= 1
            is_final_newest = index == (len(queue) - 1, frames - 1)
            changed = _unstacked(episodes, finals, [3])
            assert (changed is not None) == (frames == 1 or is_final_newest), at
            bits[at] ^= 1


def test_bits_count_and_not_values() -> None:
    zero = np.zeros((1, 2, 1), np.float32)
    assert stack.Unstacking().frames_of(zero) is not None
    zero[0, 0] = -0.0
    assert stack.Unstacking().frames_of(zero) is None


def test_what_cannot_be_stacked_is_refused() -> None:
    plain = Column(("a",), "int32", (2,))
    good = stack_column(("s",), plain, 3)
    assert Schema.from_json(Schema((plain, good)).to_json()) == Schema((plain, good))
    for frames in (0, -1, 1025):
        with pytest.raises(IncompatibleError, match="frames"):
            Schema((plain, stack_column(("s",), plain, frames)))
    with pytest.raises(IncompatibleError, match="neither plain nor a shift"):
        Schema((plain, good, stack_column(("t",), good, 2)))
    with pytest.raises(IncompatibleError, match="differs in dtype or shape"):
        Schema((plain, Column(("s",), "int32", (3, 3), "stack", ("a",), 3)))
    for change in ({"frames": "3"}, {"frames": True}, {"op": "sum"}, {"of": ["b"]}, {"frames": None}):
        value = Schema((plain, good)).to_json()
        value["columns"][1] |= change
        with pytest.raises(IncompatibleError):
            Schema.from_json(value)


# Next observations that were given although they are derived.


def _writer(path: Path, schema: Schema, chunk_rows: int) -> EpisodeWriter:
    return EpisodeWriter(Writer.create(path, schema, spec={}, lineage={}), chunk_rows=chunk_rows)


@QUICK
@given(
    ends=st.lists(st.sampled_from(["no", "no", "no", "end"]), min_size=1, max_size=20),
    chunk_rows=st.integers(1, 5),
    wrong=st.integers(0, 19),
    flushes=st.sets(st.integers(0, 19)),
)
def test_a_next_observation_that_is_not_the_one_that_follows_is_noticed(
    tmp_path_factory: pytest.TempPathFactory,
    ends: list[str],
    chunk_rows: int,
    wrong: int,
    flushes: set[int],
) -> None:
    for lie in (False, True):
        path = tmp_path_factory.mktemp("next") / "ds"
        writer = _writer(path, ted_schema(Box((1,), "float32"), Discrete(2)), chunk_rows)
        noticed = False
        try:
            for t, end in enumerate(ends):
                writer.add(
                    0,
                    observation=[t],
                    action=0,
                    reward=0.0,
                    terminated=end == "end",
                    truncated=False,
                    next_observation=[t + 1 + 0.5 * (lie and t == wrong)],
                )
                if t in flushes:
                    writer.flush()
            writer.close()
        except LayoutMismatch:
            noticed = True
            writer.writer.abort()
        follows = wrong + 1 < len(ends) and ends[wrong] == "no"
        assert noticed == (lie and follows)


def test_streams_are_compared_each_for_itself(tmp_path: Path) -> None:
    schema = ted_schema(m.NESTED, Discrete(2))
    writer = EpisodeWriter(
        Writer.create(tmp_path / "ds", schema, spec={}, lineage={}, num_streams=2), chunk_rows=3
    )
    rng = np.random.default_rng(0)
    values = [[m.value_of(m.NESTED, rng) for _ in range(9)] for _ in range(2)]
    for t in range(8):
        for stream in range(2):
            writer.add(
                stream,
                observation=values[stream][t],
                action=0,
                reward=0.0,
                terminated=False,
                truncated=t == 4,
                next_observation=values[stream][t + 1],
            )
    writer.close({0: values[0][8]})
    found = Dataset.open(tmp_path / "ds").read(("next", "observation", "inner", "speed"))
    expected = [v["inner"]["speed"] for own in values for v in own[1:]]
    assert found.tolist() == [*expected[:15], 0.0]


def test_only_observations_have_finals(tmp_path: Path) -> None:
    base = ted_schema(m.FLAT, Discrete(2))
    schema = Schema((*base.columns, shift_column(("next", "action"), base.column(("action",)))))
    with pytest.raises(ValueError, match="what follows an episode is an observation"):
        _writer(tmp_path / "ds", schema, 4)
