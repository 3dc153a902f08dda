"""`Reader`: reading in a thread of its own, of which only what was asked for last counts.

The rule this module keeps: one thread at a time. What is asked anew stops what is being read, whose
answer is dropped; while it stops, the next waits in a single place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from inspector.checkpoint.text import printable
from inspector.checkpoint.workers import until
from inspector.errors import InspectError

__all__ = ["Reader", "Stop", "Work"]

Stop: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[Stop], Any]


class Reader:
    """Reads what is asked for.

    Args:
        answered: Called in the thread with the key and the answer (or the `InspectError`) of work
            that nothing has replaced; must be safe to call from there, as `post_message` is.
    """

    def __init__(self, answered: Callable[[Hashable, Any], object]) -> None:
        self._answered = answered
        self._lock = threading.Lock()
        self._next: tuple[Hashable, Work] | None = None
        self._stop = threading.Event()
        self._is_busy = self._is_dropped = False

    @property
    def is_busy(self) -> bool:
        """Whether something is being read."""
        return self._is_busy

    @property
    def is_stopping(self) -> bool:
        """Whether what is being read was told to stop, and its answer is still to come."""
        return self._is_busy and self._stop.is_set() and not self._is_dropped

    def ask(self, key: Hashable, work: Work) -> None:
        """Have `work` done, in place of whatever was asked before.

        Args:
            key: Given back with the answer.
            work: Asks its argument now and then whether to stop, and then raises `Cancelled` or
                returns what it has.
        """
        with self._lock:
            self._next = key, work
            if self._is_busy:
                self._is_dropped = True
                self._stop.set()
                return
            self._is_busy = True
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    def stop(self) -> None:
        """Stop what is being read; its answer still comes."""
        with self._lock:
            self._next = None
            self._stop.set()

    def drop(self) -> None:
        """Stop what is being read; nobody wants its answer."""
        with self._lock:
            self._next = None
            self._is_dropped = True
            self._stop.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._next is None:
                    self._is_busy = False
                    return
                (key, work), self._next = self._next, None
                stop = self._stop = threading.Event()
                self._is_dropped = False
            answer = _answer(work, stop.is_set)
            with self._lock:
                is_wanted, is_last = not self._is_dropped, self._next is None
                if is_last:
                    self._is_busy = False
            if is_wanted:
                self._answered(key, answer)
            if is_last:
                return


def _answer(work: Work, stop: Stop) -> Any:
    try:
        with until(stop):
            return work(stop)
    except InspectError as error:
        return error
    except Exception as error:  # a thread has nobody above it
        detail = printable(f"{type(error).__name__}: {error}", 300)
        return InspectError(f"internal error: {detail}", "this is a bug: please report it")
