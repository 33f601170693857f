"""`rl.json`, which our RLDS export leaves beside `features.json` so that importing it gives the same again.

Other readers ignore it, and a dataset without it is read by what `features.json` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcli.datasets.features import MAX_FILE_BYTES
from rlcli.datasets.json_files import read_object
from rlcli.datasets.opened import described
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format.keys import Key, check_key
from rlcli.format.specs import Spec

FILE = "rl.json"


@dataclass(frozen=True)
class Hints:
    """What the dataset was before it became RLDS.

    `columns`: feature -> its keys. `invented`: features that RLDS wants and the dataset did not have.
    `drop_last`: the last step only holds the final observation.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, tuple[Key, ...]] = field(default_factory=dict)
    invented: frozenset[str] = frozenset()
    drop_last: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": dict(self.spec),
            "columns": {name: [list(key) for key in keys] for name, keys in self.columns.items()},
            "invented": sorted(self.invented),
            "drop_last": self.drop_last,
        }

    def spec_of(self, top: str, found: Spec) -> Spec:
        """The spec that the dataset had for `top`, if it describes the same columns as `found`."""
        return described(self.spec.get(top), found) or found

    @property
    def env(self) -> dict[str, Any] | None:
        """The environment's description, None if unknown."""
        env = self.spec.get("env")
        return env if isinstance(env, dict) and isinstance(env.get("id"), str) else None


def read_hints(folder: Path) -> Hints:
    """The hints in `folder`, empty ones if there are none. Raises `CorruptError` if they are malformed."""
    path = folder / FILE
    if not path.exists():
        return Hints()
    try:
        told = read_object(path, MAX_FILE_BYTES)
        return Hints(
            dict(told["spec"]),
            {str(name): tuple(check_key(key) for key in keys) for name, keys in told["columns"].items()},
            frozenset(map(str, told["invented"])),
            bool(told["drop_last"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IncompatibleError) as err:
        raise CorruptError(f"{path}: malformed: {err}", path=path) from err
