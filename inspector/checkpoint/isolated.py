"""Run the child process that unpickles, watch it, and take over its columns.

The front end never unpickles anything itself: this module starts `child.py` with bounds on
memory and time, reports its progress, and kills it when it is cancelled or over its time.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.errors import Cancelled, MetadataError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Child", "Limits", "Progress", "prefetch"]

#: Called with (bytes done, bytes in all); return True to cancel.
Progress = Callable[[int, int], bool]

_CHILD = Path(__file__).with_name("child.py")
_PACKAGE = str(Path(__file__).parents[2])
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one metadata file may cost.

    Attributes:
        memory_bytes: Address space of the child.
        cpu_s: Its CPU time.
        wall_s: Time until it is killed.
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


class Child:
    """The child process, started: it reads while its starter does something else.

    Args:
        paths: Local files, read as one checkpoint.
        ranks: Rank of each file, or None for a global `.metadata`.
        num_bytes: Their size together.
        limits: What it may cost; by default in proportion to the size.
    """

    def __init__(
        self,
        paths: list[str],
        ranks: list[int | None],
        num_bytes: int,
        limits: Limits | None = None,
    ) -> None:
        self.paths = paths
        self._num_bytes = num_bytes
        self._limits = limits or Limits.of(num_bytes)
        request = {
            "package": _PACKAGE,
            "paths": paths,
            "ranks": ranks,
            "memory_bytes": self._limits.memory_bytes,
            "cpu_s": self._limits.cpu_s,
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-I", "-S", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl+C goes to the front end alone, which then ends the child.
            start_new_session=True,
        )
        self._deadline = time.monotonic() + self._limits.wall_s
        self._output = bytearray()
        self._num_done = 0
        self._selector = selectors.DefaultSelector()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None  # noqa: S101 - as asked for
            self._selector.register(pipe, selectors.EVENT_READ)
        assert self._process.stdin is not None  # noqa: S101 - as asked for
        try:
            self._process.stdin.write(json.dumps(request).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # It died at once; its exit code says how.

    def header(self, patience_s: float) -> dict[str, Any] | None:
        """The header, if it is there within so many seconds; `result` gives it all the same.

        The integer columns are lists under their names. None if the child is not done, or has
        an error to tell.
        """
        until = time.monotonic() + patience_s
        while self._selector.get_map():
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._take(left)
        try:
            header, columns = _split(self._output, 0)
        except MetadataError:
            return None
        return {**header, **{name: column.tolist() for name, column in columns.items()}}

    def result(
        self, progress: Progress | None = None
    ) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Wait for the header and the columns that `extract.Extraction` made.

        Args:
            progress: Told how far it is, about ten times a second; may cancel.

        Raises:
            MetadataError: No DCP metadata, damaged, or over its limits.
            Cancelled: `progress` said so.
        """
        try:
            while self._selector.get_map():
                self._take(_POLL_S)
                if progress is not None and progress(self._num_done, self._num_bytes):
                    raise Cancelled("reading the metadata was cancelled")
                if time.monotonic() > self._deadline:
                    raise MetadataError(
                        f"it was not read after {self._limits.wall_s:.0f} s, and given up",
                        "a file that takes so long was not written by torch",
                    )
        except BaseException:
            self.stop()
            raise
        header, columns = _split(self._output, self.stop(grace_s=5.0))
        import numpy as np

        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, column in columns.items():
            arrays[name] = np.asarray(column)
            arrays[name].flags.writeable = False
        return header, arrays

    def _take(self, wait_s: float) -> None:
        """Take over what the child has written by now."""
        for key, _ in self._selector.select(wait_s):
            data = os.read(key.fd, 1 << 20)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._process.stdout:
                self._output += data
            else:
                lines = data.split()
                if lines and lines[-1].isdigit():
                    self._num_done = min(int(lines[-1]), self._num_bytes)

    def stop(self, grace_s: float = 0.0) -> int:
        """End the process, once it had `grace_s` seconds to end by itself; its exit code."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return self._process.wait()


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


def _split(output: bytearray, code: int) -> tuple[dict[str, Any], dict[str, memoryview]]:
    """The child's output as its header and its columns (`memoryview`s of integers)."""
    broken = f"the metadata cannot be read: {_death(code)}"
    if len(output) < 8:
        raise MetadataError(broken)
    (length,) = struct.unpack_from("<Q", output)
    if len(output) < 8 + length:
        raise MetadataError(broken)
    header = json.loads(bytes(output[8 : 8 + length]))
    if "error" in header:
        error = header["error"]
        raise _refusal(error["code"], error["message"], error["unsafe"])
    columns: dict[str, memoryview] = {}
    at = 8 + length
    # A copy, so that no column keeps the header's text alive.
    rest = memoryview(bytes(output[at:]))
    at = 0
    for name, typecode, count in header["arrays"]:
        end = at + count * struct.calcsize(typecode)
        if len(rest) < end:
            raise MetadataError(broken)
        columns[name] = rest[at:end].cast(typecode)
        at = end
    return header, columns


def _refusal(code: str, message: str, unsafe: list[str]) -> MetadataError:
    if unsafe:
        named = ", ".join(unsafe[:3])
        return MetadataError(
            f"the pickle names code to be run ({named}), which was not run; besides, {message}",
            "do not load this file with torch: it would run that code",
            code="metadata-unsafe",
        )
    return MetadataError(message, code=code)


def _death(code: int) -> str:
    if code == -getattr(signal, "SIGXCPU", 24) or code == -9:
        return "it takes more time than any metadata of its size should"
    if code < 0:
        return f"the process that reads it was stopped by {signal.Signals(-code).name}"
    return "it asks for more memory than it could need"
