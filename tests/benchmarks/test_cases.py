"""Every case runs, its arms agree, and the command keeps its manners. No figure is asserted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlcli.benchmarks import CASES, Setting, load
from rlcli.benchmarks.peer import FOLDER, Peer, PeerArm, Peers
from rlcli.commands.bench import share
from rlcli.errors import InputError, UsageError


def rl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    peers = [] if "--peer-python" in arguments else ["--peer-python", "none"]
    command = [sys.executable, "-m", "rlcli", "bench", *peers, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"update"}))
def test_a_case_runs_and_proves_its_arms_equal(case: str, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = rl(case, "--size", "small", "--rounds", "1", "--seconds", "0.005", "--json", "-o", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads(out.read_text())["items"] == report["items"]
    assert report["items"]
    for item in report["items"]:
        roles = [arm["role"] for arm in item["arms"]]
        assert roles[0] == "ours"
        assert "limit" in roles
        assert item["checked"]
    assert report["versions"]["rl"]
    assert report["machine"]["cores"] >= 1


def test_our_updates_equal_plain_pytorch(tmp_path: Path) -> None:
    items = list(load("update").items(Setting("small", tmp_path)))
    assert [item.name for item in items] == ["update/dqn", "update/sac"]
    for item in items:
        assert item.check is not None
        assert "agree" in item.check()


def test_every_case_says_what_it_measures() -> None:
    done = rl("--list", "--json")
    assert set(json.loads(done.stdout)["cases"]) == set(CASES)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["smaple"], 2, "did you mean 'sample'?"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--fail-if-slower", "5%"], 2, "--baseline"),
        (["open", "--baseline", "/nonexistent.json"], 3, "/nonexistent.json"),
        (["open/nothing", "--size", "small", "--rounds", "1"], 2, "did you mean 'open/"),
        (["open", "--peer-python", "/nonexistent/python"], 3, "/nonexistent/python"),
        (["open", "--peer-python", "none", "--peer-python", "python3"], 2, "--peer-python none"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, said: str) -> None:
    done = rl(*arguments, "--quiet")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert said in done.stderr


def test_a_report_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    out.write_text("{}")
    assert rl("open", "-o", out).returncode == 3
    assert out.read_text() == "{}"


def test_a_regression_exits_8_after_the_report(tmp_path: Path) -> None:
    def baseline(limit_share: float) -> Path:
        arms = [{"role": "limit", "ours_is_times": limit_share}]
        path = tmp_path / f"{limit_share:g}.json"
        path.write_text(json.dumps({"items": [{"name": "open/episode", "arms": arms}]}))
        return path

    fast = [
        "open",
        "--size",
        "small",
        "--rounds",
        "1",
        "--seconds",
        "0.005",
        "--json",
        "--fail-if-slower",
        "5%",
    ]
    worse = rl(*fast, "--baseline", baseline(1e6))
    assert worse.returncode == 8
    assert json.loads(worse.stdout)["baseline"][0]["slower_by"] > 0.05
    assert "open/episode" in worse.stderr
    assert rl(*fast, "--baseline", baseline(1e-9)).returncode == 0


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0)])
def test_shares(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["five", "100%", "-1%", "2", "nan"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError):
        share(text)


# ---- the peers' process, with this Python


def test_the_peers_processes_answer_and_end(tmp_path: Path) -> None:
    with Peers([sys.executable], 1) as peers:
        assert "torch" in peers.found[0]["versions"]
        arms = peers.arms("open/episode", "small", tmp_path / "peers")
        measured: dict[str, Any] = {arm.name: arm.measure(1) for arm in arms}
        assert all(seconds > 0 for seconds in measured.values())
        assert peers.arms("open/unknown", "small", tmp_path / "peers") == []
        pids = peers.pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_question_that_fails_names_why() -> None:
    with Peer(sys.executable, 1) as peer, pytest.raises(InputError, match="KeyError"):
        peer.ask({"measure": "nothing", "repeats": 1})


CASE = """
import time
def of(package):
    def make(folder, size):
        __import__(package)
        return {"call": lambda: time.sleep(0)}
    return make
ARMS = {"item": {"first": of("one"), "second": of("two"), "third": of("three"), "broken": of("json.nothing")}}
"""


def test_an_arm_runs_in_the_first_python_that_can_import_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases"
    shutil.copytree(FOLDER, cases)
    (cases / "made_arms.py").write_text(CASE)
    monkeypatch.setattr("rlcli.benchmarks.peer.FOLDER", cases)
    pythons = []
    for name, packages in {"a": ["one"], "b": ["one", "two"]}.items():
        (tmp_path / name).mkdir()
        for package in packages:
            (tmp_path / name / f"{package}.py").touch()
        python = tmp_path / f"python-{name}"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / name} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        pythons.append(str(python))
    with Peers(pythons, 1) as peers:
        arms = peers.arms("made/item", "small", tmp_path / "peers")
        assert [(arm.name, arm.peer.python) for arm in arms if isinstance(arm, PeerArm)] == [
            ("first", pythons[0]),
            ("second", pythons[1]),
        ]
        assert [arm.measure(1) >= 0 for arm in arms] == [True, True]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "broken is left out" in said[0]
    assert said[1] == "made/item: not measured: third (needs three)"


def test_a_python_that_fails_is_an_input_error_and_ends_the_others(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(InputError, match="ended with 3"):
        Peers([sys.executable, str(broken)], 1)
