"""Modules that are imported when first used.

Algorithm files hold both their options and their maths. `rl train sac --help` needs the
options and must not pay 1.1 s for torch, so those files import torch through `lazy_import`.
"""

from __future__ import annotations

import importlib
import types
from typing import Any


class _LazyModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # introspection by inspect, pickle or doctest must not import
        real = importlib.import_module(self.__name__)
        # From here on attributes are plain dictionary entries, for speed and for torch.compile.
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def lazy_import(name: str) -> Any:
    """The module `name`, imported at the first access to one of its attributes.

    Use as `if TYPE_CHECKING: import torch` / `else: torch = lazy_import("torch")`.
    """
    return _LazyModule(name)
