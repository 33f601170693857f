"""Shell manners, proven on a command of our own: exit codes, streams, signals, broken pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlcli import console
from rlcli.errors import ExitCode, RLError, nearest

# A command that does what its argument says; the processes below run it as `rl probe WHAT`.
PROBE = """
import errno, sys, time, typer
from rlcli import console, errors

def probe(what: str, json: console.Json = False, quiet: console.Quiet = False) -> int | None:
    console.configure(json=json, quiet=quiet)
    if what == "os-space": raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
    if what == "os-missing": open("/nonexistent/x")
    if what == "os-directory": open("/")
    if what == "os-readonly": raise OSError(errno.EROFS, "Read-only file system", "/ro/x")
    if what == "os-long": open("x" * 300)
    if what == "os-odd": raise OSError(errno.EPROTO, "Protocol error")
    if what == "memory": raise MemoryError
    if what == "torch-memory": raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    if what == "bug": raise KeyError("surprise")
    if what == "extra": raise errors.MissingExtraError("mujoco", "mujoco", needed_for="Hopper-v5")
    if what == "lines": raise errors.InputError("first line\\nsecond line", hint="try again", path="/p")
    if what == "say":
        console.log("a remark"); console.warn("a warning")
        console.result("probe", {"number": 1, "odd": float("nan")}, "the/path")
        return None
    if what == "many":
        for _ in range(100_000): console.result("probe", {}, "x" * 100)
    if what == "bar":
        with console.progress(10, "working") as bar:
            for _ in range(10): bar.advance(); time.sleep(0.02)
        console.result("probe", {}, "done")
        return None
    if what in ("wait", "stuck"):
        with console.interruptible() as stop:
            print("ready", file=sys.stderr, flush=True)
            while what == "stuck" or not stop.requested: time.sleep(0.005)
            stop.raise_if_requested("stopped at step 5", hint="resume with --resume")
    raise getattr(errors, what)("the reason", hint="the way out", path="the/path")

def register(app: typer.Typer, arguments: list[str]) -> None:
    app.command("probe")(probe)
"""
LAUNCH = """
import sys
sys.path.insert(0, {folder!r})
from rlcli import main
main.COMMANDS["probe"] = ("rl_probe_command", "For tests.")
main.main()
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of an `rl` that has the command `probe` too."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "rl_probe_command.py").write_text(PROBE)
    return [sys.executable, "-c", LAUNCH.format(folder=str(folder))]


def run(command: list[str], *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 60, "check": False}
    return subprocess.run([*command, *arguments], **(settings | options))  # type: ignore[call-overload,no-any-return]


# ---- exit codes and the one line


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("UsageError", 2),
        ("InputError", 3),
        ("CorruptError", 4),
        ("IncompatibleError", 5),
        ("ResourceError", 7),
        ("ConditionFalse", 8),
        ("BusyError", 75),
    ],
)
def test_each_error_is_one_line_with_its_exit_code(launcher: list[str], what: str, code: int) -> None:
    done = run(launcher, "probe", what)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "error: the reason (the way out)\n"


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("extra", 6, "pip install 'rlcli[mujoco]'"),
        ("os-space", 7, "/data/x: No space left on device"),
        ("memory", 7, "out of memory"),
        ("torch-memory", 7, "out of memory"),
        ("os-missing", 3, "/nonexistent/x"),
        ("os-directory", 3, "Is a directory"),
        ("os-readonly", 3, "/ro/x: Read-only file system"),
        ("os-long", 3, "File name too long"),
        ("lines", 3, "first line second line"),
    ],
)
def test_what_the_system_reports_becomes_one_line(
    launcher: list[str], what: str, code: int, said: str
) -> None:
    done = run(launcher, "probe", what)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize("what", ["bug", "os-odd"])
def test_a_bug_leaves_a_report_not_a_traceback(launcher: list[str], what: str, tmp_path: Path) -> None:
    done = run(launcher, "probe", what, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "bug" in done.stderr
    [report] = tmp_path.iterdir()
    assert str(report) in done.stderr
    assert "Traceback" in report.read_text()


def test_a_developer_can_ask_for_the_traceback(launcher: list[str]) -> None:
    done = run(launcher, "probe", "bug", env={**os.environ, "RL_TRACEBACK": "1"})
    assert "KeyError: 'surprise'" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["colect"], "did you mean 'collect'?"),
        (["probe", "say", "--jsn"], "--json"),
        (["probe"], "missing argument"),
        (["probe", "say", "extra"], "unexpected extra argument"),
    ],
    ids=str,
)
def test_a_usage_error_is_one_line_that_helps(launcher: list[str], line: list[str], said: str) -> None:
    done = run(launcher, *line)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_json_errors_are_objects_on_stderr(launcher: list[str]) -> None:
    for what, code in (("CorruptError", 4), ("os-missing", 3)):
        done = run(launcher, "probe", what, "--json")
        assert (done.returncode, done.stdout) == (code, "")
        assert json.loads(done.stderr)["error"]["code"] == code
    usage = json.loads(run(launcher, "colect", "--json").stderr)
    assert usage["rl"] == 1
    assert usage["error"]["code"] == 2


# ---- streams


def test_stdout_is_the_result_and_nothing_else(launcher: list[str]) -> None:
    done = run(launcher, "probe", "say")
    assert done.stdout == "the/path\n"
    assert done.stderr == "a remark\nwarning: a warning\n"
    assert run(launcher, "probe", "say", "--quiet").stderr == "warning: a warning\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_character_is_no_bug(encoding: str) -> None:
    command = [sys.executable, "-m", "rlcli", "algo", "list"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"????" in done.stdout


def test_json_is_one_strict_object(launcher: list[str]) -> None:
    done = run(launcher, "probe", "say", "--json")
    assert json.loads(done.stdout) == {"rl": 1, "kind": "probe", "number": 1, "odd": None}
    assert done.stdout.count("\n") == 1


def test_a_closed_pipe_ends_quietly(launcher: list[str]) -> None:
    process = subprocess.Popen(
        [*launcher, "probe", "many"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(300) == 141


def test_a_full_disk_behind_stdout_is_a_resource_error(launcher: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(launcher, "probe", "say", stdout=full, capture_output=False, stderr=subprocess.PIPE)
    assert done.returncode == 7
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("no_color", [False, True])
def test_a_progress_bar_is_for_terminals_only(launcher: list[str], no_color: bool) -> None:
    assert run(launcher, "probe", "bar").stderr == ""
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    shown = on_a_terminal([*launcher, "probe", "bar"], environment | ({"NO_COLOR": "1"} if no_color else {}))
    assert "working" in shown
    assert bool(re.search(r"\x1b\[(\d+;)*3\d", shown)) is not no_color  # colour codes are 30 to 38


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What `command` writes to a standard error that is a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the terminal closes with its last process
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(300) == 0
    return shown.decode()


# ---- signals


def started(command: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_the_step(launcher: list[str], signum: signal.Signals, code: int) -> None:
    process = started([*launcher, "probe", "wait"])
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[-1] == "error: stopped at step 5 (resume with --resume)"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(launcher: list[str], signum: signal.Signals) -> None:
    process = started([*launcher, "probe", "stuck"])
    process.send_signal(signum)
    assert process.stderr is not None
    assert "once more" in process.stderr.readline()
    process.send_signal(signum)
    process.communicate(timeout=300)
    assert process.returncode == -signum


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with console.interruptible() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        assert stop.requested == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


STARTING = """
import sys
module = sys.argv[1]

class Interrupting:
    def find_spec(self, name, *rest):
        if name == module:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as err:
                if name == "typer":
                    raise
                raise ImportError("initialization failed") from err

sys.meta_path.insert(0, Interrupting())
from rlcli.__main__ import main
sys.argv = ["rl", "convert", "there-is-none", "out"]
main()
"""


@pytest.mark.parametrize("module", ["typer", "numpy"])
def test_ctrl_c_during_the_imports_is_one_line(module: str) -> None:
    """Native modules make another exception of it."""
    done = run([sys.executable, "-c", STARTING, module])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


# ---- small things


def test_the_exit_codes_are_a_promise() -> None:
    codes = [(code.name, int(code)) for code in ExitCode]
    assert codes == [
        ("OK", 0), ("BUG", 1), ("USAGE", 2), ("INPUT", 3), ("CORRUPT", 4), ("INCOMPATIBLE", 5),
        ("MISSING_EXTRA", 6), ("RESOURCE", 7), ("CONDITION_FALSE", 8), ("BUSY", 75),
        ("INTERRUPTED", 130), ("TERMINATED", 143),
    ]  # fmt: skip
    assert RLError("x").code == 1


def test_nearest_proposes_or_lists() -> None:
    assert nearest("cartpole-v1", ["CartPole-v1", "Acrobot-v1"]) == "did you mean 'CartPole-v1'?"
    assert nearest("zzz", ["a", "b"]) == "known: a, b"
    assert nearest("zzz", [f"name{i}" for i in range(50)]) == "50 are known"


def test_a_table_aligns_and_marks_what_is_missing() -> None:
    text = console.table(["name", "score"], [["a", 1.5], ["bcd", None]])
    assert text.splitlines() == ["name  score", "────  ─────", "a       1.5", "bcd       –"]


def test_an_empty_table_is_its_header() -> None:
    assert console.table(["name"], []).splitlines()[0] == "name"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (2**50, "1024.0 TiB")]
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert console.bytes_text(count) == text


def test_names_cannot_steer_a_terminal() -> None:
    name = "a\x1b[2Jb\nc\x9bé"
    shown = "a\\x1b[2Jb\\nc\\x9bé"
    assert console.table(["name"], [[name]]).splitlines()[-1] == shown
    assert console.fields({"name": name}) == f"name  {shown}"
    assert console.error_text(RLError("a\x1b[2J: no such file")) == "error: a\\x1b[2J: no such file"
