"""Training on a dataset at a URL is training on the dataset: the same batches, the same parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
sys.path.insert(0, str(Path(__file__).parent.parent / "format"))
from serving import serving

from rlcli import main
from rlcli.pipeline.run import open_run


def test_a_run_on_a_url_equals_one_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main.run(["collect", "CartPole-v1", "--steps", "500", "-o", str(tmp_path / "ds"), "--quiet"]) == 0
    digests = []
    with serving(tmp_path) as web:
        for name, place in (("here", str(tmp_path / "ds")), ("there", f"{web.url}/ds")):
            options = ["--updates", "20", "--hidden", "8,8", "--compile", "off", "--eval-every", "0"]
            options += ["--no-tensorboard", "--quiet", "-o", str(tmp_path / name)]
            assert main.run(["train", "bc", "--from-dataset", place, *options]) == 0
            run = open_run(tmp_path / name)
            (parent,) = run.info["parents"]
            assert parent["path"] == place
            newest = max(run.checkpoints.glob("[0-9]*"))
            digests.append((newest / "state.safetensors").read_bytes())
        resumed = ["--resume", "-o", str(tmp_path / "there"), "--quiet"]
        assert main.run(["train", "bc", *resumed]) == 0
    assert digests[0] == digests[1]


def test_a_url_is_not_followed(tmp_path: Path) -> None:
    words = ["train", "bc", "--from-dataset", "memory://ds", "--follow", "--updates", "10", "--quiet"]
    assert main.run([*words, "-o", str(tmp_path / "run")]) == 2
