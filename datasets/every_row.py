"""A dataset of which every row is in an episode, as what is written for others needs it.

Rows without one of their own are the rest of an episode whose first rows have left a window, and those of an
episode that goes on: the dataset is being written, or its writer was killed.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

import numpy as np

from rlcli import console
from rlcli.format.dataset import Dataset
from rlcli.format.episode_table import Episodes


def with_every_row(dataset: Dataset) -> Dataset:
    """The dataset with the rest of an episode as an episode, and an unfinished one as one that was cut.

    It reads what `dataset` reads, and is the same object where no row is without an episode.
    """
    rows = dataset.snapshot
    bounds = zip(rows["starts"], rows["rows"], rows["ended"], strict=True)
    if all(start == 0 and ended == stop for start, stop, ended in bounds):
        return dataset
    return cast(Dataset, _EveryRow(dataset))


def remarks(dataset: Dataset) -> list[str]:
    """What to say about the episodes of `with_every_row` that are not whole."""
    if not isinstance(dataset, _EveryRow):
        return []
    said = {
        "[episode begins|episodes begin] before the window; the rest is written": dataset.num_begun_before,
        "[episode is|episodes are] unfinished; the rows so far are written": dataset.num_unfinished,
    }
    return [console.counted(count, what) for what, count in said.items() if count]


class _EveryRow:
    """A dataset of which only the episodes are others."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        rows = dataset.snapshot
        kept = [stop - start for start, stop in zip(rows["starts"], rows["rows"], strict=True)]
        first = np.cumsum([0, *kept])  # the logical row that each stream begins at
        known = dataset.episodes_all()
        left = np.maximum(first[known.stream] - known.start, 0)
        self.num_begun_before = int((left > 0).sum())
        parts = [replace(known, start=known.start + left, length=known.length - left)]
        for stream, ended in enumerate(rows["ended"]):
            done = max(ended, rows["starts"][stream]) - rows["starts"][stream]
            if done < kept[stream]:
                parts.append(self._unfinished(stream, int(first[stream]) + done, int(first[stream + 1])))
        self.num_unfinished = len(parts) - 1
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Episodes)
        }
        order = np.argsort(joined["start"], kind="stable")
        self.episodes = Episodes(**{name: values[order] for name, values in joined.items()})
        cut_off = np.flatnonzero(left > 0)
        for index in np.searchsorted(self.episodes.start, parts[0].start[cut_off]).tolist():
            rest = int(self.episodes.start[index]), int(self.episodes.length[index])
            self.episodes.return_[index] = self._return(*rest)
            self.episodes.seed[index] = -1  # its rows do not begin at a reset
        self.num_episodes = len(self.episodes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def _unfinished(self, stream: int, start: int, stop: int) -> Episodes:
        """The rows from `start` to the end of a stream, as a table of one episode."""
        told: dict[str, Any] = {"start": start, "length": stop - start, "stream": stream, "seed": -1}
        told |= {"terminated": False, "truncated": False, "cut": True, "has_final": False}
        told["return_"] = self._return(start, stop - start)
        told["number"] = int(self._dataset.read(("episode",), start, start + 1)[0])
        known = self._dataset.episodes
        names = [field.name for field in fields(Episodes)]
        return Episodes(**{name: np.array([told[name]], getattr(known, name).dtype) for name in names})

    def _return(self, start: int, length: int) -> float:
        return float(self._dataset.read(("next", "reward"), start, start + length).sum(dtype=np.float64))
