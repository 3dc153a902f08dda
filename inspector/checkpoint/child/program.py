"""The child process that unpickles: `python -I -S program.py`, with the request on stdin.

It reads `.metadata` through the gate (`pickle/gate.py`), turns it into columns
(`pickle/extract.py`) and writes those to stdout (`wire.py`). Progress goes to stderr, a line with
the bytes read each time some more were; and of a large file, as JSON behind a mark, its first
entries.
Whatever the file makes this process do (grow, spin, crash), the front end goes on.

Run by path and without site-packages, so that it starts in milliseconds; this is why it, and
what it imports, keep to the standard library. Only for a large file numpy is imported
(`pickle/bulk.py`), and without it, or if the file is not quite as usual, that file too is read as
any.
"""

from __future__ import annotations

import gc
import io
import json
import os
import stat
import sys
from typing import Any, NoReturn

_PROGRESS_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18
_MAX_TRAILING = 1 << 20
_SMALL_BYTES = 1 << 20


class _Progress:
    """Tells on stderr how many bytes are done, each time some more are."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, num_done: int) -> None:
        if num_done - self._told >= _PROGRESS_BYTES:
            self._told = num_done
            sys.stderr.write(f"{num_done}\n")
            sys.stderr.flush()


def _show(rows: list[Any]) -> None:
    """Tell on stderr of the first entries, while the rest is read."""
    from inspector.checkpoint.child.wire import EARLY

    sys.stderr.write(f"{EARLY}{json.dumps(rows)}\n")
    sys.stderr.flush()


class _Counted(io.RawIOBase):
    """A file that says how far it was read, and what was."""

    def __init__(self, fd: int, done: int, tell: _Progress, digest: Any) -> None:
        self._fd = fd
        self._done = done
        self._tell = tell
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        if self._digest is not None:
            self._digest.update(data)
        self._done += len(data)
        self._tell(self._done)
        return len(data)


def _limit(memory_bytes: int | None, cpu_s: int | None) -> None:
    bound({"RLIMIT_AS": memory_bytes, "RLIMIT_CPU": cpu_s, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0})


def bound(bounds: dict[str, int | None]) -> None:
    """Bound this process; where the system cannot (Windows, parts of macOS), go on without.

    Args:
        bounds: By the name of a limit of `resource`; None leaves it as it is.
    """
    try:
        import resource
    except ImportError:
        return
    for name, value in bounds.items():
        if value is None:
            continue
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
    from inspector.checkpoint.child.wire import encode

    for piece in encode(header, arrays):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _fail(error: BaseException) -> NoReturn:
    cause = error.__cause__ or error
    truncated = (
        isinstance(cause, EOFError) or "truncated" in str(cause) or "exhausted" in str(cause)
    )
    name = type(cause).__name__
    if name in ("NotMetadataError", "StraddledError"):
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


def _read_bulk(
    path: str, packages: str, digest: Any
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A large file's header and columns; None if it has to be read as any other.

    What is read goes into `digest` as well, if there is one.
    """
    try:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # A thread of these takes room, and none has anything to do.
        sys.path.append(packages)
        from inspector.checkpoint.pickle.bulk import read_bulk

        fd = _open(path)
        try:
            return read_bulk(fd, os.fstat(fd).st_size, _Progress(), digest, show=_show)
        finally:
            os.close(fd)
    except Exception:
        return None  # Whatever it was: the plain way decides, and says what is wrong.


def _read(
    paths: list[str], ranks: list[int | None], digest: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the columns; what is read goes into `digest` as well, if there is one."""
    from inspector.checkpoint.pickle.extract import Extraction
    from inspector.checkpoint.pickle.frames import Framed
    from inspector.checkpoint.pickle.gate import load

    extraction = Extraction()
    tell = _Progress()
    done = trailing = 0
    protocol = None
    for path, rank in zip(paths, ranks, strict=True):
        fd = _open(path)
        size = os.fstat(fd).st_size
        with io.BufferedReader(_Counted(fd, done, tell, digest), _BUFFER_BYTES) as file:
            start = file.peek(2)[:2]
            protocol = start[1] if start[:1] == b"\x80" and len(start) == 2 else 0
            # Protocols before 4 have no frames, and of a large file each byte would be asked for.
            has_frames = protocol >= 4 or size <= _SMALL_BYTES
            extraction.add(load(Framed(file) if has_frames else file), rank)
            trailing += len(file.read(_MAX_TRAILING))
            if file.read(1):
                digest = None  # Not all of it was read.
        os.close(fd)
        done += size
    if any(rank is not None for rank in ranks):
        extraction.merge_ranks()
    header = extraction.header()
    header["protocol"] = protocol
    header["trailing_bytes"] = trailing
    header["digest"] = digest.hexdigest() if digest is not None else ""
    return header, extraction.arrays()


def _digest(request: dict[str, Any]) -> Any:
    """What hashes the bytes that are read; None where nobody asks for that, as it takes a while."""
    if not request["digest"]:
        return None
    import hashlib

    return hashlib.sha256()


def _answer(request: dict[str, Any]) -> NoReturn:
    """Read the files that the request names, write the columns, and end."""
    import inspector.checkpoint.child.wire  # noqa: F401 - now: later there may be no room to

    _limit(request["memory_bytes"], request["cpu_s"])
    # A metadata pickle is millions of small objects and no cycles: the cyclic collector would
    # walk them again and again (measured: 45 s against 4 s for a million chunks).
    gc.disable()
    try:
        paths, ranks, packages = request["paths"], request["ranks"], request["packages"]
        found = _read_bulk(paths[0], packages, _digest(request)) if packages else None
        header, arrays = found or _read(paths, ranks, _digest(request))
    except BaseException as error:  # a pickle can have anything raised
        _fail(error)
    _write(header, arrays)
    # Freeing millions of objects one by one would take longer than reading them did.
    os._exit(0)


def _serve() -> NoReturn:
    """Answer one request a line, each in a fork of this process, which reads no file itself.

    A fork has what it takes already imported, and is as bounded and as short-lived as a child
    of its own. If one does not end as it should, so does this process, for the starter to see.
    """
    # Once here, not in each fork: importing takes ten times as long as a small file.
    import inspector.checkpoint.child.wire
    import inspector.checkpoint.pickle.extract
    import inspector.checkpoint.pickle.frames
    import inspector.checkpoint.pickle.gate  # noqa: F401

    _limit(None, None)
    gc.freeze()
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            _answer(json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code < 0:
            os.kill(os.getpid(), -code)
        if code not in (0, 1):
            os._exit(2)
    os._exit(0)


def main() -> None:
    """Answer the request on stdin; or, as `program.py serve PACKAGE`, those that come."""
    if sys.argv[1:2] == ["serve"]:
        sys.path.insert(0, sys.argv[2])
        _serve()
    request = json.loads(sys.stdin.buffer.read())
    sys.path.insert(0, request["package"])
    _answer(request)


if __name__ == "__main__":
    main()
