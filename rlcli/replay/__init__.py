"""Sampling from datasets: which rows make a batch. The table names the samplers."""

SAMPLERS: dict[str, str] = {
    "uniform": "rlcli.replay.uniform:Uniform",
    "without-replacement": "rlcli.replay.without_replacement:WithoutReplacement",
    "prioritized": "rlcli.replay.prioritized:Prioritized",
    "slices": "rlcli.replay.slices:Slices",
    "prioritized-slices": "rlcli.replay.prioritized_slices:PrioritizedSlices",
    "n-step": "rlcli.replay.n_step:NStep",
    "prioritized-n-step": "rlcli.replay.prioritized_n_step:PrioritizedNStep",
    "hindsight": "rlcli.replay.hindsight:Hindsight",
    "prioritized-hindsight": "rlcli.replay.prioritized_hindsight:PrioritizedHindsight",
    "top-return": "rlcli.replay.top_return:TopReturn",
    "consuming": "rlcli.replay.consuming:Consuming",
}
