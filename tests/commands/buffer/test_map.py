"""`rl buffer map`: laws (identity, inverse, order), slow references, specs that follow, and refusals."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import InputError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.semantics import check as check_semantics
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.verify import verify
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer_map import Options, map_dataset
from rlcli.pipeline.map_columns import cast

REWARD, TERMINATED, TRUNCATED = ("next", "reward"), ("next", "terminated"), ("next", "truncated")
OBSERVATION, NEXT = ("observation",), ("next", "observation")


def episodes(path: Path, lengths: list[int], ends: list[str], *, seed: int = 0, streams: int = 1) -> Path:
    """Episodes of random values; `ends` are `terminated`, `truncated`, `cut` (no final) or `lost` (truncated,
    no final)."""
    rng = np.random.default_rng(seed)
    space, action = Box((2,), "float32", -5.0, 5.0), Discrete(3)
    spec = {
        "env": {"library": "gymnasium", "id": "Test-v0", "kwargs": {}},
        "observation": space.to_json(),
        "action": action.to_json(),
    }
    extra = [Column(("info", "speed"), "float64")]
    writer = Writer.create(
        path, ted_schema(space, action, extra=extra), spec=spec, lineage={"op": "test"}, num_streams=streams,
        segment_rows=16,
    )  # fmt: skip
    with EpisodeWriter(writer, chunk_rows=7) as sink:
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True)):
            stream = index % streams
            sink.begin(stream, index)
            sink.add_rows(
                stream,
                {
                    OBSERVATION: rng.normal(size=(length, 2)).astype("float32"),
                    ("action",): rng.integers(0, 3, length),
                    REWARD: rng.normal(size=(length, 1)).astype("float32"),
                    ("info", "speed"): np.arange(length, dtype=np.float64),
                },
            )
            final = rng.normal(size=2).astype("float32") if end in ("terminated", "truncated") else None
            sink.end(
                stream, terminated=end == "terminated", truncated=end in ("truncated", "lost"),
                cut=end == "cut", final=final,
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "data"
    ends = ["terminated", "truncated", "cut", "lost", "terminated", "cut", "truncated"]
    return episodes(path, [5, 20, 3, 4, 1, 1, 9], ends, streams=2)


def rows_of(path: Path) -> dict[tuple[str, ...], np.ndarray[Any, Any]]:
    with Dataset.open(path) as dataset:
        return {column.key: dataset.read(column.key) for column in dataset.schema.columns}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_no_steps_are_the_identity(rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    before = contents(source)
    report = rl("map", source, "-o", tmp_path / "out", "--json").json
    assert (report["stored_next"], report["dropped_rows"], report["fits_env"]) == ([], 0, True)
    a, b = Dataset.open(source), Dataset.open(tmp_path / "out")
    assert (a.schema, a.spec) == (b.schema, b.spec)
    for key, values in rows_of(source).items():
        np.testing.assert_array_equal(values, b.read(key))
    for name in vars(a.episodes):
        np.testing.assert_array_equal(getattr(a.episodes, name), getattr(b.episodes, name))
    assert a.unknown_next.tolist() == b.unknown_next.tolist()
    assert verify(tmp_path / "out", deep=True) == []
    assert contents(source) == before


def slow_n_step(path: Path, n: int, gamma: float) -> list[dict[str, Any]]:
    """Row by row, from the definition; without last rows whose next value is unknown and matters."""
    with Dataset.open(path) as dataset:
        table, unknown = dataset.episodes, set(dataset.unknown_next.tolist())
        columns = {column.key: dataset.read(column.key) for column in dataset.schema.columns}
    found = []
    for start, length in zip(table.start.tolist(), table.length.tolist(), strict=True):
        rows = list(range(start, start + length))
        if rows[-1] in unknown and not columns[TERMINATED][rows[-1], 0]:
            rows.pop()
        for at, row in enumerate(rows):
            window = rows[at : at + n]
            total = sum(gamma**k * float(columns[REWARD][r, 0]) for k, r in enumerate(window))
            found.append(
                {
                    "observation": columns[OBSERVATION][row],
                    "reward": np.float32(total),
                    "next": columns[NEXT][window[-1]],
                    "terminated": columns[TERMINATED][window[-1], 0],
                    "truncated": columns[TRUNCATED][window[-1], 0],
                    "discount": np.float32(gamma ** len(window)),
                }
            )
    return found


@pytest.mark.parametrize("n", [2, 3, 7, 50])
def test_n_step_equals_the_definition(n: int, rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    report = rl("map", source, "-o", tmp_path / "out", "--n-step", n, "--gamma", 0.9, "--json").json
    expected = slow_n_step(source, n, 0.9)
    found = rows_of(tmp_path / "out")
    assert report["rows"] == len(expected) == len(found[REWARD])
    # one each of the cut, the lost, and the cut one of a single row
    assert (report["dropped_rows"], report["dropped_unknown_next"]) == (3, 3)
    assert report["stored_next"] == ["next/observation"]
    for row, values in enumerate(expected):
        np.testing.assert_array_equal(found[OBSERVATION][row], values["observation"])
        np.testing.assert_array_equal(found[NEXT][row], values["next"])
        assert found[REWARD][row, 0] == pytest.approx(values["reward"], rel=1e-6)
        assert found[TERMINATED][row, 0] == values["terminated"]
        assert found[TRUNCATED][row, 0] == values["truncated"]
        assert found["next", "done"][row, 0] == (values["terminated"] or values["truncated"])
        assert found["next", "discount"][row, 0] == values["discount"]
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.extra["n_step"] == {"n": n, "gamma": 0.9}
        assert list(check_semantics(dataset).errors) == []
    assert verify(tmp_path / "out", deep=True) == []


def test_rows_that_are_left_out_are_counted_and_explained(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    said = rl("map", source, "-o", tmp_path / "a", "--n-step", 2, "--gamma", 0.9).err
    assert "3 last rows left out: next values are stored, and what follows there is unknown" in said
    assert "left out" not in rl("map", source, "-o", tmp_path / "b", "--n-step", 1, "--gamma", 0.9).err


def test_n_step_of_a_terminal_in_three_rows(rl: Callable[..., Any], tmp_path: Path) -> None:
    """Trap 7: with a terminal at t = 2 and n = 3 every row's target is of the terminal, without bootstrap."""
    box = Box((1,), "float32")
    with EpisodeWriter(
        Writer.create(tmp_path / "a", ted_schema(box, box), spec={}, lineage={"op": "test"})
    ) as sink:
        for t in range(3):
            sink.add(
                0, observation=[t], action=[0], reward=1.0, terminated=t == 2, truncated=False,
                next_observation=[t + 1],
            )  # fmt: skip
    assert rl("map", tmp_path / "a", "-o", tmp_path / "b", "--n-step", 3, "--gamma", 0.5).code == 0
    found = rows_of(tmp_path / "b")
    assert found[REWARD][:, 0].tolist() == [1.75, 1.5, 1.0]
    assert found[TERMINATED][:, 0].tolist() == [True, True, True]
    assert found[NEXT][:, 0].tolist() == [3, 3, 3]
    assert found["next", "discount"][:, 0].tolist() == [0.125, 0.25, 0.5]


def test_n_step_of_one_only_adds_gamma(rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    rl("map", source, "-o", tmp_path / "out", "--n-step", 1, "--gamma", 0.9)
    found = rows_of(tmp_path / "out")
    assert (found.pop(("next", "discount")) == np.float32(0.9)).all()
    for key, values in rows_of(source).items():
        np.testing.assert_array_equal(values, found[key])
    with Dataset.open(source) as a, Dataset.open(tmp_path / "out") as b:
        assert a.unknown_next.tolist() == b.unknown_next.tolist()


def test_reward_to_go_equals_the_definition_and_closed_form(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    rl("map", source, "-o", tmp_path / "out", "--reward-to-go", 0.9)
    with Dataset.open(tmp_path / "out") as dataset:
        rewards, found = dataset.read(REWARD)[:, 0].astype(float), dataset.read(("reward_to_go",))[:, 0]
        for start, length in zip(dataset.episodes.start, dataset.episodes.length, strict=True):
            for row in range(start, start + length):
                expected = sum(0.9 ** (k - row) * rewards[k] for k in range(row, start + length))
                assert found[row] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    path = episodes(tmp_path / "five", [5], ["truncated"])
    rl("map", path, "-o", tmp_path / "rtg", "--relabel-reward", "info/speed + 1", "--reward-to-go", 1)
    assert rows_of(tmp_path / "rtg")["reward_to_go",][:, 0].tolist() == [15, 14, 12, 9, 5]


def test_steps_run_in_their_order(rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    rl("map", source, "-o", tmp_path / "a", "--scale-reward", 2, "--reward-to-go", 1)
    rl("map", source, "-o", tmp_path / "b", "--reward-to-go=1", "--scale-reward=2")
    rl("map", source, "-o", tmp_path / "c", "--rename", "action=act", "--cast", "info/speed=float32",
       "--rename", "act=action")  # fmt: skip
    a, b = (rows_of(tmp_path / name)["reward_to_go",] for name in "ab")
    np.testing.assert_array_equal(a, 2 * b)
    entry = Dataset.open(tmp_path / "a").lineage[0]
    assert entry["options"]["steps"] == [["--scale-reward", "2"], ["--reward-to-go", "1"]]
    assert Dataset.open(tmp_path / "c").spec == Dataset.open(source).spec


def test_scaled_rewards_scale_the_returns_of_the_table(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    rl("map", source, "-o", tmp_path / "out", "--scale-reward", 2)
    with Dataset.open(source) as a, Dataset.open(tmp_path / "out") as b:
        np.testing.assert_array_equal(b.episodes.return_, 2 * a.episodes.return_)


def test_a_renamed_observation_takes_its_next_and_its_space_along(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    report = rl("map", source, "-o", tmp_path / "out", "--rename", "observation=observation/state", "--json")
    assert report.json["stored_next"] == []
    with Dataset.open(tmp_path / "out") as dataset:
        column = dataset.schema.column(("next", "observation", "state"))
        assert (column.encoding, column.of) == ("derived", ("observation", "state"))
        space = Composite({"state": Box((2,), "float32", -5.0, 5.0)})
        assert dataset.spec["observation"] == space.to_json()
        assert dataset.spec["env"] is None
        assert dataset.extra["source_env"]["id"] == "Test-v0"
        np.testing.assert_array_equal(dataset.read(column.key), rows_of(source)[NEXT])


def test_a_next_observation_without_its_observation_is_stored(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    report = rl("map", source, "-o", tmp_path / "out", "--select", "next", "--json").json
    assert (report["stored_next"], report["dropped_rows"]) == (["next/observation"], 3)
    with Dataset.open(source) as a, Dataset.open(tmp_path / "out") as b:
        lost = [row for row in a.unknown_next.tolist() if not a.read(TERMINATED)[row, 0]]
        np.testing.assert_array_equal(b.read(NEXT), np.delete(a.read(NEXT), lost, axis=0))
        assert "observation" not in b.spec
        assert b.episodes.cut.sum() == 2  # of the three, one had no other row


def test_without_an_observation_its_next_one_is_left_out_and_no_row_lost(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    report = rl("map", source, "-o", tmp_path / "rest", "--exclude", "observation,info", "--json").json
    assert (report["stored_next"], report["dropped_rows"]) == ([], 0)
    keys = [column["key"] for column in report["columns"]]
    assert "action" in keys
    assert "next/reward" in keys
    assert not {"observation", "next/observation"} & set(keys)


def test_a_cast_changes_next_values_and_the_space_too(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    rl("map", source, "-o", tmp_path / "out", "--cast", "observation=float64")
    with Dataset.open(tmp_path / "out") as dataset:
        assert dataset.schema.column(NEXT).dtype == "float64"
        assert dataset.schema.column(NEXT).encoding == "derived"
        assert dataset.spec["observation"]["dtype"] == "float64"
        np.testing.assert_array_equal(dataset.read(NEXT), rows_of(source)[NEXT].astype("float64"))
        assert list(check_semantics(dataset).errors) == []


def test_normalised_columns_have_mean_0_and_std_1_and_can_be_undone(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    rl("map", source, "-o", tmp_path / "n", "--normalise", "observation")
    before = rows_of(source)[OBSERVATION].astype(float)
    with Dataset.open(tmp_path / "n") as dataset:
        found = dataset.read(OBSERVATION).astype(float)
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(found.std(0), 1, rtol=1e-6)
        stats = dataset.extra["normalise"]["observation"]
        np.testing.assert_allclose(stats["mean"], before.mean(0), rtol=1e-12)
        np.testing.assert_allclose(stats["std"], before.std(0), rtol=1e-12)
        low = (-5 - before.mean(0)) / before.std(0)
        np.testing.assert_allclose(dataset.spec["observation"]["low"], low)
        assert dataset.schema.column(NEXT).encoding == "derived"
        assert dataset.spec["env"] is None
    rl("map", tmp_path / "n", "-o", tmp_path / "u", "--denormalise", "observation")
    for key in (OBSERVATION, NEXT):
        with Dataset.open(source) as a, Dataset.open(tmp_path / "u") as b:
            known = np.setdiff1d(np.arange(a.num_rows), a.unknown_next)
            np.testing.assert_allclose(a.read(key)[known], b.read(key)[known], atol=1e-6)
            assert "normalise" not in b.extra
    other = episodes(tmp_path / "other", [4], ["truncated"], seed=9)
    rl("map", other, "-o", tmp_path / "o", "--normalise", "observation", "--stats-from", tmp_path / "n")
    expected = (rows_of(other)[OBSERVATION] - before.mean(0)) / before.std(0)
    np.testing.assert_allclose(rows_of(tmp_path / "o")[OBSERVATION], expected, rtol=1e-5, atol=1e-6)
    assert rl("map", tmp_path / "n", "-o", tmp_path / "x", "--normalise", "observation").code == 2


def test_a_constant_column_is_normalised_to_zero(
    rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    rl("map", source, "-o", tmp_path / "out", "--relabel-reward", "3", "--normalise", "info/speed")
    with Dataset.open(tmp_path / "out") as dataset:
        assert (dataset.read(REWARD) == 3).all()
    path = episodes(tmp_path / "ones", [1, 1], ["truncated", "truncated"])
    rl("map", path, "-o", tmp_path / "zero", "--normalise", "info/speed")
    assert (rows_of(tmp_path / "zero")["info", "speed"] == 0).all()


def test_nothing_is_normalised_without_a_number(rl: Callable[..., Any], tmp_path: Path) -> None:
    path = episodes(tmp_path / "none", [], [])
    ended = rl("map", path, "-o", tmp_path / "out", "--normalise", "info/speed")
    assert ended.code == 3
    assert "info/speed has an element without any finite value" in ended.err
    assert not (tmp_path / "out").exists()


def test_functions_of_an_episode(
    rl: Callable[..., Any], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def speed(episode): return episode['info']['speed'] * 2\n"
        "def short(episode): return None if len(episode['action']) > 5 else episode\n"
        "def noisy(episode):\n"
        "    episode['observation'] += np.float32(1)\n"
        "    episode['extra'] = np.arange(len(episode['action']), dtype='int16')\n"
        "    return episode\n"
        "def fails(episode): raise KeyError('x')\n"
        "def cuts(episode): return {'action': episode['action'][:1]}\n"
    )
    monkeypatch.chdir(tmp_path)
    rl("map", source, "-o", "a", "--relabel-reward", "mine:speed")
    found = rows_of(Path("a"))
    np.testing.assert_array_equal(found[REWARD][:, 0], 2 * found["info", "speed"])
    report = rl("map", source, "-o", "b", "--apply", "mine:short", "--json").json
    lengths = Dataset.open(source).episodes.length
    assert report["rows"] == lengths[lengths <= 5].sum()
    assert verify(Path("b"), deep=True) == []
    report = rl("map", source, "-o", "c", "--apply", "mine:noisy", "--json").json
    assert report["stored_next"] == ["next/observation"]  # the shift no longer holds
    with Dataset.open("c") as c:
        assert c.schema.column(("extra",)).dtype == "int16"
        np.testing.assert_array_equal(c.read(OBSERVATION)[:4], rows_of(source)[OBSERVATION][:4] + 1)
        np.testing.assert_array_equal(c.read(NEXT)[:4], rows_of(source)[NEXT][:4])
    for name, words in (("fails", "KeyError"), ("cuts", "has 1 rows"), ("none", "no attribute")):
        ended = rl("map", source, "-o", "x", "--apply", f"mine:{name}")
        assert ended.code in (2, 3)
        assert words in ended.err
        assert not Path("x").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rename", "observatoin=x"], "did you mean 'observation'"),
        (["--rename", "observation"], "OLD=NEW"),
        (["--rename", "action=observation"], "already"),
        (["--cast", "observation=float23"], "did you mean 'float32'"),
        (["--cast", "action=int32"], "discrete"),
        (["--n-step", "3"], "--gamma"),
        (["--n-step", "0", "--gamma", "0.9"], "at least 1"),
        (["--gamma", "0.9"], "--n-step"),
        (["--n-step", "2", "--gamma", "1.5"], "[0, 1]"),
        (["--reward-to-go", "x"], "no number"),
        (["--relabel-reward", "info/speeed"], "speed"),
        (["--denormalise", "observation"], "no recorded statistics"),
        (["--apply", "nothing"], "module:attribute"),
        (["--exclude", "observation,action,next,is_init,episode,step,info"], "no column is left"),
    ],
)
def test_steps_that_do_not_fit_are_one_line_and_leave_nothing(
    arguments: list[str], words: str, rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    ended = rl("map", source, "-o", tmp_path / "out", *arguments)
    assert ended.code == 2
    assert words in ended.err.replace("old=new", "OLD=NEW")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(source: Path, tmp_path: Path, rl: Callable[..., Any],
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from rlcli.pipeline import buffer_map

    blocks = buffer_map.blocks

    def interrupted(*arguments: Any) -> Any:
        for block in blocks(*arguments):
            signal.raise_signal(signal.SIGTERM)
            yield block

    monkeypatch.setattr(buffer_map, "blocks", interrupted)
    assert rl("map", source, "-o", tmp_path / "deep" / "out", "--scale-reward", 2).code == 143
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_any_size_give_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [("--normalise", "observation"), ("--n-step", "3"), ("--reward-to-go", "0.5")]
    found = []
    for size in (1, 300, 8 << 20):
        monkeypatch.setattr("rlcli.format.copying.CHUNK_BYTES", size)
        map_dataset(source, tmp_path / str(size), Options(steps, gamma=0.9))
        found.append(rows_of(tmp_path / str(size)))
    for key, values in found[0].items():
        np.testing.assert_allclose(values, found[1][key], rtol=1e-6)
        np.testing.assert_allclose(values, found[2][key], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([300]), "uint8"), (np.array([-1]), "uint64"), (np.array([2**63], np.uint64), "int64"),
        (np.array([0.5]), "int32"), (np.array([np.nan]), "int8"), (np.array([2.0**31]), "int32"),
        (np.array([2]), "bool"), (np.array([1e300]), "float32"), (np.array([1j], np.complex64), "float32"),
    ],
)  # fmt: skip
def test_a_cast_that_would_change_a_value_is_refused(values: np.ndarray[Any, Any], dtype: str) -> None:
    with pytest.raises(InputError, match="cannot hold"):
        cast(values, dtype, "x")


def test_casts_that_hold_every_value() -> None:
    assert cast(np.array([0, 255]), "uint8", "x").tolist() == [0, 255]
    assert cast(np.array([1.0, 0.0]), "bool", "x").tolist() == [True, False]
    assert cast(np.array([-1.0, 2.0**31 - 1]), "int32", "x").tolist() == [-1, 2**31 - 1]
    assert cast(np.array([0.1]), "float32", "x")[0] == np.float32(0.1)
    # 1 + 2^-8 lies halfway between two bfloat16; the even one is 1
    bits = cast(np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, np.inf], np.float32), "bfloat16", "x")
    assert bits.tolist() == [0x3F80, 0x3F80, 0x3F82, 0x7F80]
