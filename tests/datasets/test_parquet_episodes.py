"""Parquet tables with a row per episode: recognised, asked about, and read."""

from __future__ import annotations

import numpy as np
import pytest

from rlcli.datasets.contract import AmbiguousMapping
from rlcli.errors import InputError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
LENGTHS = [4, 1, 0, 5]


def columns(final=0):
    rng = np.random.default_rng(0)
    return {
        "observations": [rng.standard_normal((n + final if n else 0, 3)).astype("f4") for n in LENGTHS],
        "actions": [rng.integers(0, 5, n) for n in LENGTHS],
        "rewards": [rng.standard_normal(n).astype("f4") for n in LENGTHS],
        "goal": [np.arange(2) + 10 * number for number in range(len(LENGTHS))],
        "task": ["reach", "push", "reach", "pull"],
        "words": [[f"{number}.{step}" for step in range(n)] for number, n in enumerate(LENGTHS)],
    }


def written(path, made, **kwargs):
    listed = {
        k: [v.tolist() if isinstance(v, np.ndarray) else v for v in values] for k, values in made.items()
    }
    table = arrow.table(listed)
    kinds = {
        "observations": arrow.list_(arrow.list_(arrow.float32())),
        "rewards": arrow.list_(arrow.float32()),
    }
    for name, kind in kinds.items():
        if name in listed:
            table = table.set_column(
                table.schema.get_field_index(name), name, arrow.array(listed[name], kind)
            )
    parquet.write_table(table, path, **kwargs)
    return path


def flat(values):
    return np.concatenate([np.asarray(v) for v in values if len(v)])


def test_rows_of_lists_are_asked_about(tmp_path):
    written(tmp_path / "x.parquet", columns())
    with pytest.raises(AmbiguousMapping, match="each of its rows may be an episode") as caught:
        convert(tmp_path / "x.parquet", tmp_path / "ds")
    assert caught.value.mapping == {"observations": "observation", "actions": "action", "rewards": "reward"}
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_confirmed_rows_are_episodes(tmp_path, groups):
    made = columns()
    written(tmp_path / "x.parquet", made, row_group_size=groups)
    report = convert(tmp_path / "x.parquet", tmp_path / "ds", yes=True, check=True)
    assert (report["rows"], report["episodes"], report["unknown_next"]) == (10, 3, 3)
    assert "1 episodes have no steps" in report["remarks"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert list(dataset.episodes.length) == [4, 1, 5]
        assert (dataset.read(("observation",), 0, 10) == flat(made["observations"])).all()
        assert (dataset.read(("action",), 0, 10).reshape(-1) == flat(made["actions"])).all()
        assert (dataset.read(("next", "reward"), 0, 10)[:, 0] == flat(made["rewards"])).all()
        assert list(dataset.read(("info", "task"), 0, 10)) == ["reach"] * 4 + ["push"] + ["pull"] * 5
        assert dataset.read(("info", "goal"), 4, 6).tolist() == [[10, 11], [30, 31]]
        assert list(dataset.read(("info", "words"), 3, 6)) == ["0.3", "1.0", "3.0"]


def test_slices_that_cut_episodes_give_the_same(tmp_path, monkeypatch):
    made = columns()
    written(tmp_path / "x.parquet", made)
    monkeypatch.setattr("rlcli.datasets.slicing.SLICE_BYTES", 300)
    monkeypatch.setattr("rlcli.datasets.parquet_episodes._BATCH_BYTES", 100)
    convert(tmp_path / "x.parquet", tmp_path / "ds", yes=True, check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert (dataset.read(("observation",), 0, 10) == flat(made["observations"])).all()
        assert list(dataset.read(("info", "task"), 0, 10)) == ["reach"] * 4 + ["push"] + ["pull"] * 5


def test_an_observation_more_than_actions_is_the_final_one(tmp_path):
    made = columns(final=1)
    written(tmp_path / "x.parquet", made)
    report = convert(tmp_path / "x.parquet", tmp_path / "ds", yes=True, check=True)
    assert report["unknown_next"] == 0
    with Dataset.open(tmp_path / "ds") as dataset:
        expected = flat([values[1:] for values in made["observations"]])
        assert (dataset.read(("next", "observation"), 0, 10) == expected).all()


def test_lists_of_structs_are_steps(tmp_path):
    steps = [
        [{"obs": {"x": [n * 10.0 + k, 1.0]}, "action": k, "done": k == 2} for k in range(3)] for n in range(2)
    ]
    parquet.write_table(arrow.table({"steps": steps, "seed": [7, 8]}), tmp_path / "x.parquet")
    with pytest.raises(AmbiguousMapping, match="each of its rows may be an episode"):
        convert(tmp_path / "x.parquet", tmp_path / "ds")
    report = convert(tmp_path / "x.parquet", tmp_path / "ds", yes=True, check=True)
    assert (report["rows"], report["episodes"]) == (6, 2)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation", "x"), 0, 6)[:, 0].tolist() == [0, 1, 2, 10, 11, 12]
        assert dataset.read(("next", "terminated"), 0, 6)[:, 0].tolist() == [False, False, True] * 2


def test_lengths_that_disagree_name_the_row(tmp_path):
    made = columns()
    written(tmp_path / "a.parquet", made)
    made = {name: values * 20 for name, values in made.items()}
    made["actions"][-1] = made["actions"][-1][:-2]
    written(tmp_path / "x.parquet", made)
    with pytest.raises(InputError, match=r"row 79: actions has 3 values, expected 5"):
        convert(tmp_path / "x.parquet", tmp_path / "ds", yes=True)


def test_a_row_per_step_with_vectors_stays_one(tmp_path):
    """Vectors of observations and actions of one length, with or without rewards, are no episodes."""
    table = {"obs": [[1.0, 2.0]] * 6, "action": [[0.5, 0.5]] * 6, "episode_id": [0, 0, 0, 1, 1, 1]}
    parquet.write_table(arrow.table(table), tmp_path / "x.parquet")
    assert convert(tmp_path / "x.parquet", tmp_path / "ds")["rows"] == 6
