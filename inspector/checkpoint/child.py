"""The child process that unpickles: `python -I -S child.py`, with the request on stdin.

It reads `.metadata` through the gate (`unpickle.py`), turns it into columns (`extract.py`) and
writes those to stdout: eight bytes with the length of a JSON header, the header, the arrays one
after another. Progress goes to stderr, a line with the bytes read each time some more were.
Whatever the file makes this process do (grow, spin, crash), the front end goes on.

Run by path and without site-packages, so that it starts in milliseconds; this is why it, and
what it imports, keep to the standard library.
"""

from __future__ import annotations

import gc
import io
import json
import os
import stat
import struct
import sys
from typing import Any, NoReturn

_PROGRESS_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 18


class _Counted(io.RawIOBase):
    """A file that says how far it was read."""

    def __init__(self, fd: int, done: int) -> None:
        self._fd = fd
        self._done = done
        self._told = done

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        self._done += len(data)
        if self._done - self._told >= _PROGRESS_BYTES:
            self._told = self._done
            sys.stderr.write(f"{self._done}\n")
            sys.stderr.flush()
        return len(data)


def _limit(memory_bytes: int, cpu_s: int) -> None:
    """Bound this process; where the system cannot (Windows, parts of macOS), go on without."""
    try:
        import resource
    except ImportError:
        return
    for name, value in (
        ("RLIMIT_AS", memory_bytes),
        ("RLIMIT_CPU", cpu_s),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", 0),
    ):
        try:
            _, hard = resource.getrlimit(getattr(resource, name))
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, name), (value, hard))
        except (AttributeError, ValueError, OSError):
            continue


def _open(path: str) -> int:
    # Without O_NONBLOCK a FIFO of this name would hold us here for ever.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError("not a regular file")
    return fd


def _write(header: dict[str, Any], arrays: dict[str, Any]) -> None:
    header["arrays"] = [[name, a.typecode, len(a)] for name, a in arrays.items()]
    text = json.dumps(header, separators=(",", ":")).encode()
    out = sys.stdout.buffer
    out.write(struct.pack("<Q", len(text)))
    out.write(text)
    for column in arrays.values():
        out.write(memoryview(column).cast("B"))
    out.flush()


def _fail(error: BaseException) -> NoReturn:
    cause = error.__cause__ or error
    truncated = (
        isinstance(cause, EOFError) or "truncated" in str(cause) or "exhausted" in str(cause)
    )
    name = type(cause).__name__
    if name == "NotMetadataError":
        code, message = "metadata-unreadable", str(cause)
    elif truncated:
        code, message = "metadata-truncated", "the pickle ends too early"
    elif isinstance(cause, OSError):
        code, message = "metadata-unreadable", cause.strerror or str(cause)
    elif isinstance(cause, MemoryError):
        code, message = "metadata-unreadable", "it asks for more memory than it could need"
    elif isinstance(cause, RecursionError):
        code, message = "metadata-unreadable", "it is nested too deep"
    else:
        detail = str(cause).strip().splitlines()
        text = f"{name}: {detail[0][:200]}" if detail else name
        code, message = "metadata-unreadable", f"it is no pickle, or a damaged one ({text})"
    unsafe = list(getattr(error, "unsafe", ()))
    _write({"error": {"code": code, "message": message, "unsafe": unsafe}}, {})
    os._exit(1)


def _read(paths: list[str], ranks: list[int | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    from inspector.checkpoint.extract import Extraction
    from inspector.checkpoint.unpickle import load

    extraction = Extraction()
    done = trailing = 0
    protocol = None
    for path, rank in zip(paths, ranks, strict=True):
        fd = _open(path)
        size = os.fstat(fd).st_size
        with io.BufferedReader(_Counted(fd, done), _BUFFER_BYTES) as file:
            start = file.peek(2)[:2]
            protocol = start[1] if start[:1] == b"\x80" and len(start) == 2 else 0
            extraction.add(load(file), rank)
            trailing += len(file.read(1 << 20))
        os.close(fd)
        done += size
    if any(rank is not None for rank in ranks):
        extraction.merge_ranks()
    header = extraction.header()
    header["protocol"] = protocol
    header["trailing_bytes"] = trailing
    return header, extraction.arrays()


def main() -> None:
    """Read the files that the request names and write the columns."""
    request = json.loads(sys.stdin.buffer.read())
    sys.path.insert(0, request["package"])
    _limit(request["memory_bytes"], request["cpu_s"])
    # A metadata pickle is millions of small objects and no cycles: the cyclic collector would
    # walk them again and again (measured: 45 s against 4 s for a million chunks).
    gc.disable()

    try:
        header, arrays = _read(request["paths"], request["ranks"])
    except BaseException as error:  # a pickle can have anything raised
        _fail(error)
    _write(header, arrays)
    # Freeing millions of objects one by one would take longer than reading them did.
    os._exit(0)


if __name__ == "__main__":
    main()
