"""One seed per episode, from (seed, environment, episode): any episode can be made again alone."""

from __future__ import annotations

import numpy as np

from rlcli.envs.contract import SEED_BITS

_BLOCK = 256  # seeds derived at a time: one SeedSequence costs 7 µs, as much as a CartPole step


class EpisodeSeeds:
    """The seeds of the episodes 0, 1, 2, … of one environment: `EpisodeSeeds(seed, env)[episode]`.

    Each is a whole number below 2**31. They depend on nothing else: not on the number of environments,
    on episode lengths or on when they are asked for. NumPy keeps `SeedSequence` stable across versions.
    """

    def __init__(self, seed: int, env: int) -> None:
        self._entropy = (_checked(seed), env)
        self._block = -1
        self._seeds: list[int] = []

    def __getitem__(self, episode: int) -> int:
        block, index = divmod(episode, _BLOCK)
        if block != self._block:
            sequence = np.random.SeedSequence(self._entropy[0], spawn_key=(self._entropy[1], block))
            words = sequence.generate_state(_BLOCK, np.uint32)
            self._seeds = (words >> (32 - SEED_BITS)).tolist()
            self._block = block
        return self._seeds[index]


def episode_seed(seed: int, env: int, episode: int) -> int:
    """The seed that episode number `episode` of environment number `env` is reset with."""
    return EpisodeSeeds(seed, env)[episode]


def _checked(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"a seed is a whole number from 0, got {seed}")
    return seed
