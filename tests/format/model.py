"""What the format's tests share: small random datasets with a list in memory that says what must be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Schema, ted_schema
from rlcli.format.specs import Box, Composite, Discrete, Spec
from rlcli.format.writer import Writer

NESTED = Composite({"image": Box((2, 3), "uint8"), "inner": Composite({"speed": Box((), "float64")})})
FLAT = Box((3,), "float32")


def value_of(spec: Spec, rng: np.random.Generator) -> Any:
    """A random value of a spec."""
    if isinstance(spec, Composite):
        return {name: value_of(child, rng) for name, child in spec.fields.items()}
    if isinstance(spec, Discrete):
        return int(rng.integers(spec.n))
    return rng.integers(0, 200, spec.shape).astype(spec.dtype)


@dataclass
class Step:
    """One step and what must be read of it; `next_observation` is None where it is unknown."""

    observation: Any
    action: int
    reward: float
    terminated: bool
    truncated: bool
    next_observation: Any
    episode: int
    step: int


@dataclass
class Model:
    """Streams of steps, added to a writer and kept here."""

    writer: EpisodeWriter
    spec: Spec
    rng: np.random.Generator
    streams: list[list[Step]] = field(init=False)
    numbers: int = 0

    def __post_init__(self) -> None:
        self.streams = [[] for _ in self.writer.writer.streams]

    def add(self, stream: int, *, end: str = "no") -> None:
        """Adds a step; `end` is no, terminated, truncated or unknown (truncated without its final)."""
        steps = self.streams[stream]
        open_ = bool(steps) and not (steps[-1].terminated or steps[-1].truncated)
        if not open_:
            self.numbers += 1
        step = Step(
            value_of(self.spec, self.rng),
            int(self.rng.integers(4)),
            float(np.float32(self.rng.normal())),
            end == "terminated",
            end in ("truncated", "unknown"),
            None,
            steps[-1].episode if open_ else self.numbers - 1,
            steps[-1].step + 1 if open_ else 0,
        )
        if open_:
            steps[-1].next_observation = step.observation
        if end in ("terminated", "truncated"):
            step.next_observation = value_of(self.spec, self.rng)
        steps.append(step)
        self.writer.add(
            stream,
            observation=step.observation,
            action=step.action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_observation=step.next_observation,
        )


def create(path: Path, spec: Spec = FLAT, *, chunk_rows: int = 1024, seed: int = 0, **options: Any) -> Model:
    """A new dataset with a model of it."""
    options = {"durability": "process", **options}
    schema = options.pop("schema", None) or ted_schema(spec, Discrete(4))
    writer = Writer.create(path, schema, spec={"env": None}, lineage={"op": "test"}, **options)
    return Model(EpisodeWriter(writer, chunk_rows=chunk_rows), spec, np.random.default_rng(seed))


def fill(model: Model, steps: int) -> None:
    """Adds random steps to random streams, episodes of about eight steps."""
    ends = ["no"] * 13 + ["terminated", "truncated", "unknown"]
    for _ in range(steps):
        model.add(int(model.rng.integers(len(model.streams))), end=str(model.rng.choice(ends)))


def small(path: Path, *, steps: int = 150, **options: Any) -> Model:
    """A sealed dataset of a few segments."""
    options = {"segment_rows": 32, "num_streams": 2, "chunk_rows": 10, **options}
    model = create(path, **options)
    fill(model, steps)
    model.writer.close()
    return model


def flatten(value: Any, prefix: tuple[str, ...]) -> dict[tuple[str, ...], np.ndarray[Any, Any]]:
    if isinstance(value, dict):
        found = {}
        for name, child in value.items():
            found.update(flatten(child, (*prefix, name)))
        return found
    return {prefix: np.asarray(value)}


def zeros_like(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: zeros_like(child) for name, child in value.items()}
    return np.zeros_like(value)


def check(dataset: Dataset, model: Model, rows: list[int] | None = None) -> None:
    """Everything that the dataset says is what the model says; `rows` are the committed rows per stream."""
    streams = [steps[: len(steps) if rows is None else rows[n]] for n, steps in enumerate(model.streams)]
    flat = [step for steps in streams for step in steps]
    assert dataset.stream_rows == [len(steps) for steps in streams]
    assert dataset.num_rows == len(flat)
    if not flat:
        return
    unknown = set(dataset.unknown_next.tolist())
    last = {sum(len(s) for s in streams[: n + 1]) - 1 for n in range(len(streams)) if streams[n]}
    read = dataset.read_rows()
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(flat), 2 * len(flat))
    gathered = dataset.gather(chosen)
    for nested, order in ((read, range(len(flat))), (gathered, chosen)):
        columns = flatten(nested, ())
        for position, row in enumerate(order):
            step = flat[row]
            assert columns["action",][position] == step.action
            assert columns["next", "reward"][position] == np.float32(step.reward)
            assert columns["next", "terminated"][position] == step.terminated
            assert columns["next", "truncated"][position] == step.truncated
            assert columns["next", "done"][position] == (step.terminated or step.truncated)
            assert columns["episode",][position] == step.episode
            assert columns["step",][position] == step.step
            assert columns["is_init",][position] == (step.step == 0)
            following = step.next_observation
            cut_off = row in last and not (step.terminated or step.truncated)
            if following is None or cut_off:
                assert row in unknown
                following = zeros_like(step.observation)
            else:
                assert row not in unknown
            for value, prefix in ((step.observation, ("observation",)), (following, ("next", "observation"))):
                for key, expected in flatten(value, prefix).items():
                    assert np.array_equal(columns[key][position], expected), (row, key)
    check_episodes(dataset, streams)


def check_episodes(dataset: Dataset, streams: list[list[Step]]) -> None:
    """The episode table, worked out from the steps."""
    table = dataset.episodes
    start, k = 0, 0
    for number, steps in enumerate(streams):
        first, total = 0, 0.0
        for at, step in enumerate(steps):
            total += float(np.float32(step.reward))
            if step.terminated or step.truncated:
                found = (table.start[k], table.length[k], table.return_[k], table.number[k], table.stream[k])
                assert found == (start + first, at + 1 - first, total, step.episode, number)
                assert (table.terminated[k], table.truncated[k]) == (step.terminated, step.truncated)
                first, total, k = at + 1, 0.0, k + 1
        if first < len(steps) and k < len(table) and table.stream[k] == number:
            assert table.cut[k]
            assert table.length[k] == len(steps) - first
            k += 1
        start += len(steps)
    assert k == len(table) == dataset.num_episodes


def tree_hashes(root: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of every file under a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[str(path.relative_to(root))] = (len(data), hashlib.sha256(data).hexdigest())
    return found


def read_everything(path: Path, **options: Any) -> None:
    """Opens a dataset and touches all of it. Raises what a reader raises."""
    with Dataset.open(path, **options) as dataset:
        dataset.read_rows()
        if dataset.num_rows:
            dataset.gather(np.arange(dataset.num_rows))
        assert len(dataset.episodes) == dataset.num_episodes
        assert dataset.digest


def schema_of(spec: Spec, **options: Any) -> Schema:
    return ted_schema(spec, Discrete(4), **options)
