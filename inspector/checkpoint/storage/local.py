"""`LocalStorage`: a folder of the local file system. Nothing here writes."""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from inspector.checkpoint.storage.base import Entry, Used, why
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["KeptListings", "LocalStorage"]

# Entries that are kept at a time; of 200 bytes each.
_MAX_KEPT = 100_000


class _Here(threading.local):
    """The listings that this thread keeps, if it does."""

    kept: KeptListings | None = None


_here = _Here()


class KeptListings:
    """Listings of local folders: a thread that entered it lists each folder once.

    What judges one checkpoint asks for its folder several times, and for what lies beside it;
    on a network disk each time is a round trip, and a run's folder has an entry for every step.
    Whoever enters it says that nothing in between is to show a change.

    Args:
        known: Listings that were made shortly before, by the folder's path. One is used if its
            folder was not changed since.
        modified_s: When the folders of `known` had last been changed before they were listed, in
            seconds since 1970, by path; a folder that is not named here is listed anew.
    """

    def __init__(
        self,
        known: Mapping[str, Sequence[Entry]] | None = None,
        modified_s: Mapping[str, float] | None = None,
    ) -> None:
        self._listings = {
            os.path.abspath(path): list(listing) for path, listing in (known or {}).items()
        }
        changed = {os.path.abspath(path): time_s for path, time_s in (modified_s or {}).items()}
        self._unsure = {path: changed.get(path, math.nan) for path in self._listings}
        self._num_kept = sum(map(len, self._listings.values()))
        self._before: list[KeptListings | None] = []

    def __enter__(self) -> KeptListings:
        self._before.append(_here.kept)
        _here.kept = self
        return self

    def __exit__(self, *error: object) -> None:
        _here.kept = self._before.pop()

    def get(self, path: str) -> list[Entry] | None:
        """The listing of a folder, if it is kept."""
        path = os.path.abspath(path)
        found = self._listings.get(path)
        if found is None:
            return None
        if path in self._unsure and not _is_unchanged(path, self._unsure.pop(path)):
            # A step that was saved over since would be held against files that are gone.
            self._num_kept -= len(self._listings.pop(path))
            return None
        return list(found)

    def keep(self, path: str, listing: Sequence[Entry]) -> None:
        """Keep a listing; those kept first make room for it."""
        path = os.path.abspath(path)
        self._unsure.pop(path, None)
        self._listings[path] = list(listing)
        self._num_kept += len(listing)
        while self._num_kept > _MAX_KEPT and len(self._listings) > 1:
            self._num_kept -= len(self._listings.pop(next(iter(self._listings))))


class LocalStorage:
    """A folder of the local file system."""

    has_listing = True
    used: Used | None = None

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or root[:1]

    def list(self, folder: str = "") -> list[Entry]:
        path = Path(self.root, folder)
        kept = _here.kept
        known = kept.get(str(path)) if kept is not None else None
        if known is not None:
            return known
        found = _scan(path)
        if kept is not None:
            kept.keep(str(path), found)
        return found

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


def _is_unchanged(folder: str, modified_s: float) -> bool:
    try:
        return os.stat(folder).st_mtime == modified_s
    except OSError:
        return False


def _scan(path: Path) -> list[Entry]:
    try:
        with os.scandir(path) as entries:
            found = [_listed_entry(entry) for entry in entries]
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    return sorted(found, key=lambda entry: entry.name)


def _read_range(fd: int, offset: int, length: int) -> Iterator[bytes]:
    while length > 0:
        data = os.pread(fd, min(length, 1 << 24), offset)
        if not data:
            return
        yield data
        offset += len(data)
        length -= len(data)


def _unreadable(path: str, error: OSError | ValueError) -> StorageError:
    return StorageError(f"cannot read {printable(path)}: {why(error)}")


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
