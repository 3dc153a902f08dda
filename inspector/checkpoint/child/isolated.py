"""Reading metadata files: by a child process within bounds, or from the cache of what one read.

The front end never unpickles anything itself. Numbers come from a process with bounds on memory
and time (`child_process.py`), or from the columns that such a process made of the very same bytes
before (`cache.py`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inspector.checkpoint.child import cache
from inspector.checkpoint.child.process import ChildProcess, EarlyEntry
from inspector.errors import KilledError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Child", "Early", "EarlyEntry", "Limits", "Progress", "prefetch"]

#: Called with (bytes done, bytes in all); return True to cancel.
Progress = Callable[[int, int], bool]
#: Called with the first entries of a large file, while the rest is read, whenever there are more.
Early = Callable[[tuple[EarlyEntry, ...]], None]


#: Of a file in more pieces than these, the rest counts whole.
_MAX_EXTENTS = 1000


class Limits(NamedTuple):
    """What reading one metadata file may cost.

    Attributes:
        memory_bytes: Address space of the child.
        cpu_s: Its CPU time.
        wall_s: Time until it is killed, from when somebody waits for it.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: float

    @classmethod
    def of(cls, num_bytes: int) -> Limits:
        """Limits for a metadata file of this size, five times what torch's own files need.

        Measured on metadata that torch wrote: about 8 bytes of memory per byte of the file and
        0.02 CPU seconds per MB.
        """
        mebibytes = num_bytes >> 20
        cpu_s = 10 + mebibytes // 4
        return cls((512 << 20) + 40 * num_bytes, cpu_s, 4.0 * cpu_s + 20)


def _data_bytes(paths: list[str]) -> int:
    """Bytes of files without their holes, which cost nobody anything and would raise any bound."""
    return sum(_data_bytes_of(path) for path in paths)


def _data_bytes_of(path: str) -> int:
    total = at = 0
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return 0  # Reading it says what is wrong with it.
    try:
        size = os.fstat(fd).st_size
        for _ in range(_MAX_EXTENTS):
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            total += at - begin
        return total + size - at
    except OSError as error:
        # No data after there; or no file system that knows of holes.
        return total if error.errno == errno.ENXIO else os.fstat(fd).st_size
    except AttributeError:
        return size  # No system that does.
    finally:
        os.close(fd)


class Child:
    """The reading of metadata files, started: it goes on while its starter does something else.

    Args:
        paths: Local files, read as one checkpoint.
        ranks: Rank of each file, or None for a global `.metadata`.
        num_bytes: Their size together.
        limits: What it may cost; by default in proportion to the size.

    Attributes:
        paths: The same.
        limits: What it may cost.
    """

    def __init__(
        self,
        paths: list[str],
        ranks: list[int | None],
        num_bytes: int,
        limits: Limits | None = None,
    ) -> None:
        self.paths = paths
        self._ranks = ranks
        self._num_bytes = num_bytes
        self.limits = limits or Limits.of(min(num_bytes, _data_bytes(paths)))
        self._is_cachable = ranks == [None] and cache.is_used(num_bytes)
        self._recall = cache.Recall.start(paths[0], num_bytes) if self._is_cachable else None
        self._process = None if self._recall is not None else self._start()

    def _start(self) -> ChildProcess:
        limits = self.limits
        return ChildProcess(
            self.paths,
            self._ranks,
            self._num_bytes,
            digest=self._is_cachable,
            memory_bytes=limits.memory_bytes,
            cpu_s=limits.cpu_s,
            wall_s=limits.wall_s,
        )

    def header(self, patience_s: float) -> dict[str, Any] | None:
        """The header, if it is there within so many seconds; `result` gives it all the same.

        The integer columns are lists under their names. None if the reading is not done, or has
        an error to tell.
        """
        found = None
        if self._recall is not None:
            found = self._recall.wait(patience_s)
        elif self._process is not None:
            found = self._process.wait(patience_s)
        if found is None:
            return None
        header, columns = found
        return {**header, **{name: column.tolist() for name, column in columns.items()}}

    def result(
        self, progress: Progress | None = None, early: Early | None = None
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Wait for the header and the columns that `extract.Extraction` made.

        Args:
            progress: Told how far it is, about ten times a second; may cancel.
            early: Given the first entries of a file that is not in the cache.

        Raises:
            MetadataError: No DCP metadata, damaged, or over its limits.
            KilledError: The process that reads was killed from outside, twice.
            Cancelled: `progress` said so.
        """
        found = self._recall.result(progress) if self._recall is not None else None
        if found is None:
            self._process = self._process or self._start()
            try:
                found = self._process.result(progress, early)
            except KilledError:
                # By the kernel, short of memory for a moment, or by somebody: once more.
                self._process = self._start()
                found = self._process.result(progress, early)
            if self._is_cachable:
                cache.keep(self._num_bytes, *found)
        header, columns = found
        import numpy as np

        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, column in columns.items():
            arrays[name] = np.asarray(column)
            arrays[name].flags.writeable = False
        return header, arrays

    def stop(self) -> None:
        """End it, wherever it is."""
        if self._recall is not None:
            self._recall.stop()
        if self._process is not None:
            self._process.stop()


def prefetch(path: str, max_bytes: int | None = None) -> Child | None:
    """A child that reads the metadata of a local checkpoint while its starter goes on importing.

    None if there is nothing to read at `path`, or more than `max_bytes`. Whoever gets one gives
    it to `read_dcp`, or stops it.
    """
    # As `LocalStorage.local_path` writes it, so that the reader knows the child for its own.
    metadata = str(Path(path, ".metadata"))
    try:
        info = os.stat(metadata)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(info.st_mode) or not info.st_size:
        return None
    if max_bytes is not None and info.st_size > max_bytes:
        return None
    return Child([metadata], [None], info.st_size)
