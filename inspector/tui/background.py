"""Runs work later: in a background thread, of which only the last answer counts, or after a pause.

`Collector` looks in a pause for the garbage that Python would look for in the midst of a key.

The rules this module keeps: Textual's workers carry the threads, so that leaving a view stops what
it asked for; everything but the work itself happens on the event loop: no thread touches a widget;
and an error that nobody foresaw is an answer like any other (see `crash`).
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from textual.message import Message
from textual.message_pump import MessagePump
from textual.widget import Widget
from textual.worker import get_current_worker

from inspector.checkpoint.workers import until
from inspector.crash import internal_error
from inspector.errors import InspectError

__all__ = ["Background", "Collector", "ScreenComplete", "Stop", "Work", "after"]

Stop: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[Stop], Any]
Key = TypeVar("Key")

# Thresholds of the collector, and how many collections of its middle generation make a full one due
# (Python's own: 700, 10, 10, and 10).
_SELDOM = (700, 10, 100)
_DUE = 10
_QUIET_S = 0.5


def after(
    owner: MessagePump, delay_s: float, callback: Callable[[], object]
) -> asyncio.TimerHandle:
    """Have `callback` called among the messages of `owner`, once, after `delay_s` seconds.

    In place of Textual's `set_timer`, which drops its only call where the machine is so busy that
    its first two looks at the clock lie further apart than the delay (seen with Textual 8.2.8).

    Returns:
        What cancels it.
    """
    return asyncio.get_running_loop().call_later(delay_s, owner.call_later, callback)


class ScreenComplete(Message):
    """The main screen has all of its parts; what it waited for may begin."""


class Collector:
    """Has a full look for garbage wait until no key has come for a while.

    It takes 10 to 50 ms here, and Python begins it in the midst of whatever makes objects: of the
    key that is being handled, or of a thread, for which the key waits.
    """

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    @staticmethod
    def begin() -> None:
        """Have Python itself do it seldom, in this process: only where there is no pause at all."""
        gc.set_threshold(*_SELDOM)

    def put_off(self) -> None:
        """A key or the mouse: not before it has been quiet again; on the event loop."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = asyncio.get_running_loop().call_later(_QUIET_S, self._collect)

    def _collect(self) -> None:
        self._handle = None
        if gc.isenabled() and gc.get_count()[2] >= _DUE:
            gc.collect()


class Background(Generic[Key]):
    """Work for one widget: one piece at a time; the next waits in a single place.

    What is asked anew stops what is being done, whose answer is dropped; so keys that come faster
    than answers queue nothing up.

    Args:
        owner: The widget (or screen) that asks; with it goes its work.
        answered: Called on the event loop with the key and the answer: what the work returned, or
            the `InspectError` that ended it.
        name: Of the work, for whoever looks at threads.
    """

    def __init__(
        self, owner: Widget, answered: Callable[[Key, Any], object], name: str = "reading"
    ) -> None:
        self._owner = owner
        self._answered = answered
        self._name = name
        self._next: tuple[Key, Work] | None = None
        self._stop: threading.Event | None = None
        self._is_dropped = False
        #: When the last work was asked for, by the monotonic clock.
        self.asked_s = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether something is being done whose answer is still to come."""
        return self._next is not None or (self._stop is not None and not self._is_dropped)

    @property
    def is_stopping(self) -> bool:
        """Whether what is being done was told to stop, and its answer is still to come."""
        return self._stop is not None and self._stop.is_set() and not self._is_dropped

    def ask(self, key: Key, work: Work) -> None:
        """Have `work` done, in place of whatever was asked before.

        Args:
            key: Given back with the answer.
            work: Runs in a thread. Asks its argument now and then whether to stop, and then raises
                `Cancelled` or returns what it has.
        """
        self._next, self.asked_s = (key, work), time.monotonic()
        if self._stop is None:
            self._begin()
        else:
            self._is_dropped = True
            self._stop.set()

    def stop(self) -> None:
        """Stop what is being done; its answer still comes."""
        self._next = None
        if self._stop is not None:
            self._stop.set()

    def drop(self) -> None:
        """Stop what is being done; nobody wants its answer."""
        self._is_dropped = True
        self.stop()

    def _begin(self) -> None:
        if self._next is None:
            return
        (key, work), self._next = self._next, None
        event = self._stop = threading.Event()
        self._is_dropped = False

        # Not in the executor's threads: a file system that hangs must not hold up who leaves.
        self._owner.run_worker(self._done(key, work, event), name=self._name, exit_on_error=False)

    async def _done(self, key: Key, work: Work, event: threading.Event) -> None:
        """Wait for a thread to do it, and hand its answer to the owner's own messages."""
        worker, loop = get_current_worker(), asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            answer = _answer_of(work, lambda: event.is_set() or worker.is_cancelled)
            try:
                loop.call_soon_threadsafe(_settle, answered, answer)
            except RuntimeError:
                pass  # The loop is closed: nobody is there any more.

        threading.Thread(target=run, name=self._name, daemon=True).start()
        self._owner.call_later(self._end, key, await answered)

    def _end(self, key: Key, answer: Any) -> None:
        is_wanted = not self._is_dropped
        self._stop = None
        if is_wanted:
            self._answered(key, answer)
        if self._stop is None:  # The answer may have led to the next question already.
            self._begin()


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():  # A worker that was cancelled has given it up.
        future.set_result(answer)


def _answer_of(work: Work, stop: Stop) -> Any:
    try:
        with until(stop):
            return work(stop)
    except InspectError as error:
        return error
    except Exception as error:  # a thread has nobody above it
        return internal_error(error)
