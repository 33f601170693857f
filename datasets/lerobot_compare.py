"""An output of ours read again and compared with its dataset, but for what LeRobot cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlcli.datasets.comparing import compare_parts
from rlcli.datasets.contract import Advance, Comparison, Part, Report, Source
from rlcli.datasets.parts import alone
from rlcli.format.dataset import Dataset


def compare_output(source: Source, dataset: Dataset, advance: Advance) -> Comparison:
    """Every row and flag of `source`; pictures that it has encoded and we do not are decoded first."""
    ended: list[bool] = []

    def parts() -> Iterator[Part]:
        for piece in source.pieces:
            for columns, end in alone(source.parts(piece, Report(), lambda count: None)):
                if end is not None:
                    ended.append(end.terminated)
                yield Part(columns, None)

    found = compare_parts(parts(), source.schema, dataset, advance, all_keys=False)
    if ended != np.asarray(dataset.episodes.terminated).tolist():
        found.problems.append("next/terminated: other episodes are terminated")
    return found
