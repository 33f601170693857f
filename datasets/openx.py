"""What is known of Open X-Embodiment's datasets beyond their `features.json`, and of RLDS that we wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlcli.datasets.features import MAX_FILE_BYTES

HINTS = "rl.json"  # beside features.json where `rl convert` wrote the dataset

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


def written_by_us(folder: Path) -> dict[str, Any]:
    """What our own export left in `rl.json`: the spec and what the last step of an episode is."""
    try:
        with (folder / HINTS).open("rb") as file:
            hints = json.loads(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return hints if isinstance(hints, dict) else {}
