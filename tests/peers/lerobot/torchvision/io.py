"""A reader of videos, frame by frame from a key frame on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import torch


class VideoReader:
    def __init__(self, path: object, stream: str) -> None:
        self.container = av.open(str(path))
        self._video = self.container.streams.video[0]
        self._frames: Iterator[Any] | None = None

    def seek(self, seconds: float, keyframes_only: bool = False) -> VideoReader:
        self.container.seek(int(seconds / self._video.time_base), stream=self._video)
        self._frames = None
        return self

    def __iter__(self) -> VideoReader:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._frames is None:
            self._frames = self.container.decode(self._video)
        frame = next(self._frames)
        pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
        return {"data": pixels.permute(2, 0, 1), "pts": float(frame.time)}
