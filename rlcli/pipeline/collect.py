"""`rl collect`: a policy acts in environments, a dataset grows at its final path.

The format is crash-only, so there is no temporary copy: whatever kills a collection, the last commit is a
valid dataset, and appending goes on from there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import console
from rlcli.collectors.policy import Policy
from rlcli.collectors.record import Recorded, record
from rlcli.envs import make_many
from rlcli.envs.contract import Env
from rlcli.errors import (
    IncompatibleError,
    InputError,
    Interrupted,
    ResourceError,
    RLError,
    UsageError,
)
from rlcli.format import generations
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.layout import STEPPED_ROWS
from rlcli.format.schema import Schema, ted_schema
from rlcli.format.writer import Writer
from rlcli.pipeline import provenance
from rlcli.pipeline.behaviour import behaviour_policy
from rlcli.pipeline.outputs import refuse_inside
from rlcli.pipeline.run import unique_path
from rlcli.pipeline.spec_text import env_text, spec_text
from rlcli.plugins import is_reference

_CHUNK_BYTES = 1 << 19  # rows written and committed at a time: fewer, larger writes cost less per row
_POLICY_DOMAIN = 1  # keeps the policy's random numbers apart from the episode seeds


@dataclass(frozen=True)
class Options:
    """What to collect. One of `steps` and `episodes`, which count what this call adds."""

    env: str
    steps: int | None = None
    episodes: int | None = None
    policy: str = "random"  # `random`, a run directory, or `module:attribute`
    checkpoint: str = "best"  # of a run: `best`, `last` or a step
    deterministic: bool = False  # a run's policy takes its mode instead of sampling
    num_envs: int | None = None  # None: 1, or as many as the dataset that is appended to has
    seed: int | None = None  # None: 0, or that of the dataset that is appended to
    append: bool = False
    share: bool = False  # append beside other processes that do the same
    max_size: int | None = None  # of a new dataset: rows it keeps, all streams together; the oldest leave
    env_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """What one collection added to the dataset at `path`, and what is there now."""

    path: Path
    added: Recorded
    rows: int
    episodes: int  # with cut ones
    score: float | None  # mean undiscounted return of the whole episodes in the dataset; None without any
    digest: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For `rl collect --json`."""
        values = {**asdict(self), "seconds": round(self.seconds, 3)}
        return {"dataset": str(values.pop("path")), **values}


def collect(out: Path | None, options: Options) -> Collected:
    """Collect into a new dataset at `out`, or with `options.append` into the one that is there.

    Without `out` the dataset is `data/<env>-<policy>-s<seed>`, with a number if that is taken. Equal options
    give datasets of equal digest. Appending continues each environment's sequence of episode seeds after the
    episodes in the dataset, cut ones included, so that none is collected twice, and draws new random actions;
    if nothing is at `out` yet, it begins there. With `options.share` others may append at the same time: this
    call then goes on in streams that nobody writes, and adds what is missing.

    Raises `UsageError` for a wrong name or combination or an `out` that exists, `IncompatibleError` if the
    dataset to append to is of another environment, layout or `max_size`, `BusyError` if it has another
    writer, `InputError` if the environment or the policy fails, and `Interrupted` after SIGINT or SIGTERM;
    then all rows are committed and the dataset is closed properly.
    """
    out = _checked(out, options)
    started = time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(console.interruptible())
        before = _Before.read(out) if _goes_on(options) and out is not None and os.path.lexists(out) else None
        seed = _first(options.seed, before.seed if before else None, 0)
        num_envs = _first(options.num_envs, before.num_envs if before and not options.share else None, 1)
        envs = stack.enter_context(make_many(num_envs, options.env, **_plain(options.env_args)))
        spec, schema = _describe(envs[0])
        if before is not None:
            before.check(spec, schema, num_envs, options)
        entropy = (seed, _POLICY_DOMAIN, before.lineage if before else 0)
        policy, identity = behaviour_policy(
            options.policy,
            envs[0],
            entropy,
            checkpoint=options.checkpoint,
            deterministic=options.deterministic,
        )
        lineage = _lineage(options, seed, num_envs, identity)
        facts = {"spec": spec, "lineage": lineage, "num_streams": num_envs}
        writer = _open(out, before, options, seed, schema, facts)
        if options.share:  # others may have drawn the same random actions but for the streams' numbers
            policy, _ = behaviour_policy(
                options.policy,
                envs[0],
                (*entropy, *(stream.number for stream in writer.streams)),
                checkpoint=options.checkpoint,
                deterministic=options.deterministic,
            )
        added = _record(writer, envs, policy, seed, options, stop)
        result = _result(writer.path, added, time.monotonic() - started)
        if stop.requested:
            _interrupted(result, options, stop.requested)
    return result


def _checked(out: Path | None, options: Options) -> Path | None:
    if (options.steps is None) == (options.episodes is None):
        raise UsageError(
            "say how much to collect: either --steps or --episodes", hint="for example --steps 100k"
        )
    for name, value in (
        ("steps", options.steps),
        ("episodes", options.episodes),
        ("num-envs", options.num_envs),
        ("max-size", options.max_size),
    ):
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if options.seed is not None and not 0 <= options.seed < 2**63:
        raise UsageError(f"--seed must be a whole number from 0 to 2^63 - 1, got {options.seed}")
    if _goes_on(options) and out is None:
        flag = "--append" if options.append else "--share"
        raise UsageError(f"{flag} needs -o: the dataset to go on with")
    if out is not None and os.path.lexists(out) and not _goes_on(options):
        raise UsageError(f"{out}: exists already", hint="add --append to go on with it", path=out)
    if out is not None and not os.path.lexists(out):
        refuse_inside(out)
    return out


def _goes_on(options: Options) -> bool:
    """A dataset that is there is appended to."""
    return options.append or options.share


def _window(options: Options, num_streams: int) -> int | None:
    """The rows that each stream keeps."""
    return None if options.max_size is None else -(-options.max_size // num_streams)


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


@dataclass(frozen=True)
class _Before:
    """The dataset to append to, as it was found."""

    path: Path
    spec: Mapping[str, Any]
    schema: Schema
    seed: int | None
    num_envs: int
    lineage: int
    window: int | None

    @classmethod
    def read(cls, path: Path) -> _Before:
        with Dataset.open(path, check="none") as dataset:
            seeds = [entry["seed"] for entry in dataset.lineage if entry.get("op") == "collect"]
            return cls(
                path,
                dataset.spec,
                dataset.schema,
                seeds[-1] if seeds else None,
                len(dataset.stream_rows),
                len(dataset.lineage),
                generations.load(path, dataset.uuid, dataset.generation).window,
            )

    def check(self, spec: Mapping[str, Any], schema: Schema, num_envs: int, options: Options) -> None:
        """Raise `IncompatibleError` unless rows of this kind may follow."""
        for part, told in (("env", env_text), ("observation", spec_text), ("action", spec_text)):
            found, wanted = self.spec.get(part), spec[part]
            if found != wanted:
                texts = told(found), told(wanted)
                if texts[0] == texts[1]:  # they differ in what a line leaves out
                    texts = json.dumps(found, sort_keys=True), json.dumps(wanted, sort_keys=True)
                raise IncompatibleError(
                    f"{self.path} cannot be appended to: its {part} is {texts[0]}; this one is {texts[1]}"
                )
        if self.schema != schema:
            raise IncompatibleError(
                f"{self.path} cannot be appended to: its columns are not those of rl collect"
            )
        if options.max_size is not None and self.window != _window(options, num_envs):
            found = "all rows" if self.window is None else f"{self.window:,} rows of each stream"
            raise IncompatibleError(f"{self.path} keeps {found}; leave --max-size out")
        if self.num_envs != num_envs and not options.share:
            raise IncompatibleError(
                f"{self.path} has {self.num_envs} streams, --num-envs is {num_envs}; leave --num-envs out"
            )


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's arguments as the dataset will record them."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(arguments), allow_nan=False))
    except (TypeError, ValueError) as err:
        raise UsageError(f"--env-arg values must be plain data that JSON can hold: {err}") from err
    return plain


def _describe(env: Env) -> tuple[dict[str, Any], Schema]:
    """What the dataset's spec and columns are."""
    observation, action = env.observation_spec, env.action_spec
    spec = {"env": env.spec_json, "observation": observation.to_json(), "action": action.to_json()}
    return spec, ted_schema(observation, action)


def _lineage(options: Options, seed: int, num_envs: int, policy: Mapping[str, Any]) -> dict[str, Any]:
    config = {**asdict(options), "env_args": dict(options.env_args), "seed": seed, "num_envs": num_envs}
    parents = [{"run": policy["run"], "digest": policy["digest"]}] if "run" in policy else []
    return {
        "op": "collect",
        "command": provenance.command_line(),
        "config": config,
        "seed": seed,
        "policy": dict(policy),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
        "time": provenance.now(),
        "parents": parents,
    }


def _default_name(options: Options, seed: int) -> str:
    """`<env>-<policy>-s<seed>`, of characters that need no quoting in a shell."""
    policy = options.policy.partition(":")[2] if is_reference(options.policy) else Path(options.policy).name
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", f"{options.env}-{policy}-s{seed}").strip("-.")


def _open(
    out: Path | None,
    before: _Before | None,
    options: Options,
    seed: int,
    schema: Schema,
    facts: dict[str, Any],
) -> Writer:
    """A writer of a new dataset, or of the one that is there."""
    if before is None:
        try:
            window = _window(options, facts["num_streams"])
            return _create(out, options, seed, schema, window=window, share=options.share, **facts)
        except UsageError:
            if out is None or not options.share or not os.path.lexists(out):
                raise
        before = _Before.read(out)  # another process was quicker
        before.check(facts["spec"], schema, facts["num_streams"], options)
    if options.share:
        return Writer.join(before.path, lineage=facts["lineage"], num_streams=facts["num_streams"])
    return Writer.append(before.path, lineage=facts["lineage"])


def _create(out: Path | None, options: Options, seed: int, schema: Schema, **facts: Any) -> Writer:
    """A new dataset at `out`, or at the first free default path."""
    while True:
        path = out or unique_path(Path("data") / _default_name(options, seed))
        parent = path.absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as err:
            raise InputError(f"{parent}: not a folder", path=parent) from err
        try:
            return Writer.create(path, schema, **facts)
        except UsageError:
            if out is not None or not os.path.lexists(path):
                raise  # else another process took the name just now


def _record(
    writer: Writer, envs: list[Env], policy: Policy, seed: int, options: Options, stop: console.Stop
) -> Recorded:
    """Record into `writer` and close it, also when an environment fails."""
    unit, total = ("steps", options.steps) if options.steps is not None else ("episodes", options.episodes)
    chunk_rows = max(64, min(8192, _CHUNK_BYTES // writer.schema.row_bytes))
    steps_each = STEPPED_ROWS if options.steps is None else -(-options.steps // len(writer.streams))
    expected_rows = min(steps_each, STEPPED_ROWS)
    episodes = EpisodeWriter(writer, chunk_rows=chunk_rows, expected_rows=expected_rows)
    with (
        _closing(episodes, shared=options.share) as sink,
        console.progress(total, "collect", unit) as bar,
    ):
        told = 0

        def progress(steps: int, episodes: int) -> None:
            nonlocal told
            done = steps if unit == "steps" else episodes
            bar.note(f"{episodes:,} episodes" if unit == "steps" else f"{steps:,} steps")
            bar.advance(done - told)
            told = done

        return record(
            envs,
            policy,
            sink,
            seed=seed,
            steps=options.steps,
            episodes=options.episodes,
            first_episodes=_episodes_per_stream(writer),
            streams=[stream.number for stream in writer.streams],
            stop=stop,
            progress=progress,
        )


@contextmanager
def _closing(sink: EpisodeWriter, *, shared: bool) -> Iterator[EpisodeWriter]:
    """Close the dataset properly, unless it is the disk that failed: then its last commit stays.

    A dataset that is new and has no row when something fails is removed, if nobody shares it.
    """
    writer = sink.writer
    is_new = writer.generation == 1 and not shared
    try:
        try:
            yield sink
        except (ResourceError, OSError, MemoryError):
            raise
        except RLError as err:
            sink.close()
            if writer.num_rows:
                err.hint = err.hint or f"{writer.path} holds all rows from before; --append goes on with it"
            raise
        sink.close()
    except BaseException:
        writer.abort()  # does nothing after a close
        if is_new and not writer.num_rows:
            shutil.rmtree(writer.path, ignore_errors=True)
        raise


def _episodes_per_stream(writer: Writer) -> list[int]:
    """How many episodes each stream has had, cut ones included: the number of the next one.

    Of a window, whose oldest have left, it is a number that none has had.
    """
    if writer.window is not None:
        return [writer.next_episode] * len(writer.streams)
    with Dataset.open(writer.path, check="none") as dataset:
        numbers = [stream.number for stream in writer.streams]
        counts = np.bincount(dataset.episodes.stream, minlength=max(numbers) + 1)
        return [int(counts[number]) for number in numbers]


def _result(path: Path, added: Recorded, seconds: float) -> Collected:
    with Dataset.open(path, check="none") as dataset:
        episodes = dataset.episodes
        whole = episodes.return_[~episodes.cut.astype(bool)]
        score = float(whole.mean()) if len(whole) else None
        return Collected(path, added, dataset.num_rows, len(episodes), score, dataset.digest, seconds)


def _interrupted(result: Collected, options: Options, signum: int) -> None:
    """Raise `Interrupted` with the command that collects the rest, if there is a rest."""
    unit, total = ("steps", options.steps) if options.steps is not None else ("episodes", options.episodes)
    done = result.added.steps if unit == "steps" else result.added.episodes
    assert total is not None
    if done >= total:
        return
    how = "--share" if options.share else "--append"
    words = ["rl", "collect", options.env, "-o", str(result.path), how, f"--{unit}", str(total - done)]
    if options.policy != "random":
        words += ["--policy", options.policy]
    for name, value in options.env_args.items():
        words += ["--env-arg", f"{name}={value}"]
    raise Interrupted(
        signum,
        f"stopped after {done:,} of {total:,} {unit}; {result.path} is complete up to there",
        hint=f"go on with: {shlex.join(words)}",
    )
