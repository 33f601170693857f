"""The policy that data is collected with, by name, and what the lineage says of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.collectors.policy import Policy, load_policy
from rlcli.envs.contract import Env
from rlcli.errors import InputError, UsageError, nearest
from rlcli.pipeline import provenance
from rlcli.plugins import is_reference


def behaviour_policy(
    name: str, env: Env, entropy: Sequence[int], *, checkpoint: str = "best", deterministic: bool = False
) -> tuple[Policy, dict[str, Any]]:
    """The policy `name` for `env`, and its name and digest of what decides its actions, as JSON.

    `name` is `random`, `module:attribute` or a run, of which `checkpoint` (`best`, `last` or a step)
    acts, by its mode if `deterministic`. Only a run imports torch. Equal `entropy` gives equal actions; the
    global generators of `random`, NumPy and, if the user's code imported it, torch are seeded too, because
    foreign code often draws from them.

    Raises `UsageError` for an unknown name, `InputError` for a path without a run, `IncompatibleError` for a
    run that was trained on other spaces.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    if name == "random":
        policy = load_policy(name, env.observation_spec, env.action_spec, seed=entropy)
        return policy, {"name": name, "digest": provenance.sha256(name.encode())}
    if is_reference(name) and not Path(name).exists():
        policy = load_policy(name, env.observation_spec, env.action_spec, seed=entropy)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(seed)
        source = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
        return policy, {"name": name, "digest": provenance.sha256_file(Path(source)) if source else None}
    path = Path(name)
    if not path.exists():
        if path.name == name:
            close = nearest(name, ["random"])
            raise UsageError(
                f"there is no policy {name!r}; {close}", hint="or give a run or module:attribute"
            )
        raise InputError(f"--policy {name}: there is no such run", path=path)
    from rlcli.pipeline.evaluate import check_same_specs
    from rlcli.pipeline.policy import policy_from_run
    from rlcli.pipeline.run import open_run

    trained, identity = policy_from_run(path, which=checkpoint, deterministic=deterministic, seed=seed)
    check_same_specs(open_run(path).info["spec"], env, f"the run at {name}")
    return trained, {"name": name, **identity, "deterministic": deterministic}
