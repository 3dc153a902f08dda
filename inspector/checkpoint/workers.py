"""`until`: how a thread that waits for the network is told to stop waiting.

Whoever may want to stop says so once, around what it calls; no function in between needs to know.
Costs nothing to import.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from inspector.errors import Cancelled

__all__ = ["BytesProgress", "Stop", "Worker", "is_stopped", "leave", "run_workers", "until"]

_leaving = threading.Event()


@dataclass(frozen=True, slots=True)
class BytesProgress:
    """How far it is, whatever reads, hashes or copies many bytes."""

    bytes_done: int
    bytes_total: int


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


T = TypeVar("T", contravariant=True)

_POLL_S = 0.1


class Stop:
    """Whether it is time to stop; set from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Stop whoever looks."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if it is set."""
        if self._event.is_set():
            raise Cancelled("it was stopped")


class Worker(Protocol[T]):
    """One thread's work: its open files, its buffers."""

    def run(self, task: T) -> None:
        """Do one task; raises `Cancelled` when it is told to stop."""
        ...

    def close(self) -> None:
        """Put away what is open."""
        ...


class _Pool(Generic[T]):
    def __init__(self, tasks: Iterable[T], stop: Stop) -> None:
        self.ended = threading.Event()
        self.crash: BaseException | None = None
        self.num_running = 0
        self._tasks = iter(tasks)
        self._stop = stop
        self._lock = threading.Lock()

    def work(self, worker: Worker[T]) -> None:
        try:
            with until(lambda: self._stop.is_set):
                while not self._stop.is_set:
                    with self._lock:
                        task = next(self._tasks)
                    worker.run(task)
        except (StopIteration, Cancelled):
            pass
        except BaseException as error:  # a bug: raised again where the work was asked for
            self.crash = error
            self._stop.set()
        finally:
            worker.close()
            with self._lock:
                self.num_running -= 1
                if not self.num_running:
                    self.ended.set()


def run_workers(
    tasks: Iterable[T],
    start: Callable[[], Worker[T]],
    stop: Stop,
    *,
    num_workers: int = 2,
    poll: Callable[[], bool] | None = None,
) -> None:
    """Do all tasks; returns when they are done, or when it was told to stop.

    Args:
        tasks: Handed out in order, each to the thread that is free.
        start: Makes the worker of a thread.
        stop: Ends it early; also set by `poll` and by Ctrl+C.
        num_workers: Threads.
        poll: Called about ten times a second in the calling thread, and at the end; True stops.
    """
    pool = _Pool(tasks, stop)
    workers = [start() for _ in range(max(num_workers, 1))]
    pool.num_running = len(workers)
    threads = [threading.Thread(target=pool.work, args=(w,), daemon=True) for w in workers]
    for thread in threads:
        thread.start()
    try:
        while not pool.ended.wait(_POLL_S):
            if poll is not None and poll():
                stop.set()
    except KeyboardInterrupt:
        stop.set()
    finally:
        if not pool.ended.is_set():
            stop.set()
        for thread in threads:
            thread.join()
    if pool.crash is not None:
        raise pool.crash
    if poll is not None:
        poll()
