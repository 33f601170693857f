"""Frames of video files through PyAV (extra `video`), one after the other, and video files of frames.

Only the MP4 demuxer is allowed to look at a file, so that no playlist makes us open another one.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.regular import open_regular
from rlcli.errors import CorruptError, IncompatibleError, InputError, ResourceError
from rlcli.plugins import require

_MAX_PIXELS = 1 << 26
_DEPTHS = ("gray16le", "gray12le", "gray10le")


@dataclass(frozen=True)
class Look:
    """What the header of a file says: the shape and dtype of a frame as we give it, the frames it promises
    (0 where it does not say), and frames per second.
    """

    shape: tuple[int, int, int]
    dtype: str
    frames: int
    fps: float
    codec: str


class Video:
    """An opened file. Frames come in the order of their times; `read` goes on where it stopped.

    uint8 RGB `[height, width, 3]`, or uint16 `[height, width, 1]` of grey videos of more than 8 bits.
    """

    def __init__(self, path: Path) -> None:
        self._av = require("av", "video", needed_for=f"decoding {path.name}")
        self.path = path
        try:
            self._file = open_regular(path)  # closed by `close`
        except FileNotFoundError as err:
            raise InputError(f"{path}: the video is missing", path=path) from err
        self._container: Any = None
        try:
            with self._damage():
                self._container = self._av.open(self._file, format="mp4")
                if not self._container.streams.video:
                    raise ValueError("it has no video stream")
                self._stream = self._container.streams.video[0]
                self._stream.thread_type = "AUTO"
                self.look = self._look()
        except BaseException:
            self.close()
            raise
        self._frames: Iterator[Any] | None = None

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._file.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, seconds: float, fps: float, count: int) -> Iterator[NDArray[Any]]:
        """`count` frames from the one at `seconds` on, where frames are 1 / `fps` apart.

        Raises `CorruptError` if a frame cannot be decoded or if there are fewer.
        """
        wanted = seconds - 0.5 / fps
        done = 0
        with self._damage():
            for frame in itertools.islice(self._from(wanted, fps), count):
                yield self._pixels(frame)
                done += 1
        if done < count:
            raise CorruptError(
                f"{self.path}: {done:,} frames from second {seconds:g} on, {count:,} are needed",
                path=self.path,
            )

    def _look(self) -> Look:
        context, stream = self._stream.codec_context, self._stream
        height, width = context.height, context.width
        if height < 1 or width < 1 or height * width > _MAX_PIXELS:
            raise ValueError(f"frames of {height}x{width}")
        is_depth = context.pix_fmt in _DEPTHS
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        shape = (height, width, 1 if is_depth else 3)
        return Look(shape, "uint16" if is_depth else "uint8", stream.frames, rate, context.name)

    def _from(self, wanted: float, fps: float) -> Iterator[Any]:
        """Frames from the first that is not before `wanted` seconds; no seeking where that is the next."""
        if self._frames is not None:
            following = next(self._frames, None)
            if following is not None and wanted <= following.time < wanted + 1.0 / fps:
                self._frames = itertools.chain([following], self._frames)
                return self._frames
        base = self._stream.time_base
        start = self._stream.start_time or 0
        self._container.seek(max(start, int(wanted / base)), stream=self._stream)
        frames = self._container.decode(self._stream)
        self._frames = itertools.dropwhile(
            lambda frame: frame.time is not None and frame.time < wanted, frames
        )
        return self._frames

    def _pixels(self, frame: Any) -> NDArray[Any]:
        if frame.is_corrupt:
            raise ValueError("a frame is damaged")
        height, width, _ = self.look.shape
        if (frame.height, frame.width) != (height, width):
            raise ValueError(f"a frame of {frame.height}x{frame.width}, the first was {height}x{width}")
        if self.look.dtype == "uint8":
            return np.asarray(frame.to_ndarray(format="rgb24"))
        plane = frame.planes[0]
        rows = np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)
        return rows[:height, :width, None]

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, ValueError, EOFError, IndexError) as err:
            raise self._damaged(err) from err
        except OSError as err:
            if err.errno != errno.EINVAL:  # EINVAL: a place before the file's beginning
                raise
            raise self._damaged(err) from err

    def _damaged(self, err: Exception) -> CorruptError:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        return CorruptError(f"{self.path}: damaged video: {reason}", path=self.path)


class VideoWriter:
    """Encodes uint8 RGB frames to the new file `path`; every second frame is a key frame.

    `quality` is the encoder's constant rate factor. Raises `IncompatibleError` if the encoder refuses them,
    `ResourceError` when the disk is full.
    """

    def __init__(self, path: Path, fps: float, *, codec: str, quality: int) -> None:
        self._av = require("av", "video", needed_for="writing videos")
        os.environ.setdefault("SVT_LOG", "1")  # else that encoder tells its settings on standard error
        self.path, self.frames, self.num_bytes = path, 0, 0
        self._codec, self._options = _ENCODERS[codec]
        self._options = {**self._options, "crf": str(quality), "g": "2"}
        self._rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = None
        with self._refusal():
            self._container = self._av.open(str(path), "w", format="mp4")

    def add(self, frame: NDArray[Any]) -> None:
        """One more frame `[height, width, 3]`."""
        with self._refusal():
            if self._stream is None:
                self._stream = self._container.add_stream(self._codec, self._rate, options=self._options)
                self._stream.height, self._stream.width = frame.shape[:2]
                self._stream.pix_fmt = "yuv420p"
            picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self._mux(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Writes what is left."""
        with self._refusal():
            if self._stream is not None:
                self._mux(self._stream.encode())
            self._container.close()

    def _mux(self, packets: Any) -> None:
        self.num_bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

    @contextmanager
    def _refusal(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, ValueError) as err:
            if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceError(f"{self.path}: {err.strerror}", path=self.path) from err
            reason = f"the encoder {self._codec} refuses the frames"
            raise IncompatibleError(f"{self.path.name}: {reason}: {err}", path=self.path) from err


_ENCODERS = {
    "av1": ("libsvtav1", {"preset": "10", "svtav1-params": "log-level=0"}),
    "h264": ("libx264", {"preset": "veryfast"}),
}
