"""`until`: how a thread that waits for the network is told to stop waiting.

Whoever may want to stop says so once, around what it calls; no function in between needs to know.
Costs nothing to import.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["is_stopped", "leave", "until"]

_leaving = threading.Event()


class _Here(threading.local):
    """The conditions of this thread, the outermost first."""

    def __init__(self) -> None:
        self.stops: tuple[Callable[[], bool], ...] = ()


_here = _Here()


@contextmanager
def until(stop: Callable[[], bool]) -> Iterator[None]:
    """What this thread waits for inside ends with `Cancelled` as soon as `stop()` is true.

    Args:
        stop: Asked about twenty times a second while the thread waits.
    """
    before = _here.stops
    _here.stops = (*before, stop)
    try:
        yield
    finally:
        _here.stops = before


def is_stopped() -> bool:
    """Whether this thread is to stop waiting."""
    # Each is asked, whatever another says: one may also be how progress is told.
    return any({_leaving.is_set(), *(bool(stop()) for stop in _here.stops)})


def leave() -> None:
    """The program ends: no thread waits any longer."""
    _leaving.set()
