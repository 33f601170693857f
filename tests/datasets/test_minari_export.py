"""Minari: what we write, Minari reads, and importing it gives the same dataset again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from rlcli.datasets.minari_columns import attributes_text
from rlcli.errors import UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline import convert_parts
from rlcli.pipeline.convert import convert
from tests.datasets.minari_made import (
    ACTIONS,
    BOX,
    FORMATS,
    NESTED,
    TWO,
    buffers,
    imported,
    infos,
    same,
    written,
)

pytestmark = pytest.mark.usefixtures("minari_root")


@pytest.mark.parametrize("data_format", FORMATS)
def test_import_export_import_is_the_identity_and_minari_reads_it(tmp_path: Path, data_format: str) -> None:
    def some(length: int) -> dict[str, Any]:
        return {name: values for name, values in infos(length).items() if name != "late"}

    episodes = buffers(NESTED, ACTIONS, infos=some, options={"goal": 3, "name": "far"})
    first, _ = imported(written(episodes, NESTED, ACTIONS, data_format), tmp_path / "first")
    assert first.read(("info", "speed")).shape == (13,)
    report = convert(tmp_path / "first", tmp_path / "out", to="minari", check=True)
    assert report["lossy"] == []
    second, _ = imported(tmp_path / "out", tmp_path / "second")
    assert second.digest == first.digest
    back = minari.MinariDataset(tmp_path / "out" / "data")
    assert back.observation_space == NESTED
    assert back.action_space == ACTIONS
    assert back.total_steps == 13
    assert back.id == "test/toy-v0"
    for theirs, episode in zip(back, episodes, strict=True):
        assert same(theirs.observations["pose"][0], episode.observations["pose"][0])
        assert same(theirs.observations["pose"][1], episode.observations["pose"][1])
        assert theirs.observations["text"] == episode.observations["text"]
        assert same(theirs.actions["move"], episode.actions["move"])
        assert theirs.actions["say"] == episode.actions["say"]
        assert same(theirs.rewards, episode.rewards)
        assert same(theirs.terminations, episode.terminations)
        assert same(theirs.truncations, episode.truncations)
        assert same(theirs.infos["speed"], episode.infos["speed"])
        assert same(theirs.infos["deep"]["matrix"], episode.infos["deep"]["matrix"])
    told = list(back.storage.get_episode_metadata([0, 1, 2]))
    assert [entry["seed"] for entry in told] == [0, 11, 22]
    assert all(entry["options"] == {"goal": 3, "name": "far"} for entry in told)


def test_jpeg_goes_back_as_it_came(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (32, 40, 3), np.uint8)
    path = written(buffers(space, TWO), space, TWO)
    first, _ = imported(path, tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "out", to="minari", check=True)
    second, _ = imported(tmp_path / "out", tmp_path / "second")
    assert second.digest == first.digest
    for a, b in zip(
        minari.MinariDataset(tmp_path / "out" / "data"), minari.MinariDataset(path / "data"), strict=True
    ):
        assert same(a.observations, b.observations)


def test_pixels_are_written_raw(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (32, 40, 3), np.uint8)
    first, _ = imported(written(buffers(space, TWO), space, TWO), tmp_path / "first", images="decode")
    convert(tmp_path / "first", tmp_path / "out", to="minari", check=True)
    episode = next(iter(minari.MinariDataset(tmp_path / "out" / "data")))
    assert same(episode.observations[:-1], first.read(("observation",), 0, 4))


def test_unknown_finals_unfinished_ends_and_odd_flags_survive(tmp_path: Path) -> None:
    episodes = buffers(BOX, TWO)
    short = [EpisodeBuffer(**{**vars(e), "observations": e.observations[:-1], "infos": {}}) for e in episodes]
    path = written(short, BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/terminations"][1] = True
        file["episode_1/terminations"][-1] = False
    first, _ = imported(path, tmp_path / "first")
    report = convert(tmp_path / "first", tmp_path / "out", to="minari", check=True)
    assert report["remarks"] == ["3 episodes have no final observation: as many observations as steps"]
    second, _ = imported(tmp_path / "out", tmp_path / "second")
    assert second.digest == first.digest


def test_attributes_of_arrow_files_go_to_hdf5_and_back(tmp_path: Path) -> None:
    """Seeds beyond int64, which Minari draws where none is given, and lists: JSON has them without dtypes."""
    path = written(buffers(BOX, TWO), BOX, TWO, data_format="arrow")
    extra = [
        {"seed": 2**64 - 5, "grid": [1, 2], "odd": [1, "a"], "huge": 2**70},
        {"seed": 2**63, "gain": 0.5},
    ]
    for number, more in enumerate(extra):
        file = path / "data" / str(number) / "metadata.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    imported(path, tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "out", to="minari")
    with h5py.File(tmp_path / "out" / "data" / "main_data.hdf5") as file:
        told = [dict(file[f"episode_{number}"].attrs) for number in range(2)]
    assert [int(entry["seed"]) for entry in told] == [2**64 - 5, 2**63]
    assert told[0]["grid"].tolist() == [1, 2]
    assert (told[0]["odd"], told[0]["huge"], told[1]["gain"]) == ('[1, "a"]', str(2**70), 0.5)
    plain = [{"seed": 2**64 - 5, "grid": [1, 2]}, {"seed": 2**63, "gain": 0.5}]
    texts = [attributes_text(entry) for entry in plain]
    as_hdf5 = [
        {"seed": np.uint64(2**64 - 5), "grid": np.array([1, 2])},
        {"seed": np.uint64(2**63), "gain": np.float64(0.5)},
    ]
    assert [attributes_text(entry) for entry in as_hdf5] == texts
    assert "dtype" in attributes_text({"small": np.int32(3), "nan": np.float64("nan")})


def test_a_dataset_of_another_origin_keeps_its_keys_and_spec(tmp_path: Path) -> None:
    from rlcli.format.episodes import EpisodeWriter
    from rlcli.format.schema import Column, ted_schema
    from rlcli.format.specs import Box, Composite, Discrete
    from rlcli.format.writer import Writer

    observation = Composite({"a": Box((2,), "float32", -1.0, 1.0), "b": Discrete(3)})
    extra = [
        Column(("log_prob",), "float32"),
        Column(("info", "x"), "int16"),
        Column(("value",), "float16", (1,)),
    ]
    schema = ted_schema(observation, Box((1,), "float32"), extra=extra)
    env = {"library": "gymnasium", "id": "CartPole-v1", "kwargs": {}, "max_episode_steps": None}
    spec = {"env": env, "observation": observation.to_json(), "action": Box((1,), "float32").to_json()}
    writer = Writer.create(tmp_path / "first", schema, spec=spec, lineage={"op": "test"})
    with EpisodeWriter(writer) as rows:
        for episode in range(2):
            rows.begin(0, 5 + episode)
            for step in range(3):
                last = step == 2
                value = {"a": np.full(2, step / 4, np.float32), "b": step}
                rows.add(
                    0,
                    observation=value,
                    action=np.zeros(1, np.float32),
                    reward=0.1 * step,
                    terminated=last and not episode,
                    truncated=last and bool(episode),
                    next_observation={"a": np.full(2, (step + 1) / 4, np.float32), "b": 1},
                    **({"log_prob": step, "info": {"x": 7}, "value": [0.5]}),
                ) if last else rows.add(
                    0,
                    observation=value,
                    action=np.zeros(1, np.float32),
                    reward=0.1 * step,
                    terminated=False,
                    truncated=False,
                    log_prob=step,
                    info={"x": 7},
                    value=[0.5],
                )
    report = convert(
        tmp_path / "first", tmp_path / "out", to="minari", check=True, sets=["dataset_id=me/mine-v3"]
    )
    assert report["lossy"] == []
    first = Dataset.open(tmp_path / "first")
    second, _ = imported(tmp_path / "out", tmp_path / "second")
    for column in first.schema.columns:
        assert same(second.read(column.key), first.read(column.key)), column.key
    assert second.spec["observation"] == spec["observation"]
    assert second.spec["env"] == env
    back = minari.MinariDataset(tmp_path / "out" / "data")
    assert back.id == "me/mine-v3"
    assert back.env_spec.id == "CartPole-v1"
    assert back[0].infos["log_prob"].tolist() == [0, 1, 2]


def test_a_malformed_name_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    imported(written(buffers(BOX, TWO), BOX, TWO), tmp_path / "first")
    with pytest.raises(UsageError, match="namespace/name-v0"):
        convert(tmp_path / "first", tmp_path / "out", to="minari", sets=["dataset_id=../x"])
    assert not (tmp_path / "out").exists()


def test_a_cut_episode_comes_back_cut(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    first, _ = imported(path, tmp_path / "first", limit=5)
    assert first.episodes.cut.tolist() == [False, True]
    report = convert(tmp_path / "first", tmp_path / "out", to="minari", check=True)
    assert report["lossy"] == []
    second, _ = imported(tmp_path / "out", tmp_path / "second")
    assert second.digest == first.digest


def test_parts_by_two_processes_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(buffers(NESTED, ACTIONS, (5, 3, 4, 1)), NESTED, ACTIONS)
    one, _ = imported(path, tmp_path / "one")
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    two, _ = imported(path, tmp_path / "two", jobs=2)
    for column in one.schema.columns:
        if column.key != ("episode",):  # numbers are those of a part
            assert same(one.read(column.key), two.read(column.key)), column.key
