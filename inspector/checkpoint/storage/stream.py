"""`open_stream`: a file of a storage as a file object of Python's, for a library that wants one."""

from __future__ import annotations

import io
from typing import Any

from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

__all__ = ["open_stream"]

#: What is fetched at a time where less is asked for: a payload is looked at end first.
_BUFFER_BYTES = 4 << 20
#: What one read takes at most; who asks for more asks again.
_MAX_READ_BYTES = 64 << 20


def open_stream(storage: Storage, path: str) -> io.BufferedReader:
    """A file to be read, with all bounds that the storage sets.

    Raises:
        StorageError: It is not there, its size is not known, or it cannot be read.
    """
    entry = storage.stat(path)
    if entry is None or entry.kind != "file" or entry.num_bytes is None:
        why = "there is no such file" if entry is None else entry.problem or "it is no file"
        raise StorageError(f"cannot read {printable(f'{storage.root}/{path}')}: {why}")
    return io.BufferedReader(_Stream(storage, path, entry.num_bytes), _BUFFER_BYTES)


class _Stream(io.RawIOBase):
    def __init__(self, storage: Storage, path: str, num_bytes: int) -> None:
        self._storage = storage
        self._path = path
        self._num_bytes = num_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), _MAX_READ_BYTES, max(self._num_bytes - self._at, 0))
        if not length:
            return 0
        data = self._storage.read(self._path, self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
