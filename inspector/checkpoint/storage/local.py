"""Where a checkpoint lies: list, stat and read ranges of a folder or a URL.

Local paths go straight to the operating system; anything with a scheme (`s3://`, `memory://`)
is `storage_remote`'s, which is imported only then. Nothing here writes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = [
    "Entry",
    "LocalStorage",
    "Storage",
    "Used",
    "fetch_files",
    "is_url",
    "open_storage",
    "parent_of",
]


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


def open_storage(path: str) -> Storage:
    """The storage at a path or URL. Does not look whether anything is there.

    Raises:
        StorageError: A URL whose file system is not installed, or that cannot be meant.
    """
    path = address_of(path)
    if path[:7].lower() == "file://":
        path = path[7:]
    if not is_url(path):
        return LocalStorage(path)
    from inspector.checkpoint.storage.remote import open_remote

    return open_remote(path)


def fetch_files(storage: Storage, files: Sequence[Entry], paths: Sequence[str]) -> None:
    """Copy files of a remote storage to new local files, with many requests at a time.

    Args:
        storage: Where they lie.
        files: Entries of its listing.
        paths: Where each goes.

    Raises:
        StorageError: One cannot be read.
    """
    from inspector.checkpoint.storage.ahead import SEGMENT_BYTES, read_ahead

    ranges = ((file.name, 0, file.num_bytes or 0) for file in files)
    ahead = read_ahead(storage, ranges, num_ahead=8)
    read = storage.read if ahead is None else ahead.read
    try:
        for file, path in zip(files, paths, strict=True):
            size = file.num_bytes or 0
            with open(path, "xb") as copy:
                for at in range(0, size, SEGMENT_BYTES):
                    copy.write(read(file.name, at, min(SEGMENT_BYTES, size - at)))
    finally:
        if ahead is not None:
            ahead.close()


def why(error: OSError) -> str:
    """An operating system error in plain words."""
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


class LocalStorage:
    """A folder of the local file system."""

    has_listing = True
    used: Used | None = None

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or root[:1]

    def list(self, folder: str = "") -> list[Entry]:
        path = Path(self.root, folder)
        try:
            with os.scandir(path) as entries:
                found = [_listed_entry(entry) for entry in entries]
        except (OSError, ValueError) as error:
            raise _unreadable(str(path), error) from error
        return sorted(found, key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        full = str(Path(self.root, path))
        try:
            os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise _unreadable(full, error) from error
        return _local_entry(path, full)

    def stat_all(self, paths: Iterable[str]) -> Sequence[Entry | None]:
        found = []
        for path in paths:
            try:
                found.append(self.stat(path))
            except StorageError as error:
                found.append(Entry(path, "other", problem=error.message))
        return found

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        full = str(Path(self.root, path))
        try:
            fd = os.open(full, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                if length is None:
                    length = max(os.fstat(fd).st_size - offset, 0)
                return b"".join(_read_range(fd, offset, length))
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise _unreadable(full, error) from error

    def local_path(self, path: str) -> str | None:
        return str(Path(self.root, path))

    def join(self, folder: str) -> LocalStorage:
        return LocalStorage(str(Path(self.root, folder)))


def _read_range(fd: int, offset: int, length: int) -> Iterator[bytes]:
    while length > 0:
        data = os.pread(fd, min(length, 1 << 24), offset)
        if not data:
            return
        yield data
        offset += len(data)
        length -= len(data)


def _unreadable(path: str, error: OSError | ValueError) -> StorageError:
    reason = why(error) if isinstance(error, OSError) else "it is no valid path"
    return StorageError(f"cannot read {printable(path)}: {reason}")


def _listed_entry(entry: os.DirEntry[str]) -> Entry:
    # The listing says what is a link: only what one leads to, and sizes, have to be asked for.
    is_link = entry.is_symlink()
    try:
        info = entry.stat()
    except OSError as error:
        return Entry(entry.name, "other", is_link=is_link, problem=why(error))
    return _entry(entry.name, info, is_link)


def _local_entry(name: str, path: str) -> Entry:
    is_link = os.path.islink(path)
    try:
        info = os.stat(path)
    except OSError as error:
        return Entry(name, "other", is_link=is_link, problem=why(error))
    return _entry(name, info, is_link)


def _entry(name: str, info: os.stat_result, is_link: bool) -> Entry:
    if stat.S_ISDIR(info.st_mode):
        return Entry(name, "folder", None, info.st_mtime, is_link)
    if not stat.S_ISREG(info.st_mode):
        return Entry(name, "other", None, info.st_mtime, is_link, "it is not a regular file")
    return Entry(name, "file", info.st_size, info.st_mtime, is_link)
