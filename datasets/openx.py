"""What is known of Open X-Embodiment's datasets beyond their `features.json`."""

from __future__ import annotations

#: Cameras whose pictures are stored blue first (huggingface/lerobot#435); they are kept as they are.
_BLUE_FIRST = {
    "berkeley_autolab_ur5": "the wrist camera's pictures are",
    "berkeley_fanuc_manipulation": "pictures are",
    "stanford_hydra_dataset_converted_externally_to_rlds": "pictures are",
    "utaustin_mutex": "pictures are",
}


def remarks(name: str) -> list[str]:
    """What a user should know of the dataset of that name."""
    what = _BLUE_FIRST.get(name)
    return [] if what is None else [f"{name}: {what} known to be stored BGR, and are kept so"]
