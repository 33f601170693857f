"""Every error a user can cause, with the exit code it ends the process with.

What only a programmer can cause raises `ValueError` or `TypeError` and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Documented and stable: scripts branch on these numbers."""

    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    CORRUPT = 4
    INCOMPATIBLE = 5
    MISSING_EXTRA = 6
    RESOURCE = 7
    CONDITION_FALSE = 8
    BUSY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class RLError(Exception):
    """An error the user can act on: one line, an optional hint, an exit code.

    `detail` is shown as it is below the line: what the line is about, with a mark where it is wrong.
    """

    code = ExitCode.BUG

    def __init__(
        self, message: str, *, hint: str | None = None, path: object = None, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = None if path is None else str(path)
        self.detail = detail


class UsageError(RLError):
    """A wrong option, name, value or combination."""

    code = ExitCode.USAGE


class InputError(RLError):
    """An input that is missing, unreadable or not what it is said to be."""

    code = ExitCode.INPUT


class CorruptError(RLError):
    """Bytes that differ from what was committed: a digest, a length or the structure is wrong."""

    code = ExitCode.CORRUPT


class IncompatibleError(RLError):
    """Sound data that does not fit: spec, schema, format version."""

    code = ExitCode.INCOMPATIBLE


class MissingExtraError(RLError):
    """An optional dependency that is not installed."""

    code = ExitCode.MISSING_EXTRA

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed",
            hint=f"pip install 'rlcli[{extra}]'",
        )


class ResourceError(RLError):
    """Disk, memory or an accelerator ran out."""

    code = ExitCode.RESOURCE


class ConditionFalse(RLError):
    """The command worked and the answer to the asked condition is no."""

    code = ExitCode.CONDITION_FALSE


class BusyError(RLError):
    """Another writer holds the artifact; try again later."""

    code = ExitCode.BUSY


class Interrupted(RLError):
    """SIGINT or SIGTERM arrived; everything committed is on disk and the work is resumable."""

    def __init__(self, signum: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = ExitCode(128 + signum)


# What an option is called here -> what other tools call it.
_ELSEWHERE = {
    "batch_size": ("bs",),
    "clip": ("clip_range", "clip_coef", "clip_epsilon", "eps_clip"),
    "entropy_coef": ("ent_coef",),
    "env": ("env_id", "env_name", "task"),
    "env_arg": ("env_kwargs",),
    "episodes": ("num_episodes", "n_episodes", "n_eval_episodes"),
    "eval_every": ("eval_freq", "eval_interval"),
    "exploration_final": ("exploration_final_eps", "epsilon_end", "eps_end", "end_e"),
    "exploration_initial": ("exploration_initial_eps", "epsilon_start", "eps_start", "start_e"),
    "from_dataset": ("dataset", "dataset_path", "data", "data_dir"),
    "gamma": ("discount", "discount_factor"),
    "hidden": ("net", "net_arch", "hidden_size", "hidden_sizes", "hidden_dim", "hidden_layers", "layers"),
    "initial_alpha": ("alpha", "temperature"),
    "lam": ("lambda", "gae_lambda"),
    "lr": ("learning_rate", "step_size"),
    "minibatch_size": ("batch_size",),
    "num_envs": ("n_envs", "workers", "num_workers"),
    "num_epochs": ("epochs", "n_epochs", "update_epochs"),
    "num_steps": ("n_steps", "rollout_steps"),
    "out": ("output", "output_dir", "save_dir", "save_path", "log_dir", "logdir"),
    "steps": ("timesteps", "total_timesteps", "n_timesteps", "total_steps", "frames", "total_frames"),
    "tau": ("polyak",),
    "updates": ("gradient_steps", "n_updates", "num_updates", "max_updates"),
    "updates_per_round": ("gradient_steps", "utd", "utd_ratio"),
    "value_coef": ("vf_coef",),
}  # fmt: skip


def nearest_option(name: str, choices: Iterable[str]) -> str | None:
    """The closest of the option names `choices`, all with underscores; None if nothing is close.

    Knows what other tools call them: `learning_rate` is `lr`.
    """
    known = {word: choice for choice in choices for word in (choice, *_ELSEWHERE.get(choice, ()))}
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return known[close[0]] if close else None


def nearest(name: str, choices: Iterable[str]) -> str:
    """A sentence fragment that proposes the closest choice, or lists them when few."""
    known = sorted(choices)
    lowered = {choice.lower(): choice for choice in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    if len(known) <= 12:
        return f"known: {', '.join(known)}" if known else "there is none"
    return f"{len(known)} are known"
