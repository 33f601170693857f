"""What LeRobot uses of torchvision, whose wheels want a torch with CUDA: pictures, and videos by PyAV."""

from . import io, transforms

__version__ = "0"
__all__ = ["io", "set_video_backend", "transforms"]


def set_video_backend(name: str) -> None:
    """There is one: PyAV."""
