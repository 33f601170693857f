"""The cameras of a LeRobot dataset: which are read, where the frames of an episode are, and the frames."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.contract import Report
from rlcli.datasets.lerobot_meta import Meta, Span
from rlcli.datasets.video import Video
from rlcli.errors import InputError, UsageError, nearest
from rlcli.format.schema import Column, Heap, heap_column

Episodes = dict[int, list[int]]  # by number: number, file, first row, stop


class Cameras:
    """The wanted cameras, `names`; `report` is told what is left out, and what is odd.

    `missing` is what happens where a file is missing: `episodes` become fewer, or cameras, or it is an error.
    """

    def __init__(
        self,
        meta: Meta,
        episodes: Episodes,
        report: Report,
        *,
        wanted: str,
        missing: Literal["error", "cameras", "episodes"],
    ) -> None:
        self._meta, self._episodes, self._report = meta, episodes, report
        self._videos: dict[str, Video] = {}  # the open one of each camera
        self.names = self._chosen(wanted)
        self._leave_out_missing(missing)

    def close(self) -> None:
        for video in self._videos.values():
            video.close()

    def paths(self) -> list[str]:
        """The files of all frames, below the root."""
        return sorted({self._span(camera, number).path for camera in self.names for number in self._episodes})

    def column(self, camera: str, form: Literal["pixels", "png", "jpeg"]) -> Column:
        """The column for frames of a camera, without its key; the first file tells their size."""
        report, meta = self._report, self._meta
        with Video(meta.root / self._span(camera, next(iter(self._episodes))).path) as video:
            look = video.look
        declared = meta.features[camera]["shape"]
        if sorted(declared) != sorted(look.shape):
            report.remarks.append(f"{camera} has frames {list(look.shape)}, info.json says {declared}")
        if abs(look.fps - meta.fps) > 0.01 * meta.fps:
            report.remarks.append(f"{camera} has {look.fps:g} frames per second, rows {meta.fps:g}")
        if form == "pixels" or (form == "jpeg" and look.dtype != "uint8"):
            return Column(("observation",), look.dtype, look.shape)
        limit = max(1 << 26, int(np.prod(look.shape)) * 2)
        if form == "jpeg":
            report.lossy.append(f"{camera}: frames are compressed again, as JPEG")
        return heap_column(("observation",), Heap("array", form, limit), look.dtype, look.shape)

    def frames(self, camera: str, episode: int, count: int) -> Iterator[NDArray[Any]]:
        """The frames of an episode, of which there are `count`."""
        span = self._span(camera, episode)
        path = self._meta.root / span.path
        video = self._videos.get(camera)
        if video is None or video.path != path:
            if video is not None:
                video.close()
            self._videos[camera] = video = Video(path)
        return video.read(span.seconds, self._meta.fps, count)

    def compare_spans(self) -> None:
        """Episodes of a file should follow each other without gaps; where they do not, that is said."""
        if self._meta.version != "v3.0":
            return
        fps = self._meta.fps
        for camera in self.names:
            ends: dict[str, float] = {}
            wrong = []
            spans = sorted(
                ((self._span(camera, n), n) for n in self._episodes), key=lambda s: (s[0].path, s[0].seconds)
            )
            for span, number in spans:
                expected = ends.get(span.path)
                if expected is not None and abs(span.seconds - expected) * fps > 0.5:
                    wrong.append(number)
                _, _, start, stop = self._episodes[number]
                ends[span.path] = span.seconds + (stop - start) / fps
            if wrong:
                self._report.remarks.append(
                    f"{camera}: frames of {len(wrong)} episodes do not follow those before, first {wrong[0]}"
                )

    def _chosen(self, wanted: str) -> list[str]:
        there = self._meta.cameras
        told = [name for name in wanted.split(",") if name]
        if told in ([], ["-"]):
            chosen = [] if told else there
        else:
            for name in told:
                if name not in there:
                    raise UsageError(f"no camera {name!r}; {nearest(name, there)}")
            chosen = told
        self._report.lossy += [f"{camera} is left out, as asked" for camera in there if camera not in chosen]
        return list(chosen)

    def _span(self, camera: str, episode: int) -> Span:
        """Where the frames of an episode are. Raises `InputError` if nothing says it."""
        meta = self._meta
        if meta.version == "v3.0":
            try:
                return meta.spans[camera][episode]
            except KeyError:
                raise InputError(
                    f"{meta.root}/meta/episodes: no place of the video {camera} of episode {episode}",
                    path=meta.root,
                ) from None
        chunk = episode // max(1, int(meta.info.get("chunks_size") or 1000))
        return Span(meta.video_path(camera, episode_chunk=chunk, episode_index=episode), 0.0)

    def _leave_out_missing(self, missing: Literal["error", "cameras", "episodes"]) -> None:
        """Missing files are an error, or what the user said."""
        is_there = cache(Path.is_file)
        lost = [
            (camera, episode, path)
            for camera in self.names
            for episode in self._episodes
            if not is_there(path := self._meta.root / self._span(camera, episode).path)
        ]
        if not lost:
            return
        files = sorted({path for _, _, path in lost})
        more = f" and {len(files) - 1:,} more videos are" if len(files) > 1 else " is"
        if missing == "error":
            raise InputError(
                f"{files[0]}{more} missing",
                hint="--set missing_videos=cameras leaves out these cameras, =episodes these episodes",
                path=files[0],
            )
        if missing == "cameras":
            cameras = {camera for camera, _, _ in lost}
            self.names = [camera for camera in self.names if camera not in cameras]
            self._report.lossy += [f"{camera} is left out: files are missing" for camera in sorted(cameras)]
            return
        for number in {episode for _, episode, _ in lost}:
            _, _, start, stop = self._episodes.pop(number)
            self._report.dropped += stop - start
            self._report.count("episodes_without_video")
        if not self._episodes:
            raise InputError(
                f"{files[0]}{more} missing, so that no episode has all its videos", path=files[0]
            )
