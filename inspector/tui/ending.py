"""Signals that end the process: the terminal gets back first what it was before.

The rule this module keeps: a signal that ends a process still ends it, whatever the screen is at.
The first asks the app to leave, as `q` does but without a question; the second, and a while that
was too long, take the short way: the terminal is restored by hand and the process is over.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

__all__ = ["ending_in_order"]

#: What a terminal sends when it is closed, and what ends a process by default.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGTERM") if hasattr(signal, name))
_PATIENCE_S = 5.0
#: As a shell tells of a process that a signal ended.
_BASE = 128


class Drawn(Protocol):
    """A terminal that is drawn on."""

    @property
    def is_drawn_on(self) -> bool:
        """Whether the terminal is the screen's now, and not the shell's."""

    def hand_back(self) -> None:
        """Restore it at once, by hand; from any thread."""


@contextmanager
def ending_in_order(
    leave: Callable[[int], object], terminal: Callable[[], Drawn | None]
) -> Iterator[None]:
    """Let the signals that end a process end the screen first, as long as the context is open.

    One that is ignored (`nohup`) stays ignored.

    Args:
        leave: Called in the main thread, between two instructions, with the exit code; asks the
            app to leave.
        terminal: The terminal, once there is one.
    """
    asked: list[threading.Timer] = []

    def end_now(number: int) -> None:
        drawn = terminal()
        if drawn is not None:
            drawn.hand_back()
        os._exit(_BASE + number)

    def take(number: int, frame: FrameType | None) -> None:
        drawn = terminal()
        if asked:
            end_now(number)
        elif drawn is None or not drawn.is_drawn_on:
            # In the shell's hands, it may not be written to; nor is there anything to restore.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            patience = threading.Timer(_PATIENCE_S, end_now, (number,))
            patience.daemon = True
            patience.start()
            asked.append(patience)
            leave(_BASE + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    for number in taken:
        signal.signal(number, take)
    try:
        yield
    finally:
        for patience in asked:
            patience.cancel()
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
