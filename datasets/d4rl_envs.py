"""The environments of D4RL's published files: names, time limits and reference scores.

D4RL files hold no environment name, so it is told by the file name or by the user. Scores and time
limits are those of D4RL's `infos.py` and `register` calls; v0, v1 and v2 share scores per robot.
Not for creating environments: nothing here imports d4rl, gym or mujoco.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rlcli.errors import UsageError, nearest


@dataclass(frozen=True)
class Environment:
    """What is known about the environment that a file was collected in.

    `reference` is `(ref_min, ref_max)`: the undiscounted episode returns of a random policy and of an
    expert or controller. `max_episode_steps` is None where D4RL registers none.
    """

    library: str
    id: str
    max_episode_steps: int | None = None
    reference: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The `env` entry of a dataset's spec."""
        return {
            "library": self.library,
            "id": self.id,
            "kwargs": {},
            "max_episode_steps": self.max_episode_steps,
        }


def normalized_score(return_: float, reference: tuple[float, float]) -> float:
    """`(return_ - ref_min) / (ref_max - ref_min)`; papers print 100 times this (D4RL, section 4)."""
    low, high = reference
    return (return_ - low) / (high - low)


def environment(name: str) -> Environment:
    """The environment a user named: a D4RL id such as `hopper-medium-v2`, or `library:id` as it stands.

    Raises `UsageError` with the nearest known id for any other name.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    library, separator, id_ = name.partition(":")
    if separator and library and id_:
        return Environment(library, id_)
    raise UsageError(
        f"there is no D4RL environment {name!r}; {nearest(name, ENVIRONMENTS)}",
        hint="another library's is written as library:id, e.g. gymnasium:Hopper-v5",
    )


def from_file_name(name: str) -> Environment | None:
    """The environment that a published file was collected in, or None if the name is not one of D4RL's.

    Knows the ids (`hopper_medium-v2.hdf5`, `antmaze-umaze-v0.hdf5`) and the names the files had on the
    server (`Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5`, `hopper_mixed.hdf5`).
    """
    stem = re.sub(r"\.(hdf5|h5)$", "", name.lower()).replace("_", "-")
    for pattern, id_ in _FILE_NAMES:
        match = re.fullmatch(pattern, stem)
        if match is not None:
            stem = match.expand(id_)
            break
    stem = stem.replace("-sparse", "")
    versioned = re.match(r"(.*?-v\d+)(?![0-9a-z])", stem)
    for candidate in (versioned[1] if versioned else "", f"{stem}-v0"):
        if candidate in ENVIRONMENTS:
            return ENVIRONMENTS[candidate]
    return None


_ANT_MAZE = r"ant-maze-{}-noisy-multistart-{}-multigoal-{}-sparse"
_ROBOT = "halfcheetah|hopper|walker2d|ant"

# Names that are not an id with other dashes -> the id.
_FILE_NAMES = [
    *(
        (_ANT_MAZE.format(size, *flags) + suffix, f"antmaze-{maze}-{version}")
        for suffix, version in (("", "v0"), ("-fixed", "v2"))
        for size, flags, maze in (
            ("u-maze", ("false", "false"), "umaze"),
            ("u-maze", ("true", "true"), "umaze-diverse"),
            ("big-maze", ("true", "false"), "medium-play"),
            ("big-maze", ("true", "true"), "medium-diverse"),
            ("hardest-maze", ("true", "false"), "large-play"),
            ("hardest-maze", ("true", "true"), "large-diverse"),
        )
    ),
    (rf"({_ROBOT})-mixed", r"\1-medium-replay-v0"),
    (r"walker-mixed", "walker2d-medium-replay-v0"),
    (r"(pen|hammer|door|relocate)-v0-demos-clipped", r"\1-human-v0"),
    (r"(pen|hammer|door|relocate)-v0-expert-clipped", r"\1-expert-v0"),
    (r"(pen|hammer|door|relocate)-demos-v0-bc-combined", r"\1-cloned-v0"),
    (r"mini-kitchen-microwave-kettle-light-slider-v0", "kitchen-complete-v0"),
    (r"kitchen-microwave-kettle-light-slider-v0", "kitchen-partial-v0"),
    (r"kitchen-microwave-kettle-bottomburner-light-v0", "kitchen-mixed-v0"),
    (r"flow-(ring|merge)-v0-random", r"flow-\1-random-v0"),
    (r"flow-(ring|merge)-v0-idm", r"flow-\1-controller-v0"),
    (r"carla-lane-follow-flat-v0", "carla-lane-v0"),
    (r"carla-town-subsamp-flat-v0", "carla-town-v0"),
    (r"carla-town-flat-v0", "carla-town-full-v0"),
    (r"minigrid4rooms", "minigrid-fourrooms-v0"),
    (r"minigrid4rooms-random", "minigrid-fourrooms-random-v0"),
]

_MUJOCO = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
_BULLET = {
    "halfcheetah": (-1275.766996, 2381.6725),
    "hopper": (20.058972, 1441.8059623430963),
    "ant": (373.705955, 2650.495),
    "walker2d": (16.523877, 1623.6476303317536),
}
# task: scores, time limit, time limit of the human demonstrations (D4RL's LONG_HORIZONS)
_ADROIT = {
    "pen": ((96.262799, 3076.8331017826877), 100, 200),
    "hammer": ((-274.856578, 12794.134825156867), 200, 600),
    "relocate": ((-6.425911, 4233.877797728884), 200, 500),
    "door": ((-56.512833, 2880.5693087298737), 200, 300),
}
_MAZE_STEPS = {"open": 150, "umaze": 300, "medium": 600, "large": 800}
_MAZE2D = {
    "open-v0": (0.01, 20.66),
    "open-dense-v0": (11.17817, 27.166538620695782),
    "umaze-v1": (23.85, 161.86),
    "umaze-dense-v1": (68.537689, 193.66285642381482),
    "medium-v1": (13.13, 277.39),
    "medium-dense-v1": (44.264742, 297.4552547777125),
    "large-v1": (6.7, 273.99),
    "large-dense-v1": (30.569041, 303.4857382709002),
}
_BULLET_MAZE2D = {
    "open": (8.75, 64.15),
    "umaze": (32.46, 153.99),
    "medium": (14.87, 238.05),
    "large": (1.82, 285.92),
}
_ANTMAZE_STEPS = {
    "umaze": 700,
    "umaze-diverse": 700,
    "medium-play": 1000,
    "medium-diverse": 1000,
    "large-play": 1000,
    "large-diverse": 1000,
    "ultra-play": 2000,
    "ultra-diverse": 2000,
}
_OTHERS: list[tuple[str, int | None, tuple[float, float] | None]] = [
    ("kitchen-complete-v0", 280, (0.0, 4.0)),
    ("kitchen-partial-v0", 280, (0.0, 4.0)),
    ("kitchen-mixed-v0", 280, (0.0, 4.0)),
    ("flow-ring-random-v0", 500, (-165.22, 24.42)),
    ("flow-ring-controller-v0", 500, (-165.22, 24.42)),
    ("flow-merge-random-v0", 600, (118.67993, 330.03179)),
    ("flow-merge-controller-v0", 600, (118.67993, 330.03179)),
    ("carla-lane-v0", 250, (-0.8503839912088142, 1023.5784385429523)),
    ("carla-town-v0", 1000, (-114.81579500772153, 2440.1772022247314)),
    ("carla-town-full-v0", 1000, None),
    ("minigrid-fourrooms-v0", 50, (0.01442, 2.89685)),
    ("minigrid-fourrooms-random-v0", 50, (0.01442, 2.89685)),
    ("ant-random-expert-v0", 1000, None),
]


def _environments() -> dict[str, Environment]:
    rows = list(_OTHERS)
    levels = ("random", "medium", "expert", "medium-replay", "medium-expert")
    for robot, scores in _MUJOCO.items():
        rows += [(f"{robot}-{level}-v{v}", 1000, scores) for level in levels for v in range(3)]
        rows += [(f"{robot}-full-replay-v{v}", 1000, scores) for v in (1, 2)]
    for robot, scores in _BULLET.items():
        rows += [(f"bullet-{robot}-{level}-v0", 1000, scores) for level in levels]
    for task, (scores, steps, human_steps) in _ADROIT.items():
        for v in range(2):
            rows += [(f"{task}-{level}-v{v}", steps, scores) for level in ("cloned", "expert")]
            human = ("human", "human-longhorizon")
            rows += [(f"{task}-{level}-v{v}", human_steps, scores) for level in human]
    for maze, scores in _MAZE2D.items():
        rows.append((f"maze2d-{maze}", _MAZE_STEPS[maze.partition("-")[0]], scores))
    for size in ("umaze", "medium", "large"):
        rows += [(f"maze2d-eval-{size}{kind}-v1", _MAZE_STEPS[size], None) for kind in ("", "-dense")]
    for size, scores in _BULLET_MAZE2D.items():
        rows.append((f"bullet-maze2d-{size}-v0", _MAZE_STEPS[size], scores))
    for maze, steps in _ANTMAZE_STEPS.items():
        rows += [(f"antmaze-{maze}-v{v}", steps, (0.0, 1.0)) for v in range(3)]
    return {id_: Environment("d4rl", id_, steps, scores) for id_, steps, scores in rows}


ENVIRONMENTS = _environments()
