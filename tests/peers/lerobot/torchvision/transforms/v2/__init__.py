"""Names that are imported and never called."""

from . import functional

__all__ = ["Transform", "functional"]


class Transform: ...
