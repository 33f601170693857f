"""Raw RL Unplugged: alignment, ends and shapes of its three layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets import rlu
from rlcli.datasets.contract import Report, Request
from rlcli.datasets.example import encode
from rlcli.datasets.tfrecord import RecordWriter
from rlcli.errors import CorruptError, InputError
from rlcli.pipeline.convert import convert
from tests.datasets import rlds_files as files


def shards(folder: Path, *contents: Any, compression: Any = "gzip", missing: tuple[int, ...] = ()) -> Path:
    folder.mkdir()
    for index, episodes in enumerate(contents):
        if index not in missing:
            name = f"train-{index:05d}-of-{len(contents):05d}"
            with RecordWriter(folder / name, compression) as writer:
                for features in episodes:
                    writer.write(encode(features))
    return folder


def read(path: Path, request: Request | None = None, **options: Any) -> Any:
    """`(rows by key, ends, source, report)`."""
    rows: dict[str, list[Any]] = {}
    ends, report = [], Report()
    with rlu.open_source(path, request or Request(images="decode"), rlu.Options(**options)) as source:
        for piece in source.pieces:
            for part in source.parts(piece, report, lambda count: None):
                for key, values in part.columns.items():
                    rows.setdefault("/".join(key), []).extend(values)
                ends.append(part.end)
        report.add(source.report)
    return {key: np.stack(values) for key, values in rows.items()}, ends, source, report


def dm_env(
    length: int, *, separator: str = "/", terminal: bool = False, first: float = np.nan
) -> dict[str, Any]:
    """Time steps of dm_env: reward k + 0.5 came with observation k."""
    discount = np.ones(length)
    discount[0], discount[-1] = first, 0 if terminal else 1
    reward = np.arange(length) + 0.5
    reward[0] = first
    return {
        f"observation{separator}position": np.arange(length * 3).astype(np.float32),
        f"observation{separator}height": np.arange(length).astype(np.float32),
        "action": np.arange(length * 2).astype(np.float32),
        "reward": reward.astype(np.float32),
        "discount": discount.astype(np.float32),
        "step_type": np.array([0, *[1] * (length - 2), 2], np.float32),
        "episode_id": np.array([7]),
    }


@pytest.mark.parametrize("has_types", [True, False])
def test_of_real_world_rl_the_actions_move_too(tmp_path: Path, has_types: bool) -> None:
    """DeepMind's reader has `(o[t], a[t + 1], r[t + 1], d[t + 1], o[t + 1])`; a[0] is of no action."""
    episodes = [dm_env(4, separator=":", first=0.0, terminal=True), dm_env(3, separator=":", first=0.0)]
    if not has_types:
        episodes = [{k: v for k, v in each.items() if k != "step_type"} for each in episodes]
    folder = shards(tmp_path / "run", episodes, compression="none")
    assert rlu.detect(folder).matches
    rows, ends, source, report = read(folder)
    assert rows["action"].tolist() == [[2, 3], [4, 5], [6, 7], [2, 3], [4, 5]]
    assert rows["next/reward"].tolist() == [[1.5], [2.5], [3.5], [1.5], [2.5]]
    assert rows["observation/height"].tolist() == [[0], [1], [2], [0], [1]]
    assert rows["discount"].tolist() == [1, 1, 0, 1, 1]
    assert [(end.terminated, end.truncated) for end in ends] == [(True, False), (False, True)]
    assert ends[0].final["position"].tolist() == [9, 10, 11]
    assert source.record["alignment"].startswith("arrival")
    assert report.dropped == 2


def test_dm_env_rewards_move_to_the_action_that_earned_them(tmp_path: Path) -> None:
    folder = shards(tmp_path / "run", [dm_env(4, terminal=True), dm_env(3)])
    assert rlu.detect(folder).matches
    rows, ends, source, report = read(folder)
    assert rows["next/reward"].tolist() == [[1.5], [2.5], [3.5], [1.5], [2.5]]
    assert rows["action"].tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert rows["observation/height"].tolist() == [[0], [1], [2], [0], [1]]
    assert rows["discount"].tolist() == [1, 1, 0, 1, 1]
    assert [(end.terminated, end.truncated) for end in ends] == [(True, False), (False, True)]
    assert ends[0].final["position"].tolist() == [9, 10, 11]
    assert rows["info/episode/episode_id"].tolist() == [7] * 5
    assert source.record["alignment"].startswith("dm_env")
    assert report.dropped == 2
    assert not any(np.isnan(values).any() for values in rows.values() if values.dtype.kind == "f")


def test_a_camera_of_raw_pixels_is_cut_into_steps(tmp_path: Path) -> None:
    pixels = files.pixels(3, 64, 64, 3)
    episode = dm_env(3) | {"observation/walker/egocentric_camera": [pixels.tobytes()]}
    rows, ends, _, _ = read(shards(tmp_path / "run", [episode]))
    assert (rows["observation/walker/egocentric_camera"] == pixels[:-1]).all()
    assert (ends[0].final["walker"]["egocentric_camera"] == pixels[-1]).all()


def atari(length: int, *, terminal: bool) -> dict[str, Any]:
    discounts = np.ones(length, np.float32)
    discounts[-1] = 0 if terminal else 1
    return {
        "observations": [files.picture(files.pixels(84, 84, 1, seed=seed)) for seed in range(length)],
        "actions": np.arange(length),
        "unclipped_rewards": np.arange(length, dtype=np.float32) * 10,
        "clipped_rewards": np.ones(length, np.float32),
        "discounts": discounts,
        "episode_idx": np.array([3]),
    }


def test_atari_drops_the_last_step_only_of_terminal_episodes(tmp_path: Path) -> None:
    rows, ends, source, _ = read(
        shards(tmp_path / "run", [atari(3, terminal=True), atari(2, terminal=False)])
    )
    assert rows["action"].tolist() == [0, 1, 0, 1]
    assert rows["next/reward"].tolist() == [[0], [10], [0], [10]]
    assert rows["observation"].shape == (4, 84, 84, 1)
    assert [end.terminated for end in ends] == [True, False]
    assert (ends[0].final == files.pixels(84, 84, 1, seed=2)).all()
    assert ends[1].final is None
    assert source.record["layout"] == "atari"


def test_dmlab_keeps_every_step_and_says_that_blue_is_first(tmp_path: Path) -> None:
    episode = {
        "observations_pixels": [files.picture(files.pixels(72, 96, 3))] * 3,
        "observations_reward": np.zeros(3, np.float32),
        "observations_action": np.zeros(45, np.float32),
        "actions": np.arange(3),
        "rewards": np.arange(3, dtype=np.float32),
        "discounts": np.ones(3, np.float32),
    }
    rows, ends, _, report = read(shards(tmp_path / "run", [episode]))
    assert rows["observation/last_action"].shape == (3, 15)
    assert rows["next/reward"].tolist() == [[0], [1], [2]]
    assert (ends[0].terminated, ends[0].final) == (False, None)
    assert any("blue first" in remark for remark in report.remarks)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = shards(tmp_path / "run", [dm_env(3)], [dm_env(3)], [dm_env(4)], missing=(1,))
    with pytest.raises(InputError, match="train-00001-of-00003 is missing"):
        read(folder)
    assert len(read(folder, allow_missing_shards=True)[1]) == 2


def test_other_folders_are_not_rl_unplugged(tmp_path: Path) -> None:
    assert not rlu.detect(tmp_path).matches
    folder = shards(tmp_path / "run", [{"image": np.zeros(3)}])
    assert "no episodes" in rlu.detect(folder).what
    with pytest.raises(InputError, match="no layout of RL Unplugged has the features image"):
        read(folder)
    (tmp_path / "text-00000-of-00001").write_text("hello")
    assert "not a TFRecord" in rlu.detect(tmp_path).what


@pytest.mark.parametrize(
    "broken", [{"reward": np.zeros(2)}, {"discount": np.zeros(0)}, {"action": np.zeros(7)}]
)
def test_lengths_that_disagree_are_damage(tmp_path: Path, broken: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match="record at 0"):
        read(shards(tmp_path / "run", [dm_env(4) | broken]))


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_damaged_shard_is_recognised_and_is_damage(tmp_path: Path, compression: str) -> None:
    folder = shards(tmp_path / "run", [dm_env(4)], compression=compression)
    (shard,) = folder.iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x55
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match="train-00000-of-00001"):
        convert(folder, tmp_path / "ds")
    shard.write_bytes(data[:14])
    with pytest.raises(CorruptError, match="train-00000-of-00001"):
        convert(folder, tmp_path / "ds")
