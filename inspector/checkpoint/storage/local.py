"""`LocalStorage`: a folder of the local file system. Nothing here writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from inspector.checkpoint.storage.base import Entry, Used, why
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["LocalStorage"]


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
