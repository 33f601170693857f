"""A window is sampled as fast as another process overwrites it: is a row ever torn, or another one?"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import known_rows
import numpy as np
from known_rows import KnownWriter, require

from rlcli.format.dataset import Dataset
from rlcli.format.writer import Writer

WINDOW, SEGMENT_ROWS, BATCH = 20_000, 2048, 4096
KEYS = (known_rows.ID, known_rows.OBSERVATION, known_rows.NEXT, known_rows.REWARD, known_rows.PIXELS)


@contextmanager
def _overwriting(path: Path) -> Iterator[None]:
    """Another process writes rows into the window without a pause."""
    pid = os.fork()
    if pid == 0:
        try:
            known = KnownWriter(Writer.append(path, lineage={"op": "more"}, durability="process"))
            while os.getppid() != 1:
                known.write(0, 512)
                known.commit()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def sample(folder: Path, rows: int, check: Literal["touch", "none"]) -> dict[str, int]:
    """Samples at least `rows` rows; returns how many, and how many the writer wrote meanwhile."""
    path = folder / f"window-{check}"
    known = KnownWriter(
        Writer.create(
            path, known_rows.schema(pixels=True), spec={}, lineage={"op": "test"}, durability="process",
            window=WINDOW, segment_rows=SEGMENT_ROWS,
        )
    )  # fmt: skip
    known.write(0, 2 * WINDOW)
    known.close()
    rng, sampled, refreshed = np.random.default_rng(0), 0, 0
    with Dataset.open(path, check=check) as dataset, _overwriting(path):
        begun = dataset.stream_rows[0]
        while sampled < rows or dataset.stream_rows[0] < begun + 2 * WINDOW:
            dataset.refresh()
            refreshed += 1
            require(dataset.num_rows == WINDOW, "hole", f"{dataset.num_rows} rows in the window")
            unknown = dataset.unknown_next
            for _ in range(4):  # the files of what is sampled go away meanwhile
                index = rng.integers(0, WINDOW, BATCH)
                _compare(dataset, index, unknown)
                sampled += BATCH
        written = dataset.stream_rows[0] - begun
    return {"rows": sampled, "overwritten": written, "refreshes": refreshed}


def _compare(dataset: Dataset, index: np.ndarray, unknown: np.ndarray) -> None:  # type: ignore[type-arg]
    found = dataset.gather(index, KEYS)
    ids = dataset.row_ids(index)
    following = np.where(
        known_rows.ends(ids)[:, None], -known_rows.observations(ids), known_rows.observations(ids + 1)
    )
    following[np.isin(index, unknown)] = 0
    right = (found["id"] == ids) & (found["observation"] == known_rows.observations(ids)).all(1)
    right &= (found["next"]["observation"] == following).all(1)
    right &= (found["next"]["reward"] == known_rows.rewards(ids)).all(1)
    # A torn row shows at the ends of its longest value; a full comparison would be slower than the writer.
    first, last = known_rows.mixed(ids).view(np.uint8)[::8], known_rows.mixed(ids + 63).view(np.uint8)[7::8]
    right &= (found["pixels"][:, 0] == first) & (found["pixels"][:, -1] == last)
    require(right.all(), "wrong", f"rows {ids[~right][:5]} of {len(ids)} sampled")
