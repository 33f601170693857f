"""Transforms: what lies between raw experience and what networks see. The table names them.

A transform is data (a frozen dataclass of options) with pure functions over nested dicts of tensors, and says
what it makes of the observation's spec. The same object is applied to observations that are acted on, in
training, evaluation and export, and to sampled batches; datasets and environments stay raw.
"""

TRANSFORMS: dict[str, str] = {
    "normalise": "rlcli.transforms.normalise:Normalise",
    "frame-stack": "rlcli.transforms.frame_stack:FrameStack",
    "reward-to-go": "rlcli.transforms.reward_to_go:RewardToGo",
    "cast": "rlcli.transforms.cast:Cast",
    "reward-scale": "rlcli.transforms.reward:RewardScale",
    "reward-clip": "rlcli.transforms.reward:RewardClip",
}
