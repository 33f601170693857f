"""LeRobot v3.0 as we write it: the structure that lerobot reads, the statistics, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlcli.datasets import lerobot_stats
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline.convert import convert
from tests.datasets.lerobot_made import FPS, TASKS, make

WRIST = "observation.images.wrist"
TOP = ("observation", "images", "top")


def exported(path: Path, out: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    report = convert(path, out, to="lerobot", check=True, **options)
    return report, json.loads((out / "meta" / "info.json").read_text())


def frame(path: Path) -> dict[str, Any]:
    """The columns of a Parquet file as lists."""
    found: dict[str, Any] = pq.read_table(path).to_pydict()
    return found


def test_what_came_from_lerobot_goes_back_and_comes_again(tmp_path: Path) -> None:
    first = make(tmp_path / "src")
    convert(first, tmp_path / "ds")
    report, info = exported(tmp_path / "ds", tmp_path / "out")
    assert report["lossy"] == []
    told = json.loads((first / "meta" / "info.json").read_text())
    assert list(info["features"]) == list(told["features"])
    assert info["features"]["action"] == told["features"]["action"]
    assert (info["codebase_version"], info["robot_type"], info["fps"]) == ("v3.0", "toy", FPS)
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 9, 2)
    convert(tmp_path / "out", tmp_path / "again", check=True)
    assert Dataset.open(tmp_path / "again").digest == Dataset.open(tmp_path / "ds").digest


def test_rows_episodes_and_tasks_are_as_lerobot_expects_them(tmp_path: Path) -> None:
    convert(make(tmp_path / "src"), tmp_path / "ds")
    exported(tmp_path / "ds", tmp_path / "out")
    rows = frame(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet")
    assert rows["index"] == list(range(9))
    assert rows["episode_index"] == [0] * 4 + [1] * 2 + [2] * 3
    assert rows["frame_index"] == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert rows["task_index"] == [0] * 4 + [1] * 2 + [0] * 3
    assert rows["next.done"] == [False] * 3 + [True, False, True, False, False, True]
    assert rows[WRIST][0]["bytes"][:4] == b"\x89PNG"
    episodes = frame(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert episodes["dataset_from_index"] == [0, 4, 6]
    assert episodes["dataset_to_index"] == [4, 6, 9]
    assert episodes["tasks"] == [[TASKS[0]], [TASKS[1]], [TASKS[0]]]
    assert episodes["data/file_index"] == episodes["data/chunk_index"] == [0, 0, 0]
    tasks = pq.read_table(tmp_path / "out" / "meta" / "tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "__index_level_0__": TASKS}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    convert(make(tmp_path / "src"), tmp_path / "ds")
    exported(tmp_path / "ds", tmp_path / "out")
    dataset = Dataset.open(tmp_path / "ds")
    states = dataset.read(("observation", "state")).astype(np.float64)
    stats = json.loads((tmp_path / "out" / "meta" / "stats.json").read_text())
    found = stats["observation.state"]
    assert found["count"] == [9]
    assert np.allclose(found["mean"], states.mean(0))
    assert np.allclose(found["std"], states.std(0))
    assert found["min"] == states.min(0).tolist()
    assert found["max"] == states.max(0).tolist()
    pixels = np.stack([np.asarray(x) for x in dataset.read(("observation", "images", "wrist"))]) / 255
    assert np.shape(stats[WRIST]["mean"]) == (3, 1, 1)
    assert np.allclose(np.ravel(stats[WRIST]["mean"]), pixels.mean((0, 1, 2)))
    assert np.allclose(np.ravel(stats[WRIST]["std"]), pixels.std((0, 1, 2)))
    kinds = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    assert all(entry.keys() == kinds for entry in stats.values())
    episodes = frame(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert np.allclose(episodes["stats/observation.state/q50"][0], np.median(states[:4], axis=0))
    assert stats.keys() == {name.split("/")[1] for name in episodes if name.startswith("stats/")}


def test_joined_statistics_are_those_of_everything() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, 3)) for n in (1, 5, 20)]
    found = lerobot_stats.joined([lerobot_stats.of_numbers(part) for part in parts])
    whole = lerobot_stats.of_numbers(np.concatenate(parts))
    for name in ("min", "max", "mean", "std", "count"):
        assert np.allclose(found[name], whole[name]), name


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_videos_have_every_frame_at_its_time(tmp_path: Path, codec: str) -> None:
    path = make(tmp_path / "src", without_video=False)
    convert(path, tmp_path / "ds")
    sets = ["cameras=video", f"codec={codec}", "quality=10"]
    report, info = exported(tmp_path / "ds", tmp_path / "out", sets=sets)
    assert "observation.images.top: frames are compressed as video" in report["lossy"]
    assert info["features"]["observation.images.top"]["info"]["video.codec"] == codec
    episodes = frame(tmp_path / "out" / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    assert episodes["videos/observation.images.top/from_timestamp"] == [0, 0.4, 0.6]
    assert episodes["videos/observation.images.top/to_timestamp"] == [0.4, 0.6, 0.9]
    convert(tmp_path / "out", tmp_path / "again", check=True, mapping={WRIST: "-"})
    levels = [Dataset.open(tmp_path / name).read(TOP).astype(int) for name in ("ds", "again")]
    assert np.abs(levels[0] - levels[1]).max() <= 4


def test_pixels_are_written_as_png_and_come_back(tmp_path: Path) -> None:
    convert(make(tmp_path / "src", without_video=False), tmp_path / "ds")
    _, info = exported(tmp_path / "ds", tmp_path / "out")
    assert info["features"]["observation.images.top"]["dtype"] == "image"
    assert info["video_path"] is None
    convert(tmp_path / "out", tmp_path / "again", images="decode")
    assert np.array_equal(Dataset.open(tmp_path / "again").read(TOP), Dataset.open(tmp_path / "ds").read(TOP))


def small(path: Path, extra: list[Column] | None = None) -> None:
    """A dataset that never was LeRobot: a discrete action, a final observation, a seed, a cut episode."""
    observation = Composite({"a": Box((2,), "float64", -1.0, 1.0), "m": Box((2, 3), "int16")})
    schema = ted_schema(observation, Discrete(3), extra=[Column(("value",), "float32"), *(extra or [])])
    spec = {"env": {"library": "gymnasium", "id": "X-v0", "kwargs": {}, "max_episode_steps": None},
            "observation": observation.to_json(), "action": Discrete(3).to_json()}  # fmt: skip
    writer = Writer.create(path, schema, spec=spec, lineage={"op": "test"})
    with EpisodeWriter(writer) as rows:
        for episode in range(3):
            rows.begin(0, 7 if episode == 0 else None)
            for step in range(3):
                rows.add(
                    0,
                    observation={"a": np.array([step, episode]) / 4, "m": np.full((2, 3), step)},
                    action=step,
                    reward=step / 2,
                    terminated=episode == 0 and step == 2,
                    truncated=episode == 1 and step == 2,
                    next_observation={"a": np.array([step + 1, episode]) / 4, "m": np.full((2, 3), step + 1)},
                    value=0.5,
                    **({"strange": 1} if extra else {}),
                )


def test_a_dataset_of_another_origin_keeps_its_keys_and_says_what_is_lost(tmp_path: Path) -> None:
    small(tmp_path / "ds")
    report, _ = exported(tmp_path / "ds", tmp_path / "out", sets=["fps=20", "task=walk"])
    assert report["lossy"] == [
        "2 final observations are not written: LeRobot has no place for them",
        "1 seeds of episodes are not written",
    ]
    convert(tmp_path / "out", tmp_path / "again", check=True)
    first, second = Dataset.open(tmp_path / "ds"), Dataset.open(tmp_path / "again")
    for column in first.schema.columns:
        if column.key[:2] != ("next", "observation"):
            assert np.array_equal(first.read(column.key), second.read(column.key)), column.key
            assert second.schema.by_key[column.key] == column
    assert second.spec == first.spec
    assert second.episodes.cut.tolist() == [False, False, True]
    assert set(second.read(("task",))) == {"walk"}


def test_names_that_lerobot_needs_itself_are_refused(tmp_path: Path) -> None:
    schema = ted_schema(Box((1,)), Box((1,)), extra=[Column(("index",), "int64")])
    spec = {"env": None, "observation": Box((1,)).to_json(), "action": Box((1,)).to_json()}
    with EpisodeWriter(Writer.create(tmp_path / "ds", schema, spec=spec, lineage={"op": "test"})) as rows:
        one = np.zeros(1, np.float32)
        rows.add(0, observation=one, action=one, reward=0, terminated=True, truncated=False,
                 next_observation=one, index=1)  # fmt: skip
    with pytest.raises(IncompatibleError, match="would be LeRobot's own feature index"):
        convert(tmp_path / "ds", tmp_path / "out", to="lerobot")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError):
        convert(tmp_path / "ds", tmp_path / "out", to="lerobot", sets=["codec=vp9"])


def test_files_end_at_their_size_and_go_on_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlcli.datasets import lerobot_export

    monkeypatch.setattr(lerobot_export, "_CHUNK", 2)
    convert(make(tmp_path / "src", without_video=False), tmp_path / "ds")
    options = lerobot_export.ExportOptions(cameras="video", codec="h264")
    object.__setattr__(options, "data_mb", 0)
    object.__setattr__(options, "video_mb", 0)
    with Dataset.open(tmp_path / "ds") as dataset:
        lerobot_export.export(dataset, tmp_path / "out", options, lambda count: None)
    names = sorted(
        p.relative_to(tmp_path / "out" / "data").as_posix()
        for p in (tmp_path / "out" / "data").rglob("*.parquet")
    )
    assert names == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    again = convert(tmp_path / "out", tmp_path / "again", mapping={WRIST: "-"})
    assert (again["rows"], again["remarks"]) == (9, [])
    found = Dataset.open(tmp_path / "again").read(TOP).astype(int)
    assert np.abs(found - Dataset.open(tmp_path / "ds").read(TOP)).max() <= 8


def test_exact_rewards_of_another_format_are_the_rewards(tmp_path):
    """V-D4RL keeps float64 rewards beside ours; LeRobot has one place for both."""
    exact = np.array([0.1, 0.2, 0.3, 0.4])
    np.savez(
        tmp_path / "x.npz",
        obs=np.ones((4, 2), "f4"),
        actions=np.ones((4, 1), "f4"),
        rewards=exact.astype("f4"),
        timeouts=np.arange(4) == 3,
        exact=exact,
    )
    convert(tmp_path / "x.npz", tmp_path / "one", mapping={"exact": "source/reward"})
    convert(tmp_path / "one", tmp_path / "out", to="lerobot", check=True)
    convert(tmp_path / "out", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "two") as two:
        assert two.read(("source", "reward"), 0, 4).reshape(-1).tolist() == exact.tolist()
