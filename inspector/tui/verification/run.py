"""`Run`: a verification that a screen can look at, whoever drives it.

The rule this module keeps: the screen never waits. A thread drives the job and leaves a `Moment`,
an immutable value, for the screen to take; the screen asks for things by setting a word.
"""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inspector.checkpoint.model import Checkpoint
from inspector.crash import internal_error
from inspector.errors import InspectError
from inspector.report.verify_text import verify_text
from inspector.verify.job.launcher import Job
from inspector.verify.preflight import Preflight
from inspector.verify.progress import JobState, LogLine, Snapshot
from inspector.verify.recording import read_events

__all__ = ["ALL", "Following", "Moment", "Run", "Verification"]

#: As the rank to watch: everybody.
ALL = "all"
_MAX_LINES = 500
#: Thresholds of the collector.
_RARELY = (20_000, 50, 100)
_PUBLISH_S = 0.09
_IDLE_S = 0.05
#: Between two looks at a busy job: the screen needs the interpreter, too.
_BREATH_S = 0.01


@dataclass(frozen=True, slots=True)
class Moment:
    """What a screen shows: the job, the lines of the rank it watches, and the time.

    Attributes:
        now_t: The job's time, seconds since the epoch; it goes on while nothing is told.
        end_s: Length of a recording in seconds, or 0 where it is none.
        position_s: How far into it this is.
    """

    snapshot: Snapshot
    lines: tuple[LogLine, ...] = ()
    now_t: float = 0.0
    position_s: float = 0.0
    end_s: float = 0.0


_NOTHING = Moment(JobState().snapshot())


class Run:
    """A thread that drives a job, and what it shows of it.

    Attributes:
        moment: The latest; replaced, never changed.
        error: Why it could not go on, or None.
        path: The checkpoint's path, raw.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.moment: Moment = _NOTHING
        self.error: InspectError | None = None
        self._watched: int | str | None = ALL
        self._is_stale = False
        self._thread = threading.Thread(target=self._run, name="verification", daemon=True)

    # What the screen calls; none of it waits.

    def start(self) -> Run:
        """Begin, in a thread."""
        # What is here by now stays, and events leave no cycles: looking through it all each time
        # they have made enough objects would hold up the screen (measured: by up to 180 ms).
        gc.freeze()
        gc.set_threshold(*_RARELY)
        self._thread.start()
        return self

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.moment.snapshot.result is not None or self.error is not None

    @property
    def is_alive(self) -> bool:
        """Whether its thread still has something to do."""
        return self._thread.is_alive()

    @property
    def watched(self) -> int | str | None:
        """The rank whose lines come with the moments; `ALL` for everybody's."""
        return self._watched

    def watch(self, rank: int | str | None) -> None:
        """Ask for the lines of another rank (None: torchrun's own)."""
        self._watched = rank
        self._is_stale = True
        if not self.is_alive:
            self._publish()

    def now_t(self) -> float:
        """The job's time now."""
        return self.moment.now_t

    def join(self, timeout_s: float) -> None:
        """Wait for the thread; only for the end of the app, and tests."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    # What runs in the thread.

    def _run(self) -> None:
        try:
            self._drive()
        except InspectError as error:
            self.error = error
        except Exception as error:  # a thread has nobody above it
            self.error = internal_error(error)

    def _drive(self) -> None:
        raise NotImplementedError

    def _publish(self) -> None:
        raise NotImplementedError


class Verification(Run):
    """A job on this machine.

    Args:
        plan: What to do.
        job: The job, if it is to be another than the plan's own (tests).
    """

    def __init__(self, plan: Preflight, job: Job | None = None) -> None:
        super().__init__(plan.spec.path)
        self.plan = plan
        #: Where it is recorded; empty before it started.
        self.folder = ""
        self.is_stopping = False
        #: The checkpoint as it was when this began; None if nobody said.
        self.checkpoint: Checkpoint | None = None
        self._job = job
        self._clock: Callable[[], float] = time.time

    @property
    def command(self) -> list[str]:
        """The command line, once it runs."""
        return [] if self._job is None else self._job.command

    def stop(self) -> None:
        """Ask the job to end; its result still comes."""
        self.is_stopping = True
        if self._job is not None and self.folder and not self.is_over:
            self._job.stop()

    def kill(self) -> None:
        """End the job now."""
        self.is_stopping = True
        if self._job is not None and self.folder and not self.is_over:
            self._job.kill()

    def now_t(self) -> float:
        return self.moment.snapshot.last_t if self.is_over else self._clock()

    def _drive(self) -> None:
        plan = self.plan
        if self._job is None:
            self._job = Job(plan.spec, expected=plan.expected, scratch_parent=plan.scratch_parent)
        job = self._job
        with job.start():
            self.folder = str(job.folder.path)
            if self.is_stopping:  # asked for while it started
                job.stop()
            last_s = 0.0
            while job.result is None:
                told = job.step()
                now_s = time.monotonic()
                self._is_stale = self._is_stale or bool(told)
                if self._is_stale and job.result is None and now_s - last_s >= _PUBLISH_S:
                    last_s = now_s
                    self._publish()
                time.sleep(_BREATH_S if told else _IDLE_S)
        self._write_report(job)
        self._publish()

    def _publish(self) -> None:
        job = self._job
        if job is not None:
            self._is_stale = False
            lines = tuple(job.log_lines(self._watched, _MAX_LINES))
            self.moment = Moment(job.snapshot(), lines, self._clock())

    def _write_report(self, job: Job) -> None:
        """`report.json` and `report.txt` beside the recording."""
        text = "".join(line + "\n" for line in verify_text(job.snapshot()))
        try:
            job.folder.path.joinpath("report.txt").write_text(
                text, encoding="utf-8", errors="backslashreplace"
            )
            report = json.dumps(job.result, indent=1) + "\n"
            job.folder.path.joinpath("report.json").write_text(report, encoding="utf-8")
        except OSError:
            pass  # The recording is there all the same.


class Following(Run):
    """A job that others run, by the events they write: on several nodes, or earlier."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._state = JobState()
        self._lock = threading.Lock()
        self._clock: Callable[[], float] = time.time

    def now_t(self) -> float:
        return self.moment.snapshot.last_t if self.is_over else self._clock()

    def _drive(self) -> None:
        last_s = 0.0
        for event in read_events(self.path, follow=True):
            if event is not None:
                self._take(event)
            if self._is_stale and (event is None or time.monotonic() - last_s >= _PUBLISH_S):
                last_s = time.monotonic()
                self._publish()
        self._publish()

    def _take(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._state.apply(event)
        self._is_stale = True

    def _publish(self) -> None:
        self._is_stale = False
        with self._lock:
            lines = tuple(self._state.log_lines(self._watched, _MAX_LINES))
            snapshot = self._state.snapshot()
        self.moment = Moment(snapshot, lines, self._clock())
