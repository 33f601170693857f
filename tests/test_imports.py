"""Help is instant and data work needs no torch: facts about `sys.modules`, not timings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from rlcli.algorithms import ALGORITHMS
from rlcli.main import COMMANDS, build_app

HEAVY = {
    "torch",
    "tensordict",
    "gymnasium",
    "h5py",
    "zarr",
    "numpy",
    "matplotlib",
    "tensorboard",
    "safetensors",
}

# Runs one `rl` command line in a fresh interpreter and reports its exit code and the heavy modules it loaded.
PROBE = """
import contextlib, io, json, sys
from rlcli.main import run
with contextlib.redirect_stdout(io.StringIO()) as out:
    try:
        code = run(sys.argv[1:])
    except SystemExit as stop:
        code = int(stop.code or 0)
modules = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "modules": modules, "out": out.getvalue()}))
"""


def probe(*arguments: str, cwd: Path | None = None) -> tuple[int, set[str], str]:
    """`(exit code, loaded top-level modules, standard output)` of `rl ARGUMENTS`."""
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    return report["code"], set(report["modules"]), report["out"]


def assert_help_is_light(*line: str) -> None:
    code, modules, out = probe(*line, "--help")
    assert code == 0
    assert "Usage" in out
    assert modules & HEAVY == set()


def test_help_loads_nothing_heavy() -> None:
    assert_help_is_light()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    assert_help_is_light(name)
    tree = typer.main.get_command(build_app(name, [name, "--help"]))
    group = getattr(tree, "commands", {})[name]
    for subcommand in getattr(group, "commands", {}):
        assert_help_is_light(name, subcommand)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_help_of_an_algorithm_loads_nothing_heavy(algorithm: str) -> None:
    assert_help_is_light("train", algorithm)


def test_listing_algorithms_needs_no_torch() -> None:
    code, modules, _ = probe("algo", "list")
    assert code == 0
    assert modules & HEAVY == set()


@pytest.mark.parametrize("line", [["--version"], ["nonsense"], ["collect", "--nonsense"]], ids=" ".join)
def test_usage_errors_load_nothing_heavy(line: list[str]) -> None:
    _, modules, _ = probe(*line)
    assert modules & HEAVY == set()


@pytest.mark.parametrize("module", ["rlcli.format.dataset", "rlcli.format.writer", "rlcli.collectors.loop"])
def test_the_data_path_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'tensordict'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
