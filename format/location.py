"""Where a dataset is: a folder, or a URL that it is read through. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rlcli.errors import UsageError


@dataclass(frozen=True)
class URL:
    """A dataset elsewhere. As text it has no user name and no password, so that it may go into messages,
    reports and lineage; `full` is what is opened.
    """

    full: str

    @cached_property
    def shown(self) -> str:
        parts = urlsplit(self.full)
        return (
            urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.netloc else self.full
        )

    @property
    def name(self) -> str:
        """The last part, like a path's."""
        return self.shown.rpartition("/")[2]

    def __str__(self) -> str:
        return self.shown

    def __truediv__(self, name: str) -> URL:
        return URL(f"{self.full}/{name}")


Location = Path | URL


def locate(text: str | Path | URL) -> Location:
    """A dataset argument: `scheme://…` is a URL, anything else a path.

    Raises `UsageError` for a URL with a query, to which no file's name can be added.
    """
    if isinstance(text, Path | URL):
        return text
    if "://" not in text:
        return Path(text)
    if text.startswith(("http://", "https://")) and ("?" in text or "#" in text):
        shown = URL(text.partition("?")[0].partition("#")[0])
        raise UsageError(f"{shown}: the URL of a dataset's folder has no ? and no #", path=shown)
    return URL(text.rstrip("/"))


def local(location: Location, verb: str) -> Path:
    """The folder of a dataset that must be one here. Raises `UsageError` for a URL."""
    if isinstance(location, Path):
        return location
    raise UsageError(
        f"{verb} works on a dataset in a folder, and {location} is a URL",
        hint=f"rl buffer compact {location} -o COPY",
        path=location,
    )
