"""The parts of `rl bench convert`: goals, sources, readers, memory. No figure of speed is asserted."""

from __future__ import annotations

import io
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.benchmarks import Setting, convert_arms
from rlcli.benchmarks import convert as case
from rlcli.benchmarks.convert_jobs import Apart
from rlcli.benchmarks.convert_process import Conversion
from rlcli.benchmarks.convert_sources import write_pictures, write_transitions, write_videos
from rlcli.benchmarks.peer import Peers
from rlcli.errors import InputError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Goal, Item, LocalArm
from rlcli.pipeline.convert import convert


@dataclass
class MadeUpPeers:
    """Peers whose arms read a fiftieth."""

    names: tuple[str, ...]
    asked: list[str] = field(default_factory=list)

    def arms(self, item: str, size: str, folder: Path) -> list[Any]:
        self.asked.append(item)
        return [LocalArm(name, "peer", lambda: None, 0.02) for name in self.names]


def made(name: str, folder: Path, *names: str) -> Item:
    """The item, its arms not called."""
    peers: Any = MadeUpPeers(names) if names else None
    found = case.items(Setting("small", folder, peer=peers, wanted=name))
    item = next(found)
    found.close()  # type: ignore[attr-defined]
    return item


def roles(item: Item) -> dict[str, str]:
    return {arm.name: arm.role for arm in item.arms}


def test_decode_is_the_formats_library_and_disk_a_synced_write(tmp_path: Path) -> None:
    item = made("d4rl", tmp_path)
    assert roles(item) == {
        "rl, whole conversion": "ours",
        "h5py, reading alone": "reference",
        "SHA-256 alone": "limit",
        "disk: write() and fsync()": "limit",
    }
    assert item.goals == (Goal("the slower of h5py and disk", 0.8),)
    cores = len(os.sched_getaffinity(0))
    assert {each.name: each.of for each in item.computed} == {
        "the slower of h5py and disk": ("h5py, reading alone", "disk: write() and fsync()"),
        "the slowest of these alone": tuple(roles(item))[1:],
        f"their processor time on {cores} cores": tuple(roles(item))[1:],
    }


def test_a_peer_that_people_read_with_is_the_goal_and_a_lighter_reader_a_limit(tmp_path: Path) -> None:
    item = made("minari", tmp_path, "minari, episode by episode")
    assert roles(item)["h5py, reading alone"] == "limit"
    assert item.goals == (Goal("the slower of minari and disk", 0.8),)
    slower, alone, spread = item.computed
    assert slower.of == ("minari, episode by episode", "disk: write() and fsync()")
    assert "minari, episode by episode" not in alone.of
    assert spread.of[0] == "h5py, reading alone"
    assert item.arms[-1].units == pytest.approx(0.02 * item.arms[0].units)


def test_a_goal_that_no_python_can_measure_is_said(tmp_path: Path) -> None:
    item = made("minari", tmp_path)
    assert item.goals == ()
    assert item.remarks[1:] == ("the goal is not measured: no Python that was named has minari",)
    alone, spread = item.computed
    assert (alone.name, spread.role) == ("the slowest of these alone", "limit")


def test_pictures_that_stay_encoded_are_measured_against_every_way_of_tfds(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    goals = made("pictures-256", tmp_path).goals
    assert {goal.arm for goal in goals} == {
        "TFDS, steps as NumPy",
        "TFDS, batches of 256",
        "TFDS, pictures left encoded",
    }
    assert {goal.ratio for goal in goals} == {5.0}


def test_an_item_works_in_folders_that_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.setattr(case, "memory_folder", lambda otherwise: memory)
    found = case.items(Setting("small", disk, wanted="npz"))
    item = next(found)
    for arm in item.arms:
        arm.measure(1)
    assert {path.name for path in disk.iterdir()} == {"converted", "written"}
    assert Dataset.open(disk / "converted").num_episodes == 2
    found.close()  # type: ignore[attr-defined]
    assert list(memory.iterdir()) == []


def test_a_files_hash_is_one_cores(tmp_path: Path) -> None:
    for name, size in (("a", 3), ("b", 6), ("c/d", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert dict(convert_arms.on_all_cores(tmp_path, "reader").alone) == {"SHA-256 alone": 0.6}
    assert dict(convert_arms.on_all_cores(tmp_path / "a", "reader").alone) == {"SHA-256 alone": 1.0}


def test_a_written_file_has_the_bytes(tmp_path: Path) -> None:
    written = convert_arms.Written(tmp_path, 20 << 20)
    written.call()
    assert written.path.stat().st_size == 20 << 20
    assert written.rate() > 0
    assert list(tmp_path.iterdir()) == []


def test_videos_have_the_frames_and_become_pixels(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    path = write_videos(tmp_path / "lerobot", 2, 3, 64, 96)
    assert [file.name for file in tmp_path.iterdir()] == ["lerobot"]
    convert_arms.decode_videos(path)
    convert_arms.read_parquet(path)
    convert(path, tmp_path / "dataset")
    with Dataset.open(tmp_path / "dataset") as dataset:
        assert dataset.episodes.length.tolist() == [3, 3]
        assert dataset.read(("observation", "image"), 0, 6).shape == (6, 64, 96, 3)


def test_shards_have_all_pictures(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    pictures = write_pictures(tmp_path / "pictures", 2, 3, 32, 48, shards=2)
    assert len(pictures) == 2 * 2 * 3
    convert_arms.decoder_of(pictures, 48)()
    convert(tmp_path / "pictures", tmp_path / "dataset")
    with Dataset.open(tmp_path / "dataset") as dataset:
        pixels = dataset.read(("observation", "image"), 0, 12)
        truth = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
        assert (np.asarray(pixels) == np.stack(truth)).all()


def test_memory_is_that_of_a_process_and_of_its_imports(tmp_path: Path) -> None:
    source = write_transitions(tmp_path / "rows.npz", "npz", 1)
    memory = Conversion(source, tmp_path / "dataset").memory(100 << 20, "once")
    assert (memory.name, memory.allowed) == ("once", 100 << 20)
    assert memory.peak > 16 << 20
    assert memory.imports > 16 << 20
    assert memory.cpu_seconds > 0
    assert Dataset.open(tmp_path / "dataset").num_rows == 1000


def test_a_process_that_fails_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.npz: no such file or folder") as failed:
        Conversion(tmp_path / "nothing.npz", tmp_path / "dataset").memory(0)
    assert "\n" not in failed.value.message


def test_processes_apart_make_the_same_dataset_each(tmp_path: Path) -> None:
    source = write_transitions(tmp_path / "rows.npz", "npz", 1)
    one = Conversion(source, tmp_path / "converted")
    core = min(os.sched_getaffinity(0))
    with Apart(one, [core]) as apart:
        apart.prepare()
        apart.call()
        apart.prepare()
        apart.call()
    one.call()
    with Dataset.open(tmp_path / f"apart-{core}") as theirs, Dataset.open(one.path) as ours:
        assert theirs.digest == ours.digest
    assert not any(Path(f"/proc/{pid}").exists() for pid in apart.pids)


PYTHONS = {"minari": "", "lerobot": "RL_LEROBOT_PYTHON", "rlds": "RL_TFDS_PYTHON"}


@pytest.mark.parametrize(("name", "variable"), PYTHONS.items())
def test_peers_read_what_we_wrote_for_them(name: str, variable: str, tmp_path: Path) -> None:
    python = os.environ.get(variable) if variable else sys.executable
    if python is None:
        pytest.skip(f"{variable} names no Python")
    if python == sys.executable:
        pytest.importorskip(name)
    with ExitStack() as stack:
        peers = stack.enter_context(Peers([python], 1))
        found = case.items(Setting("small", tmp_path, peer=peers, wanted=name))
        stack.callback(found.close)  # type: ignore[attr-defined]
        item = next(found)
        assert [goal.ratio for goal in item.goals] == [0.8]
        theirs = [arm for arm in item.arms if arm.role == "peer"]
        assert theirs
        assert all(arm.measure(1) > 0 for arm in theirs)
