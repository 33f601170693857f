"""`rl convert` as a user meets it: output channels, exit codes, and nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlcli.datasets.d4rl_export import write_file
from rlcli.errors import ExitCode
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer
from rlcli.main import run


@pytest.fixture
def source(tmp_path):
    """A D4RL file of 300 rows: episodes of 100 that time out."""
    rng = np.random.default_rng(3)
    observations = rng.standard_normal((300, 4)).astype("f4")
    path = tmp_path / "in" / "hopper_medium-v2.hdf5"
    path.parent.mkdir()
    write_file(
        path,
        {
            "observations": observations,
            "actions": rng.uniform(-1, 1, (300, 2)).astype("f4"),
            "rewards": rng.standard_normal(300).astype("f4"),
            "terminals": np.zeros(300, bool),
            "timeouts": np.arange(300) % 100 == 99,
        },
    )
    return path


@pytest.fixture
def out(tmp_path):
    """A name in an otherwise empty folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "ds"


def left(out: Path) -> list[str]:
    return sorted(os.listdir(out.parent))


def one_error_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("stopping")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_standard_output_is_the_path_and_nothing_else(source, out, capsys):
    assert run(["convert", str(source), str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "300 rows, 3 episodes" in captured.err
    assert "3 rows have an unknown next observation" in captured.err


def test_json_reports_what_was_converted(source, out, capsys):
    assert run(["convert", str(source), str(out), "--json", "--check", "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    expected = {
        "rl": 1,
        "kind": "conversion",
        "dataset": str(out),
        "format": "d4rl",
        "rows": 300,
        "episodes": 3,
        "terminals": 0,
        "timeouts": 3,
        "unknown_next": 3,
        "repaired": 0,
        "dropped": 0,
        "length_one_episodes": 0,
        "env": "hopper-medium-v2",
        "reference_scores": {"min": -20.272305, "max": 3234.3},
    }
    assert {name: report[name] for name in expected} == expected
    assert report["check"]["equal"]
    assert len(report["source"]["sha256"]) == 64


def test_folders_on_the_way_are_made(source, out, capsys):
    assert run(["convert", str(source), str(out / "data" / "hopper"), "-q"]) == 0
    assert os.listdir(out / "data") == ["hopper"]


def test_there_and_back(source, out, tmp_path, capsys):
    assert run(["convert", str(source), str(out), "-q"]) == 0
    assert run(["convert", str(out), str(tmp_path / "back.h5"), "--check", "-q"]) == 0
    with h5py.File(source) as a, h5py.File(tmp_path / "back.h5") as b:
        assert sorted(a) == sorted(b)
        assert all(a[name][()].tobytes() == b[name][()].tobytes() for name in a)


def test_list_names_formats_and_directions(capsys):
    assert run(["convert", "--list", "--json"]) == 0
    formats = {row["name"]: row for row in json.loads(capsys.readouterr().out)["formats"]}
    assert formats["d4rl"]["reads"]
    assert formats["d4rl"]["writes"]
    assert formats["d4rl"]["extra"] is None
    assert formats["parquet"]["extra"] == "arrow"
    assert [option["name"] for option in formats["d4rl"]["options"]["read"]] == ["split"]
    assert run(["convert", "--list"]) == 0
    assert "d4rl" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120, 300])
def test_the_list_is_as_wide_as_the_terminal_and_says_each_default(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["convert", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= min(columns, 120)
    text = " ".join(" ".join(lines).split())
    assert "rlds, to read: split=TEXT Splits to read" in text
    assert "last_step=default|keep|drop|auto" in text
    assert "[default: accurate]" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{missing}", "{out}"], ExitCode.INPUT, "no such file"),
        (["{text}", "{out}"], ExitCode.INPUT, "rl converts: not an HDF5 file (rl convert --list"),
        (["{short}", "{out}"], ExitCode.CORRUPT, "truncated"),
        (
            ["{keys}", "{out}", "--from", "d4rl"],
            ExitCode.INPUT,
            "no rewards, terminals (found actions, observations)",
        ),
        (["{source}", "{source}"], ExitCode.USAGE, "exists already"),
        (["{text}", "{out}/deeper/ds", "--from", "d4rl"], ExitCode.INPUT, "not an HDF5 file"),
        (["{source}", "{text}/ds"], ExitCode.INPUT, "text"),
        (["{source}", "{out}.hdf5"], ExitCode.USAGE, "is not a dataset"),
        (["{source}", "{out}", "--from", "d4lr"], ExitCode.USAGE, "did you mean 'd4rl'"),
        (["{source}", "{out}", "--env-id", "hoper-medium-v2"], ExitCode.USAGE, "'hopper-medium-v2'"),
        (["{source}", "{out}", "--set", "split=flag"], ExitCode.USAGE, "did you mean 'flags'"),
        (["{source}", "{out}", "--images", "keeep"], ExitCode.USAGE, "keep or decode"),
        (["{source}", "{out}", "--limit", "0"], ExitCode.USAGE, "at least 1"),
        (["{source}", "{out}", "--episodes", "5:2"], ExitCode.USAGE, "A:B"),
        (["{source}", "{out}", "--episodes", "50:60"], ExitCode.USAGE, "none of its rows"),
        (["{source}", "{out}", "--map", "x"], ExitCode.USAGE, "source=key"),
        (["{source}", "{out}", "--chek"], ExitCode.USAGE, "--check"),
        (["{source}"], ExitCode.USAGE, "SRC and OUT"),
        (["", "{out}"], ExitCode.USAGE, "SRC and OUT"),
        (["{folder}", "{out}"], ExitCode.INPUT, "not a format that rl converts (rl convert --list"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, code, said, source, out, tmp_path, capsys):
    places = {name: tmp_path / "in" / name for name in ("missing", "text", "short", "keys", "folder")}
    places["text"] = places["text"].with_suffix(".hdf5")
    places["text"].write_text("not HDF5 at all" * 50)
    places["short"].write_bytes(source.read_bytes()[:-2000])
    write_file(places["keys"], {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1))})
    places["folder"].mkdir()
    places |= {"source": source, "out": out}
    assert run(["convert", *(text.format(**places) for text in arguments)]) == code
    assert said in one_error_line(capsys)
    assert left(out) == []


def test_nothing_is_overwritten(source, out, capsys):
    out.mkdir()
    (out / "mine").write_text("keep")
    assert run(["convert", str(source), str(out)]) == ExitCode.USAGE
    assert "exists already" in one_error_line(capsys)
    assert (out / "mine").read_text() == "keep"


def test_a_dataset_needs_a_format_to_go_to(source, out, tmp_path, capsys):
    run(["convert", str(source), str(out), "-q"])
    capsys.readouterr()
    assert run(["convert", str(out), str(tmp_path / "other")]) == ExitCode.USAGE
    assert "--to" in one_error_line(capsys)
    assert run(["convert", str(out), str(tmp_path / "other"), "--to", "d4rl", "-q"]) == 0
    assert (tmp_path / "other").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--jobs", "0"], "--jobs is for reading"),
        (["-j", "2", "--images", "decode"], "--jobs, --images are for reading"),
        (["--episodes", "0:1"], "rl buffer filter"),
    ],
)
def test_options_of_reading_are_refused_where_nothing_is_read(options, said, source, out, tmp_path, capsys):
    run(["convert", str(source), str(out), "-q"])
    capsys.readouterr()
    assert run(["convert", str(out), str(tmp_path / "other.npz"), *options]) == ExitCode.USAGE
    assert said in one_error_line(capsys)
    assert not (tmp_path / "other.npz").exists()


def test_what_an_output_was_written_as_is_said(source, out, tmp_path, capsys):
    run(["convert", str(source), str(out), "-q"])
    capsys.readouterr()
    assert run(["convert", str(out), str(tmp_path / "other.h5")]) == 0
    assert "episodes as d4rl in" in capsys.readouterr().err


def test_a_damaged_dataset_is_not_exported(source, out, tmp_path, capsys):
    run(["convert", str(source), str(out), "-q"])
    capsys.readouterr()
    column = next(out.glob("segments/*/action.memmap"))
    data = bytearray(column.read_bytes())
    data[100] ^= 1
    column.write_bytes(data)
    assert run(["convert", str(out), str(tmp_path / "out" / "x.hdf5")]) == ExitCode.CORRUPT
    assert "action.memmap" in one_error_line(capsys)
    assert left(out) == ["ds"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_midway_leaves_nothing(number, code, source, out, capsys, monkeypatch):
    add_rows = EpisodeWriter.add_rows

    def interrupted(self, *given):
        os.kill(os.getpid(), number)
        add_rows(self, *given)

    monkeypatch.setattr(EpisodeWriter, "add_rows", interrupted)
    before = signal.getsignal(number)
    assert run(["convert", str(source), str(out)]) == code
    assert "nothing was written" in one_error_line(capsys)
    assert left(out) == []
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("direction", ["import", "export"])
def test_a_full_disk_leaves_nothing(direction, source, out, tmp_path):
    """A limit on file sizes fails writes as a full disk does."""
    arguments = ["convert", str(source), str(out)]
    if direction == "export":
        run([*arguments, "-q"])
        arguments = ["convert", str(out), str(tmp_path / "out" / "x.hdf5")]
    program = "import sys; from rlcli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        ),
    )
    assert done.returncode == ExitCode.RESOURCE, done.stderr
    assert done.stderr.count("\n") == 1
    assert left(out) == (["ds"] if direction == "export" else [])


def test_the_second_thought_of_another_process_is_respected(source, out, capsys, monkeypatch):
    """A target that appears while the conversion runs is not replaced."""
    close = EpisodeWriter.close

    def race(self, finals=None):
        close(self, finals)
        out.write_text("somebody else's")

    monkeypatch.setattr(EpisodeWriter, "close", race)
    assert run(["convert", str(source), str(out)]) == ExitCode.USAGE
    assert out.read_text() == "somebody else's"
    assert left(out) == ["ds"]


@pytest.fixture
def collected(tmp_path):
    """Not from D4RL: two streams, dict observations, discrete actions, cut episodes."""
    observation = Composite({"pole": Box((3,), "float64"), "cart": Box((), "float32")})
    action = Discrete(3)
    writer = Writer.create(
        tmp_path / "collected",
        ted_schema(observation, action),
        spec={
            "env": {"library": "gymnasium", "id": "CartPole-v1", "kwargs": {}, "max_episode_steps": 500},
            "observation": observation.to_json(),
            "action": action.to_json(),
        },
        lineage={"op": "test"},
        num_streams=2,
    )
    rng = np.random.default_rng(5)

    def draw():
        return {"pole": rng.standard_normal(3), "cart": np.float32(rng.standard_normal())}

    with EpisodeWriter(writer) as episodes:
        for stream, endings in (
            (0, [(4, True, False), (3, False, True), (2, False, False)]),
            (1, [(5, False, False)]),
        ):
            for length, terminated, truncated in endings:
                now = draw()
                for step in range(length):
                    last, following = step == length - 1, draw()
                    episodes.add(
                        stream,
                        observation=now,
                        action=step % 3,
                        reward=float(step),
                        terminated=terminated and last,
                        truncated=truncated and last,
                        next_observation=following,
                    )
                    now = following
                if not (terminated or truncated):
                    episodes.end(stream, terminated=False, truncated=False, cut=True, final=now)
    return tmp_path / "collected"


def test_any_dataset_becomes_a_d4rl_file_and_comes_back(collected, tmp_path, capsys):
    assert run(["convert", str(collected), str(tmp_path / "x.hdf5"), "--check", "-q"]) == 0
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert file["rewards"].shape == file["terminals"].shape == file["timeouts"].shape == (14,)
        assert file["actions"].dtype == np.int64
        assert np.flatnonzero(file["terminals"]).tolist() == [3]
        assert np.flatnonzero(file["timeouts"]).tolist() == [6, 8, 13]  # cut ones too: rows of others follow
        assert sorted(file["next_observations"]) == ["cart", "pole"]
    assert run(["convert", str(tmp_path / "x.hdf5"), str(tmp_path / "again"), "--check", "-q"]) == 0
    with Dataset.open(collected) as before, Dataset.open(tmp_path / "again") as after:
        assert after.spec == before.spec
        assert after.episodes.length.tolist() == [4, 3, 2, 5]
        assert len(after.unknown_next) == 0
        keys = [("observation", "pole"), ("next", "observation", "cart"), ("action",), ("next", "reward")]
        assert all(before.read(key).tobytes() == after.read(key).tobytes() for key in keys)


def test_help_is_instant_and_complete():
    """No NumPy and no h5py for a page of help."""
    program = (
        "import sys; from rlcli.main import run; run(['convert', '--help']);"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'h5py', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--from", "--to", "--env-id", "--set", "--check", "--list"))


def test_rows_of_a_dtype_that_no_column_has_are_kept_beside_them(source, out, tmp_path):
    with h5py.File(source, "a") as file:
        file["infos/phase"] = np.arange(300) * 1j  # complex128
    assert run(["convert", str(source), str(out), "--check", "-q"]) == 0
    assert run(["convert", str(out), str(tmp_path / "back.hdf5"), "-q"]) == 0
    with h5py.File(tmp_path / "back.hdf5") as file:
        assert file["infos/phase"][7] == 7j


def test_a_view_of_a_missing_file_is_refused_instead_of_read_as_zeros(source, out, capsys):
    layout = h5py.VirtualLayout((300, 4), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "observations", (300, 4))
    with h5py.File(source, "a") as file:
        del file["observations"]
        file.create_virtual_dataset("observations", layout)
    assert run(["convert", str(source), str(out), "-q"]) == ExitCode.INPUT
    assert "/observations is a view of elsewhere.hdf5, which is missing" in one_error_line(capsys)
    assert left(out) == []


# -- what is observed, what is done -------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Arrays whose names tell nothing."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    arrays = {name: rng.normal(size=(4, size)) for name, size in (("pose", 3), ("speed", 2), ("torque", 1))}
    np.savez(path, episode_id=np.array([0, 0, 1, 1]), reward=np.ones(4), **arrays)
    return path


def columns_of(path: Path) -> list[str]:
    with Dataset.open(path) as dataset:
        return [
            "/".join(c.key) for c in dataset.schema.columns if c.key[0] in ("observation", "action", "info")
        ]


def test_one_observation_and_one_action_are_the_arrays_themselves(table, out):
    assert run(["convert", str(table), str(out), "--observation", "pose", "--action", "torque", "-q"]) == 0
    assert sorted(columns_of(out)) == ["action", "info/speed", "observation"]


def test_several_or_named_ones_are_parts(table, out):
    parts = ["--observation", "pose", "--observation", "speed=velocity", "--action", "torque=motor"]
    assert run(["convert", str(table), str(out), *parts, "-q"]) == 0
    assert sorted(columns_of(out)) == ["action/motor", "observation/pose", "observation/velocity"]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (["--observation", "poze"], "did you mean 'pose'"),
        (["--observation", "pose", "--action", "pose"], "mapped twice"),
        (["--action", "=x"], "no key of the source"),
    ],
)
def test_parts_that_cannot_be_are_usage_errors(told, says, table, out, capsys):
    assert run(["convert", str(table), str(out), *told]) == ExitCode.USAGE
    assert says in one_error_line(capsys)


def test_a_pipe_is_no_source(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert run(["convert", str(tmp_path / "pipe"), str(tmp_path / "ds")]) == ExitCode.INPUT
    assert capsys.readouterr().err == f"error: {tmp_path}/pipe: not a regular file\n"
