"""`Storage`: a folder or a URL that can be listed and read in ranges; what it says of an entry."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Entry", "Storage", "Used", "address_of", "is_url", "keep_address", "parent_of", "why"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder, as a listing shows it.

    Attributes:
        name: Path relative to the listed folder.
        kind: `file`, `folder` or `other` (a device, a FIFO, a dangling link).
        num_bytes: Size of a file, else None.
        modified_s: Modification time in seconds since the epoch, or None.
        is_link: True for a symbolic link (kind and size are its target's).
        problem: Why it cannot be looked at, or an empty string.
    """

    name: str
    kind: str
    num_bytes: int | None = None
    modified_s: float | None = None
    is_link: bool = False
    problem: str = ""


@dataclass(slots=True)
class Used:
    """What a remote storage was asked.

    Attributes:
        requests: Requests, with those tried again; counted as they are sent where the library
            tells (S3, http), else as they are asked for.
        num_bytes: Bytes of files' contents that came; a listing's are not among them.
        num_failed: Requests that were given up, since nothing answered.
    """

    requests: int = 0
    num_bytes: int = 0
    num_failed: int = 0


class Storage(Protocol):
    """A folder that can be listed and whose files can be read in ranges.

    Attributes:
        root: Its path or URL as it may be shown: passwords and signatures are hidden in it.
        has_listing: False where a file is found by its name alone (http).
        used: Requests and bytes so far, or None if it is local.
    """

    root: str
    has_listing: bool

    @property
    def used(self) -> Used | None: ...

    def list(self, folder: str = "") -> list[Entry]:
        """Entries of a folder, by name; an empty list if it is empty."""
        ...

    def stat(self, path: str) -> Entry | None:
        """One entry, or None if nothing is there."""
        ...

    def stat_all(self, paths: Iterable[str]) -> Sequence[Entry | None]:
        """As `stat` for each, at once; an entry of kind `other` for one that cannot be told."""
        ...

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """A range of a file; shorter than asked if the file ends."""
        ...

    def local_path(self, path: str) -> str | None:
        """The path in the local file system, or None if it is remote."""
        ...

    def join(self, folder: str) -> Storage:
        """The same storage, rooted at a folder below."""
        ...


def is_url(path: str) -> bool:
    """True for `scheme://...`; a local path never needs one."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum()


def parent_of(path: str) -> str:
    """The folder in which a file lies; of a path or a URL."""
    if not is_url(path):
        return str(Path(path).parent)
    path, mark, query = path.partition("?")
    return path.rstrip("/").rpartition("/")[0] + mark + query


#: Addresses with a password or a signature in them, by how they are shown. For this process alone.
_addresses: dict[str, str] = {}


def keep_address(shown: str, address: str) -> None:
    """Remember what an address is in full, of which only a part may be shown."""
    if shown != address:
        _addresses[shown] = address


def address_of(shown: str) -> str:
    """The address to open for one that a storage of this process shows as its root."""
    return _addresses.get(shown.rstrip("/"), shown)


def why(error: OSError | ValueError) -> str:
    """An operating system error in plain words; a ValueError is raised of what is no path."""
    if not isinstance(error, OSError):
        return "it is no valid path"
    reasons = {
        errno.ENOENT: "there is no such file or folder",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOTDIR: "it is not a folder",
        errno.EISDIR: "it is a folder",
        errno.ELOOP: "it is a loop of links",
        errno.ENAMETOOLONG: "the name is too long",
        errno.EIO: "the disk reports an input/output error",
    }
    return reasons.get(error.errno or 0, (error.strerror or str(error)).lower())
