"""LeRobot: rows, videos, tasks and ends of all three versions; what is odd is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcli.datasets import lerobot
from rlcli.errors import CorruptError, IncompatibleError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline import convert_parts
from rlcli.pipeline.convert import convert
from tests.datasets.lerobot_made import FPS, SIDE, TASKS, grey, make, rewrite, state, video

VERSIONS = ["v2.0", "v2.1", "v3.0"]
SAMPLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "lerobot" / "synth_v3"
TOP = ("observation", "images", "top")


def imported(path: Path, out: Path, **options: Any) -> tuple[Dataset, dict[str, Any]]:
    report = convert(path, out, check=True, **options)
    return Dataset.open(out), report


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_tasks_and_ends(tmp_path: Path, version: str) -> None:
    dataset, report = imported(make(tmp_path / "src", version), tmp_path / "ds")
    assert report["seen"] == f"LeRobot {version} dataset, 3 episodes"
    assert (report["rows"], report["episodes"], report["unknown_next"]) == (9, 3, 3)
    assert report["remarks"] == report["lossy"] == []
    assert dataset.episodes.length.tolist() == [4, 2, 3]
    assert dataset.episodes.terminated.tolist() == [True, False, True]  # next.success of even episodes
    assert dataset.episodes.truncated.tolist() == [False, True, False]
    wanted = [state(n, s) for n, length in enumerate([4, 2, 3]) for s in range(length)]
    assert dataset.read(("observation", "state")).tolist() == wanted
    assert dataset.read(("action",), 4, 6).tolist() == [[0, -1], [1, -1]]
    assert dataset.read(("next", "reward"))[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 0, 0.25, 0, 0.25, 0.5]
    assert dataset.read(("next", "success"))[:, 0].tolist() == [False] * 3 + [True] + [False] * 4 + [True]
    assert list(dataset.read(("task",))) == [TASKS[0]] * 4 + [TASKS[1]] * 2 + [TASKS[0]] * 3
    assert not [c.key for c in dataset.schema.columns if c.key[0] == "source"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_episode_has_its_own_frames(tmp_path: Path, version: str) -> None:
    path = make(tmp_path / "src", version, without_video=False)
    for name, options in (("all", {}), ("some", {"episodes": "1:3"}), ("one", {"episodes": "1"})):
        dataset, _ = imported(path, tmp_path / name, **options)
        levels = [grey(n, s) for n, length in enumerate([4, 2, 3]) for s in range(length)]
        wanted = {"all": levels, "some": levels[4:], "one": levels[4:6]}[name]
        found = dataset.read(TOP)
        assert found.shape == (len(wanted), SIDE, SIDE, 3)
        assert np.abs(found.astype(int) - np.reshape(wanted, (-1, 1, 1, 1))).max() <= 2


def test_frames_may_be_stored_encoded(tmp_path: Path) -> None:
    path = make(tmp_path / "src", without_video=False)
    plain, _ = imported(path, tmp_path / "plain")
    encoded, _ = imported(path, tmp_path / "png", sets=["video=png"])
    assert encoded.schema.by_key[TOP].heap.codec == "png"
    assert np.array_equal(encoded.read(TOP), plain.read(TOP))
    _, report = imported(path, tmp_path / "jpeg", sets=["video=jpeg"])
    assert any("compressed again" in sentence for sentence in report["lossy"])


def test_pictures_in_rows_stay_png_or_become_pixels(tmp_path: Path) -> None:
    path = make(tmp_path / "src")
    kept, _ = imported(path, tmp_path / "kept")
    pixels, _ = imported(path, tmp_path / "pixels", images="decode")
    key = ("observation", "images", "wrist")
    assert kept.encoded(key, np.array([5]))[0][:4] == b"\x89PNG"
    for row, (episode, step) in ((0, (0, 0)), (5, (1, 1)), (8, (2, 2))):
        wanted = np.random.default_rng(100 * episode + step).integers(0, 256, (8, 9, 3), np.uint8)
        assert np.array_equal(kept.read(key, row, row + 1)[0], wanted)
        assert np.array_equal(pixels.read(key, row, row + 1)[0], wanted)


def test_pictures_that_are_files_of_the_dataset_are_read_and_others_are_not(tmp_path: Path) -> None:
    from tests.datasets.lerobot_made import png

    def to_files(columns: dict[str, Any]) -> None:
        kind = columns["observation.images.wrist"].type
        paths = [{"bytes": None, "path": "images/x.png"}] * len(columns["index"])
        columns["observation.images.wrist"] = pa.array(paths, kind)

    path = make(tmp_path / "src", change=to_files)
    with pytest.raises(InputError, match=r"images/x\.png is missing"):
        convert(path, tmp_path / "ds")
    (path / "images").mkdir()
    (path / "images" / "x.png").write_bytes(png(0, 0))
    dataset, _ = imported(path, tmp_path / "ds")
    assert dataset.num_rows == 9

    def outside(columns: dict[str, Any]) -> None:
        to_files(columns)
        kind = columns["observation.images.wrist"].type
        paths = [{"bytes": None, "path": "../secret.png"}] * len(columns["index"])
        columns["observation.images.wrist"] = pa.array(paths, kind)

    (tmp_path / "secret.png").write_bytes(png(0, 0))
    with pytest.raises(CorruptError, match="lies outside the dataset"):
        convert(make(tmp_path / "evil", change=outside), tmp_path / "bad")


def test_action_chunks_of_one_length_are_matrices_and_others_are_kept_row_by_row(tmp_path: Path) -> None:
    def chunked(columns: dict[str, Any]) -> None:
        rows = range(len(columns["index"]))
        columns["action"] = pa.array(
            [[[r, c] for c in range(1 + r % 3)] for r in rows], pa.list_(pa.list_(pa.float32()))
        )

    dataset, _ = imported(make(tmp_path / "src", change=chunked), tmp_path / "ds")
    assert dataset.schema.by_key["action",].shape == (-1, 2)
    assert [np.asarray(a).tolist() for a in dataset.read(("action",), 0, 2)] == [[[0, 0]], [[1, 0], [1, 1]]]

    def fixed(columns: dict[str, Any]) -> None:
        kind = pa.list_(pa.list_(pa.float32(), 2), 3)
        columns["action"] = pa.array([[[r, 1], [r, 2], [r, 3]] for r in range(len(columns["index"]))], kind)

    dataset, report = imported(make(tmp_path / "fix", change=fixed), tmp_path / "fixed")
    assert dataset.schema.by_key["action",].shape == (3, 2)
    assert report["remarks"] == ["action has shape [3, 2], info.json says [2]"]


@pytest.mark.parametrize(
    ("option", "terminated"), [("auto", [False] * 3), ("terminated", [True] * 3), ("truncated", [False] * 3)]
)
def test_done_at_every_end_says_nothing_unless_told(
    tmp_path: Path, option: str, terminated: list[bool]
) -> None:
    path = make(
        tmp_path / "src", change=lambda c: c.pop("next.success"), features=lambda f: f.pop("next.success")
    )
    dataset, _ = imported(path, tmp_path / "ds", sets=[f"done={option}"])
    assert dataset.episodes.terminated.tolist() == terminated


def test_done_that_distinguishes_ends_means_terminated_and_is_kept(tmp_path: Path) -> None:
    def some(columns: dict[str, Any]) -> None:
        columns.pop("next.success")
        flags = np.zeros(len(columns["index"]), bool)
        flags[[0, 3] if len(flags) == 6 else [2]] = True
        columns["next.done"] = pa.array(flags)

    path = make(tmp_path / "src", change=some, features=lambda f: f.pop("next.success"))
    dataset, report = imported(path, tmp_path / "ds")
    assert report["terminated_by"] == "done"
    assert dataset.episodes.terminated.tolist() == [True, False, True]
    assert dataset.read(("source", "next", "done"))[:, 0].tolist() == [
        True,
        False,
        False,
        True,
        *[False] * 4,
        True,
    ]


def test_rows_are_right_where_the_metadata_differ(tmp_path: Path) -> None:
    path = make(tmp_path / "src")
    rewrite(path, total_episodes=7, total_frames=8)
    shard = path / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
    entry = pq.read_table(shard).to_pylist()[0]
    pq.write_table(pa.Table.from_pylist([{**entry, "length": 5}, {**entry, "episode_index": 9}]), shard)
    dataset, report = imported(path, tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [4, 2, 3]
    assert report["remarks"] == [
        "info.json says 7 episodes, 3 are there",
        "info.json says 8 frames, 9 are there",
        "1 episodes have another length than their metadata say, first 1: 2 rows, 5 told",
        "1 episodes of the metadata have no rows, first 9",
    ]


def test_numbers_that_do_not_follow_are_kept(tmp_path: Path) -> None:
    def renumber(columns: dict[str, Any]) -> None:
        columns["episode_index"] = pa.array([n + 5 for n in columns["episode_index"].to_pylist()], pa.int64())
        columns["frame_index"] = pa.array([n + 1 for n in columns["frame_index"].to_pylist()], pa.int64())

    dataset, _ = imported(make(tmp_path / "src", change=renumber), tmp_path / "ds")
    assert dataset.read(("source", "episode_index"))[:, 0].tolist() == [5] * 4 + [6] * 2 + [7] * 3
    assert dataset.read(("source", "frame_index"))[:2, 0].tolist() == [1, 2]


def test_missing_videos_are_named_or_left_out_as_asked(tmp_path: Path) -> None:
    path = make(tmp_path / "src", "v2.1", without_video=False)
    lost = path / "videos" / "chunk-000" / "observation.images.top" / "episode_000001.mp4"
    lost.unlink()
    with pytest.raises(InputError, match=r"episode_000001\.mp4 is missing"):
        convert(path, tmp_path / "ds")
    dataset, report = imported(path, tmp_path / "episodes", sets=["missing_videos=episodes"])
    assert dataset.episodes.length.tolist() == [4, 3]
    assert (report["dropped"], report["episodes_without_video"]) == (2, 1)
    dataset, report = imported(path, tmp_path / "cameras", sets=["missing_videos=cameras"])
    assert dataset.num_rows == 9
    assert report["lossy"] == ["observation.images.top is left out: files are missing"]
    dataset, _ = imported(path, tmp_path / "none", sets=["cameras=-"])
    assert TOP not in dataset.schema.by_key
    with pytest.raises(UsageError, match=r"did you mean 'observation\.images\.top'"):
        convert(path, tmp_path / "bad", sets=["cameras=observation.images.to"])


def test_a_video_with_too_few_frames_is_corrupt_and_gaps_are_said(tmp_path: Path) -> None:
    path = make(tmp_path / "src", without_video=False)
    file = path / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4"
    video(file, [10, 20, 30, 40, 50])
    with pytest.raises(CorruptError, match=r"1 frames from second 0\.4 on, 2 are needed"):
        convert(path, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    video(file, list(range(10, 130, 10)))
    shard = path / "meta" / "episodes" / "chunk-000" / "file-001.parquet"
    entry = pq.read_table(shard).to_pylist()[0]
    entry["videos/observation.images.top/from_timestamp"] = 0.7
    pq.write_table(pa.Table.from_pylist([entry]), shard)
    dataset, report = imported(path, tmp_path / "ds")
    assert any("do not follow those before, first 1" in remark for remark in report["remarks"])
    assert np.abs(dataset.read(TOP, 4, 6)[:, 0, 0, 0].astype(int) - [80, 90]).max() <= 2


def test_text_and_odd_names_have_a_place(tmp_path: Path) -> None:
    def more(columns: dict[str, Any]) -> None:
        rows = len(columns["index"])
        columns["language_instruction"] = pa.array([f"say {n // 4}" for n in range(rows)])
        columns["action.gripper"] = pa.array(range(rows), pa.int16())
        columns["episode"] = pa.array(range(rows), pa.int32())
        columns["stranger"] = pa.array(range(rows))

    def told(features: dict[str, Any]) -> None:
        features["language_instruction"] = {"dtype": "string", "shape": [1], "names": None}
        features["action.gripper"] = {"dtype": "int16", "shape": [1], "names": None}
        features["episode"] = {"dtype": "int32", "shape": [1], "names": None}
        features["nowhere"] = {"dtype": "float32", "shape": [1], "names": None}

    dataset, report = imported(make(tmp_path / "src", change=more, features=told), tmp_path / "ds")
    assert list(dataset.read(("language_instruction",), 3, 5)) == ["say 0", "say 1"]
    assert dataset.read(("info", "action", "gripper"), 0, 2)[:, 0].tolist() == [0, 1]
    assert dataset.read(("info", "episode"), 0, 2)[:, 0].tolist() == [0, 1]
    assert report["lossy"] == ["stranger is no feature of info.json; it is left out"]
    assert report["remarks"] == ["nowhere is a feature of info.json without a column"]


def test_features_are_renamed_and_left_out_as_asked(tmp_path: Path) -> None:
    path = make(tmp_path / "src")
    mapping = {"observation.state": "observation/proprio", "observation.images.wrist": "-"}
    dataset, report = imported(path, tmp_path / "ds", mapping=mapping)
    assert dataset.read(("observation", "proprio"), 0, 1).tolist() == [state(0, 0)]
    assert report["lossy"] == ["observation.images.wrist is left out, as asked"]
    with pytest.raises(UsageError, match=r"did you mean 'observation\.state'"):
        convert(path, tmp_path / "bad", mapping={"observation.stat": "-"})


def test_a_feature_that_becomes_the_observation_makes_the_others_room(tmp_path: Path) -> None:
    convert(make(tmp_path / "src"), tmp_path / "ds", mapping={"observation.state": "observation"}, check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        keys = {column.key for column in dataset.schema.columns}
        assert dataset.read(("observation",), 0, 1).tolist() == [state(0, 0)]
    assert ("info", "observation", "images", "wrist") in keys


def test_parts_by_several_processes_give_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "src", without_video=False)
    one, _ = imported(path, tmp_path / "one")
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    two, _ = imported(path, tmp_path / "two")
    for column in one.schema.columns:
        if column.heap is None and column.key != ("episode",):  # numbers are those of a part
            assert np.array_equal(one.read(column.key), two.read(column.key)), column.key


def test_lists_of_structs_are_kept_as_json(tmp_path: Path) -> None:
    """Language as newer versions have it: what holds for an episode, and what happens at a step."""
    events = [[{"role": "user", "content": "räum auf", "timestamp": 0.5, "tags": ["a"]}], [], None]

    def change(columns: dict[str, Any]) -> None:
        count = len(columns["index"])
        columns["language_events"] = pa.array((events * count)[:count])

    path = make(
        tmp_path / "src",
        lengths=(3, 3, 3),
        change=change,
        features=lambda told: told.update(language_events={"dtype": "language", "shape": [1], "names": None}),
    )
    dataset, report = imported(path, tmp_path / "ds")
    found = dataset.read(("language_events",))
    assert [json.loads(text) if text else None for text in found] == events * 3
    assert any(told.startswith("language_events is kept as JSON") for told in report["remarks"])


def test_what_is_no_lerobot_dataset(tmp_path: Path) -> None:
    assert lerobot.detect(tmp_path).what == "no meta/info.json there"
    path = make(tmp_path / "src")
    for place in (path, path / "meta", path / "data"):
        assert lerobot.detect(place).matches
    rewrite(path, codebase_version="v1.6")
    with pytest.raises(IncompatibleError, match=r"LeRobot v1.6, known are v2.0, v2.1, v3.0"):
        convert(path, tmp_path / "ds")


def test_pictures_may_be_bytes_alone(tmp_path: Path) -> None:
    def change(columns: dict[str, Any]) -> None:
        name = "observation.images.wrist"
        columns[name] = pa.array([value["bytes"] for value in columns[name].to_pylist()])

    whole, _ = imported(make(tmp_path / "x"), tmp_path / "one", images="decode")
    bare, _ = imported(make(tmp_path / "y", change=change), tmp_path / "two", images="decode")
    key = ("observation", "images", "wrist")
    assert np.array_equal(whole.read(key), bare.read(key))


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample files are not here")
def test_the_sample_gives_its_numbers(tmp_path: Path) -> None:
    dataset, report = imported(SAMPLE, tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [12, 7, 20]
    sums = {
        ("observation", "state"): -5.658726090,
        ("action",): 1.293370426,
        ("next", "reward"): 3.0,
    }
    for key, total in sums.items():
        assert dataset.read(key).sum(dtype=np.float64) == pytest.approx(total, abs=1e-6)
    assert sum(int(np.asarray(x).sum()) for x in dataset.read(("observation", "images", "wrist"))) == 15192320
    assert int(dataset.read(TOP).sum(dtype=np.int64)) == pytest.approx(73388468, abs=39 * 64 * 96 * 3)
    index, table = dataset.text(("task",), np.asarray(dataset.episodes.start))
    assert [table[i] for i in index] == ["push block", "open drawer", "push block"]
    assert report["fps"] == FPS


def test_files_without_rows_are_passed_over(tmp_path: Path) -> None:
    path = make(tmp_path / "src")
    pq.write_table(
        pa.table({"episode_index": pa.array([])}), path / "data" / "chunk-000" / "file-000a.parquet"
    )
    dataset, _ = imported(path, tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [4, 2, 3]


def test_other_writers_put_scalars_in_lists_text_in_dictionaries_and_nulls_for_nan(tmp_path: Path) -> None:
    def change(columns: dict[str, Any]) -> None:
        for name in ("episode_index", "task_index", "next.reward", "next.success"):
            columns[name] = pa.array([[value] for value in columns[name].to_pylist()])
        size = len(columns["action"])
        columns["note"] = pa.array(["ä"] * size).dictionary_encode()
        columns["gap"] = pa.array([None] + [2.0] * (size - 1), pa.float32())
        del columns["next.done"]

    def features(told: dict[str, Any]) -> None:
        told |= {"note": {"dtype": "string", "shape": [1]}, "gap": {"dtype": "float32", "shape": [1]}}
        del told["next.done"]

    make(tmp_path / "x", change=change, features=features)
    convert(tmp_path / "x", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [4, 2, 3]
        assert dataset.episodes.terminated.tolist() == [True, False, True]
        assert dataset.read(("next", "reward"), 0, 4).reshape(-1).tolist() == [0, 0.25, 0.5, 0.75]
        assert list(dataset.read(("task",), 3, 5)) == TASKS
        assert list(dataset.read(("note",), 0, 9)) == ["ä"] * 9
        assert (
            np.isnan(dataset.read(("gap",), 0, 9).reshape(-1)).tolist()
            == [True] + [False] * 5 + [True] + [False] * 2
        )


def test_a_column_has_the_dtype_that_holds_those_of_all_files(tmp_path: Path) -> None:
    later: list[bool] = []

    def change(columns: dict[str, Any]) -> None:
        if later:
            values = [[0.1, 2.0, 3.0]] * len(columns["action"])
            columns["observation.state"] = pa.array(values, pa.list_(pa.float64()))
        later.append(True)

    make(tmp_path / "x", change=change)
    convert(tmp_path / "x", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation", "state"), 6, 7).tolist() == [[0.1, 2, 3]]
