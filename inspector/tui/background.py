"""`Latest`: work in a thread of its own, of which only what was asked for last counts.

The rule this module keeps: one piece of work at a time. While it is done, the next waits in a
single place, so keys that come faster than answers queue nothing up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Latest"]

Answer = TypeVar("Answer")


class Latest(Generic[Answer]):
    """Asks for answers.

    Args:
        answered: Called in the thread with each answer that nobody has replaced meanwhile; must
            be safe to call from there (`post_message` is).
    """

    def __init__(self, answered: Callable[[Answer], object]) -> None:
        self._answered = answered
        self._lock = threading.Lock()
        self._next: Callable[[], Answer] | None = None
        self._works = False

    def ask(self, work: Callable[[], Answer]) -> None:
        """Have `work` done soon, in place of whatever was asked before. It must not raise."""
        with self._lock:
            self._next = work
            if self._works:
                return
            self._works = True
        threading.Thread(target=self._run, name="latest", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                work, self._next = self._next, None
                if work is None:
                    self._works = False
                    return
            answer = work()
            with self._lock:
                is_latest = self._next is None
            if is_latest:
                self._answered(answer)
