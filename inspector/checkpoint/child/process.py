"""The child process that unpickles, as its parent sees it: started, watched, read, killed."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from inspector.checkpoint.child.wire import EARLY, decode, num_bytes_of, room_for, split_columns
from inspector.errors import Cancelled, KilledError, MetadataError

__all__ = ["PACKAGE", "ChildProcess", "EarlyEntry", "Found", "Server", "close", "kill", "start"]

#: Where the child finds the package `inspector`.
PACKAGE = str(Path(__file__).parents[3])

_CHILD = Path(__file__).with_name("program.py")
_PIPE_BYTES = 1 << 20
# Memory in large pages where the kernel has such, and what is freed is kept to be used again:
# a fifth of the page faults. Other C libraries do not look at it.
_MEMORY = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304"
    ":glibc.malloc.trim_threshold=268435456"
)

_EARLY = EARLY.encode()

_current = threading.local()


class Server:
    """A process that answers one request after another, each in a fork of itself.

    Started when it is first needed, so that a thousand small files do not take a thousand
    interpreters. Used by the thread that entered it, and by one `ChildProcess` at a time;
    where there is no fork, by none.
    """

    def __init__(self) -> None:
        self._idle: subprocess.Popen[bytes] | None = None
        self._is_open = False

    @staticmethod
    def current() -> Server | None:
        """The one that this thread entered, or None."""
        return getattr(_current, "server", None)

    def __enter__(self) -> Server:
        self._is_open = hasattr(os, "fork")
        _current.server = self
        return self

    def __exit__(self, *error: object) -> None:
        self._is_open = False
        if Server.current() is self:
            _current.server = None
        if self._idle is not None:
            _end(self._idle)
            self._idle = None

    def take(self) -> subprocess.Popen[bytes] | None:
        """The process, until it is given back."""
        if not self._is_open:
            return None
        process, self._idle = self._idle, None
        if process is not None and process.poll() is not None:
            _end(process)
            process = None
        return process or start("serve", PACKAGE)

    def give_back(self, process: subprocess.Popen[bytes]) -> None:
        """It has answered, and can be asked again."""
        if self._is_open and self._idle is None:
            self._idle = process
        else:
            _end(process)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """A new child process; with `serve` and `PACKAGE`, one for a `Server`."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-I", "-S", str(_CHILD), *arguments],
        env={"GLIBC_TUNABLES": _MEMORY, **os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if arguments else subprocess.PIPE,
        # Ctrl+C goes to the front end alone, which then ends the child. Its forks are with it in
        # one group.
        start_new_session=True,
    )
    if process.stdout is not None:
        _widen(process.stdout.fileno())
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that answered its last request."""
    kill(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            close(pipe)
    process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its forks, unless it is over."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
            return
        except OSError:
            pass  # Not there, or not yet a group: then itself.
    process.kill()


def close(pipe: IO[bytes]) -> None:
    """Close a pipe, whether or not anybody is at its other end."""
    try:
        pipe.close()
    except OSError:
        pass  # What was not written to a dead process.


def _widen(fd: int) -> None:
    """Let a pipe hold more, where the system can."""
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass


#: The header that `extract.Extraction` made, and its columns by name (32 or 64-bit integers).
Found = tuple[dict[str, Any], dict[str, memoryview]]


class EarlyEntry(NamedTuple):
    """One of the first entries of a file that is still being read: nothing of it is proven.

    Attributes:
        fqn: Its raw name.
        shape: The tensor's global shape, or None if that is not known yet.
        num_chunks: Its chunks, or None likewise.
    """

    fqn: str
    shape: tuple[int, ...] | None
    num_chunks: int | None


_POLL_S = 0.1

# From this size on, starting numpy in the child costs less than it saves.
_BULK_BYTES = 4 << 20
# Below this, starting a process takes longer than what it does.
_SMALL_BYTES = 1 << 20


class ChildProcess:
    """The child process, started: it reads while its starter does something else.

    Args:
        paths: Local files, read as one checkpoint.
        ranks: Rank of each file, or None for a global `.metadata`.
        num_bytes: Their size together.
        digest: Whether the header is to have the SHA-256 of the bytes (of one file).
        memory_bytes: Address space that it may take.
        cpu_s: CPU time that it may take.
        wall_s: Time until it is killed, from when somebody waits for it.
    """

    def __init__(
        self,
        paths: list[str],
        ranks: list[int | None],
        num_bytes: int,
        *,
        digest: bool,
        memory_bytes: int,
        cpu_s: int,
        wall_s: float,
    ) -> None:
        self._num_bytes = num_bytes
        self._wall_s = wall_s
        request = {
            "package": PACKAGE,
            "paths": paths,
            "ranks": ranks,
            "digest": digest,
            "memory_bytes": memory_bytes,
            "cpu_s": cpu_s,
            "packages": _numpy_folder() if ranks == [None] and num_bytes >= _BULK_BYTES else "",
        }
        text = json.dumps(request).encode()
        # A large file is read for so long that a process of its own costs nothing.
        self._server = Server.current() if num_bytes < _SMALL_BYTES else None
        process = self._server.take() if self._server is not None else None
        if process is None:
            self._server, process = None, start()
        self._process = process
        self._output = _Output()
        self._num_done = 0
        self._said = b""
        #: The first entries, as far as they are known by now.
        self.early: tuple[EarlyEntry, ...] = ()
        self._is_stopped = False
        self._selector = selectors.DefaultSelector()
        assert process.stdin is not None  # noqa: S101 - as asked for
        assert process.stdout is not None  # noqa: S101
        self._selector.register(process.stdout, selectors.EVENT_READ)
        if self._server is None and process.stderr is not None:
            self._selector.register(process.stderr, selectors.EVENT_READ)
        try:
            process.stdin.write(text)
            if self._server is None:
                process.stdin.close()
            else:
                process.stdin.write(b"\n")
                process.stdin.flush()
        except BrokenPipeError:
            pass  # It died at once; its exit code says how.

    def wait(self, patience_s: float) -> Found | None:
        """What it found, if that is there within so many seconds; `result` gives it all the same.

        None if it is not done, or has an error to tell.
        """
        until = time.monotonic() + patience_s
        while not self._is_over():
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._take(left)
        try:
            return self._output.split(0)
        except (MetadataError, KilledError):
            return None

    def result(
        self,
        progress: Callable[[int, int], bool] | None = None,
        early: Callable[[tuple[EarlyEntry, ...]], None] | None = None,
    ) -> Found:
        """Wait for the header and the columns.

        Args:
            progress: Told how far it is, about ten times a second; may cancel.
            early: Given the first entries of a large file, whenever there are more.

        Raises:
            MetadataError: No DCP metadata, damaged, or over its limits.
            KilledError: It was killed, and not by us.
            Cancelled: `progress` said so.
        """
        # From now on: its pipe is full, and it waits, for as long as its starter did other things.
        deadline = time.monotonic() + self._wall_s
        num_early = 0
        try:
            while not self._is_over():
                self._take(_POLL_S)
                if early is not None and len(self.early) > num_early:
                    num_early = len(self.early)
                    early(self.early)
                if progress is not None and progress(self._num_done, self._num_bytes):
                    raise Cancelled("reading the metadata was cancelled")
                if time.monotonic() > deadline:
                    raise MetadataError(
                        f"it was not read after {self._wall_s:.0f} s, and given up",
                        "a file that takes so long was not written by torch",
                    )
        except BaseException:
            self.stop()
            raise
        return self._output.split(self.stop(grace_s=5.0))

    def _is_over(self) -> bool:
        """Whether there is nothing more to come."""
        if self._server is not None and self._output.is_complete:
            return True
        return not self._selector.get_map()

    def _take(self, wait_s: float) -> None:
        """Take over what the child has written by now."""
        for key, _ in self._selector.select(wait_s):
            if key.fileobj is self._process.stdout:
                if not self._output.take(key.fd):
                    self._selector.unregister(key.fileobj)
                continue
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._selector.unregister(key.fileobj)
            else:
                *lines, self._said = (self._said + data).split(b"\n")
                for line in lines:
                    self._hear(line)

    def _hear(self, line: bytes) -> None:
        """Take what the child says while it reads: how far it is, or entries.

        Whatever else is written there, as by a library, is text, and not for us.
        """
        if line.isdigit():
            self._num_done = min(int(line), self._num_bytes)
        elif line.startswith(_EARLY):
            self.early += tuple(
                EarlyEntry(fqn, None if shape is None else tuple(shape), num_chunks)
                for fqn, shape, num_chunks in json.loads(line[len(_EARLY) :])
            )

    def stop(self, grace_s: float = 0.0) -> int:
        """End the process, once it had `grace_s` seconds to end by itself; its exit code."""
        self._selector.close()
        if self._server is not None and self._output.is_complete:
            if not self._is_stopped:
                self._server.give_back(self._process)
            self._is_stopped = True
            return 0
        self._is_stopped = True
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            kill(self._process)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                close(pipe)
        return self._process.wait()


class _Output:
    """What the child writes: the length of a header, the header, and columns of integers.

    The columns are read into the one buffer in which they stay: there may be hundreds of
    megabytes of them.
    """

    def __init__(self) -> None:
        self._start = bytearray()
        self._header: dict[str, Any] | None = None
        self._body = memoryview(b"")
        self._num_read = 0

    def take(self, fd: int) -> bool:
        """Read some more; False at the end."""
        if self._header is None:
            data = os.read(fd, 1 << 20)
            self._start += data
            self._begin_body()
            return bool(data)
        left = self._body[self._num_read :]
        if not left:
            return bool(os.read(fd, 1 << 16))
        count = os.readv(fd, [left])
        self._num_read += count
        return bool(count)

    def _begin_body(self) -> None:
        """Make room for the columns, once the header says how many there are."""
        found = decode(self._start)
        if found is None:
            return
        self._header, at = found
        rest = self._start[at:]
        self._body = room_for(max(num_bytes_of(self._header), len(rest)))
        self._body[: len(rest)] = rest
        self._num_read = len(rest)
        self._start = bytearray()

    @property
    def is_complete(self) -> bool:
        """Whether the header and all columns are there."""
        return self._header is not None and self._num_read >= len(self._body)

    def split(self, code: int) -> Found:
        """The header and the columns (`memoryview`s of integers).

        Args:
            code: The child's exit code, to explain why something is missing.
        """
        header = self._header
        if header is None:
            raise _death(code)
        if "error" in header:
            error = header["error"]
            raise _refusal(error["code"], error["message"], error["unsafe"])
        if self._num_read < len(self._body):
            raise _death(code)
        return header, split_columns(header, self._body)


def _numpy_folder() -> str:
    """Where numpy lies, without importing it."""
    from importlib.util import find_spec

    spec = find_spec("numpy")
    return str(Path(spec.origin).parents[1]) if spec is not None and spec.origin else ""


def _refusal(code: str, message: str, unsafe: list[str]) -> MetadataError:
    if unsafe:
        named = ", ".join(unsafe[:3])
        return MetadataError(
            f"the pickle names code to be run ({named}), which was not run; besides, {message}",
            "do not load this file with torch: it would run that code",
            code="metadata-unsafe",
        )
    return MetadataError(message, code=code)


#: Signals that nobody sends to itself: the kernel short of memory does, or a user.
_FROM_OUTSIDE = frozenset(
    -getattr(signal, name)
    for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT")
    if hasattr(signal, name)
)


def _death(code: int) -> MetadataError | KilledError:
    """What a process that ended without an answer says, by its exit code."""
    if code in _FROM_OUTSIDE:
        return KilledError(
            f"the process that reads the metadata was killed by {signal.Signals(-code).name}",
            "this machine may be short of memory; it says nothing of the checkpoint: run it again",
        )
    what = "it asks for more memory than it could need"
    if code == -getattr(signal, "SIGXCPU", 24):
        what = "it takes more time than any metadata of its size should"
    elif code < 0:
        what = f"the process that reads it was stopped by {signal.Signals(-code).name}"
    return MetadataError(f"the metadata cannot be read: {what}")
