"""The first look through a D4RL file: its small columns only, to learn what the standard columns can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import hdf5
from rlcli.datasets.d4rl_episodes import Rule, SliceEnds, Splitter, jumps
from rlcli.datasets.d4rl_layout import Layout
from rlcli.datasets.stopping import heeding


@dataclass
class Scan:
    """What the flags, rewards and actions of a whole file say.

    `inexact` names the columns that our standard ones cannot give back bit for bit. `terminals` and
    `timeouts` count flags, `repaired` episode ends without a flag, `unfinished_rows` the rows after the
    last end, `length_one` episodes of one row. `action_range` is `(lowest, highest)`.
    """

    inexact: set[str] = field(default_factory=set)
    terminals: int = 0
    timeouts: int = 0
    repaired: int = 0
    episodes: int = 0
    length_one: int = 0
    unfinished_rows: int = 0
    action_range: tuple[float, float] = (np.inf, -np.inf)


def look_through(layout: Layout, rule: Rule) -> Scan:
    """Reads `rewards`, `terminals`, `timeouts`, `actions` and what the rule needs, in slices."""
    actions = layout.names("actions")
    names = ["rewards", "terminals", *(["timeouts"] if "timeouts" in layout.columns else []), *actions]
    step = hdf5.slice_rows([layout.columns[name] for name in names])
    scan, splitter, open_rows = Scan(), Splitter(rule), 0
    for start in heeding(range(0, layout.num_rows, step)):
        stop = min(start + step, layout.num_rows)
        arrays = hdf5.read_columns({name: layout.columns[name] for name in names}, start, stop)
        ends = ends_of(layout, splitter, arrays, start, stop)
        _note_flags(scan, arrays, ends)
        for name in actions:
            if arrays[name].dtype.kind in "iuf":
                low, high = scan.action_range  # NaN stays NaN: then nothing is known of the range
                lowest, highest = np.minimum(low, arrays[name].min()), np.maximum(high, arrays[name].max())
                scan.action_range = float(lowest), float(highest)
        lengths = np.diff(ends.rows, prepend=-1 - open_rows)
        open_rows = stop - start - 1 - int(ends.rows[-1]) if len(ends.rows) else open_rows + stop - start
        scan.episodes += len(lengths)
        scan.length_one += int((lengths == 1).sum())
        scan.unfinished_rows = int(lengths[-1]) if ends.cut else 0
    return scan


def ends_of(
    layout: Layout, splitter: Splitter, arrays: Mapping[str, NDArray[Any]], start: int, stop: int
) -> SliceEnds:
    """The episode ends among rows `start … stop - 1`, whose flags are in `arrays`; slices come in order."""
    rule = splitter.rule
    changes = None
    if rule.index or rule.jump:
        ahead = min(stop + 1, layout.num_rows)
        changes = np.zeros(stop - start, np.bool_)
        if rule.jump:
            observed = layout.columns["observations"].read(start, ahead)
            position = observed.reshape(len(observed), -1)[:, :2]
            changes[: ahead - start - 1] = jumps(position[:-1], position[1:])
        else:
            assert layout.index is not None
            index = layout.columns[layout.index].read(start, ahead).reshape(-1)
            changes[: ahead - start - 1] = index[1:] != index[:-1]
    timeouts = arrays["timeouts"].reshape(-1) != 0 if "timeouts" in arrays else None
    return splitter(arrays["terminals"].reshape(-1) != 0, timeouts, changes, last=stop == layout.num_rows)


def _note_flags(scan: Scan, arrays: Mapping[str, NDArray[Any]], ends: SliceEnds) -> None:
    terminals, rewards, timeouts = arrays["terminals"], arrays["rewards"], arrays.get("timeouts")
    flagged = terminals.reshape(-1) != 0
    scan.terminals += int(flagged.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        if not _gives_back(rewards.astype(np.float32), rewards):
            scan.inexact.add("rewards")
    if not _gives_back(ends.terminated, terminals):
        scan.inexact.add("terminals")
    if timeouts is not None:
        timed_out = timeouts.reshape(-1) != 0
        scan.timeouts += int(timed_out.sum())
        flagged |= timed_out
        truncated = ends.truncated.copy()
        if ends.cut:
            truncated[-1] = False
        if not _gives_back(truncated, timeouts):
            scan.inexact.add("timeouts")
    scan.repaired += int((~flagged[ends.rows]).sum())


def _gives_back(standard: NDArray[Any], original: NDArray[Any]) -> bool:
    """Whether `standard`, cast to the dtype of `original`, has the same bits."""
    back = np.ascontiguousarray(standard.reshape(original.shape).astype(original.dtype))
    return back.tobytes() == np.ascontiguousarray(original).tobytes()
