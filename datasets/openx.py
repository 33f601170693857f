"""What is known of Open X-Embodiment's datasets beyond their `features.json`.

Which camera is which is from Octo's configuration of them (octo-models/octo,
`octo/data/oxe/oxe_dataset_configs.py`, the datasets under their official names), for DROID, FMB and Bridge
from OpenVLA's (openvla/openvla, `prismatic/vla/datasets/rlds/oxe/configs.py`); which pictures are stored
blue first is from huggingface/lerobot#435. Those that Google converted have the instruction among the
observations, the others beside them. A dataset that is not here is read as any other.
"""

from __future__ import annotations

from collections.abc import Iterable

from rlcli.errors import UsageError, nearest

_RLDS = "_converted_externally_to_rlds"
_IMAGE = {"image": "primary"}
_IMAGE_AND_WRIST = {"image": "primary", "wrist_image": "wrist"}
_ONLY_WRIST = {"image": "wrist"}
_TWO_WITH_DEPTH = {
    "image_1": "primary", "image_2": "secondary", "depth_1": "depth_primary", "depth_2": "depth_secondary",
}  # fmt: skip
_CAMERAS = {
    "fractal20220817_data": _IMAGE,
    "kuka": _IMAGE,
    "taco_play": {
        "rgb_static": "primary", "rgb_gripper": "wrist",
        "depth_static": "depth_primary", "depth_gripper": "depth_wrist",
    },
    "jaco_play": {"image": "primary", "image_wrist": "wrist"},
    "berkeley_cable_routing": {"image": "primary", "top_image": "secondary", "wrist45_image": "wrist"},
    "roboturk": {"front_rgb": "primary"},
    "nyu_door_opening_surprising_effectiveness": _ONLY_WRIST,
    "viola": {"agentview_rgb": "primary", "eye_in_hand_rgb": "wrist"},
    "berkeley_autolab_ur5": {"image": "primary", "hand_image": "wrist", "depth": "depth_primary"},
    "toto": _IMAGE,
    "language_table": {"rgb": "primary"},
    "columbia_cairlab_pusht_real": _IMAGE_AND_WRIST,
    f"stanford_kuka_multimodal_dataset{_RLDS}": {"image": "primary", "depth_image": "depth_primary"},
    f"stanford_hydra_dataset{_RLDS}": _IMAGE_AND_WRIST,
    f"austin_buds_dataset{_RLDS}": _IMAGE_AND_WRIST,
    f"austin_sailor_dataset{_RLDS}": _IMAGE_AND_WRIST,
    f"austin_sirius_dataset{_RLDS}": _IMAGE_AND_WRIST,
    f"furniture_bench_dataset{_RLDS}": _IMAGE_AND_WRIST,
    f"maniskill_dataset{_RLDS}": {
        **_IMAGE_AND_WRIST, "depth": "depth_primary", "wrist_depth": "depth_wrist",
    },
    f"nyu_franka_play_dataset{_RLDS}": {
        "image": "primary", "image_additional_view": "secondary",
        "depth": "depth_primary", "depth_additional_view": "depth_secondary",
    },
    f"utokyo_xarm_pick_and_place{_RLDS}": {"image": "primary", "image2": "secondary", "hand_image": "wrist"},
    f"berkeley_mvp{_RLDS}": {"hand_image": "wrist"},
    f"berkeley_rpt{_RLDS}": {"hand_image": "wrist"},
    "bc_z": _IMAGE,
    f"nyu_rot_dataset{_RLDS}": _IMAGE,
    f"cmu_franka_exploration_dataset{_RLDS}": {"highres_image": "primary"},
    f"ucsd_kitchen_dataset{_RLDS}": _IMAGE,
    f"ucsd_pick_and_place_dataset{_RLDS}": _IMAGE,
    f"utokyo_pr2_opening_fridge{_RLDS}": _IMAGE,
    f"utokyo_pr2_tabletop_manipulation{_RLDS}": _IMAGE,
    f"utokyo_xarm_bimanual{_RLDS}": _IMAGE,
    "robo_net": {"image": "primary", "image1": "secondary"},
    f"kaist_nonprehensile{_RLDS}": _IMAGE,
    f"stanford_mask_vit{_RLDS}": _IMAGE,
    f"tokyo_u_lsmo{_RLDS}": _IMAGE,
    f"dlr_sara_pour{_RLDS}": _IMAGE,
    f"dlr_sara_grid_clamp{_RLDS}": _IMAGE,
    f"dlr_edan_shared_control{_RLDS}": _IMAGE,
    f"asu_table_top{_RLDS}": _IMAGE,
    f"stanford_robocook{_RLDS}": _TWO_WITH_DEPTH,
    "imperialcollege_sawyer_wrist_cam": _IMAGE_AND_WRIST,
    f"iamlab_cmu_pickup_insert{_RLDS}": _IMAGE_AND_WRIST,
    "uiuc_d3field": _TWO_WITH_DEPTH,
    "utaustin_mutex": _IMAGE_AND_WRIST,
    "berkeley_fanuc_manipulation": _IMAGE_AND_WRIST,
    "cmu_playing_with_food": {"image": "primary", "finger_vision_1": "wrist"},
    "cmu_play_fusion": _IMAGE,
    "cmu_stretch": _IMAGE,
    "berkeley_gnm_recon": _ONLY_WRIST,
    "berkeley_gnm_cory_hall": _ONLY_WRIST,
    "berkeley_gnm_sac_son": _ONLY_WRIST,
    "fmb_dataset": {
        "image_side_1": "primary", "image_side_2": "secondary", "image_wrist_1": "wrist",
        "image_side_1_depth": "depth_primary", "image_side_2_depth": "depth_secondary",
        "image_wrist_1_depth": "depth_wrist",
    },
    "bridge": {"image": "primary", "image_1": "secondary"},
    "bridge_dataset": {"image_0": "primary", "image_1": "secondary"},
    "droid": {
        "exterior_image_1_left": "primary", "exterior_image_2_left": "secondary", "wrist_image_left": "wrist",
    },
}  # fmt: skip

_INSTRUCTION = "steps/language_instruction"  # where it is in the sets that others converted

_BLUE_FIRST = {
    "berkeley_autolab_ur5": "the wrist camera's pictures are",
    "berkeley_fanuc_manipulation": "pictures are",
    f"stanford_hydra_dataset{_RLDS}": "pictures are",
    "utaustin_mutex": "pictures are",
}


def preset(name: str, features: Iterable[str], where: object) -> dict[str, str]:
    """Feature -> key that says what it is, for a mapping.

    Cameras become `observation/primary`, `secondary`, `wrist`, `depth_…`, the instruction
    `language_instruction`. Raises `UsageError` with the nearest name for a dataset that is not known.
    """
    if name not in _CAMERAS:
        raise UsageError(f"{where}: no preset knows {name!r}; {nearest(name, _CAMERAS)}", path=where)
    there = set(features)
    told = {f"steps/observation/{camera}": f"observation/{role}" for camera, role in _CAMERAS[name].items()}
    if _INSTRUCTION not in there:
        told["steps/observation/natural_language_instruction"] = "language_instruction"
    return {feature: key for feature, key in told.items() if feature in there}


def remarks(name: str) -> list[str]:
    """What a user should know of the dataset of that name."""
    what = _BLUE_FIRST.get(name)
    return [] if what is None else [f"{name}: {what} known to be stored BGR, and are kept so"]
