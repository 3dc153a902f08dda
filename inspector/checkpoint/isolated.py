"""Run the child process that unpickles, watch it, and take over its columns.

The front end never unpickles anything itself: this module starts `child.py` with bounds on
memory and time, reports its progress, and kills it when it is cancelled or over its time.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
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

__all__ = ["Child", "Limits", "Progress"]

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
        assert self._process.stdin  # noqa: S101 - a pipe, as asked for
        try:
            self._process.stdin.write(json.dumps(request).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # It died at once; its exit code says how.

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
            output = _converse(self._process, self._num_bytes, self._limits, progress)
        except BaseException:
            self.stop()
            raise
        return _decode(output, self.stop(grace_s=5.0))

    def stop(self, grace_s: float = 0.0) -> int:
        """End the process, once it had `grace_s` seconds to end by itself; its exit code."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return self._process.wait()


def _converse(
    child: subprocess.Popen[bytes], num_bytes: int, limits: Limits, progress: Progress | None
) -> bytearray:
    assert child.stdout and child.stderr  # noqa: S101 - pipes, as asked for
    deadline = time.monotonic() + limits.wall_s
    output = bytearray()
    done = 0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(_POLL_S):
                data = os.read(key.fd, 1 << 20)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    output += data
                else:
                    lines = data.split()
                    done = int(lines[-1]) if lines and lines[-1].isdigit() else done
            if progress is not None and progress(min(done, num_bytes), num_bytes):
                raise Cancelled("reading the metadata was cancelled")
            if time.monotonic() > deadline:
                raise MetadataError(
                    f"the metadata was not read after {limits.wall_s:.0f} s, so it was given up",
                    "a file that takes so long was not written by torch",
                )
    return output


def _decode(output: bytearray, code: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    if len(output) < 8:
        raise MetadataError(f"the metadata cannot be read: {_death(code)}")
    (length,) = struct.unpack_from("<Q", output)
    if len(output) < 8 + length:
        raise MetadataError(f"the metadata cannot be read: {_death(code)}")
    header = json.loads(bytes(output[8 : 8 + length]))
    if "error" in header:
        error = header["error"]
        raise _refusal(error["code"], error["message"], error["unsafe"])
    import numpy as np

    arrays: dict[str, npt.NDArray[Any]] = {}
    at = 8 + length
    for name, typecode, count in header["arrays"]:
        dtype = np.dtype(np.int32 if typecode == "i" else np.int64)
        if len(output) < at + count * dtype.itemsize:
            raise MetadataError(f"the metadata cannot be read: {_death(code)}")
        arrays[name] = np.frombuffer(output, dtype, count, at)
        arrays[name].flags.writeable = False
        at += count * dtype.itemsize
    return header, arrays


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
