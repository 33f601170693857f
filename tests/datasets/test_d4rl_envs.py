"""Names, time limits and reference scores of D4RL's environments."""

from __future__ import annotations

import pytest

from rlcli.datasets.d4rl_envs import ENVIRONMENTS, environment, from_file_name, normalized_score
from rlcli.errors import UsageError


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("halfcheetah_medium-v2.hdf5", "halfcheetah-medium-v2"),
        ("walker2d_medium_replay-v1.hdf5", "walker2d-medium-replay-v1"),
        ("hopper_medium_expert.hdf5", "hopper-medium-expert-v0"),
        ("walker_mixed.hdf5", "walker2d-medium-replay-v0"),
        ("antmaze-umaze-v0.hdf5", "antmaze-umaze-v0"),
        (
            "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
            "antmaze-medium-play-v2",
        ),
        ("maze2d-large-sparse-v1.hdf5", "maze2d-large-v1"),
        ("maze2d-open-dense.hdf5", "maze2d-open-dense-v0"),
        ("mini_kitchen_microwave_kettle_light_slider-v0.hdf5", "kitchen-complete-v0"),
        ("kitchen_microwave_kettle_bottomburner_light-v0.hdf5", "kitchen-mixed-v0"),
        ("relocate-v0_demos_clipped.hdf5", "relocate-human-v0"),
        ("hammer-expert-v1.hdf5", "hammer-expert-v1"),
        ("flow-merge-v0-idm.hdf5", "flow-merge-controller-v0"),
        ("carla_lane_follow_flat-v0.hdf5", "carla-lane-v0"),
        ("minigrid4rooms.hdf5", "minigrid-fourrooms-v0"),
        ("bullet-ant_medium_replay.hdf5", "bullet-ant-medium-replay-v0"),
    ],
)
def test_a_published_file_name_tells_its_environment(name, id_):
    found = from_file_name(name)
    assert found is not None
    assert found.id == id_


@pytest.mark.parametrize(
    "name", ["data.hdf5", "hopper.hdf5", "my_hopper_medium-v2.hdf5", "hopper_medium-v22.hdf5", "v2.hdf5"]
)
def test_another_file_name_tells_nothing(name):
    assert from_file_name(name) is None


@pytest.mark.parametrize(
    ("id_", "return_", "score"),
    [("halfcheetah-medium-v2", 4669.48025, 0.398678), ("hopper-medium-v2", 1465.18446, 0.456421)],
)
def test_normalised_scores_are_those_of_d4rl(id_, return_, score):
    reference = ENVIRONMENTS[id_].reference
    assert reference is not None
    assert normalized_score(return_, reference) == pytest.approx(score, abs=5e-7)


def test_time_limits_are_those_that_d4rl_registers():
    limits = {
        "hopper-medium-v2": 1000,
        "antmaze-umaze-diverse-v0": 700,
        "antmaze-large-play-v2": 1000,
        "kitchen-mixed-v0": 280,
        "maze2d-open-v0": 150,
        "maze2d-umaze-v1": 300,
        "maze2d-medium-dense-v1": 600,
        "maze2d-large-v1": 800,
        "pen-cloned-v1": 100,
        "door-expert-v0": 200,
        "hammer-human-v0": 600,
        "carla-lane-v0": 250,
        "minigrid-fourrooms-v0": 50,
    }
    assert {id_: ENVIRONMENTS[id_].max_episode_steps for id_ in limits} == limits


@pytest.mark.parametrize("id_", ["maze2d-eval-umaze-v1", "carla-town-full-v0", "ant-random-expert-v0"])
def test_environments_without_published_scores_have_none(id_):
    assert ENVIRONMENTS[id_].reference is None


def test_a_mistyped_environment_is_an_error_that_names_the_nearest():
    with pytest.raises(UsageError, match="'hopper-medium-v2'"):
        environment("hoper-medium-v2")


def test_another_library_is_named_with_a_colon():
    assert environment("gymnasium:Hopper-v5").to_json() == {
        "library": "gymnasium",
        "id": "Hopper-v5",
        "kwargs": {},
        "max_episode_steps": None,
    }
