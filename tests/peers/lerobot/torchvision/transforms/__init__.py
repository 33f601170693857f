"""Pictures to tensors."""

from __future__ import annotations

import numpy as np
import torch

from . import v2

__all__ = ["ToPILImage", "ToTensor", "v2"]


class ToTensor:
    """A picture as `[channels, height, width]` of float32 from 0 to 1."""

    def __call__(self, picture: object) -> torch.Tensor:
        pixels = np.array(picture)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class ToPILImage:
    """Imported, never called."""
