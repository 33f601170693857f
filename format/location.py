"""Where a dataset is: a folder, a packed file, or a URL that it is read through. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeGuard
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


class Inside(NamedTuple):
    """A file in a folder, whose path is built when it is told."""

    folder: Path
    name: str

    def __str__(self) -> str:
        return str(self.folder / self.name)


Location = Path | URL
PACKED = ".rlz"


def locate(text: str | Path | URL) -> Location:
    """A dataset argument: `scheme://…` is a URL, anything else a path.

    Raises `UsageError` for a URL with a query, to which no file's name can be added, and for one of a packed
    file, which is read from this machine only.
    """
    if isinstance(text, Path | URL):
        return text
    if "://" not in text:
        return Path(text)
    if text.startswith(("http://", "https://")) and ("?" in text or "#" in text):
        shown = URL(text.partition("?")[0].partition("#")[0])
        raise UsageError(f"{shown}: the URL of a dataset's folder has no ? and no #", path=shown)
    url = URL(text.rstrip("/"))
    if url.name.endswith(PACKED):
        raise UsageError(f"{url}: a packed file is read from a local disk only; download it first", path=url)
    return url


def is_packed(location: Location) -> bool:
    """It is a file that `rl buffer pack` wrote, by its name."""
    return isinstance(location, Path) and location.suffix == PACKED and location.is_file()


def is_folder(location: Location) -> TypeGuard[Path]:
    """It is a folder here, or nothing yet; the files of others come through an `Origin`."""
    return isinstance(location, Path) and not is_packed(location)


def local(location: Location, verb: str) -> Path:
    """The folder of a dataset that must be one here. Raises `UsageError` for a URL and a packed file."""
    if is_folder(location):
        return location
    what, copy = ("a URL", "compact") if isinstance(location, URL) else ("a packed file", "unpack")
    raise UsageError(
        f"{verb} works on a dataset in a folder, and {location} is {what}",
        hint=f"rl buffer {copy} {location} -o COPY",
        path=location,
    )
