"""The README's examples run as they stand, in order, in one empty folder; docstring examples run too."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlcli

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- tested -->\n```(\w+)\n(.*?)```", re.S)


def test_the_readme_runs(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert [language for language, _ in blocks] == ["sh", "sh", "sh", "python"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, text in blocks:
        command = {"sh": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}
        done = subprocess.run(
            command[language], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/bc/run.json").exists()


def test_the_readme_names_every_command_and_exit_code() -> None:
    from rlcli.errors import ExitCode
    from rlcli.main import COMMANDS

    text = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"`rl {name}" not in text] == []
    codes = {int(number) for number in re.findall(r"\d+", " ".join(re.findall(r"\| ([\d, ]+) \|", text)))}
    assert {int(code) for code in ExitCode} <= codes


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "format/SPEC.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page} -> {target}"


def modules_with_examples() -> list[str]:
    found = []
    for directory, _, files in os.walk(Path(rlcli.__file__).parent, followlinks=True):
        for name in files:
            path = Path(directory) / name
            if name.endswith(".py") and ">>> " in path.read_text():
                relative = path.relative_to(Path(rlcli.__file__).parent).with_suffix("")
                found.append(".".join(["rlcli", *relative.parts]))
    return sorted(found)


@pytest.mark.parametrize("name", modules_with_examples() or [pytest.param("", marks=pytest.mark.skip)])
def test_docstring_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
