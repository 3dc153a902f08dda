"""Parsed metadata, kept in the user's cache folder: a second opening need not parse again.

What is kept are the header and the columns that a child process made of one `.metadata` file,
under the SHA-256 of that file's bytes, of our version and of the number of what the reader makes
(`SCHEMA`). An entry can therefore not go stale: other bytes, or another reader, have another name;
a test over golden files says when the number has to be raised. Size and times of
the file play no part (the size only tells whether it is worth hashing at all), so that a copy or
a re-download is recognised, and an edit within the clock's grain is not missed.

An entry is numbers and JSON, never a pickle, with a CRC over all of it: one that is damaged, cut
short or of another format is as good as none. No failure here is ever an error of the command.
`HSDP_INSPECT_NO_CACHE=1` turns it off.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector._version import __version__
from inspector.checkpoint.child.wire import decode, encode, num_bytes_of, room_for, split_columns
from inspector.checkpoint.outside import is_inspected
from inspector.checkpoint.own_folders import open_own, private_folder, write_whole
from inspector.errors import Cancelled

if TYPE_CHECKING:
    from inspector.checkpoint.child.process import Found

__all__ = ["MIN_BYTES", "Recall", "folder", "is_used", "keep"]

#: Smaller metadata is parsed faster than it is worth keeping.
MIN_BYTES = 2 << 20
#: All entries together; beyond it those go that were not used for longest.
MAX_TOTAL_BYTES = 1 << 30

_MAGIC = b"HSDPCOL3"  # The number is the wire's.
_START = struct.Struct("<8sQ")  # The magic, and the CRC of all that follows.
_SUFFIX = ".columns"
_ABANDONED_S = 3600.0
_BLOCK_BYTES = 4 << 20
_POLL_S = 0.1

#: Of the columns and the header that the reader makes of a file. Raise it whenever they change for
#: any file (`python -m tests.helpers.golden_columns` then writes down what they are).
SCHEMA = 1


def folder() -> Path | None:
    """The folder of the cache, whether it is there or not.

    None if it is turned off, or lies in what is looked at: nothing is written there, nor believed.
    """
    if os.environ.get("HSDP_INSPECT_NO_CACHE", "") not in ("", "0"):
        return None
    from platformdirs import user_cache_path

    found = user_cache_path("hsdp-inspect", appauthor=False) / "metadata"
    return None if is_inspected(found) else found


def is_used(num_bytes: int) -> bool:
    """Whether what is made of a file of this size is kept."""
    try:
        return num_bytes >= MIN_BYTES and folder() is not None
    except OSError:
        return False


class Recall:
    """Looking up one file in a thread: the file is hashed, and its entry is read."""

    def __init__(self, root: Path, path: str, num_bytes: int) -> None:
        self._root = root
        self._path = path
        self._num_bytes = num_bytes
        self._num_done = 0
        self._found: Found | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recall", daemon=True)

    @classmethod
    def start(cls, path: str, num_bytes: int) -> Recall | None:
        """Begin; None if there is no entry for a file of this size."""
        try:
            root = folder()
            if root is None or not any(root.glob(f"{num_bytes}-*{_SUFFIX}")):
                return None
        except OSError:
            return None
        recall = cls(root, path, num_bytes)
        recall._thread.start()
        return recall

    def wait(self, patience_s: float) -> Found | None:
        """What was found, if that is known within so many seconds."""
        self._thread.join(patience_s)
        return None if self._thread.is_alive() else self._found

    def result(self, progress: Callable[[int, int], bool] | None = None) -> Found | None:
        """The header and the columns, or None if these bytes were not read before.

        Args:
            progress: Told how far it is; may cancel.

        Raises:
            Cancelled: `progress` said so.
        """
        while self._thread.is_alive():
            self._thread.join(_POLL_S)
            if progress is not None and progress(self._num_done, self._num_bytes):
                self.stop()
                raise Cancelled("reading the metadata was cancelled")
        return self._found

    def stop(self) -> None:
        """End it soon."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            digest = self._digest()
            entry = self._root / _entry_name(self._num_bytes, digest)
            self._found = _load(entry, digest)
            # Used last is thrown away last.
            os.utime(entry, follow_symlinks=False)
        except (OSError, ValueError, LookupError, TypeError, struct.error):
            pass  # No entry, or none that can be used: the file is parsed.

    def _digest(self) -> str:
        import hashlib  # Not with the module: a small checkpoint's first frame does without.

        digest = hashlib.sha256()
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        with open(os.open(self._path, flags), "rb", buffering=0) as file:
            while data := file.read(_BLOCK_BYTES):
                if self._stopped.is_set():
                    raise OSError("stopped")
                digest.update(data)
                self._num_done += len(data)
        return digest.hexdigest()


def keep(num_bytes: int, header: dict[str, Any], columns: dict[str, memoryview]) -> None:
    """Keep what a child process made of a file, if it says of which bytes it did.

    Args:
        num_bytes: Size of the file.
        header: With `digest`, the SHA-256 of the bytes that were parsed.
        columns: By name.
    """
    try:
        root = folder()
        if root is not None and header.get("digest"):
            private_folder(root, root.parent)
            _store(root / _entry_name(num_bytes, header["digest"]), header, columns)
            _prune(root)
    except (OSError, ValueError, RuntimeError):
        pass  # A cache that cannot be written is none.


def _entry_name(num_bytes: int, digest: str) -> str:
    """Name of the entry: of the file's bytes, and of what reads them."""
    import hashlib

    key = hashlib.sha256(f"{digest} {__version__} {SCHEMA}".encode())
    return f"{num_bytes}-{key.hexdigest()[:40]}{_SUFFIX}"


def _crc32(data: Any, start: int = 0) -> int:
    from inspector.checkpoint.payload.crc import crc32  # lazy: few files are cached

    return crc32(data, start)


def _store(path: Path, header: dict[str, Any], columns: dict[str, memoryview]) -> None:
    views = [memoryview(piece) for piece in encode(header, columns)]
    if sum(view.nbytes for view in views) > MAX_TOTAL_BYTES // 2:
        return
    crc = 0
    for view in views:
        crc = _crc32(view, crc)
    write_whole(path, [_START.pack(_MAGIC, crc), *views], mode=0o600, is_synced=False)


def _load(path: Path, digest: str) -> Found | None:
    """What an entry holds.

    Raises:
        OSError, ValueError, KeyError, TypeError, struct.error: It is none.
    """
    with open(open_own(path), "rb", buffering=0) as file:
        info = os.fstat(file.fileno())
        if not _START.size <= info.st_size <= MAX_TOTAL_BYTES:
            return None
        # Read, not mapped: a file that somebody cuts short must not take this process with it.
        data = room_for(info.st_size)
        done = 0
        while done < len(data) and (count := file.readinto(data[done:])):
            done += count
    if done < len(data):
        return None
    magic, crc = _START.unpack_from(data)
    if magic != _MAGIC or _crc32(data[_START.size :]) != crc:
        return None
    content = data[_START.size :]
    decoded = decode(content)
    if decoded is None:
        return None
    header, at = decoded
    if header["digest"] != digest or num_bytes_of(header) != len(content) - at:
        return None
    return header, split_columns(header, content[at:])


def _prune(root: Path) -> None:
    """Throw away what was not used for longest, and what a killed process left half written."""
    entries = []
    for path in root.iterdir():
        info = path.lstat()
        if path.name.endswith(".tmp") and info.st_mtime < time.time() - _ABANDONED_S:
            path.unlink(missing_ok=True)
        elif path.name.endswith(_SUFFIX):
            entries.append((info.st_mtime, info.st_size, path))
    left = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if left <= MAX_TOTAL_BYTES:
            break
        path.unlink(missing_ok=True)
        left -= size
