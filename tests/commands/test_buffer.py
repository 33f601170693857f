"""`rl buffer`: what it tells, how it ends, and that no damage of any file of a dataset gets past it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli import main
from rlcli.errors import CorruptError
from rlcli.format import strictjson
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer

OBSERVATION = Composite({"position": Box((3,), "float32"), "image": Box((2, 2), "uint8", 0, 255)})
ACTION = Box((2,), "float32", -1.0, 1.0)
SPEC = {
    "env": {"library": "gymnasium", "id": "Test-v0", "kwargs": {"size": 2}, "max_episode_steps": 7},
    "observation": OBSERVATION.to_json(),
    "action": ACTION.to_json(),
    "reference_scores": {"min": 0.0, "max": 10.0},
}
LINEAGE = {"op": "test", "time": "2026-01-01T00:00:00Z", "command": "rl test it"}
EXTRA = [Column(("info", "speed"), "float64")]


def fill(
    path: Path, *, rows: tuple[int, int] = (30, 30), close: bool = True, segment_rows: int = 12
) -> Writer:
    """Two streams with episodes of 7 steps, reward 1, alternately terminated and truncated."""
    rng = np.random.default_rng(0)
    writer = Writer.create(
        path,
        ted_schema(OBSERVATION, ACTION, extra=EXTRA),
        spec=SPEC,
        lineage=LINEAGE,
        num_streams=2,
        segment_rows=segment_rows,
        durability="process",
    )
    episodes = EpisodeWriter(writer, chunk_rows=5)

    def observation() -> dict[str, Any]:
        return {"position": rng.normal(size=3), "image": rng.integers(0, 256, (2, 2))}

    for row in range(max(rows)):
        for stream in range(2):
            if row >= rows[stream]:
                continue
            if row % 7 == 0:
                episodes.begin(stream, row + stream)
            episodes.add(
                stream,
                observation=observation(),
                action=rng.uniform(-1, 1, 2),
                reward=1.0,
                terminated=row % 14 == 6,
                truncated=row % 14 == 13,
                next_observation=observation(),
                info={"speed": float(row)},
            )
    episodes.flush()
    if close:
        episodes.close()
    return writer


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "data"
    fill(path)
    return path


@pytest.fixture
def copy(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "data"))


class Ended:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        assert value["rl"] == 1
        return value


@pytest.fixture
def rl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = main.run(["buffer", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Ended(code, out, err)

    return run


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from rlcli.main import main; main()", "buffer", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# --- info and ls ----------------------------------------------------------------------------------


def test_info_tells_what_is_in_a_dataset(rl: Callable[..., Ended], sealed: Path) -> None:
    facts = rl("info", sealed, "--json").json
    assert facts["kind"] == "dataset"
    assert (facts["rows"], facts["stream_rows"], facts["state"], facts["writer"]) == (
        60,
        [30, 30],
        "sealed",
        None,
    )
    counts = {"count": 10, "terminated": 4, "truncated": 4, "cut": 2, "unfinished_rows": 0}
    assert facts["episodes"] == counts
    assert facts["return"]["mean"] == facts["length"]["mean"] == 7.0
    assert facts["normalised_return"] == 70.0
    assert facts["unknown_next_rows"] == 2  # the cut episodes were closed without a last observation
    assert facts["segments"] == {"sealed": 6, "open": 0}
    assert facts["digest"] == Dataset.open(sealed).digest
    assert facts["spec"] == SPEC
    assert facts["lineage"] == [LINEAGE]
    assert facts["format"] == "1.0"
    columns = {column["key"]: column for column in facts["columns"]}
    assert columns["observation/image"]["row_bytes"] == 4
    assert columns["next/observation/image"]["encoding"] == "derived"
    assert sum(column["row_bytes"] for column in facts["columns"]) == facts["row_bytes"]


def test_info_for_people_fits_80_columns(rl: Callable[..., Ended], copy: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(copy.parent)
    text = rl("info", "data").out
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "Test-v0 size=2, at most 7 steps",
        "10 (4 terminated, 4 truncated, 2 cut)",
        "70.00",
        "rl test it",
    ):
        assert words in text


def test_info_of_an_open_dataset_tells_a_live_writer_from_a_dead_one(
    rl: Callable[..., Ended], tmp_path: Path
) -> None:
    writer = fill(tmp_path / "live", close=False)
    facts = rl("info", tmp_path / "live", "--json").json
    assert facts["state"] == "open"
    assert facts["digest"] is None
    assert (facts["writer"]["status"], facts["writer"]["pid"]) == ("live", os.getpid())
    assert facts["episodes"]["unfinished_rows"] == 4
    assert facts["unknown_next_rows"] == 2
    assert "is writing" in rl("info", tmp_path / "live").out
    writer.abort()  # this process lives on, but has the dataset no longer open
    assert rl("info", tmp_path / "live", "--json").json["writer"]["status"] == "dead"
    assert "is gone" in rl("info", tmp_path / "live").out


def test_an_empty_dataset_can_be_looked_at(rl: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "empty"
    with Writer.create(path, ted_schema(OBSERVATION, Discrete(2)), spec=SPEC, lineage={}):
        pass
    for command in (["info"], ["head"], ["stats"], ["stats", "--by", "episode"], ["verify", "--semantics"]):
        for flags in ([], ["--json"]):
            ended = rl(*command, path, *flags)
            if command[0] == "verify":
                assert ended.code == 4  # its action column is not what its spec says
                assert "spec" in ended.out
            else:
                assert (ended.code, ended.err) == (0, "")


def test_ls_lists_datasets_in_folders_and_runs_and_shows_broken_ones(
    rl: Callable[..., Ended], sealed: Path, tmp_path: Path
) -> None:
    for name in ("b", "a/deep", "run/replay", ".hidden", "broken", "headless"):
        shutil.copytree(sealed, tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(sealed)
    next((tmp_path / "broken" / "sums").iterdir()).unlink()
    (tmp_path / "headless" / "dataset.json").unlink()
    ended = rl("ls", tmp_path, "--json")
    assert ended.code == 0
    found = {Path(entry["path"]).relative_to(tmp_path).as_posix(): entry for entry in ended.json["datasets"]}
    assert list(found) == ["a/deep", "b", "broken", "headless", "link", "run/replay"]
    assert found["b"]["rows"] == 60
    assert found["b"]["env"] == "Test-v0"
    assert found["broken"]["code"] == found["headless"]["code"] == 4
    lines = rl("ls", tmp_path).out.splitlines()
    assert len(lines) == 2 + len(found)
    assert "missing" in next(line for line in lines if "broken" in line)


def test_ls_reads_paths_from_standard_input(sealed: Path, tmp_path: Path) -> None:
    ended = process("ls", "-", "--json", stdin=subprocess.PIPE)
    out, _ = ended.communicate(f"{sealed}\n\n{tmp_path}\n")
    assert [entry["path"] for entry in json.loads(out)["datasets"]] == [str(sealed)]


# --- head -----------------------------------------------------------------------------------------


def test_head_gives_whole_rows_as_json(rl: Callable[..., Ended], sealed: Path) -> None:
    data = Dataset.open(sealed)
    rows = rl("head", sealed, "-n", "3", "--json").json["rows"]
    assert [row["row"] for row in rows] == [0, 1, 2]
    for i, row in enumerate(rows):
        for column in data.schema.columns:
            value: Any = row
            for part in column.key:
                value = value[part]
            np.testing.assert_array_equal(np.array(value, column.numpy), data.read(column.key, i, i + 1)[0])


def test_head_shows_unknown_next_values_as_such(rl: Callable[..., Ended], sealed: Path) -> None:
    row = int(Dataset.open(sealed).unknown_next[0])
    number = int(Dataset.open(sealed).read(("episode",), row, row + 1)[0])
    rows = rl("head", sealed, "--episode", number, "--json").json["rows"]
    assert [r["next"]["observation"]["position"] is None for r in rows] == [False, True]
    assert "unknown" in rl("head", sealed, "--episode", number, "--keys", "next/observation").out


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_head_fits_the_terminal(rl: Callable[..., Ended], sealed: Path, width: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = rl("head", sealed).out
    table = [line for line in text.splitlines() if not line.startswith("(no room")]
    assert max(map(len, table)) <= width
    assert len(table) == 12
    assert ("info/speed" in table[0]) == (width >= 120)


def test_head_takes_keys_and_an_episode(rl: Callable[..., Ended], sealed: Path) -> None:
    ended = rl("head", sealed, "--episode", "2", "--keys", "action, next/reward", "--json", "-n", "100")
    rows = ended.json["rows"]
    assert len(rows) == 7
    assert set(rows[0]) == {"row", "action", "next"}
    assert set(rows[0]["next"]) == {"reward"}
    header = rl("head", sealed, "--keys", "observation").out.splitlines()[0].split()
    assert header == ["row", "observation/position", "observation/image"]


def test_head_names_the_nearest_key_and_the_episodes_there_are(
    rl: Callable[..., Ended], sealed: Path
) -> None:
    ended = rl("head", sealed, "--keys", "next/rewards")
    assert ended.code == 2
    assert "did you mean 'next/reward'?" in ended.err
    ended = rl("head", sealed, "--episode", "99")
    assert ended.code == 2
    assert "0 to 9" in ended.err


def test_head_of_an_open_dataset_finds_its_unfinished_episode(
    rl: Callable[..., Ended], tmp_path: Path
) -> None:
    writer = fill(tmp_path / "d", close=False)
    rows = rl("head", tmp_path / "d", "--episode", "9", "--json").json["rows"]
    assert [row["step"] for row in rows] == [0, 1]
    writer.abort()


# --- stats ----------------------------------------------------------------------------------------


def random_dataset(path: Path) -> None:
    """300 rows with offsets, NaN, infinities and constants."""
    rng = np.random.default_rng(5)
    observation = Box((4,), "float32")
    writer = Writer.create(
        path,
        ted_schema(
            observation,
            Discrete(4),
            extra=[Column(("half",), "float16", (2,)), Column(("brain",), "bfloat16")],
        ),
        spec={"observation": observation.to_json(), "action": Discrete(4).to_json()},
        lineage={},
        durability="process",
        segment_rows=64,
    )
    values = rng.normal(size=(300, 4)).astype(np.float32)
    values[:, 1] += 1e6  # a large mean must not eat the deviation
    values[:, 2] = 3.5
    values[10, 3], values[20, 3], values[30, 3] = np.nan, np.inf, -np.inf
    brain = (rng.normal(size=300).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    with EpisodeWriter(writer) as episodes:
        for i in range(300):
            episodes.add(
                0,
                observation=values[i],
                action=i % 3,
                reward=float(i % 7),
                terminated=i % 10 == 9,
                truncated=False,
                next_observation=values[i],
                half=rng.normal(size=2),
                brain=brain[i],
            )


@pytest.mark.parametrize("chunk", [1, 37, 10_000])
def test_stats_agree_with_numpy(
    rl: Callable[..., Ended], tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlcli.pipeline import buffer_stats

    monkeypatch.setattr(buffer_stats, "CHUNK_ELEMENTS", chunk)
    random_dataset(tmp_path / "d")
    facts = rl("stats", tmp_path / "d", "--json").json
    columns = {column["key"]: column for column in facts["columns"]}
    data = Dataset.open(tmp_path / "d")
    brain = (data.read(("brain",)).astype(np.uint32) << 16).view(np.float32)
    arrays = {"observation": data.read(("observation",)), "half": data.read(("half",)), "brain": brain}
    for key, array in arrays.items():
        wide = array.astype(np.float64).reshape(300, -1)
        wide[~np.isfinite(wide)] = np.nan
        found = columns[key]
        np.testing.assert_allclose(found["mean"], np.nanmean(wide), rtol=1e-12)
        np.testing.assert_allclose(found["std"], np.nanstd(wide), rtol=1e-9)
        assert (found["min"], found["max"]) == (np.nanmin(wide), np.nanmax(wide))
        for name, function in (
            ("mean", np.nanmean),
            ("std", np.nanstd),
            ("min", np.nanmin),
            ("max", np.nanmax),
        ):
            if "elements" in found:
                np.testing.assert_allclose(
                    found["elements"][name], function(wide, axis=0), rtol=1e-9, atol=1e-15
                )
    observation = columns["observation"]
    assert (observation["nan"], observation["inf"], observation["constant"]) == (1, 2, [2])
    assert observation["elements"]["nan"] == [0, 0, 0, 1]
    (action,) = facts["actions"]
    assert action["parts"] == [{"start": 0, "counts": [100, 100, 100, 0], "outside": 0}]
    returns = data.episodes.return_
    assert facts["return"]["count"] == 30
    assert facts["return"]["p25"] == np.quantile(returns, 0.25)
    np.testing.assert_allclose(facts["return"]["std"], returns.std())


def test_stats_tell_how_often_actions_are_at_their_bounds(rl: Callable[..., Ended], tmp_path: Path) -> None:
    schema = ted_schema(OBSERVATION, ACTION)
    writer = Writer.create(tmp_path / "d", schema, spec=SPEC, lineage={}, durability="process")
    with EpisodeWriter(writer) as episodes:
        for action in ([-1, 1], [-1, 0.5], [-2, 0], [0, 0]):
            episodes.add(
                0,
                observation={"position": np.zeros(3), "image": np.zeros((2, 2))},
                action=action,
                reward=0.0,
                terminated=True,
                truncated=False,
            )
    (action,) = rl("stats", tmp_path / "d", "--json").json["actions"]
    assert (action["at_low"], action["at_high"], action["outside"]) == ([0.75, 0], [0, 0.25], [0.25, 0])
    assert "at the lower bound" in rl("stats", tmp_path / "d").out


def test_stats_by_episode_is_the_episode_table(rl: Callable[..., Ended], sealed: Path) -> None:
    table = Dataset.open(sealed).episodes
    facts = rl("stats", sealed, "--by", "episode", "--json").json
    assert facts["kind"] == "episodes"
    assert [e["length"] for e in facts["episodes"]] == table.length.tolist()
    assert [e["seed"] for e in facts["episodes"]] == table.seed.tolist()
    assert [e["cut"] for e in facts["episodes"]] == table.cut.tolist()
    assert len(rl("stats", sealed, "--by", "episode").out.splitlines()) == 12
    assert rl("stats", sealed, "--by", "moon").code == 2


def test_stats_text_fits_80_columns(rl: Callable[..., Ended], sealed: Path) -> None:
    assert max(map(len, rl("stats", sealed).out.splitlines())) <= 80


# --- verify ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--deep"], ["--fast"], ["--semantics"], ["--deep", "--semantics"]])
def test_verify_says_what_it_proved(rl: Callable[..., Ended], sealed: Path, flags: list[str]) -> None:
    ended = rl("verify", sealed, *flags)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == 1
    assert ended.out.startswith(f"{sealed}: sound: 60 rows, 10 episodes; ")
    assert ("rules of meaning" in ended.out) == ("--semantics" in flags)
    facts = rl("verify", sealed, *flags, "--json").json
    assert facts["ok"] is True
    (entry,) = facts["datasets"]
    assert entry["meaning_judged"] == ("--semantics" in flags)
    columns = 60 * Dataset.open(sealed).schema.row_bytes
    assert (entry["bytes_compared"] > columns) == ("--fast" not in flags)


def test_verify_checks_several_datasets_and_names_the_broken_one(
    rl: Callable[..., Ended], sealed: Path, copy: Path
) -> None:
    (copy / "dataset.json").unlink()
    ended = rl("verify", sealed, copy)
    assert ended.code == 4
    assert f"{sealed}: sound" in ended.out
    assert f"{copy}: 1 problem\n  dataset.json: missing" in ended.out
    assert str(copy) in ended.err
    assert len(ended.err.splitlines()) == 1


def test_verify_finds_wrong_meaning_in_intact_bytes(rl: Callable[..., Ended], tmp_path: Path) -> None:
    schema = ted_schema(OBSERVATION, ACTION)
    spec = {**SPEC, "action": ACTION.to_json()}
    writer = Writer.create(tmp_path / "d", schema, spec=spec, lineage={}, durability="process")
    with EpisodeWriter(writer) as episodes:
        for row in range(60):
            bad = row % 2 == 1
            episodes.add(
                0,
                observation={"position": [0, np.nan if bad else 0, 0], "image": np.zeros((2, 2))},
                action=[3.0, 0.0],
                reward=0.0,
                terminated=row % 2 == 1,
                truncated=False,
                next_observation={"position": np.zeros(3), "image": np.zeros((2, 2))},
            )
    assert rl("verify", tmp_path / "d", "--deep").code == 0
    ended = rl("verify", tmp_path / "d", "--semantics")
    assert ended.code == 4
    lines = ended.out.splitlines()
    assert lines[0] == f"{tmp_path / 'd'}: 60 problems"  # 30 rows, and the rows before them by `next`
    assert lines[2].startswith("  segments/w00-000000000000/observation/position.memmap: ")
    assert lines[2].endswith("observation/position is NaN or infinite (block 0, row 1, episode 0)")
    assert "and 40 more" in lines[21]
    assert lines[22].endswith("action lies beyond its bounds (block 0, rows 0 to 59)")
    assert len(ended.err.splitlines()) == 1
    facts = json.loads(rl("verify", tmp_path / "d", "--semantics", "--json").out)["datasets"][0]
    assert facts["num_problems"] == len(facts["problems"]) == 60
    assert facts["warnings"][0]["count"] == 60


def damages(path: Path) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """`(file, what, do it)`: every file deleted, cut to 0, half, all but one byte, and with a flipped bit."""
    rng = random.Random(0)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        data = file.read_bytes()
        name = file.relative_to(path).as_posix()
        yield name, "deleted", file.unlink
        for size in sorted({0, len(data) // 2, len(data) - 1}):
            yield name, f"cut to {size}", lambda file=file, size=size: os.truncate(file, size)
        for position in {rng.choice((0, len(data) - 1)), rng.randrange(len(data))}:
            flipped = bytearray(data)
            flipped[position] ^= 1 << rng.randrange(8)
            what = f"byte {position} flipped"
            yield name, what, lambda file=file, flipped=bytes(flipped): file.write_bytes(flipped)


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def read_everything(path: Path) -> None:
    with Dataset.open(path) as data:
        for column in data.schema.columns:
            data.read(column.key)
        assert data.digest


def test_no_damage_of_any_file_goes_unnoticed(rl: Callable[..., Ended], tmp_path: Path) -> None:
    """Each file, deleted, cut and flipped: `verify` exits 4 and names it, reading raises, nothing changes."""
    path = tmp_path / "data"
    fill(path, rows=(10, 6), segment_rows=8)  # two segments and one
    sound = tree(path)
    missed = []
    for name, what, damage in damages(path):
        file = path / name
        damage()
        damaged = file.read_bytes() if file.exists() else None
        ended = rl("verify", path)
        if ended.code != 4 or f"{name}: " not in ended.out or name not in ended.err:
            missed.append(f"{name} {what}: verify exits {ended.code}: {ended.out}{ended.err}")
        try:
            read_everything(path)
            missed.append(f"{name} {what}: read without an error")
        except CorruptError as err:
            if err.path is None:
                missed.append(f"{name} {what}: the error names no file: {err}")
        if damaged != (file.read_bytes() if file.exists() else None):
            missed.append(f"{name} {what}: the file was changed")
        file.unlink(missing_ok=True)
        file.write_bytes(sound[name])
    assert not missed, "\n".join(missed[:20])
    assert tree(path) == sound
    assert rl("verify", path).code == 0


@pytest.mark.parametrize("command", ["info", "head", "stats"])
def test_looking_at_damaged_data_is_exit_4(rl: Callable[..., Ended], copy: Path, command: str) -> None:
    target = copy / "segments" / "w00-000000000000" / "observation" / "position.memmap"
    if command == "info":
        target = copy / "episodes" / "w01-000000000000" / "return.memmap"
    data = bytearray(target.read_bytes())
    data[5] ^= 8
    target.write_bytes(data)
    ended = rl(command, copy)
    assert (ended.code, ended.out) == (4, "")
    assert target.relative_to(copy).as_posix() in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["info", "head", "stats", "verify", "ls"])
def test_a_wrong_path_is_exit_3(rl: Callable[..., Ended], tmp_path: Path, command: str) -> None:
    assert rl(command, tmp_path / "nowhere").code == 3
    if command != "ls":
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_text("no dataset")
        for name in ("folder", "file"):
            ended = rl(command, tmp_path / name)
            assert ended.code == 3
            assert "not a dataset" in ended.err


@pytest.mark.parametrize("command", ["info", "head", "stats", "verify"])
@pytest.mark.parametrize("place", ["dataset.json", "manifest", "feature"])
def test_a_newer_format_is_exit_5(rl: Callable[..., Ended], copy: Path, command: str, place: str) -> None:
    file = copy / "dataset.json" if place == "dataset.json" else max((copy / "manifests").iterdir())
    value = json.loads(file.read_text())
    if place == "feature":
        value["features"]["incompat"].append("heap")
    else:
        value["format"] = [2, 0]
    file.write_bytes(strictjson.dump_checked(value))
    ended = rl(command, copy)
    assert ended.code == 5
    assert "upgrade rl" in ended.err


def test_a_wrong_combination_is_exit_2(rl: Callable[..., Ended], sealed: Path) -> None:
    assert rl("verify", sealed, "--fast", "--deep").code == 2
    assert rl("head", sealed, "-n", "lots").code == 2
    assert rl("verify").code == 2


# --- manners --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 MB, mostly zeros: long enough to interrupt its verification."""
    path = tmp_path_factory.mktemp("large") / "data"
    schema = ted_schema(Box((64, 64, 3), "uint8"), Discrete(2))
    writer = Writer.create(path, schema, spec={}, lineage={}, durability="process")
    with EpisodeWriter(writer) as episodes:
        rows = {
            column.key: np.zeros((4096, *column.shape), column.numpy)
            for column in schema.plain
            if column.key[0] in ("observation", "action") or column.key == ("next", "reward")
        }
        for _ in range(4):
            episodes.add_rows(0, rows)
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_verification(large: Path, number: int, code: int) -> None:
    ended = process("verify", "--deep", *[large] * 50)
    time.sleep(1.0)
    assert ended.poll() is None
    ended.send_signal(number)
    out, err = ended.communicate(timeout=10)
    assert (ended.returncode, out) == (code, "")
    assert err == ("interrupted\n" if number == signal.SIGINT else "")


def test_a_closed_pipe_is_quiet(sealed: Path) -> None:
    ended = process("stats", sealed, "--by", "episode")
    assert ended.stdout is not None
    assert ended.stderr is not None
    ended.stdout.close()
    assert ended.wait(timeout=20) == 141
    assert ended.stderr.read() == ""
    ended.stderr.close()


def test_nothing_heavy_is_imported(sealed: Path) -> None:
    script = (
        "import sys; from rlcli.main import run; "
        "codes = [run(['buffer', *words, sys.argv[1]]) for words in (['info'], ['ls'], ['head'], ['stats'], "
        "['verify', '--deep', '--semantics'])]; "
        "heavy = {'torch', 'tensordict', 'gymnasium', 'h5py', 'zarr', 'rich.progress'} & set(sys.modules); "
        "print('CODES', codes, 'HEAVY', sorted(heavy))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(sealed)], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"CODES \[0, 0, 0, 0, 0\] HEAVY \[\]", out), out[-300:]
