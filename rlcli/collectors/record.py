"""Recording whole datasets: the fast loop behind `rl collect`.

Each environment fills its own preallocated columns; an episode, or a full part of one, is handed to the
writer in one piece. Per step nothing is allocated and no dictionary is built.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlcli.collectors.nested import allocate, flatten, put, row, singles
from rlcli.collectors.policy import Policy, RandomPolicy, Remembers
from rlcli.collectors.seeds import EpisodeSeeds
from rlcli.envs.contract import Env, check_fits, explain
from rlcli.errors import ResourceError, RLError
from rlcli.format.specs import Key

_PART_BYTES = 4 << 20
_TICK_SECONDS = 0.1  # how much work a kill can cost, and how often progress is told
_BURST_SECONDS, _MAX_BURST = 0.01, 256  # how late a tick may be seen, unless rounds suddenly take longer


class Sink(Protocol):
    """Where recorded rows go; `rlcli.format.episodes.EpisodeWriter` is one."""

    def begin(self, stream: int, seed: int | None) -> None: ...

    def add_rows(self, stream: int, columns: Mapping[Key, NDArray[Any]]) -> None: ...

    def end(
        self, stream: int, *, terminated: bool, truncated: bool, final: Any = None, cut: bool = False
    ) -> None: ...

    def flush(self, tag: int = 0) -> None: ...


class StopFlag(Protocol):
    """`rlcli.console.Stop`: a signal number once one arrived, else 0."""

    requested: int


@dataclass(frozen=True)
class Recorded:
    """How much one call of `record` wrote."""

    steps: int
    episodes: int  # whole ones: terminated or truncated


class _Lane:
    """One environment, its stream, and the rows of its current episode that are not handed over yet."""

    def __init__(self, index: int, env: Env, seeds: EpisodeSeeds, number: int, part_rows: int) -> None:
        self.index = index
        self.env = env
        self.step = env.step
        self.seeds = seeds
        self.number = number
        self.quota = 0  # episodes still to record
        self.seed = 0  # of the current episode
        self.size = 0
        self.has_rows = False  # whether rows of the current episode were handed over
        self.observation = allocate(env.observation_spec, part_rows + 1)  # row `size` is the current one
        self.action = allocate(env.action_spec, part_rows)
        self.reward = np.zeros(part_rows, np.float32)
        columns = [
            *flatten(self.observation, ("observation",)),
            *flatten(self.action, ("action",)),
            (("next", "reward"), self.reward.reshape(-1, 1)),
        ]
        self.columns: dict[Key, NDArray[Any]] = dict(columns)

    def hand_over(self, sink: Sink) -> None:
        size = self.size
        if not size:
            return
        self.has_rows = True
        sink.add_rows(self.index, {key: column[:size] for key, column in self.columns.items()})
        self.size = 0


def record(
    envs: Sequence[Env],
    policy: Policy,
    sink: Sink,
    *,
    seed: int,
    steps: int | None = None,
    episodes: int | None = None,
    first_episodes: Sequence[int] | None = None,
    streams: Sequence[int] | None = None,
    stop: StopFlag | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Record exactly `steps` rows or exactly `episodes` whole episodes, one stream of `sink` per environment.

    The environments advance in lock step. With `steps`, environment i of E records `steps // E` rows, one
    more if `i < steps % E`; unfinished episodes are marked as cut, with their last observation kept. With
    `episodes`, environment i records its first `episodes // E` episodes (one more if `i < episodes % E`):
    which ones is fixed before the first step, so short episodes are not favoured as they would be by
    taking whichever end first. An environment that is through waits for the others.

    Episode k of environment i starts from `episode_seed(seed, streams[i], first_episodes[i] + k)`; `streams`,
    the numbers of the sink's streams in the dataset, are 0, 1, … by default. When `stop` is
    requested, the round is finished, open episodes are cut, and the call returns early. `progress` is
    called with `(steps, episodes)` a few times a second, after what was recorded so far was committed.

    Raises `InputError` if an environment or a policy raises.
    """
    if (steps is None) == (episodes is None):
        raise ValueError("give either steps or episodes")
    numbers = list(first_episodes) if first_episodes is not None else [0] * len(envs)
    part_rows = _part_rows(envs[0])
    lanes = [
        _Lane(
            index,
            env,
            EpisodeSeeds(seed, index if streams is None else streams[index]),
            numbers[index],
            part_rows,
        )
        for index, env in enumerate(envs)
    ]
    return _Recording(lanes, policy, sink, part_rows, stop, progress).run(steps, episodes)


class _Recording:
    def __init__(
        self,
        lanes: list[_Lane],
        policy: Policy,
        sink: Sink,
        part_rows: int,
        stop: StopFlag | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.lanes = lanes
        self.policy = policy
        self.sink = sink
        self.part_rows = part_rows
        self.stop = stop if stop is not None else _Never()
        self.progress = progress
        self.observation = allocate(lanes[0].env.observation_spec, len(lanes))
        self.fresh: list[_Lane] = []  # after a reset, before the first step: the sink does not know them yet
        self.steps = 0
        self.episodes = 0

    def run(self, steps: int | None, episodes: int | None) -> Recorded:
        lanes = self.lanes
        for lane in lanes:
            share, rest = divmod(episodes or 0, len(lanes))
            lane.quota = sys.maxsize if episodes is None else share + (lane.index < rest)
        try:
            self._run([lane for lane in lanes if lane.quota], sys.maxsize if steps is None else steps)
        except (ResourceError, OSError, MemoryError):
            raise  # nothing more can be written; what was committed stays
        except (Exception, SystemExit) as err:  # environments and policies are foreign code
            self._cut()  # what was recorded before is true and is kept
            if isinstance(err, RLError):
                raise
            raise explain(err, lanes[0].env) from err
        self._cut()
        return Recorded(self.steps, self.episodes)

    def _run(self, active: list[_Lane], remaining: int) -> None:
        """Step `active` until `remaining` rows are recorded, quotas are used up, or a stop is requested."""
        clock, stop, source = time.monotonic, self.stop, self._actions()
        for lane in active[:remaining]:
            self._reset(lane)
        now = clock()
        next_tick, burst = now + _TICK_SECONDS, 1
        while active and remaining and not stop.requested:
            if remaining < len(active):
                active = active[:remaining]
                self.fresh = [lane for lane in self.fresh if lane in active]
            rounds = self._burst(active, islice(source, min(burst, remaining // len(active))))
            self.steps += rounds * len(active)
            remaining -= rounds * len(active)
            active = [lane for lane in active if lane.quota]
            before, now = now, clock()
            if now - before < _BURST_SECONDS / 2:
                burst = min(2 * burst, _MAX_BURST)
            elif now - before > _BURST_SECONDS:
                burst = max(1, burst // 2)
            if now >= next_tick:
                self._tick(active)
                next_tick = clock() + _TICK_SECONDS

    def _burst(self, active: list[_Lane], source: Iterator[list[Any]]) -> int:
        """A round for each element of `source`, or until a stop or an environment that is through; how many.

        The hot loop: only what every step needs is in it, clock and counters are looked at once per burst.
        """
        observation, part_rows, fresh, stop = self.observation, self.part_rows, self.fresh, self.stop
        flat = isinstance(observation, np.ndarray) and isinstance(active[0].action, np.ndarray)
        observed = not isinstance(self.policy, RandomPolicy)
        told = self.policy if isinstance(self.policy, Remembers) else None
        rounds = 0
        exhausted = False
        for actions in source:
            if fresh:
                for lane in fresh:
                    self.sink.begin(lane.index, lane.seed)
                fresh.clear()
            for lane in active:
                index, size = lane.index, lane.size
                action = actions[index]
                if flat:
                    lane.action[size] = action
                else:
                    put(lane.action, size, action)
                value, reward, terminated, truncated = lane.step(action)
                lane.reward[size] = reward
                if told is not None:
                    told.earned(index, reward)
                size += 1
                if terminated or truncated:
                    self._end(lane, size, value, bool(terminated), bool(truncated))
                    exhausted = exhausted or not lane.quota
                    continue
                if flat:
                    lane.observation[size] = value
                else:
                    put(lane.observation, size, value)
                lane.size = size  # not before: a step whose observation does not fit is left out
                if observed:
                    put(observation, index, value)
                if size == part_rows:
                    self._continue(lane)
            rounds += 1
            if exhausted or stop.requested:
                break
        return rounds

    def _actions(self) -> Iterator[list[Any]]:
        """For each round, one action per environment. Random ones see nothing, so they are drawn ahead."""
        if isinstance(self.policy, RandomPolicy):
            return self.policy.rounds(len(self.lanes))
        return self._answers()

    def _answers(self) -> Iterator[list[Any]]:
        while True:
            yield singles(self.policy(self.observation))

    def _reset(self, lane: _Lane) -> None:
        lane.seed = lane.seeds[lane.number]
        value = lane.env.reset(lane.seed)
        self.fresh.append(lane)
        if isinstance(self.policy, Remembers):
            self.policy.begin(lane.index)
        put(lane.observation, 0, value)
        put(self.observation, lane.index, value)

    def _end(self, lane: _Lane, size: int, final: Any, terminated: bool, truncated: bool) -> None:
        env = lane.env
        check_fits(final, env.observation_spec, f"{env.spec_json['id']}: the final observation")
        lane.size = size
        lane.hand_over(self.sink)
        self.sink.end(lane.index, terminated=terminated, truncated=truncated, final=final)
        lane.has_rows = False
        lane.number += 1
        lane.quota -= 1
        self.episodes += 1
        if lane.quota:
            self._reset(lane)

    def _continue(self, lane: _Lane) -> None:
        """Hand over an unfinished episode's rows; the current observation begins the next part."""
        size = lane.size
        lane.hand_over(self.sink)
        put(lane.observation, 0, row(lane.observation, size))

    def _cut(self) -> None:
        """Commit all rows; episodes that have not ended are marked as cut, with their last observation."""
        for lane in self.lanes:
            self._continue(lane)
            if lane.has_rows:
                final = row(lane.observation, 0)
                self.sink.end(lane.index, terminated=False, truncated=False, final=final, cut=True)
                lane.has_rows = False
        self.sink.flush()

    def _tick(self, active: list[_Lane]) -> None:
        for lane in active:
            self._continue(lane)
        self.sink.flush()
        if self.progress is not None:
            self.progress(self.steps, self.episodes)


class _Never:
    requested = 0


def _part_rows(env: Env) -> int:
    """Rows per part: up to 1,024, fewer where rows are large."""
    row_bytes = sum(array.nbytes for _, array in flatten(allocate(env.observation_spec, 1), ()))
    return max(1, min(1024, _PART_BYTES // max(1, row_bytes)))
