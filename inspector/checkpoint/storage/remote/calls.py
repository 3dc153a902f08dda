"""`Calls`: requests to one remote file system, run, counted, retried and stopped.

A request runs on fsspec's own event loop in its own thread; whoever waits for it looks twenty
times a second whether to stop (`stopping.until`), and a request nobody waits for is cancelled.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from inspector.checkpoint.storage.base import Used
from inspector.checkpoint.storage.remote.bounds import SlowAnswerError, answer_s, within
from inspector.checkpoint.storage.remote.errors import is_slow, is_transient, is_unreached
from inspector.checkpoint.workers import is_stopped
from inspector.errors import Cancelled

__all__ = ["MAX_IN_FLIGHT", "Calls", "in_thread", "in_threads", "total"]

T = TypeVar("T")

_all_used: list[Used] = []

#: Requests at a time, whoever asks.
MAX_IN_FLIGHT = 16
_POLL_S = 0.05
_ATTEMPTS = 5
#: Tries of the first contact: a wrong address is told soon.
_FIRST_ATTEMPTS = 2
#: Tries of a request to which the server is silent, each as long as its patience.
_SILENT_ATTEMPTS = 3
#: After a request was given up for slowness, for so long no other is begun.
_REST_S = 30.0
_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 4.0


class Calls:
    """Runs requests of a file system.

    Args:
        loop: The event loop of an asynchronous file system, or None: then requests run in the
            thread that asks, one at a time.
        counts: False if something nearer to the wire counts the requests.

    Attributes:
        used: Requests and bytes so far.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None, *, counts: bool = True) -> None:
        self.used = Used()
        _all_used.append(self.used)
        self.counts = counts
        self._loop = loop
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._has_answered = False
        self._rests_until = 0.0
        self._lock = threading.Lock()

    @property
    def is_concurrent(self) -> bool:
        """Whether a request runs while its caller does something else."""
        return self._loop is not None

    def run(
        self,
        make: Callable[[], Any],
        *,
        patience_s: float | None = None,
        most_s: float | None = None,
    ) -> Any:
        """Make a request and wait for its answer.

        Args:
            make: Gives the answer, or an awaitable of it; called anew for every attempt.
            patience_s: Longest wait, whatever is tried meanwhile.
            most_s: The longest that one answer may take (default: that of a small one).

        Raises:
            Cancelled: The thread was told to stop.
            TimeoutError: Patience ran out.
            Exception: What the last attempt raised.
        """
        if self._loop is None:
            return self._run_here(make)
        return self.wait(self.start(make, most_s=most_s), patience_s=patience_s)

    def start(self, make: Callable[[], Awaitable[T]], *, most_s: float | None = None) -> Future[T]:
        """Make a request of a concurrent file system; give the future to `wait`, or cancel it."""
        assert self._loop is not None  # noqa: S101 - `is_concurrent` was asked
        most_s = answer_s(0) if most_s is None else most_s
        return asyncio.run_coroutine_threadsafe(self._attempts(make, most_s), self._loop)

    def wait(self, future: Future[T], *, patience_s: float | None = None) -> T:
        """The answer; as `run`."""
        return _wait(future, patience_s)

    def received(self, num_bytes: int) -> None:
        """Count bytes of files' contents."""
        with self._lock:
            self.used.num_bytes += num_bytes

    def failed(self) -> None:
        """Count a request that was given up."""
        with self._lock:
            self.used.num_failed += 1

    def asked(self, *_: object, **__: object) -> None:
        """Count a request (also botocore's `before-send` hook)."""
        with self._lock:
            self.used.requests += 1

    async def _attempts(self, make: Callable[[], Awaitable[T]], most_s: float) -> T:
        attempt = 0
        while True:
            attempt += 1
            # Not held while it waits to ask once more: others can be answered meanwhile.
            async with self._slots:
                if time.monotonic() < self._rests_until:
                    raise SlowAnswerError("it was too slow a moment ago, and was not asked again")
                if self.counts:
                    self.asked()
                try:
                    answer: T = await within(make(), most_s)
                except Exception as error:
                    if self._is_last(attempt, error):
                        raise
                else:
                    self._has_answered = True
                    return answer
            await asyncio.sleep(_backoff(attempt))

    def _run_here(self, make: Callable[[], Any]) -> Any:
        attempt = 0
        while True:
            if is_stopped():
                raise Cancelled("waiting for the storage was cancelled")
            attempt += 1
            if self.counts:
                self.asked()
            try:
                answer = make()
            except Exception as error:
                if self._is_last(attempt, error):
                    raise
            else:
                self._has_answered = True
                return answer
            time.sleep(_backoff(attempt))

    def _is_last(self, attempt: int, error: Exception) -> bool:
        slow = is_slow(error)
        attempts = _SILENT_ATTEMPTS if slow else _ATTEMPTS
        if not self._has_answered and is_unreached(error):
            attempts = _FIRST_ATTEMPTS
        is_last = attempt >= attempts or not is_transient(error)
        if is_last and slow:
            self._rests_until = time.monotonic() + _REST_S
        return is_last


def total() -> Used:
    """What all storages of this process were asked."""
    return Used(
        sum(used.requests for used in _all_used),
        sum(used.num_bytes for used in _all_used),
        sum(used.num_failed for used in _all_used),
    )


def in_thread(make: Callable[[], T]) -> T:
    """What a call gives that blocks and knows no way to be stopped: it runs in its own thread.

    Raises:
        Cancelled: This thread was told to stop; the other one ends when it ends.
        Exception: What the call raised.
    """
    return _wait(_begun(make))


def in_threads(work: Callable[[], None], num: int) -> None:
    """Run something that blocks in several threads, until all have ended.

    Raises:
        Cancelled: This thread was told to stop; the others end when they end.
    """
    for future in [_begun(work) for _ in range(num)]:
        _wait(future)


def _begun(make: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # Its answer may come when nobody waits any longer.

    def work() -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="storage", daemon=True).start()
    return future


def _wait(future: Future[T], patience_s: float | None = None) -> T:
    give_up = None if patience_s is None else time.monotonic() + patience_s
    try:
        while not wait([future], _POLL_S).done:
            if is_stopped():
                raise Cancelled("waiting for the storage was cancelled")
            if give_up is not None and time.monotonic() > give_up:
                raise TimeoutError
    except BaseException:
        future.cancel()
        raise
    return future.result()


def _backoff(attempt: int) -> float:
    longest = min(_BACKOFF_S * 2.0 ** (attempt - 1), _MAX_BACKOFF_S)
    # Many that failed together must not come back together.
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
