"""`rl bench sample`: uniform batches of 256 transitions from a million on disk, draw included, cache warm.

Limits: a gather of as many rows as a plain C loop, of rows that are drawn already, compiled here with the
system's compiler if there is one; and memcpy of as many bytes from one place to another.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.c_loop import compiled
from rlcli.benchmarks.rows import BATCH_KEYS, EPISODE, SCHEMA, block, write_dataset
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, shift_column, stack_column, ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.replay.batches import Batches
from rlcli.replay.uniform import Uniform

Mapped = np.memmap[Any, Any]
Array = np.ndarray[Any, Any]

TITLE = "uniform batches of 256 transitions from a million"
BATCH = 256
STACK = 4, 84, 84
PIXEL_EPISODE = 1000  # steps: a short game of Atari
STACK_KEYS = (("stack",), ("action",), ("next", "stack"), ("next", "reward"), ("next", "terminated"))
_C_GATHER = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
void gather(const char *const *columns, const size_t *sizes, char *const *out, size_t count,
            const int64_t *rows, size_t batch) {
  for (size_t c = 0; c < count; c++)
    for (size_t i = 0; i < batch; i++)
      memcpy(out[c] + i * sizes[c], columns[c] + rows[i] * sizes[c], sizes[c]);
}
"""


def items(setting: Setting) -> Iterator[Item]:
    """`sample/uniform`, `sample/pixels`."""
    num_rows = setting.pick(small=20_000, full=1_000_000)
    path = setting.folder / "dataset"
    write_dataset(path, num_rows)
    columns = _write_columns(setting.folder, num_rows)
    dataset = Dataset.open(path)
    sampler = Uniform(dataset, BATCH_KEYS)
    ring = Batches(Uniform(dataset, BATCH_KEYS), BATCH, form="tensordict")
    rng = np.random.default_rng(0)
    buffers = [np.empty((BATCH, *column.shape[1:]), column.dtype) for column in columns]

    def take() -> None:
        rows = rng.integers(0, num_rows, BATCH)
        for column, buffer in zip(columns, buffers, strict=True):
            np.take(column, rows, axis=0, out=buffer, mode="clip")

    sources = [np.ones_like(buffer) for buffer in buffers]

    def memcpy() -> None:
        for source, buffer in zip(sources, buffers, strict=True):
            np.copyto(buffer, source)

    def check() -> str:
        rows = Uniform(dataset, BATCH_KEYS, seed=3).rows(BATCH)
        batch = next(Batches(Uniform(dataset, BATCH_KEYS, seed=3), BATCH, form="tensordict"))
        for key, column in zip(BATCH_KEYS, columns, strict=True):
            assert np.array_equal(batch[key].numpy(), column[rows])
        return "batches equal NumPy's gather of the same rows"

    arms: list[Arm] = [
        LocalArm("rl, TensorDicts in turn", "ours", lambda: next(ring), BATCH),
        LocalArm("rl, fresh NumPy arrays", "ours", lambda: sampler.sample(BATCH), BATCH),
        LocalArm("numpy take(out=) of mapped columns", "reference", take, BATCH),
        LocalArm("memcpy of the same bytes", "limit", memcpy, BATCH),
    ]
    item = Item("sample/uniform", "transitions/s", arms, check=check)
    item.goals = (Goal("cpprb, in memory", 3.0), Goal("torchrl, memmap", 7.0))
    if (gather := _plain_gather(setting, columns, buffers)) is not None:
        item.arms.append(gather)
        item.goals += (Goal(gather.name, 1 / 1.4),)
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    dataset.close()
    yield _pixels(setting)


def _plain_gather(setting: Setting, columns: list[Mapped], buffers: list[Array]) -> LocalArm | None:
    """The C loop over mapped columns, into the buffers; None without a compiler."""
    gather = compiled(_C_GATHER, "gather", setting.folder)
    if gather is None:
        return None
    count = len(columns)
    sources = (ctypes.c_void_p * count)(*(column.ctypes.data for column in columns))
    sizes = (ctypes.c_size_t * count)(*(column[0].nbytes for column in columns))
    targets = (ctypes.c_void_p * count)(*(buffer.ctypes.data for buffer in buffers))
    drawn = np.random.default_rng(1).integers(0, len(columns[0]), (setting.pick(small=8, full=4096), BATCH))
    batches = itertools.cycle([ctypes.c_void_p(rows.ctypes.data) for rows in drawn])
    fixed = sources, sizes, targets, ctypes.c_size_t(count)
    batch = ctypes.c_size_t(BATCH)

    def take(of: Array = drawn) -> None:  # which it keeps alive
        gather(*fixed, next(batches), batch)

    return LocalArm("plain C gather, rows drawn before", "limit", take, BATCH)


def _pixels(setting: Setting) -> Item:
    """`sample/pixels`: stacks of four frames and the next stacks, stored as stacks and as single frames."""
    num_rows = setting.pick(small=200, full=10_000)
    stored, single = setting.folder / "stacks", setting.folder / "frames"
    _write_frames(single, stored, num_rows)
    rings: dict[Path, Batches] = {}
    for path, keys in ((stored, BATCH_KEYS), (single, STACK_KEYS)):
        dataset = Dataset.open(path)
        dataset.set_threads(2)
        rings[path] = Batches(Uniform(dataset, keys, seed=3), BATCH, form="tensordict", keep=2)

    def check() -> str:
        one, other = next(rings[stored]), next(rings[single])
        assert one["observation"].equal(other["stack"])
        assert one["next", "observation"].equal(other["next", "stack"])
        sizes = [disk_bytes(path) / num_rows for path in (stored, single)]
        both = sizes[0] + np.prod(STACK)
        return (
            f"stacks are equal; on disk a row takes {sizes[1]:,.0f} bytes as a frame, {sizes[0]:,.0f} "
            f"({sizes[0] / sizes[1]:.2f} times as much) as a stack and {both:,.0f} "
            f"({both / sizes[1]:.2f} times as much) with the next stack"
        )

    source = np.ones((2, BATCH, *STACK), np.uint8)
    copy = np.empty_like(source)
    arms: list[Arm] = [
        LocalArm("rl, two threads", "ours", lambda: next(rings[stored]), BATCH),
        LocalArm("rl, two threads, stacks of single frames", "ours", lambda: next(rings[single]), BATCH),
        LocalArm("memcpy of the same bytes, one thread", "limit", lambda: np.copyto(copy, source), BATCH),
    ]
    item = Item("sample/pixels", "transitions/s", arms, check=check)
    item.goals = (Goal("cpprb, in memory", 1.6), Goal("torchrl, memmap, two threads", 6.5))
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    return item


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take on disk. Holes, as where a segment was not filled, take nothing."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))


def _write_frames(single: Path, stored: Path, num_rows: int) -> None:
    """The same episodes, in rows with one frame and in rows with the last four."""
    length = min(num_rows, PIXEL_EPISODE)
    frame, stack = Box(STACK[1:], dtype="uint8", low=0, high=255), Box(STACK, dtype="uint8", low=0, high=255)
    column = Column(("observation",), "uint8", frame.shape)
    stacks = [stack_column(("stack",), column, STACK[0])]
    stacks.append(stack_column(("next", "stack"), shift_column(("next", "observation"), column), STACK[0]))
    rng = np.random.default_rng(0)
    action, lineage = Discrete(4), {"op": "bench"}
    with contextlib.ExitStack() as files:
        writers: list[EpisodeWriter] = []
        for path, space, extra in ((single, frame, stacks), (stored, stack, [])):
            spec = {"env": None, "observation": space.to_json(), "action": action.to_json()}
            new = Writer.create(path, ted_schema(space, action, extra=extra), spec=spec, lineage=lineage)
            writers.append(files.enter_context(EpisodeWriter(new, chunk_rows=64)))
        for start in range(0, num_rows, length):
            frames = rng.integers(0, 256, (length + 1, *frame.shape), np.uint8)
            for writer, last in zip(writers, (frames[-1], frames[-STACK[0] :]), strict=True):
                writer.begin(0, start)
                for step in range(length):
                    seen = frames[np.maximum(np.arange(step - STACK[0] + 1, step + 1), 0)]
                    writer.add(
                        0,
                        observation=frames[step] if writer is writers[0] else seen,
                        action=step % 4,
                        reward=0.0,
                        terminated=False,
                        truncated=step == length - 1,
                        next_observation=last if step == length - 1 else None,
                    )


def _write_columns(folder: Path, num_rows: int) -> list[Mapped]:
    """The same rows as mapped columns of their own, next observations stored."""
    columns = []
    for key in BATCH_KEYS:
        column = SCHEMA.column(key)
        file = folder / ".".join(key)
        columns.append(np.memmap(file, column.numpy, "w+", shape=(num_rows, *column.shape)))
    for start in range(0, num_rows, EPISODE):
        rows = block(start, EPISODE)
        following = np.roll(rows["observation",], -1, axis=0)
        following[-1] = 0  # the final observation of `write_dataset`
        rows["next", "observation"] = following
        for key, mapped in zip(BATCH_KEYS, columns, strict=True):
            mapped[start : start + EPISODE] = rows[key]
    return columns
