"""What evaluation rollouts can leave behind: a dataset, a video."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.errors import IncompatibleError
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import spec_from_json
from rlcli.format.writer import Writer
from rlcli.pipeline.evaluate import Outcome, Recorder
from rlcli.plugins import require


class DatasetRecorder(Recorder):
    """Writes every step to a new dataset at `path`, one stream per environment."""

    def __init__(self, path: Path, num_envs: int, spec: dict[str, Any], lineage: Mapping[str, Any]) -> None:
        schema = ted_schema(spec_from_json(spec["observation"]), spec_from_json(spec["action"]))
        writer = Writer.create(path, schema, spec=spec, lineage=dict(lineage), num_streams=num_envs)
        self._writer = EpisodeWriter(writer)

    def begin(self, slot: int, index: int, seed: int) -> None:
        self._writer.begin(slot, seed)

    def step(self, slot: int, env: Any, observation: Any, action: Any, outcome: Outcome) -> None:
        following, reward, terminated, truncated = outcome
        self._writer.add(
            slot,
            observation=observation,
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=following,
        )

    def complete(self) -> None:
        self._writer.close()

    def drop(self) -> None:
        self._writer.writer.abort()


class VideoRecorder(Recorder):
    """Writes the first `num_episodes` as one H.264 file at `path`; environments must render RGB images."""

    def __init__(self, path: Path, num_episodes: int, frames_per_second: int) -> None:
        av = require("av", "video", needed_for="--video")
        self._num_episodes = num_episodes
        self._frames: dict[int, list[Any]] = {}
        self._slots: dict[int, int] = {}
        self._path, self._rate, self._av = path, frames_per_second, av

    def begin(self, slot: int, index: int, seed: int) -> None:
        self._slots[slot] = index
        if index < self._num_episodes:
            self._frames[index] = []

    def step(self, slot: int, env: Any, observation: Any, action: Any, outcome: Outcome) -> None:
        index = self._slots[slot]
        if index < self._num_episodes:
            image = env.render()
            if image is None:
                raise IncompatibleError("the environment does not render images, so there is no video")
            self._frames[index].append(np.asarray(image, np.uint8))

    def complete(self) -> None:
        images = [image for index in sorted(self._frames) for image in self._frames[index]]
        height, width = (side - side % 2 for side in images[0].shape[:2])  # yuv420p needs even sides
        with self._av.open(str(self._path), "w", format="mp4") as container:
            stream = container.add_stream("h264", rate=Fraction(self._rate))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for image in images:
                frame = self._av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(image[:height, :width]), "rgb24"
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


class Recorders(Recorder):
    """Several recorders as one."""

    def __init__(self, *parts: Recorder) -> None:
        self._parts = parts

    def begin(self, slot: int, index: int, seed: int) -> None:
        for part in self._parts:
            part.begin(slot, index, seed)

    def step(self, slot: int, env: Any, observation: Any, action: Any, outcome: Outcome) -> None:
        for part in self._parts:
            part.step(slot, env, observation, action, outcome)

    def complete(self) -> None:
        for part in self._parts:
            part.complete()

    def drop(self) -> None:
        with ExitStack() as each:  # whatever the others raise
            for part in self._parts:
                each.callback(part.drop)
