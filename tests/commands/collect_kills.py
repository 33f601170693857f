"""Kills `rl collect` again and again and checks every row after each kill. Run by `test_collect_kill.py`.

Usage: python collect_kills.py FOLDER KILLS SEED. Prints one JSON object. The collecting processes are forks
of this one, which has imported what the command imports, and run the command's own entry point.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium  # noqa: F401 - so that no fork has to
import numpy as np

from rlcli.collectors.seeds import EpisodeSeeds
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.main import run
from rlcli.pipeline import collect  # noqa: F401
from rlcli.testing import counting

COUNTING = "rlcli.testing.counting:Counting"
LENGTH, SPREAD = 5, 60
KILLS_PER_DATASET = 12


def start(arguments: list[str], log: Path) -> int:
    """A process that runs `rl` with `arguments`; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os._exit(run(arguments))


def manifests(path: Path) -> int:
    """How many generations there are: one more once a writer has taken the dataset over."""
    return len(list(path.glob("manifests/[0-9]*")))


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline, Path("log").read_text()
        time.sleep(0.001)


def check(path: Path, seed: int) -> list[int]:
    """Every committed row of the dataset against arithmetic; returns the rows per stream."""
    with Dataset.open(path) as dataset:
        rows, table, unknown = dataset.read_rows(), dataset.episodes, dataset.unknown_next
        stream_rows = dataset.stream_rows
    num_rows = sum(stream_rows)
    tag, step, seeds = (np.zeros(num_rows, np.int64) for _ in range(3))
    terminated, truncated = np.zeros(num_rows, bool), np.zeros(num_rows, bool)
    begin = 0
    for stream, count in enumerate(stream_rows):
        source = EpisodeSeeds(seed, stream)
        at, stop = begin, begin + count
        own = np.flatnonzero(table.stream == stream)
        for number, index in enumerate([*own.tolist(), -1]):
            expected = source[number]
            full = counting.episode_length(expected, LENGTH, SPREAD)
            if index < 0:  # not ended yet: what is left
                length, flags = stop - at, (False, False)
                assert length < full, f"an open episode of {length} rows, {full} end it"
            else:
                length = int(table.length[index])
                assert table.start[index] == at, f"a hole: row {at}, next episode at {table.start[index]}"
                cut = bool(table.cut[index])
                assert length < full if cut else length == full, f"{length} of {full} rows, cut: {cut}"
                flags = (False, False) if cut else counting.ending(expected, "alternate")
                assert (bool(table.terminated[index]), bool(table.truncated[index])) == flags
                assert table.seed[index] == expected or (cut and table.seed[index] == -1)
                assert table.return_[index] == length * (length + 1) / 2
            here = slice(at, at + length)
            seeds[here], step[here] = expected, np.arange(length)
            if length:
                terminated[at + length - 1], truncated[at + length - 1] = flags
            at += length
        assert at == stop
        begin = stop
    tag = seeds % counting.TAGS
    seen = np.stack([step, tag], 1).astype(np.float32)
    known = np.ones(num_rows, bool)
    known[unknown] = False
    reading = rows["next"]
    wanted = {
        "observation": (rows["observation"], seen),
        "action": (rows["action"], counting.scripted(seen)),
        "next observation": (reading["observation"][known], (seen + np.array([1, 0], np.float32))[known]),
        "reward": (reading["reward"][:, 0], step + 1),
        "terminated": (reading["terminated"][:, 0], terminated),
        "truncated": (reading["truncated"][:, 0], truncated),
        "done": (reading["done"][:, 0], terminated | truncated),
        "is_init": (rows["is_init"][:, 0], step == 0),
        "step": (rows["step"], step),
    }
    for name, (found, expected_values) in wanted.items():
        assert np.array_equal(found, expected_values), f"{name} differs"
    return stream_rows


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Collect, kill, check, go on; returns what happened."""
    rng = random.Random(seed)
    os.chdir(folder)
    counts: Counter[str] = Counter()
    done = datasets = rows_checked = 0
    while done < kills:
        path, envs = Path(f"ds{datasets}"), rng.choice(["1", "1", "3"])
        words = [
            "collect",
            COUNTING,
            "-o",
            str(path),
            "--append",
            "--num-envs",
            envs,
            "--seed",
            str(datasets),
        ]
        words += ["--policy", "rlcli.testing.counting:scripted", "--env-arg", f"spread={SPREAD}"]
        words += ["--env-arg", "ending=alternate", "-q"]
        datasets += 1
        before = [0] * int(envs)
        for _ in range(KILLS_PER_DATASET):
            if done == kills:
                break
            steps = rng.choice(["100M", "100M", str(rng.randrange(1, 9000))])
            known = manifests(path)
            process = start([*words, "--steps", steps], Path("log"))
            if rng.random() < 0.75:  # else anywhere in creation or recovery
                wait_for(lambda path=path, known=known: manifests(path) > known)  # type: ignore[misc]
            time.sleep(rng.choice([rng.uniform(0, 0.01), rng.uniform(0, 0.15), rng.uniform(0.1, 0.4)]))
            if path.exists() and rng.random() < 0.3:
                with Dataset.open(path, check="none") as dataset:
                    before = dataset.stream_rows  # a reader saw these: they must not vanish
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            if os.WIFSIGNALED(status):
                done += 1
            else:
                assert os.WEXITSTATUS(status) == 0, Path("log").read_text()
                counts["finished before the kill"] += 1
            if not path.exists():
                counts["killed before the dataset was there"] += 1
                assert sum(before) == 0
                continue
            with Dataset.open(path, check="none") as dataset:
                counts[f"killed {dataset.state}"] += os.WIFSIGNALED(status)
            if any(path.glob("manifests/.tmp-*")):
                counts["killed while a manifest was written"] += 1
            after = check(path, datasets - 1)
            assert all(new >= old for new, old in zip(after, before, strict=True)), f"{before} became {after}"
            rows_checked += sum(after)
            before = after
        process = start([*words, "--steps", "500"], Path("log"))
        _, status = os.waitpid(process, 0)
        assert status == 0, Path("log").read_text()
        after = check(path, datasets - 1)
        assert sum(after) == sum(before) + 500
        assert verify(path, deep=True) == []
    return {"kills": done, "datasets": datasets, "rows_checked": rows_checked, **counts}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
