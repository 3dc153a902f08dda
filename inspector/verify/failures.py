"""What went wrong with a rank, in the words of the `failed` event. Imports no torch."""

from __future__ import annotations

import re
import traceback
from typing import Any

from inspector.errors import UnreachableError

__all__ = ["describe_failure", "is_out_of_memory", "reason", "unreachable"]

_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|cannot allocate", re.I)
_TIMEOUT = re.compile(r"timed? ?out|timeout", re.I)
# What the other ranks see when one of them is gone.
_ECHO = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|recvCall|"
    r"Connection refused|remote process exited",
    re.I,
)
_MAX_MESSAGE = 600
_MAX_LINKS = 16


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out, on the host or on the device, on any rank that it speaks of."""
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict):
        return any(is_out_of_memory(inner) for inner, _ in failures.values())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))


def unreachable(error: BaseException) -> UnreachableError | None:
    """That a storage does not answer, if an error comes of that, on any rank that it speaks of.

    It says nothing of what is stored: no entry failed.
    """
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict):
        found = (unreachable(inner) for inner, _ in failures.values())
        return next((link for link in found if link is not None), None)
    seen = 0
    link: BaseException | None = error
    while link is not None and seen < _MAX_LINKS:
        if isinstance(link, UnreachableError):
            return link
        link, seen = link.__cause__ or link.__context__, seen + 1
    return None


def reason(error: BaseException) -> str:
    """An exception in one line: `KeyError: ...`."""
    # CheckpointException carries each rank's exception.
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict) and failures:
        rank, (inner, _) = next(iter(failures.items()))
        return f"rank {rank}: {reason(inner)}"
    text = " ".join(str(error).split()) or "no message"
    text = text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 4] + " ..."
    return f"{type(error).__name__}: {text}"


def describe_failure(error: BaseException) -> dict[str, Any]:
    """The fields of a `failed` event.

    `is_echo` is true where the exception only says that another rank is gone.
    """
    kind = "exception"
    if is_out_of_memory(error):
        kind = "out-of-memory"
    elif _TIMEOUT.search(str(error)) and not isinstance(error, TimeoutError | OSError):
        kind = "timeout"
    stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {
        "kind": kind,
        "message": reason(error),
        "stack": stack[-2400:],
        "is_echo": kind == "exception" and bool(_ECHO.search(str(error))),
    }
