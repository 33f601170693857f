"""D4RL by folder and by name: downloads that resume, a cache that is checked, files that point elsewhere."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlcli.datasets import d4rl_addresses, download
from rlcli.datasets.d4rl_addresses import ADDRESSES
from rlcli.datasets.d4rl_envs import environment, from_file_name
from rlcli.errors import CorruptError, ExitCode, IncompatibleError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.main import run
from rlcli.pipeline.convert import convert


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file under every address; may break off; says what was asked."""

    data = b""
    version = '"one"'
    stop_after: int | None = None
    ranges = True
    content_range: str | None = None
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        cls = type(self)
        wanted = self.headers.get("Range")
        cls.asked.append((self.path, wanted))
        start = 0
        if cls.ranges and wanted and self.headers.get("If-Range") == cls.version:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(cls.data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(cls.data) - start))
        self.send_header("ETag", cls.version)
        if start:
            whole = f"bytes {start}-{len(cls.data) - 1}/{len(cls.data)}"
            self.send_header("Content-Range", cls.content_range or whole)
        self.end_headers()
        body = cls.data[start:]
        self.wfile.write(body if cls.stop_after is None else body[: cls.stop_after])

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path, monkeypatch, d4rl_file):
    handler = type("Handler", (Server,), {"data": d4rl_file("mujoco_v2").read_bytes(), "asked": []})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("RL_D4RL_SERVER", f"http://127.0.0.1:{httpd.server_port}/d4rl")
    monkeypatch.setenv("RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "theirs"))
    yield handler
    httpd.shutdown()
    httpd.server_close()
    thread.join()


PLACE = "cache/d4rl/gym_mujoco_v2/hopper_medium-v2.hdf5"


def test_a_dataset_is_found_by_name(server, tmp_path):
    report = convert("d4rl:hopper-medium-v2", tmp_path / "ds", check=True)
    assert (report["rows"], report["env"]) == (16, "hopper-medium-v2")
    assert server.asked == [("/d4rl/gym_mujoco_v2/hopper_medium-v2.hdf5", None)]
    convert("d4rl:hopper-medium-v2", tmp_path / "again", offline=True)
    assert len(server.asked) == 1  # from the cache


def test_offline_never_asks(server, tmp_path):
    with pytest.raises(InputError, match="--offline"):
        convert("d4rl:hopper-medium-v2", tmp_path / "ds", offline=True)
    assert server.asked == []
    assert not (tmp_path / "cache").exists()


def test_a_download_that_broke_off_goes_on(server, tmp_path):
    server.stop_after = 3000
    with pytest.raises(InputError) as caught:
        convert("d4rl:hopper-medium-v2", tmp_path / "ds")
    assert "goes on" in (caught.value.hint or "")
    assert not (tmp_path / PLACE).exists()
    server.stop_after = None
    convert("d4rl:hopper-medium-v2", tmp_path / "ds", check=True)
    assert server.asked[1][1] == "bytes=3000-"
    assert (tmp_path / PLACE).read_bytes() == server.data
    names = [f"hopper_medium-v2.hdf5{suffix}" for suffix in ("", ".sha256")]
    assert sorted(os.listdir((tmp_path / PLACE).parent)) == names


def test_a_file_that_changed_on_the_server_is_begun_anew(server, tmp_path):
    server.stop_after = 3000
    with pytest.raises(InputError):
        convert("d4rl:hopper-medium-v2", tmp_path / "ds")
    server.stop_after, server.version = None, '"two"'
    convert("d4rl:hopper-medium-v2", tmp_path / "ds", check=True)
    assert (tmp_path / PLACE).read_bytes() == server.data


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.stop_after = 3000
    with pytest.raises(InputError):
        convert("d4rl:hopper-medium-v2", tmp_path / "ds")
    server.stop_after, server.ranges = None, False
    convert("d4rl:hopper-medium-v2", tmp_path / "ds", check=True)
    assert server.asked[1][1] == "bytes=3000-"
    assert (tmp_path / PLACE).read_bytes() == server.data


@pytest.mark.parametrize("told", ["bytes 0-9999/10000", "bytes 2999-9999/10000", "nonsense"])
def test_a_server_that_sends_another_range_is_not_believed(told, server, tmp_path):
    server.stop_after = 3000
    with pytest.raises(InputError):
        convert("d4rl:hopper-medium-v2", tmp_path / "ds")
    server.stop_after, server.content_range = None, told
    with pytest.raises(InputError, match="range"):
        convert("d4rl:hopper-medium-v2", tmp_path / "ds")
    assert not (tmp_path / PLACE).exists()
    server.content_range = None
    convert("d4rl:hopper-medium-v2", tmp_path / "ds", check=True)
    assert (tmp_path / PLACE).read_bytes() == server.data


def test_damage_in_the_cache_is_noticed(server, tmp_path):
    convert("d4rl:hopper-medium-v2", tmp_path / "ds")
    data = bytearray((tmp_path / PLACE).read_bytes())
    data[-5] ^= 1
    (tmp_path / PLACE).write_bytes(data)
    with pytest.raises(CorruptError, match="differs from what was downloaded"):
        convert("d4rl:hopper-medium-v2", tmp_path / "again")


def test_a_server_that_is_not_there_is_one_line(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RL_D4RL_SERVER", "http://127.0.0.1:9")
    assert run(["convert", "d4rl:hopper-medium-v2", str(tmp_path / "ds")]) == ExitCode.INPUT
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path / "cache/d4rl/gym_mujoco_v2") == []


def test_an_unknown_name_gets_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'hopper-medium-v2'"):
        convert("d4rl:hoper-medium-v2", tmp_path / "ds")


def test_files_of_the_d4rl_package_are_used(server, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "hopper_medium-v2.hdf5").write_bytes(server.data)
    convert("d4rl:hopper-medium-v2", tmp_path / "ds", offline=True)
    assert server.asked == []


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed d4rl package, which cannot be imported where MuJoCo is missing."""
    made = tmp_path / "site" / "d4rl"
    made.mkdir(parents=True)
    (made / "__init__.py").write_text("raise RuntimeError('no MuJoCo')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "d4rl", raising=False)
    return made


def test_names_of_an_installed_d4rl_package_are_known(server, tmp_path, package):
    address = os.environ["RL_D4RL_SERVER"].replace("/d4rl", "/own/mine.hdf5")
    (package / "infos.py").write_text(f"DATASET_URLS = {{'mine-v9': {address!r}}}\n")
    assert convert("d4rl:mine-v9", tmp_path / "ds")["rows"] == 16
    with pytest.raises(UsageError, match="did you mean 'hopper-medium-v2'"):
        convert("d4rl:hoper-medium-v2", tmp_path / "other")


def test_a_d4rl_package_without_addresses_is_one_line(server, tmp_path, package):
    with pytest.raises(InputError, match="no addresses: FileNotFoundError"):
        convert("d4rl:mine-v9", tmp_path / "ds")
    assert server.asked == []


@pytest.mark.skipif("RL_D4RL_PYTHON" not in os.environ, reason="RL_D4RL_PYTHON names no Python with d4rl")
def test_addresses_and_scores_are_those_of_the_d4rl_package():
    script = """
import importlib.util, json, os
(folder,) = importlib.util.find_spec("d4rl").submodule_search_locations
spec = importlib.util.spec_from_file_location("infos", os.path.join(folder, "infos.py"))
infos = importlib.util.module_from_spec(spec)
spec.loader.exec_module(infos)
print(json.dumps([infos.DATASET_URLS, infos.REF_MIN_SCORE, infos.REF_MAX_SCORE]))
"""
    command = [os.environ["RL_D4RL_PYTHON"], "-c", script]
    urls, low, high = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    server = d4rl_addresses.SERVER
    assert urls == {name: f"{server}/{address}" for name, address in ADDRESSES.items()}
    for name in low:
        assert environment(name).reference == (low[name], high[name]), name


@pytest.mark.parametrize("name", ADDRESSES)
def test_every_address_names_its_own_environment(name):
    environment = from_file_name(ADDRESSES[name].rsplit("/", 1)[-1])
    assert environment is not None
    assert environment.id == name


def test_only_web_addresses_are_fetched(tmp_path):
    with pytest.raises(InputError, match="http"):
        download.fetch("file:///etc/passwd", tmp_path / "x", lambda count: None, offline=False)
    assert d4rl_addresses.fetch is not None


# -- folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, d4rl_file) -> Path:
    """Two files of one environment; the rewards of the second need float64."""
    made = tmp_path / "files"
    made.mkdir()
    d4rl_file("mujoco_v2").rename(made / "hopper_medium-v2.hdf5")
    first, second = made / "hopper_medium-v2.hdf5", made / "hopper_medium-v2_2.hdf5"
    with h5py.File(first) as source, h5py.File(second, "w") as other:
        for name in ("observations", "actions", "terminals", "timeouts", "next_observations", "infos"):
            source.copy(name, other)
        other["rewards"] = source["rewards"][()] * np.float32(2)
    return made


def test_a_folder_of_files_is_one_dataset(folder, tmp_path):
    report = convert(folder, tmp_path / "ds", check=True)
    assert report["seen"] == "folder of 2 D4RL HDF5 files"
    assert (report["rows"], report["episodes"], report["source"]["files"]) == (32, 6, 2)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [5, 7, 4] * 2
        rewards = dataset.read(("next", "reward"), 0, 32).reshape(2, 16)
        assert (rewards[1] == 2 * rewards[0]).all()
        assert dataset.spec["env"]["id"] == "hopper-medium-v2"
        assert [entry["bytes"] for entry in dataset.lineage[0]["parents"]] == [
            path.stat().st_size for path in sorted(folder.iterdir())
        ]


def test_a_second_column_that_one_file_needs_is_there_for_all(folder, tmp_path):
    with h5py.File(folder / "hopper_medium-v2.hdf5", "a") as file:
        rewards = file["rewards"][()].astype("f8") / 3
        del file["rewards"]
        file["rewards"] = rewards
    with h5py.File(folder / "hopper_medium-v2_2.hdf5", "a") as file:
        del file["rewards"]
        file["rewards"] = np.ones(16)
    convert(folder, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        kept = dataset.read(("source", "rewards"), 0, 32)
    assert kept.reshape(-1).tolist() == [*rewards.reshape(-1).tolist(), *[1.0] * 16]


def test_files_of_other_columns_are_refused(folder, tmp_path):
    with h5py.File(folder / "hopper_medium-v2_2.hdf5", "a") as file:
        del file["infos"]
    with pytest.raises(IncompatibleError, match="its columns differ"):
        convert(folder, tmp_path / "ds")


def test_a_mapping_is_not_ignored(d4rl_file, tmp_path):
    """The keys of D4RL have their meanings; another reader takes a mapping."""
    path = d4rl_file("mujoco_v2")
    mapping = {"infos/qpos": "observation", "observations": "info/raw", "next_observations": "-"}
    with pytest.raises(UsageError, match="fixed meanings") as caught:
        convert(path, tmp_path / "ds", mapping=mapping)
    assert "--from hdf5" in (caught.value.hint or "")


# -- files that point elsewhere or lie -----------------------------------------------------------------------


@pytest.mark.parametrize("form", [None, "hdf5"])
def test_values_in_other_files_are_refused(form, tmp_path, d4rl_file):
    """HDF5's external storage would read any file as numbers."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"\1" * 64)
    path = d4rl_file("mujoco_v2")
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (16,), "f4", external=[(str(secret), 0, 64)])
    with pytest.raises(IncompatibleError, match="another file"):
        convert(path, tmp_path / "ds", from_=form)
    assert not (tmp_path / "ds").exists()


def test_a_view_outside_the_folder_is_refused(tmp_path, d4rl_file):
    path = d4rl_file("mujoco_v2")
    (tmp_path / "inner").mkdir()
    path = path.rename(tmp_path / "inner" / path.name)
    with h5py.File(tmp_path / "elsewhere.h5", "w") as other:
        other["x"] = np.ones(16, "f4")
    layout = h5py.VirtualLayout((16,), "f4")
    layout[:] = h5py.VirtualSource("../elsewhere.h5", "x", (16,))
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_virtual_dataset("rewards", layout)
    with pytest.raises(IncompatibleError, match="outside the file's folder"):
        convert(path, tmp_path / "ds")


@pytest.mark.parametrize("form", [None, "hdf5"])
def test_absurd_lengths_are_refused_before_anything_is_read(form, tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, shape in (("observations", (1 << 44, 3)), ("actions", (1 << 44, 2))):
            file.create_dataset(name, shape, "f4", chunks=(1024, shape[1]), compression="gzip")
        for name in ("rewards", "terminals", "timeouts"):
            file.create_dataset(name, (1 << 44,), "f4", chunks=(1024,), compression="gzip")
    with pytest.raises(CorruptError, match="declares"):
        convert(tmp_path / "x.hdf5", tmp_path / "ds", from_=form)
    assert sorted(os.listdir(tmp_path)) == ["x.hdf5"]
