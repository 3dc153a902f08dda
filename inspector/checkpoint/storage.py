"""Where a checkpoint lies: list, stat and read ranges of a folder or a URL.

Local paths go straight to the operating system; anything with a scheme (`s3://`, `memory://`)
goes through fsspec, which is imported only then. Nothing here writes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["Entry", "LocalStorage", "Storage", "is_url", "open_storage"]


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


class Storage(Protocol):
    """A folder that can be listed and whose files can be read in ranges."""

    root: str

    def list(self, folder: str = "") -> list[Entry]:
        """Entries of a folder, by name; an empty list if it is empty."""
        ...

    def stat(self, path: str) -> Entry | None:
        """One entry, or None if nothing is there."""
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


def open_storage(path: str) -> Storage:
    """The storage at a path or URL. Does not look whether anything is there.

    Raises:
        StorageError: A URL whose file system is not installed.
    """
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    return _FsspecStorage.open(path) if is_url(path) else LocalStorage(path)


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

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or root[:1]

    def list(self, folder: str = "") -> list[Entry]:
        path = Path(self.root, folder)
        try:
            with os.scandir(path) as entries:
                found = [_local_entry(entry.name, entry.path) for entry in entries]
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


def _local_entry(name: str, path: str) -> Entry:
    is_link = os.path.islink(path)
    try:
        info = os.stat(path)
    except OSError as error:
        return Entry(name, "other", is_link=is_link, problem=why(error))
    if stat.S_ISDIR(info.st_mode):
        return Entry(name, "folder", None, info.st_mtime, is_link)
    if not stat.S_ISREG(info.st_mode):
        return Entry(name, "other", None, info.st_mtime, is_link, "it is not a regular file")
    return Entry(name, "file", info.st_size, info.st_mtime, is_link)


class _FsspecStorage:
    """A folder of any file system that fsspec knows."""

    def __init__(self, root: str, fs: Any, base: str) -> None:
        self.root = root
        self._fs = fs
        self._base = base.rstrip("/")

    @classmethod
    def open(cls, url: str) -> _FsspecStorage:
        import fsspec
        from fsspec.core import url_to_fs

        scheme = url.partition("://")[0]
        try:
            fs, base = url_to_fs(url)
        except ImportError as error:
            extra = {
                "s3": "s3",
                "s3a": "s3",
                "gs": "gcs",
                "gcs": "gcs",
                "az": "azure",
                "abfs": "azure",
            }
            hint = f"pip install 'hsdp-inspect[{extra[scheme]}]'" if scheme in extra else str(error)
            raise StorageError(
                f"{scheme}:// needs a package that is not installed", hint
            ) from error
        except ValueError as error:
            known = ", ".join(sorted(fsspec.available_protocols())[:40])
            raise StorageError(
                f"{printable(scheme)}:// is not a known scheme", f"known: {known}"
            ) from error
        return cls(url.rstrip("/"), fs, base)

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def list(self, folder: str = "") -> list[Entry]:
        base = self._full(folder)
        try:
            infos = self._fs.ls(base, detail=True)
        except Exception as error:
            raise self._unreadable(folder, error) from error
        return sorted((self._entry(info, base) for info in infos), key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        try:
            info = self._fs.info(self._full(path))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unreadable(path, error) from error
        return self._entry(info, self._base)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        end = None if length is None else offset + length
        try:
            data: bytes = self._fs.cat_file(self._full(path), start=offset, end=end)
        except Exception as error:
            raise self._unreadable(path, error) from error
        return data

    def local_path(self, path: str) -> str | None:
        return None

    def join(self, folder: str) -> _FsspecStorage:
        return _FsspecStorage(f"{self.root}/{folder}", self._fs, self._full(folder))

    def _entry(self, info: dict[str, Any], base: str) -> Entry:
        name = info["name"].rstrip("/").removeprefix(base).lstrip("/")
        kind = "folder" if info.get("type") == "directory" else "file"
        modified: Any = info.get("mtime") or info.get("LastModified") or info.get("created")
        seconds: Any = modified.timestamp() if hasattr(modified, "timestamp") else modified
        return Entry(
            name,
            kind,
            info.get("size") if kind == "file" else None,
            seconds if isinstance(seconds, (int, float)) else None,
        )

    def _unreadable(self, path: str, error: Exception) -> StorageError:
        reason = why(error) if isinstance(error, OSError) else str(error) or type(error).__name__
        where = f"{self.root}/{path}" if path else self.root
        return StorageError(f"cannot read {printable(where)}: {printable(reason, 300)}")
