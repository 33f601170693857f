"""Where D4RL's published files are, by the name of the dataset (D4RL's `infos.py` and `register` calls)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from rlcli.datasets import download
from rlcli.datasets.contract import Advance, Request
from rlcli.errors import InputError, UsageError, nearest

SERVER = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


def fetch(name: str, request: Request, advance: Advance) -> Path:
    """The published file of the dataset `name`, for example `hopper-medium-v2`.

    Looked for where the d4rl package keeps its files, then in our cache, then downloaded. Names that are not
    D4RL's own are looked up in the d4rl package if it is installed. `RL_D4RL_SERVER` names a mirror. Raises
    `UsageError` with the nearest name for an unknown one, and what `download.fetch` raises.
    """
    server = os.environ.get("RL_D4RL_SERVER", SERVER).rstrip("/")
    if name in ADDRESSES:
        url = f"{server}/{ADDRESSES[name]}"
    elif (known := _of_package(name)) is not None:
        url = known
    else:
        raise UsageError(f"there is no D4RL dataset {name!r}; {nearest(name, ADDRESSES)}")
    file = url.rsplit("/", 1)[-1]
    theirs = Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets") / file
    if theirs.is_file():
        return theirs
    folder = url.rsplit("/", 2)[-2]
    return download.fetch(
        url, download.cache_folder() / "d4rl" / folder / file, advance, offline=request.offline
    )


def _of_package(name: str) -> str | None:
    """The address that an installed d4rl package has for `name`.

    Only its file of addresses is run: the package itself needs MuJoCo and more to be imported.
    """
    package = importlib.util.find_spec("d4rl")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        infos = importlib.util.spec_from_file_location("d4rl_infos", Path(folder) / "infos.py")
        if infos is None or infos.loader is None:
            continue
        module = importlib.util.module_from_spec(infos)
        try:
            infos.loader.exec_module(module)
            found = module.DATASET_URLS.get(name)
        except Exception as err:
            raise InputError(f"the d4rl package has no addresses: {type(err).__name__}: {err}") from err
        return None if found is None else str(found)
    return None


def _addresses() -> dict[str, str]:
    found = {}
    robots = ("halfcheetah", "hopper", "walker2d", "ant")
    for robot in robots:
        for level in ("random", "medium", "expert", "medium-replay", "medium-expert"):
            mixed = f"{robot.replace('walker2d', 'walker')}_mixed"
            old = mixed if level == "medium-replay" else f"{robot}_{level.replace('-', '_')}"
            found[f"{robot}-{level}-v0"] = f"gym_mujoco/{old}.hdf5"
        for level in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            for v in (1, 2):
                file = f"{robot}_{level.replace('-', '_')}-v{v}.hdf5"
                found[f"{robot}-{level}-v{v}"] = f"gym_mujoco_v{v}/{file}"
    found["ant-random-expert-v0"] = "gym_mujoco/ant_random_expert.hdf5"
    for maze, flags in _ANT_MAZES.items():
        file = f"Ant_maze_{flags[0]}_noisy_multistart_{flags[1]}_multigoal_{flags[2]}_sparse"
        found[f"antmaze-{maze}-v0"] = f"ant_maze_new/{file}.hdf5"
        found[f"antmaze-{maze}-v2"] = f"ant_maze_v2/{file}_fixed.hdf5"
    for task in ("pen", "hammer", "relocate", "door"):
        found[f"{task}-human-v0"] = f"hand_dapg/{task}-v0_demos_clipped.hdf5"
        found[f"{task}-cloned-v0"] = f"hand_dapg/{task}-demos-v0-bc-combined.hdf5"
        found[f"{task}-expert-v0"] = f"hand_dapg/{task}-v0_expert_clipped.hdf5"
        for level in ("human", "cloned", "expert"):
            found[f"{task}-{level}-v1"] = f"hand_dapg_v1/{task}-{level}-v1.hdf5"
    for size in ("umaze", "medium", "large"):
        for prefix in ("", "eval-"):
            found[f"maze2d-{prefix}{size}-v1"] = f"maze2d/maze2d-{prefix}{size}-sparse-v1.hdf5"
            found[f"maze2d-{prefix}{size}-dense-v1"] = f"maze2d/maze2d-{prefix}{size}-dense-v1.hdf5"
        found[f"bullet-maze2d-{size}-v0"] = f"bullet/bullet-maze2d-{size}-sparse.hdf5"
    found["bullet-maze2d-open-v0"] = "bullet/bullet-maze2d-open-sparse.hdf5"
    found["maze2d-open-v0"] = "maze2d/maze2d-open-sparse.hdf5"
    found["maze2d-open-dense-v0"] = "maze2d/maze2d-open-dense.hdf5"
    for robot in robots:
        for level in ("random", "medium", "expert", "medium-expert", "medium-replay"):
            file = f"bullet-{robot}_{level.replace('-', '_')}.hdf5"
            found[f"bullet-{robot}-{level}-v0"] = f"bullet/{file}"
    return found | _OTHERS


_ANT_MAZES = {
    "umaze": ("u-maze", False, False),
    "umaze-diverse": ("u-maze", True, True),
    "medium-play": ("big-maze", True, False),
    "medium-diverse": ("big-maze", True, True),
    "large-play": ("hardest-maze", True, False),
    "large-diverse": ("hardest-maze", True, True),
}
_OTHERS = {
    "minigrid-fourrooms-v0": "minigrid/minigrid4rooms.hdf5",
    "minigrid-fourrooms-random-v0": "minigrid/minigrid4rooms_random.hdf5",
    "flow-ring-random-v0": "flow/flow-ring-v0-random.hdf5",
    "flow-ring-controller-v0": "flow/flow-ring-v0-idm.hdf5",
    "flow-merge-random-v0": "flow/flow-merge-v0-random.hdf5",
    "flow-merge-controller-v0": "flow/flow-merge-v0-idm.hdf5",
    "kitchen-complete-v0": "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
    "kitchen-partial-v0": "kitchen/kitchen_microwave_kettle_light_slider-v0.hdf5",
    "kitchen-mixed-v0": "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
    "carla-lane-v0": "carla/carla_lane_follow_flat-v0.hdf5",
    "carla-town-v0": "carla/carla_town_subsamp_flat-v0.hdf5",
    "carla-town-full-v0": "carla/carla_town_flat-v0.hdf5",
}
ADDRESSES = _addresses()
