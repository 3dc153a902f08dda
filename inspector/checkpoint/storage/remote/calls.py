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
from inspector.checkpoint.storage.remote.bounds import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    SlowAnswerError,
    answer_s,
    within,
)
from inspector.checkpoint.storage.remote.errors import is_slow, is_transient, is_unreached
from inspector.checkpoint.workers import is_stopped
from inspector.errors import Cancelled

__all__ = ["MAX_IN_FLIGHT", "Calls", "in_thread", "in_threads", "most_lost_s", "total"]

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
#: What such requests may take of a storage's time, those side by side counted once; then it is left
#: alone for longer than a command waits. With the longest of a single one that stays below a
#: minute: `most_lost_s`.
_LOST_S = 10.0
_LONG_REST_S = 300.0
#: So many given up one after another, with no answer between: then it is left alone, too.
_MOST_FAILED = 32
_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 4.0


class Calls:
    """Runs requests of a file system.

    Args:
        loop: The event loop of an asynchronous file system, or None: then requests run in the
            thread that asks, one at a time.
        counts: False if something nearer to the wire counts the requests.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None, *, counts: bool = True) -> None:
        self.used = Used()
        _all_used.append(self.used)
        self.counts = counts
        self._loop = loop
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._has_answered = False
        self._rests_until = 0.0
        self._lost_s = self._lost_until = 0.0
        self._num_failed = 0
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
            return self._run_here(make, answer_s(0) if most_s is None else most_s)
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
        attempt, began, last = 0, None, None
        while True:
            attempt += 1
            # Not held while it waits to ask once more: others can be answered meanwhile.
            async with self._slots:
                self._check_rest(last)
                began = began or time.monotonic()
                if self.counts:
                    self.asked()
                try:
                    answer: T = await within(make(), most_s)
                except Exception as error:
                    if self._is_last(attempt, error, began):
                        raise
                    last = error
                else:
                    self._answered()
                    return answer
            await asyncio.sleep(_backoff(attempt))

    def _run_here(self, make: Callable[[], T], most_s: float) -> T:
        attempt, began, last = 0, time.monotonic(), None
        while True:
            if is_stopped():
                raise Cancelled("waiting for the storage was cancelled")
            attempt += 1
            self._check_rest(last)
            if self.counts:
                self.asked()
            try:
                answer = self._bounded(make, most_s)
            except Cancelled:
                raise
            except Exception as error:
                if self._is_last(attempt, error, began):
                    raise
                last = error
            else:
                self._answered()
                return answer
            time.sleep(_backoff(attempt))

    @staticmethod
    def _bounded(make: Callable[[], T], most_s: float) -> T:
        """What a call gives that blocks, in time.

        Raises:
            SlowAnswerError: It takes longer; it goes on in its thread, and nobody waits for it.
        """
        future = _begun(make)
        try:
            return _wait(future, most_s)
        except TimeoutError as error:
            if future.done():
                raise  # A library's own.
            raise SlowAnswerError(f"its answer takes more than {most_s:.0f} s") from error

    def _check_rest(self, last: Exception | None) -> None:
        """Whether another request may be begun.

        Raises:
            Exception: It may not: that one, or `SlowAnswerError`.
        """
        if time.monotonic() < self._rests_until:
            raise last or SlowAnswerError("it was too slow a moment ago, and was not asked again")

    def _answered(self) -> None:
        self._has_answered = True
        self._num_failed = 0

    def _is_last(self, attempt: int, error: Exception, began: float) -> bool:
        slow = is_slow(error)
        attempts = _SILENT_ATTEMPTS if slow else _ATTEMPTS
        if not self._has_answered and is_unreached(error):
            attempts = _FIRST_ATTEMPTS
        is_last = attempt >= attempts or not is_transient(error)
        if is_last and (slow or is_transient(error)):
            self._given_up(began, is_slow=slow)
        return is_last

    def _given_up(self, began: float, *, is_slow: bool) -> None:
        now = time.monotonic()
        with self._lock:
            self._num_failed += 1
            if is_slow:
                self._lost_s += now - max(began, self._lost_until)
                self._lost_until = now
                self._rests_until = max(self._rests_until, now + _REST_S)
            if self._lost_s >= _LOST_S or self._num_failed >= _MOST_FAILED:
                self._rests_until = now + _LONG_REST_S
                self._lost_s, self._num_failed = 0.0, 0


def most_lost_s(most_s: float) -> float:
    """The longest that a storage's slow requests can take of a command's time, in seconds.

    Those given up before the last one took less than `_LOST_S`; that one takes its tries, and an
    attempt that was under way beside it is waited for.
    """
    silent_s = _SILENT_ATTEMPTS * READ_TIMEOUT_S
    unreached_s = _ATTEMPTS * CONNECT_TIMEOUT_S
    waits_s = sum(min(_BACKOFF_S * 2.0**n, _MAX_BACKOFF_S) for n in range(_ATTEMPTS - 1))
    return _LOST_S + max(most_s, silent_s + waits_s + READ_TIMEOUT_S, unreached_s + waits_s)


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
