"""`Playback`: a recorded verification as it ran, faster, slower, or at any moment of it.

It folds the recording with the reducer that the live job has, so that it shows the same.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inspector.checkpoint.text import printable
from inspector.errors import UsageError
from inspector.tui.verification.run import Moment, Run
from inspector.verify.events import checked, moment
from inspector.verify.progress import JobState
from inspector.verify.recording import read_events
from inspector.verify.result import confirmed

__all__ = ["SPEEDS", "Playback", "read_recording"]

Event = dict[str, Any]

#: Seconds of the recording in a second.
SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
_TICK_S = 0.05
_MAX_LINES = 500
#: Events folded before the screen gets a look, however fast it plays.
_SLICE = 5000


def read_recording(path: str) -> list[Event]:
    """The events of a recording, in the order in which they came.

    Raises:
        StorageError: It cannot be read.
        UsageError: There are none in it.
    """
    events = [event for event in read_events(path) if event is not None]
    if not events:
        raise UsageError(
            f"there are no events in {printable(path, 200)}", "give a run's events.jsonl"
        )
    return events


class Playback(Run):
    """A recording that plays.

    Args:
        events: The recording.
        speed: Seconds of it in a second.
    """

    def __init__(self, events: Sequence[Event], *, speed: float = 1.0) -> None:
        spec = next((event for event in events if event.get("event") == "spec"), {})
        super().__init__(checked(spec).get("path") or "")
        self._events = events
        self._times = _times(events)
        self._state = JobState()
        self._num_taken = 0
        self._position_s = 0.0
        self._wanted_s: float | None = None
        self._lock = threading.RLock()
        self._is_closed = threading.Event()
        self.speed = speed
        self.is_paused = False
        self._publish()

    @property
    def end_s(self) -> float:
        """Length in seconds."""
        return self._times[-1] if self._times else 0.0

    @property
    def position_s(self) -> float:
        """How far into it the screen is."""
        return self._position_s

    @property
    def is_at_end(self) -> bool:
        return self._num_taken == len(self._events)

    # What the screen calls.

    def faster(self, steps: int) -> float:
        """Play at the next speed (or the one before); the speed."""
        index = SPEEDS.index(self.speed) if self.speed in SPEEDS else SPEEDS.index(1.0)
        self.speed = SPEEDS[max(0, min(index + steps, len(SPEEDS) - 1))]
        return self.speed

    def toggle(self) -> bool:
        """Pause, or go on; at the end, begin anew. Whether it is paused."""
        if self.is_at_end and not self.is_paused:
            self.seek(0.0)
        else:
            self.is_paused = not self.is_paused
        return self.is_paused

    def seek(self, position_s: float) -> None:
        """Go to a moment, soon."""
        self._wanted_s = max(0.0, min(position_s, self.end_s))
        if not self.is_alive:
            self.settle()

    def close(self) -> None:
        """End the thread."""
        self._is_closed.set()

    # What the thread does; tests call it themselves.

    def advance(self, seconds: float) -> None:
        """Play `seconds` of the recording, or as much of it as one look takes."""
        with self._lock:
            self._go(min(self._position_s + seconds, self.end_s))
        self._publish()

    def settle(self) -> None:
        """Go where `seek` wants to be."""
        while self._wanted_s is not None:
            self._seek_some()

    def _drive(self) -> None:
        last_s = time.monotonic()
        while not self._is_closed.wait(_TICK_S):
            now_s = time.monotonic()
            passed_s, last_s = now_s - last_s, now_s
            if self._wanted_s is not None:
                self._seek_some()
            elif not self.is_paused and not self.is_at_end:
                self.advance(passed_s * self.speed)
            elif self._is_stale:
                self._publish()

    def _seek_some(self) -> None:
        with self._lock:
            wanted_s = self._wanted_s
            if wanted_s is None:
                return
            if wanted_s < self._position_s:
                self._state, self._num_taken, self._position_s = JobState(), 0, 0.0
            if self._go(wanted_s) and self._wanted_s == wanted_s:
                self._wanted_s = None
        self._publish()

    def _go(self, position_s: float) -> bool:
        """Fold what lies before a moment, at most a slice; whether it got there."""
        target = bisect.bisect_right(self._times, position_s)
        stop = min(target, self._num_taken + _SLICE)
        for event in self._events[self._num_taken : stop]:
            self._state.apply(event)
        self._num_taken = max(self._num_taken, stop)
        is_there = stop >= target
        self._position_s = position_s if is_there else self._times[stop - 1]
        return is_there

    def _publish(self) -> None:
        with self._lock:
            self._is_stale = False
            lines = tuple(self._state.log_lines(self._watched, _MAX_LINES))
            snapshot = self._state.snapshot()
            if snapshot.result is not None:
                snapshot = replace(snapshot, result=confirmed(snapshot))
            now_t = snapshot.first_t + self._position_s
            self.moment = Moment(snapshot, lines, now_t, self._position_s, self.end_s)


def _times(events: Sequence[Event]) -> list[float]:
    """When each event plays, in seconds from the first: its time, and never before another's."""
    times: list[float] = []
    first: float | None = None
    latest = 0.0
    for event in events:
        t = moment(event)
        if t > 0:
            first = t if first is None else first
            latest = max(latest, t - first)
        times.append(latest)
    return times
