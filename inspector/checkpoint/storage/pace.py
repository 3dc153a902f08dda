"""A bound on how fast payloads are read, so that a check beside a training leaves it the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inspector.checkpoint.workers import is_stopped
from inspector.errors import Cancelled

__all__ = ["Pace", "current_pace", "paced"]

_POLL_S = 0.1


class Pace:
    """Lets so many bytes a second through, over all threads together.

    Args:
        bytes_per_s: The rate.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_s
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, num_bytes: int) -> None:
        """Wait until so many bytes may be read.

        Raises:
            Cancelled: Whoever runs this thread said so meanwhile.
        """
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now)
            self._free_at = start + num_bytes / self._rate
        while (left := start - self._clock()) > 0:
            if is_stopped():
                raise Cancelled("it was stopped")
            self._sleep(min(left, _POLL_S))


_pace: Pace | None = None


def current_pace() -> Pace | None:
    """The bound that holds for data files opened now, or None."""
    return _pace


@contextmanager
def paced(bytes_per_s: float | None) -> Iterator[None]:
    """Data files that are opened inside are read no faster; None sets no bound.

    For the whole process: it is for commands that do one thing.
    """
    global _pace
    before = _pace
    _pace = None if bytes_per_s is None else Pace(bytes_per_s)
    try:
        yield
    finally:
        _pace = before
