"""`rl collect` as a user meets it: streams, exit codes, digests, appending, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.collectors.seeds import episode_seed
from rlcli.envs import make
from rlcli.format.dataset import Dataset
from rlcli.main import run
from rlcli.testing.counting import ending, episode_length, observation, scripted

COUNTING = "rlcli.testing.counting:Counting"
SCRIPTED = "rlcli.testing.counting:scripted"
VARIED = ("spread=6", "ending=alternate")


def _arguments(*env_args: str) -> list[str]:
    return [word for item in env_args for word in ("--env-arg", item)]


def _rl(*words: str) -> list[str]:
    return [sys.executable, "-m", "rlcli", *words]


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `rl collect` in an empty folder and returns `(exit code, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        code = run(["collect", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def _check_counting(
    path: Path, *, seed: int = 0, length: int = 5, spread: int = 6, actions: bool = True
) -> None:
    """Every row against what the environment's definition says."""
    with Dataset.open(path) as dataset:
        rows, table = dataset.read_rows(), dataset.episodes
        assert table.length.sum() == dataset.num_rows
        numbers: dict[int, int] = {}
        for index in range(len(table)):
            stream, steps = int(table.stream[index]), int(table.length[index])
            number = numbers.get(stream, 0)
            numbers[stream] = number + 1
            start = episode_seed(seed, stream, number)
            assert table.seed[index] == start
            at = slice(int(table.start[index]), int(table.start[index]) + steps)
            seen = np.array([observation(start, step) for step in range(steps + 1)])
            cut = steps < episode_length(start, length, spread)
            assert bool(table.cut[index]) == cut
            terminated, truncated = (False, False) if cut else ending(start, "alternate")
            assert (bool(table.terminated[index]), bool(table.truncated[index])) == (terminated, truncated)
            assert np.array_equal(rows["observation"][at], seen[:-1])
            assert np.array_equal(rows["next"]["observation"][at], seen[1:])
            assert np.array_equal(rows["next"]["reward"][at, 0], np.arange(1, steps + 1))
            last = np.arange(steps) == steps - 1
            for name, flag in (
                ("terminated", terminated),
                ("truncated", truncated),
                ("done", terminated or truncated),
            ):
                assert np.array_equal(rows["next"][name][at, 0], last & flag)
            assert np.array_equal(rows["is_init"][at, 0], np.arange(steps) == 0)
            assert np.array_equal(rows["step"][at], np.arange(steps))
            assert table.return_[index] == steps * (steps + 1) / 2
            if actions:
                assert np.array_equal(rows["action"][at], scripted(seen[:-1]))
        assert len(dataset.unknown_next) == 0


def test_standard_output_is_exactly_the_path(collect: Any) -> None:
    code, out, err = collect("CartPole-v1", "-o", "ds", "--steps", "1k")
    assert (code, out) == (0, "ds\n")
    assert "1,000 steps" in err
    assert "\x1b" not in err
    assert Dataset.open("ds").num_rows == 1000


def test_without_an_output_a_free_name_is_found(collect: Any) -> None:
    names = [collect("CartPole-v1", "--steps", "10", "--seed", "7", "-q")[1] for _ in range(3)]
    base = "data/CartPole-v1-random-s7"
    assert names == [f"{base}\n", f"{base}-2\n", f"{base}-3\n"]
    _, own, _ = collect(COUNTING, "--policy", SCRIPTED, "--steps", "10", "-q")
    assert own == "data/rlcli.testing.counting-Counting-scripted-s0\n"


def test_json_is_one_object(collect: Any) -> None:
    code, out, err = collect(COUNTING, "-o", "ds", "--episodes", "3", "--json", "--quiet")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["kind"], report["dataset"], report["rows"], report["episodes"]) == ("dataset", "ds", 15, 3)
    assert report["added"] == {"steps": 15, "episodes": 3}
    assert report["score"] == 15.0
    assert report["digest"] == Dataset.open("ds").digest


@pytest.mark.parametrize("envs", [1, 3])
@pytest.mark.parametrize("amount", [("--steps", "500"), ("--episodes", "50")])
def test_every_row_is_what_happened(collect: Any, envs: int, amount: tuple[str, str]) -> None:
    """Traps 5, 6, 12: true finals, flags apart, no row from a reset, none missing."""
    words = [
        COUNTING,
        "-o",
        "ds",
        *amount,
        "--num-envs",
        str(envs),
        "--policy",
        SCRIPTED,
        *_arguments(*VARIED),
    ]
    assert collect(*words)[0] == 0
    _check_counting(Path("ds"))
    with Dataset.open("ds") as dataset:
        assert (dataset.num_rows if amount[0] == "--steps" else dataset.num_episodes) == int(amount[1])
        assert len(dataset.stream_rows) == envs


def test_long_episodes_span_segments(collect: Any) -> None:
    words = [
        COUNTING,
        "-o",
        "ds",
        "--steps",
        "40k",
        "--policy",
        SCRIPTED,
        *_arguments("length=7000", *VARIED),
    ]
    assert collect(*words)[0] == 0
    _check_counting(Path("ds"), length=7000)
    assert len(Dataset.open("ds").segments) == 2


def test_dict_observations_and_actions_keep_their_nesting(collect: Any) -> None:
    words = [COUNTING, "-o", "ds", "--episodes", "4", *_arguments("observation=dict", "action=dict")]
    assert collect(*words)[0] == 0
    with Dataset.open("ds") as dataset:
        rows = dataset.read_rows()
        assert rows["observation"]["nested"]["pixels"].dtype == np.uint8
        assert rows["observation"]["mode"].tolist() == [0, 1, 2, 0, 1] * 4
        assert rows["next"]["observation"]["mode"].tolist() == [1, 2, 0, 1, 2] * 4
        assert rows["next"]["observation"]["nested"]["pixels"][:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5] * 4
        assert rows["action"]["move"].shape == (20, 2)
        assert set(rows["action"]["jump"].tolist()) <= {0, 1}


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_same_seed_and_options_give_the_same_digest(collect: Any, name: str) -> None:
    def digest(*words: str) -> str:
        return str(json.loads(collect(name, "--steps", "1500", "--json", "-q", *words)[1])["digest"])

    assert digest() == digest("--seed", "0")
    assert digest("--num-envs", "3") == digest("--num-envs", "3")
    assert len({digest(), digest("--seed", "1"), digest("--num-envs", "2")}) == 3


def test_pacing_does_not_change_the_digest(collect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for seconds in (0.0, 0.5):
        monkeypatch.setattr("rlcli.collectors.record._TICK_SECONDS", seconds)
        _, out, _ = collect("CartPole-v1", "--steps", "500", "--num-envs", "2", "--json", "-q")
        digests.add(json.loads(out)["digest"])
    assert len(digests) == 1


def test_a_recorded_episode_can_be_made_again_from_its_seed(collect: Any) -> None:
    collect("CartPole-v1", "-o", "ds", "--episodes", "20", "--num-envs", "2", "--seed", "5")
    env = make("CartPole-v1")
    with Dataset.open("ds") as dataset:
        rows, table = dataset.read_rows(), dataset.episodes
        for index in range(len(table)):
            seen = env.reset(int(table.seed[index]))
            for at in range(int(table.start[index]), int(table.start[index] + table.length[index])):
                assert rows["observation"][at].tobytes() == seen.tobytes()
                seen, reward, terminated, _ = env.step(int(rows["action"][at]))
                assert rows["next"]["observation"][at].tobytes() == seen.tobytes()
                assert (rows["next"]["reward"][at, 0], bool(rows["next"]["terminated"][at, 0])) == (
                    reward,
                    terminated,
                )


def test_appending_continues_the_episodes(collect: Any) -> None:
    words = [COUNTING, "-o", "ds", "--policy", SCRIPTED, "--append", *_arguments(*VARIED)]
    assert collect(*words, "--steps", "101", "--num-envs", "2", "--seed", "3")[0] == 0  # begins the dataset
    assert collect(*words, "--steps", "57")[0] == 0
    assert collect(*words, "--episodes", "9")[0] == 0
    _check_counting(Path("ds"), seed=3)
    with Dataset.open("ds") as dataset:
        assert len(set(dataset.episodes.seed.tolist())) == dataset.num_episodes
        assert [entry["op"] for entry in dataset.lineage] == ["collect"] * 3


def test_appending_draws_new_random_actions(collect: Any) -> None:
    for _ in range(2):
        assert collect("CartPole-v1", "-o", "ds", "--append", "--steps", "200")[0] == 0
    with Dataset.open("ds") as dataset:
        actions = dataset.read(("action",))
        assert not np.array_equal(actions[:200], actions[200:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Pendulum-v1"], "its env is"),
        ([COUNTING, "--env-arg", "length=6"], f"its env is {COUNTING}; this one is {COUNTING} length=6"),
        ([COUNTING, "--num-envs", "3"], "has 2 streams, --num-envs is 3"),
    ],
)
def test_only_more_of_the_same_can_be_appended(collect: Any, words: list[str], message: str) -> None:
    assert collect(COUNTING, "-o", "ds", "--steps", "20", "--num-envs", "2")[0] == 0
    before = _tree(Path("ds"))
    code, out, err = collect(*words, "-o", "ds", "--append", "--steps", "10")
    assert (code, out) == (5, "")
    assert message in err
    assert _tree(Path("ds")) == before


def _tree(root: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["CartPole-v1"], 2, "either --steps or --episodes"),
        (["CartPole-v1", "--steps", "5", "--episodes", "5"], 2, "either --steps or --episodes"),
        (["CartPole-v1", "--steps", "0"], 2, "--steps must be at least 1"),
        (["CartPole-v1", "--steps", "ten"], 2, "not a whole number"),
        (["CartPole-v1", "--steps", "5", "--num-envs", "0"], 2, "--num-envs must be at least 1"),
        (["CartPole-v1", "--steps", "5", "--seed", "-1"], 2, "--seed"),
        (["CartPole-v1", "--steps", "5", "--append"], 2, "--append needs -o"),
        (["CartPole-v1", "--steps", "5", "-o", "there"], 2, "exists already"),
        (["CartPol-v1", "--steps", "5"], 2, "did you mean 'CartPole-v1'"),
        (["CartPole-v1", "--steps", "5", "--env-arg", "x"], 2, "key=value"),
        (["CartPole-v1", "--steps", "5", "--env-arg", "x=1"], 2, "takes no argument 'x'"),
        (["Pendulum-v1", "--steps", "5", "--env-arg", "g=1e999"], 2, "JSON"),
        (["CartPole-v1", "--steps", "5", "--policy", "randm"], 2, "did you mean 'random'"),
        (["CartPole-v1", "--steps", "5", "--policy", "no/run"], 3, "there is no such run"),
        (["CartPole-v1", "--steps", "5", "--policy", "there"], 3, "not a run"),
        (["CartPole-v1", "--steps", "5", "--policy", "json:nothing"], 2, "no attribute"),
        ([COUNTING, "--steps", "5", "--env-arg", "action=box", "--policy", SCRIPTED], 5, "expected (1, 2)"),
        (["CartPole-v1", "--steps", "5", "--policy", "json:dumps"], 3, "failed: TypeError"),
        (["Blackjack-v1", "--steps", "5"], 5, "Tuple is not supported"),
        (["CartPole-v1", "--steps", "5", "-o", "there", "--append"], 3, "there"),
        (["CartPole-v1", "--steps", "5", "-o", "file/below"], 3, "file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line_with_a_documented_code(
    collect: Any, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    Path("there").mkdir()
    Path("file").write_text("not a folder")
    found, out, err = collect(*words, "-q")
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert [file for file in tmp_path.rglob("*") if file.name in ("dataset.json", "manifests")] == []


def test_lineage_says_what_made_the_dataset(collect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    collect("Pendulum-v1", "-o", "ds", "--steps", "10", "--seed", "4", "--env-arg", "g=9.0")
    with Dataset.open("ds") as dataset:
        (entry,) = dataset.lineage
        assert dataset.spec["env"]["kwargs"] == {"g": 9.0}
        assert dataset.spec["env"]["max_episode_steps"] == 200
    assert (entry["op"], entry["seed"], entry["policy"]["name"]) == ("collect", 4, "random")
    assert entry["config"]["steps"] == 10
    assert entry["config"]["env_args"] == {"g": 9.0}
    assert len(entry["git"]["commit"]) == 40
    assert {"rl", "python", "numpy", "gymnasium"} <= set(entry["versions"])
    assert entry["time"].endswith("Z")
    assert len(entry["policy"]["digest"]) == 64


def test_what_environments_print_is_not_the_result(collect: Any, tmp_path: Path) -> None:
    Path("chatty.py").write_text(
        "from rlcli.testing.counting import Counting\n"
        "def make():\n    print('hello from the environment')\n    return Counting()\n"
    )
    code, out, err = collect("chatty:make", "-o", "ds", "--steps", "5")
    assert (code, out) == (0, "ds\n")
    assert "hello from the environment" in err


def test_a_failing_environment_keeps_what_was_recorded(collect: Any) -> None:
    words = [
        COUNTING,
        "-o",
        "ds",
        "--policy",
        SCRIPTED,
        *_arguments("length=9", "spread=6", "ending=alternate"),
    ]
    code, out, err = collect(*words, "--env-arg", "fail_at=7", "--steps", "100", "--num-envs", "2")
    assert (code, out) == (3, "")
    assert "RuntimeError: failing on purpose at counting.py" in err
    assert "ds holds all rows from before" in err
    _check_counting(Path("ds"), length=9)
    assert Dataset.open("ds").state == "sealed"


def test_a_full_disk_is_exit_7_and_the_last_commit_holds(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    main = "from rlcli.main import main; main()"
    words = ["collect", COUNTING, "-o", "ds", "--steps", "200k", "--policy", SCRIPTED, *_arguments(*VARIED)]
    done = subprocess.run(
        [sys.executable, "-c", limit + main, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert len(done.stderr.splitlines()) == 1
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.num_rows >= 4096
    again = ["collect", COUNTING, "-o", "ds", "--steps", "10", "--append", "--policy", SCRIPTED]
    subprocess.run(_rl(*again, *_arguments(*VARIED)), cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_says_how_to_go_on(tmp_path: Path, signum: int) -> None:
    words = [COUNTING, "-o", "ds", "--policy", SCRIPTED, "--num-envs", "2"]
    words += _arguments(*VARIED, "delay=0.002")
    process = subprocess.Popen(
        _rl("collect", *words, "--steps", "100k"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_rows(tmp_path / "ds", 50)
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (128 + signum, ""), err
    assert "Traceback" not in err
    _check_counting(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.state == "sealed"
        rows = dataset.num_rows
    assert f"stopped after {rows:,} of 100,000 steps" in err
    resume = err.rpartition("go on with: rl ")[2].rstrip().rstrip(")").split()
    assert resume[resume.index("--steps") + 1] == str(100_000 - rows)
    resume[resume.index("--steps") + 1] = "33"
    subprocess.run(_rl(*resume), cwd=tmp_path, check=True, capture_output=True)
    _check_counting(tmp_path / "ds")
    assert Dataset.open(tmp_path / "ds").num_rows == rows + 33


def test_a_second_signal_stops_at_once_and_the_last_commit_holds(tmp_path: Path) -> None:
    words = [COUNTING, "-o", "ds", "--policy", SCRIPTED, *_arguments(*VARIED, "delay=0.3")]
    process = subprocess.Popen(
        _rl("collect", *words, "--steps", "100k"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    _wait_for_rows(tmp_path / "ds", 2)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert "once more" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=300)
    assert process.returncode == -signal.SIGTERM
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.num_rows >= 2


def _wait_for_rows(path: Path, rows: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if path.exists():
            with Dataset.open(path, check="none") as dataset:
                if dataset.num_rows >= rows:
                    return
        time.sleep(0.01)
    raise AssertionError(f"{path} never had {rows} rows")


@pytest.mark.parametrize("policy", ["random", SCRIPTED])
def test_collecting_needs_no_torch(tmp_path: Path, policy: str) -> None:
    code = (
        "import sys; from rlcli.main import run; "
        f"assert run(['collect', '{COUNTING}', '-o', 'ds', '--steps', '50', '--policy', '{policy}']) == 0; "
        "assert not {'torch', 'tensordict', 'zarr', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def test_a_trained_run_collects(collect: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env", "CartPole-v1", "--steps", "60", "--learning-starts", "20", "--compile", "off", "-q"]
    assert run(["train", "dqn", *words, "-o", "trained"]) == 0
    capsys.readouterr()
    reports = []
    for extra in ([], [], ["--deterministic"]):
        words = ["CartPole-v1", "--policy", "trained", "--steps", "300", "--num-envs", "2", *extra]
        code, out, _ = collect(*words, "--json", "-q")
        assert code == 0
        reports.append(json.loads(out))
    assert reports[0]["dataset"] == "data/CartPole-v1-trained-s0"
    assert reports[0]["digest"] == reports[1]["digest"] != reports[2]["digest"]
    with Dataset.open(reports[0]["dataset"]) as dataset:
        (entry,) = dataset.lineage
        assert entry["policy"]["algorithm"] == "dqn"
        assert entry["parents"] == [{"run": "trained", "digest": entry["policy"]["digest"]}]
    code, _, err = collect("Pendulum-v1", "--policy", "trained", "--steps", "5")
    assert code == 5
    assert "the run at trained was made with the observation" in err


def test_the_bar_shows_only_on_a_terminal(tmp_path: Path) -> None:
    environment: Mapping[str, str] = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    parent, child = os.openpty()
    process = subprocess.Popen(
        _rl("collect", COUNTING, "-o", "ds", "--steps", "600", *_arguments("delay=0.002")),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=child,
        env=environment,
    )
    out, _ = process.communicate(timeout=300)
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(parent)
    assert out == b"ds\n"
    assert b"/600 steps" in shown
    assert b"/s" in shown


def test_nothing_is_collected_into_another_dataset(collect: Any) -> None:
    assert collect(COUNTING, "--episodes", "1", "-o", "ds")[0] == 0
    code, out, err = collect(COUNTING, "--episodes", "1", "-o", "ds/segments/inner")
    assert (code, out) == (2, "")
    assert "lies inside the dataset" in err
    assert not Path("ds/segments/inner").exists()
