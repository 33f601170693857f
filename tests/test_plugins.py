"""Names become objects, missing packages an install line, and lazy modules load when touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlcli.errors import InputError, MissingExtraError, UsageError
from rlcli.lazy import lazy_import
from rlcli.plugins import is_reference, load_reference, require


@pytest.mark.parametrize("name", ["module:attribute", "package.module:Class.method"])
def test_references(name: str) -> None:
    assert is_reference(name)


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "dmc:cheetah/run", "a:", ":b", "/path:x", "runs/sac", "", "C:\\x", "a:b:c"]
)
def test_what_is_no_reference(name: str) -> None:
    assert not is_reference(name)


def test_the_working_directory_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rl_plugin.py").write_text("class Thing:\n    value = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_reference("my_rl_plugin:Thing.value") == 3
    with pytest.raises(UsageError, match="did you mean 'Thing'"):
        load_reference("my_rl_plugin:Think")


def test_a_module_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no module 'no_such_module_at_all'"):
        load_reference("no_such_module_at_all:x")


@pytest.mark.parametrize("body", ["import no_such_module_at_all", "1 / 0", "def f(:"])
def test_a_module_that_fails_to_import_is_an_input_error(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_broken_plugin.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InputError, match="importing 'my_broken_plugin' failed"):
        load_reference("my_broken_plugin:x")


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_package_at_all", "mujoco", needed_for="Hopper-v5")
    assert "Hopper-v5" in caught.value.message
    assert caught.value.hint == "pip install 'rlcli[mujoco]'"
    assert require("json", "x", needed_for="x").dumps([]) == "[]"


def test_a_lazy_module_is_imported_at_the_first_touch() -> None:
    code = (
        "import inspect, sys; from rlcli.lazy import lazy_import; f = lazy_import('fractions');"
        "print('fractions' in sys.modules); inspect.getmodule(f); getattr(f, '__wrapped__', 0);"
        "print('fractions' in sys.modules); print(f.Fraction(1, 2)); print('fractions' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "1/2", "True"]


def test_a_lazy_module_raises_what_the_import_raises() -> None:
    with pytest.raises(ModuleNotFoundError):
        _ = lazy_import("no_such_module_at_all").x
    with pytest.raises(AttributeError):
        _ = lazy_import("json").no_such_name
