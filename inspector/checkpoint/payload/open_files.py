"""`OpenFiles`: the data files that a thread reads from, and room to unpack into."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.payload.payload import record_blocks
from inspector.checkpoint.payload.source import (
    BLOCK_BYTES,
    DataHandle,
    RangeSource,
    Source,
    open_file,
)
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.errors import StorageError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OpenFiles"]

_MAX_OPEN_LOCAL = 512
# A remote file keeps a window of several MiB.
_MAX_OPEN_REMOTE = 8


def _max_open() -> int:
    """Local files that one thread may keep open: a share of what the process may."""
    try:
        import resource  # lazy: Windows has none

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (ImportError, OSError, ValueError):  # a system without
        soft = 256
    # Two threads with both sides of a comparison take half of them.
    return max(8, min(_MAX_OPEN_LOCAL, soft // 8))


class OpenFiles:
    """The data files of one checkpoint that a thread has open, the latest used ones.

    Packed payloads (zstd, deflate) can only be read forwards; each is unpacked once, into one
    temporary file that is emptied with `forget`.

    Args:
        storage: Its folder.
        opener: Opens a file by its raw path, if it is not to be `open_file`.
        max_remote: Remote files that may be open; each may keep a window of several MiB.
    """

    def __init__(
        self,
        storage: Storage,
        opener: Callable[[str], DataHandle] | None = None,
        *,
        max_remote: int = _MAX_OPEN_REMOTE,
    ) -> None:
        self._open_file = opener or partial(open_file, storage)
        self._open: OrderedDict[str, DataHandle] = OrderedDict()
        self._limit = max_remote if storage.local_path("") is None else _max_open()
        self._scratch: IO[bytes] | None = None
        self._buffer = bytearray(BLOCK_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def get(self, path: str) -> DataHandle:
        """The file, open.

        Raises:
            StorageError: It cannot be opened, or lies outside the checkpoint folder.
        """
        handle = self._open.get(path)
        if handle is not None:
            self._open.move_to_end(path)
            return handle
        if is_escape(path):
            raise StorageError(
                f"{printable(path, 120)} lies outside the checkpoint folder, and was not opened"
            )
        handle = self._open[path] = self._open_file(path)
        if len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        return handle

    def source(self, path: str, offset: int, length: int) -> RangeSource:
        """A stretch of a file."""
        return RangeSource(self.get(path), offset, length, self._buffer)

    def spool(self, source: Source, record: Record) -> int:
        """Unpack a record into the temporary file; where it begins there.

        Raises:
            PayloadError: It does not unpack.
            StorageError: There is no room.
        """
        try:
            if self._scratch is None:
                # lazy: few checkpoints are packed
                import tempfile

                self._scratch = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            begin = self._scratch.seek(0, 2)
            for block in record_blocks(source, record):
                self._scratch.write(block)
            self._scratch.flush()
        except OSError as error:
            raise StorageError(
                "a packed payload cannot be unpacked into the temporary folder: "
                + (error.strerror or str(error)).lower()
            ) from error
        return begin

    def readinto_spooled(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from the temporary file."""
        if self._scratch is None:
            return 0
        self._scratch.seek(offset)
        return int(self._scratch.readinto(buffer))  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Empty the temporary file."""
        if self._scratch is not None:
            self._scratch.seek(0)
            self._scratch.truncate()

    def close(self) -> None:
        """Close all; whoever asks again opens again."""
        for handle in self._open.values():
            handle.close()
        self._open.clear()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None
