"""`rl`: reinforcement learning as shell commands over one trusted dataset format."""

__version__ = "0.1.0"
