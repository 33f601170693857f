"""What the training runner can be told, whatever the algorithm. Torch-free: help reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlcli.config import opt


@dataclass(frozen=True)
class Settings:
    """Options of the runner: where batches come from, how long, how often to look."""

    env: str | None = opt(None, "Train online in this environment.", metavar="ENV")
    env_arg: tuple[str, ...] = opt(
        (), "Argument of the environment; repeatable.", metavar="K=V", repeatable=True
    )
    from_dataset: tuple[str, ...] = opt(
        (),
        "Train from this dataset, or several with weights: `a:0.7 b:0.3`.",
        metavar="DS[:W]",
        repeatable=True,
    )
    sampler: str = opt(
        "uniform",
        "How batches are drawn; its options: `--set sampler.alpha=0.7`, listed by `rl algo samplers`.",
        metavar="NAME",
    )
    transform: tuple[str, ...] = opt(
        (),
        "What observations or rewards go through before the networks: frame-stack, reward-to-go, normalise, "
        "cast, reward-scale, reward-clip; repeatable, in order.",
        metavar="NAME[:K=V,…]",
        repeatable=True,
    )
    steps: int | None = opt(None, "Environment steps in all (online).", ge=1, metavar="COUNT")
    updates: int | None = opt(None, "Updates in all (from datasets).", ge=1, metavar="COUNT")
    follow: bool = opt(False, "The datasets are being written: learn from what is there as they grow.")
    min_rows: int = opt(1, "Rows that a followed dataset has before the first update.", ge=1)
    samples_per_insert: float = opt(
        0.0, "Rows drawn per row written to a followed dataset, at most; waits; 0 never waits.", ge=0
    )
    wait_seconds: float = opt(600.0, "How long to wait for the rows of a followed dataset.", gt=0)
    seed: int = opt(0, "Seed of networks, environments, exploration and batches.", ge=0)
    eval_every: int | None = opt(
        None,
        "Steps (online) or updates (datasets) between evaluations; 0 for none; a twentieth if not given.",
        ge=0,
    )
    eval_episodes: int = opt(10, "Episodes per evaluation during training.", ge=1)
    eval_env: str | None = opt(
        None, "Evaluate here; the training or recorded environment if not given.", metavar="ENV"
    )
    checkpoint_every: int | None = opt(None, "Steps or updates between checkpoints beside evaluations.", ge=1)
    keep_last: int = opt(2, "Newest checkpoints kept.", ge=1)
    keep_best: int = opt(1, "Best-scored checkpoints kept beside them.", ge=0)
    compile: Literal["auto", "on", "off"] = opt(
        "auto", "Compile the update; auto weighs compile time against length."
    )
    matmul: Literal["auto", "highest", "bf16x6", "medium"] = opt(
        "auto", "Matrix products: bf16x6 is as exact as highest; auto takes the fastest exact one."
    )
    threads: int = opt(1, "CPU threads of torch; more pay for wide networks on idle cores.", ge=1, le=1024)
    tensorboard: bool = opt(True, "Write TensorBoard events when the package is installed.")
