"""LeRobot datasets for tests, written by hand with pyarrow and PyAV to the layouts of v2.0, v2.1 and v3.0."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS = 10
SIDE = 32
TASKS = ["push", "öffnen"]


def state(episode: int, step: int) -> list[float]:
    return [episode, step / 8, -1.5]


def grey(episode: int, step: int) -> int:
    """The level of all pixels of a frame; even levels survive the encoder within one."""
    return 20 + 40 * episode + 8 * step


def png(episode: int, step: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(100 * episode + step).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def table(lengths: Sequence[int], first: int = 0, index: int = 0) -> dict[str, Any]:
    """The columns of some episodes' rows; the first is `first`."""
    rows = [(first + n, step) for n, length in enumerate(lengths) for step in range(length)]
    last = [step == lengths[n - first] - 1 for n, step in rows]
    return {
        "observation.state": pa.array([state(n, s) for n, s in rows], pa.list_(pa.float32(), 3)),
        "observation.images.wrist": pa.array([{"bytes": png(n, s), "path": None} for n, s in rows],
                                             pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "action": pa.array([[s, -n] for n, s in rows], pa.list_(pa.float32())),
        "next.reward": pa.array([s / 4 for _, s in rows], pa.float32()),
        "next.done": pa.array(last),
        "next.success": pa.array([end and n % 2 == 0 for (n, _), end in zip(rows, last, strict=True)]),
        "timestamp": pa.array([s / FPS for _, s in rows], pa.float32()),
        "frame_index": pa.array([s for _, s in rows], pa.int64()),
        "episode_index": pa.array([n for n, _ in rows], pa.int64()),
        "index": pa.array(range(index, index + len(rows)), pa.int64()),
        "task_index": pa.array([n % 2 for n, _ in rows], pa.int64()),
    }  # fmt: skip


FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
    "observation.images.wrist": {"dtype": "image", "shape": [8, 9, 3], "names": None},
    "observation.images.top": {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": None, "info": {}},
    "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
    "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    "next.done": {"dtype": "bool", "shape": [1], "names": None},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}


def video(
    path: Path, levels: Sequence[int], codec: str = "libx264", fps: int = FPS, side: int = SIDE
) -> None:
    """A file of one-coloured frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, fps, options={"g": "2", "crf": "8"})
        stream.height = stream.width = side
        stream.pix_fmt = "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make(
    root: Path,
    version: str = "v3.0",
    lengths: Sequence[int] = (4, 2, 3),
    *,
    change: Callable[[dict[str, Any]], None] | None = None,
    features: Callable[[dict[str, Any]], None] | None = None,
    without_video: bool = True,
) -> Path:
    """A dataset; v3.0 has episodes 0 and 1 in one file and the others in a second one.

    `change` may alter the columns of each file, `features` those of `info.json`.
    """
    told = json.loads(json.dumps(FEATURES))
    if without_video:
        del told["observation.images.top"]
    if features is not None:
        features(told)
    info = {
        "codebase_version": version, "robot_type": "toy", "total_episodes": len(lengths),
        "total_frames": sum(lengths), "total_tasks": 2, "chunks_size": 1000, "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"}, "features": told,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    groups = [(0, 2), (2, len(lengths))] if version == "v3.0" else [(n, n + 1) for n in range(len(lengths))]
    (root / "meta").mkdir(parents=True)
    entries = []
    for number, (low, high) in enumerate(groups):
        columns = table(lengths[low:high], low, sum(lengths[:low]))
        if change is not None:
            change(columns)
        name = f"file-{number:03d}" if version == "v3.0" else f"episode_{number:06d}"
        path = root / "data" / "chunk-000" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        at = 0
        for episode in range(low, high):
            entry = {"episode_index": episode, "length": lengths[episode], "tasks": [TASKS[episode % 2]]}
            if version == "v3.0":
                camera = "videos/observation.images.top"
                entry |= {"data/chunk_index": 0, "data/file_index": number, f"{camera}/chunk_index": 0}
                entry |= {f"{camera}/file_index": number, f"{camera}/from_timestamp": at / FPS}
                entry |= {f"{camera}/to_timestamp": (at + lengths[episode]) / FPS}
            entries.append(entry)
            at += lengths[episode]
        if not without_video:
            levels = [grey(n, s) for n in range(low, high) for s in range(lengths[n])]
            place = f"observation.images.top/chunk-000/{name}" if version == "v3.0" else (
                f"chunk-000/observation.images.top/{name}")  # fmt: skip
            video(root / "videos" / f"{place}.mp4", levels)
    if version == "v3.0":
        folder = root / "meta" / "episodes" / "chunk-000"
        folder.mkdir(parents=True)
        for number, entry in enumerate(entries):  # a shard each: all have to be read
            pq.write_table(pa.Table.from_pylist([entry]), folder / f"file-{number:03d}.parquet")
        names = pa.table({"task_index": [0, 1], "__index_level_0__": TASKS})
        pq.write_table(names, root / "meta" / "tasks.parquet")
    else:
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        tasks = [{"task_index": n, "task": task} for n, task in enumerate(TASKS)]
        for name, lines in (("tasks", tasks), ("episodes", entries)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (root / "meta" / f"{name}.jsonl").write_text(text)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


def rewrite(root: Path, **told: Any) -> None:
    """Changes entries of `info.json`."""
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
