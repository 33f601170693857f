"""What pyarrow says about broken bytes, as errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError


@contextmanager
def damage(arrow: Any, what: str, path: Path) -> Iterator[None]:
    """Errors of `arrow`, the module, as `CorruptError`: `what` at `path` is damaged. So are `ValueError`s.

    Errors of the system stay as they are.
    """
    try:
        yield
    except (arrow.ArrowException, UnicodeDecodeError, OSError, ValueError) as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise CorruptError(f"{path}: damaged {what}: {reason}", path=path) from err
