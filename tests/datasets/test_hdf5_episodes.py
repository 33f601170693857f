"""HDF5 files of nobody's format with a group per episode: asked about, and read once the user agrees."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlcli.datasets.contract import AmbiguousMapping
from rlcli.errors import InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.main import run
from rlcli.pipeline.convert import convert

LENGTHS = {"ep_0": 4, "ep_2": 3, "ep_10": 5}


def written(path, *, final=0, place="", **more):
    rng = np.random.default_rng(0)
    made = {}
    with h5py.File(path, "w") as file:
        for name, length in LENGTHS.items():
            made[name] = {
                "obs/position": rng.standard_normal((length + final, 2)).astype("f4"),
                "obs/image": rng.integers(0, 256, (length + final, 3, 3, 3), np.uint8),
                "act": rng.standard_normal((length, 1)).astype("f4"),
                "rew": rng.standard_normal(length).astype("f4"),
                "speed": rng.standard_normal(length),
                **{key: values(length) for key, values in more.items()},
            }
            for key, values in made[name].items():
                file[f"{place}{name}/{key}"] = values
    return made


@pytest.mark.parametrize("place", ["", "data/"])
def test_groups_of_episodes_are_asked_about(tmp_path, place, capsys):
    written(tmp_path / "x.h5", place=place)
    with pytest.raises(AmbiguousMapping, match="ep_0 to ep_10 may be an episode each") as caught:
        convert(tmp_path / "x.h5", tmp_path / "ds")
    assert caught.value.mapping == {
        "act": "action",
        "obs/image": "observation/image",
        "obs/position": "observation/position",
        "rew": "reward",
    }
    assert run(["convert", str(tmp_path / "x.h5"), str(tmp_path / "ds")]) == 2
    (tmp_path / "map.toml").write_text(capsys.readouterr().out)
    report = convert(tmp_path / "x.h5", tmp_path / "ds", mapping_file=tmp_path / "map.toml", check=True)
    assert (report["rows"], report["episodes"]) == (12, 3)


@pytest.mark.parametrize("final", [0, 1])
def test_confirmed_groups_are_episodes_in_the_order_of_their_numbers(tmp_path, final):
    made = written(tmp_path / "x.h5", final=final)
    report = convert(tmp_path / "x.h5", tmp_path / "ds", yes=True, check=True)
    assert report["unknown_next"] == (0 if final else 3)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert list(dataset.episodes.length) == [4, 3, 5]
        start = 0
        for name in ("ep_0", "ep_2", "ep_10"):
            stop = start + LENGTHS[name]
            assert set(dataset.read(("info", "episode", "demo"), start, stop)) == {name}
            for key in ("position", "image"):
                values = made[name][f"obs/{key}"]
                assert (dataset.read(("observation", key), start, stop) == values[: LENGTHS[name]]).all()
                if final:
                    following = dataset.read(("next", "observation", key), start, stop)
                    assert (following == values[1:]).all()
            assert (dataset.read(("next", "reward"), start, stop)[:, 0] == made[name]["rew"]).all()
            assert (dataset.read(("info", "speed"), start, stop) == made[name]["speed"]).all()
            start = stop


def test_flags_of_the_last_row_end_an_episode(tmp_path):
    written(tmp_path / "x.h5", done=lambda n: np.arange(n) >= n - 2, timeout=lambda n: np.arange(n) == n - 1)
    report = convert(tmp_path / "x.h5", tmp_path / "ds", yes=True, check=True)
    assert report["repaired"] == 0
    with Dataset.open(tmp_path / "ds") as dataset:
        for flag in ("terminated", "truncated"):
            rows = dataset.read(("next", flag), 0, 12)[:, 0].nonzero()[0]
            assert rows.tolist() == [3, 6, 11]


def test_a_flag_that_falls_again_makes_tables_of_them(tmp_path):
    """One per seed, say: which rows are meant is asked, and no group is taken for an episode."""
    written(tmp_path / "x.h5", terminals=lambda n: np.arange(n) == 1)
    with pytest.raises(AmbiguousMapping, match="could be the rows as well"):
        convert(tmp_path / "x.h5", tmp_path / "ds")


def test_keys_inside_the_groups_are_mapped(tmp_path):
    written(tmp_path / "x.h5")
    given = {"speed": "info/velocity", "rew": "-", "obs/image": "-"}
    convert(tmp_path / "x.h5", tmp_path / "ds", yes=True, mapping=given, check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        keys = {column.key for column in dataset.schema.columns}
        assert ("info", "velocity") in keys
        assert ("observation", "position") in keys
        assert ("observation", "image") not in keys
        assert ("info", "rew") not in keys
    with pytest.raises(UsageError, match="no key 'sped'"):
        convert(tmp_path / "x.h5", tmp_path / "ds2", yes=True, mapping={"sped": "info/x"})
    with pytest.raises(UsageError, match="not in one group"):
        convert(tmp_path / "x.h5", tmp_path / "ds2", yes=True, mapping={"speed": "observation/speed"})


def test_an_episode_that_differs_is_named(tmp_path):
    written(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["ep_2/act"]
    with pytest.raises(InputError, match="ep_2 has no act"):
        convert(tmp_path / "x.h5", tmp_path / "ds", yes=True)


def test_jobs_resume_and_choices_are_those_of_any_format(tmp_path):
    written(tmp_path / "x.h5", final=1)
    convert(tmp_path / "x.h5", tmp_path / "whole", yes=True)
    convert(tmp_path / "x.h5", tmp_path / "parts", yes=True, resume=True)
    convert(tmp_path / "x.h5", tmp_path / "some", yes=True, episodes="1:3")
    with Dataset.open(tmp_path / "whole") as whole, Dataset.open(tmp_path / "parts") as parts:
        assert whole.digest == parts.digest
        with Dataset.open(tmp_path / "some") as some:
            assert some.read(("action",), 0, 8).tolist() == whole.read(("action",), 4, 12).tolist()
