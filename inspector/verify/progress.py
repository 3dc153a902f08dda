"""`JobState`: all that is known of a job, folded from its events.

The rule this module keeps: no clock and no IO. A live job, a finished one, a recording and a test
are the same fold over the same events, so they show the same. Events may come late, twice or
out of order, and may hold anything that JSON can: what makes no sense is passed over.

Reducing is cheap and mutable inside (20,000 events a second are a few percent of a core); what
leaves is an immutable `Snapshot`, made as often as somebody wants to look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inspector.verify.snapshot import Failure, LogLine, PhaseTime, RankView, Snapshot
from inspector.verify.verdicts import TensorMerge, TensorView, severity

__all__ = ["PHASES", "JobState", "apply"]

Event = dict[str, Any]

#: The phases in the order in which a rank goes through them; the last three once for each leg.
PHASES = ("load", "compare", "replicas", "save", "reload", "recheck")
_MAX_RANKS = 65_536
_MAX_LOG_LINES = 2000
_MAX_FAILURES = 1000


@dataclass(slots=True)
class _Rank:
    """What is being gathered of one rank."""

    rank: int
    pid: int | None = None
    host: str = ""
    device: str = ""
    phase: str = ""
    leg: int = 0
    rss: int | None = None
    num_bad: int = 0
    last_t: float = 0.0
    has_failed: bool = False
    has_left: bool = False
    # (bytes done, bytes in all, tensors done, tensors in all) by (leg, phase).
    progress: dict[tuple[int, str], tuple[int, int, int, int]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def view(self) -> RankView:
        now = self.progress.get((self.leg, self.phase), (0, 0, 0, 0))
        status = "running" if self.last_t else "waiting"
        if self.has_left or self.has_failed:
            status = "failed" if self.has_failed else "done"
        return RankView(
            self.rank,
            status,
            self.pid,
            self.host,
            self.device,
            self.phase,
            self.leg,
            *now,
            self.rss,
            self.num_bad,
            self.last_t,
            {key: value[:2] for key, value in self.progress.items()},
            dict(self.extra),
        )


class JobState:
    """The fold. `apply` takes an event; `snapshot` gives the value of it."""

    def __init__(self) -> None:
        self.spec: Event = {}
        self.result: Event | None = None
        self.num_entries: int | None = None
        self.version = 0
        self.first_t = self.last_t = 0.0
        self._ranks: dict[int, _Rank] = {}
        self._rank_views: dict[int, RankView] = {}
        self._changed_ranks: set[int] = set()
        self._tensors: dict[str, TensorMerge] = {}
        self._views: dict[str, TensorView] = {}
        self._changed: dict[str, None] = {}  # in order of arrival, which the views keep
        self._shown: dict[str, TensorView] = {}
        self._num_exact = self._num_bad = 0
        self._phases: dict[tuple[int, str], list[float]] = {}
        self._failures: dict[tuple[int | None, str, str], Failure] = {}
        self._logs: dict[int | None, deque[LogLine]] = {}
        self._all_logs: deque[LogLine] = deque(maxlen=_MAX_LOG_LINES)
        self._num_log_lines = 0
        self._takers: dict[str, Callable[[Event, _Rank | None, float], None]] = {
            "spec": self._spec,
            "hello": self._hello,
            "plan": self._plan,
            "phase": self._phase,
            "progress": self._progress,
            "heartbeat": self._progress,
            "tensor": self._tensor,
            "log": self._log,
            "failed": self._failed,
            "bye": self._bye,
            "result": self._result,
        }

    @property
    def world_size(self) -> int:
        """Ranks there should be; before the `spec` event, those heard of."""
        size = self.spec.get("world_size")
        if isinstance(size, int) and 0 < size <= _MAX_RANKS:
            return size
        return max(self._ranks, default=-1) + 1

    def apply(self, event: Event) -> None:
        """Take one event."""
        taker = self._takers.get(str(event.get("event")))
        if taker is None:
            return
        t = event.get("t")
        t = float(t) if isinstance(t, (int, float)) else 0.0
        number = event.get("rank")
        rank = None
        if isinstance(number, int) and 0 <= number < _MAX_RANKS:
            rank = self._ranks.get(number)
            if rank is None:
                rank = self._ranks[number] = _Rank(number)
            if t > rank.last_t:
                rank.last_t = t
            self._changed_ranks.add(number)
        if t > self.last_t:
            self.last_t = t
        if t and (t < self.first_t or not self.first_t):
            self.first_t = t
        self.version += 1
        taker(event, rank, t)

    def log_lines(self, rank: int | str | None = "all", limit: int = 500) -> list[LogLine]:
        """The last lines of one rank, of torchrun (None), or of everything (`all`)."""
        lines = self._all_logs if isinstance(rank, str) else self._logs.get(rank, ())
        return list(lines)[-limit:]

    def snapshot(self) -> Snapshot:
        """The state as an immutable value; its cost is that of what changed since the last."""
        for number in self._changed_ranks:
            self._rank_views[number] = self._ranks[number].view()
        self._changed_ranks.clear()
        self._renew_tensors()
        size = max(self.world_size, max(self._rank_views, default=-1) + 1)
        return Snapshot(
            dict(self.spec),
            tuple(self._rank_views.get(i) or RankView(i) for i in range(size)),
            self._shown,
            self._num_exact,
            self._num_bad,
            self.num_entries,
            tuple(PhaseTime(*key, *times) for key, times in self._phases.items()),
            tuple(sorted(self._failures.values(), key=_by_cause)),
            self._num_log_lines,
            self.first_t,
            self.last_t,
            self.result,
            self.version,
        )

    def _renew_tensors(self) -> None:
        if not self._changed:
            return
        for fqn in self._changed:
            before, now = self._views.get(fqn), self._tensors[fqn].view()
            for view, step in ((before, -1), (now, 1)):
                if view is not None and view.verdict:
                    self._num_bad += step * (severity(view.verdict) > 1)
                    self._num_exact += step * (severity(view.verdict) == 0)
            self._views[fqn] = now
        self._changed.clear()
        self._shown = self._views.copy()

    def _spec(self, event: Event, rank: _Rank | None, t: float) -> None:
        self.spec = event
        self._plan(event, rank, t)

    def _hello(self, event: Event, rank: _Rank | None, t: float) -> None:
        if rank is not None:
            rank.pid = _int(event.get("pid"))
            rank.host = str(event.get("host", ""))
            rank.device = str(event.get("device", ""))

    def _plan(self, event: Event, rank: _Rank | None, t: float) -> None:
        number = _int(event.get("num_entries"))
        if number is not None:
            # A rank knows it from what it will load; the front end had to reckon.
            is_first = self.num_entries is None
            self.num_entries = number if is_first or rank is not None else self.num_entries

    def _phase(self, event: Event, rank: _Rank | None, t: float) -> None:
        phase = str(event.get("phase", ""))
        if rank is None or not phase:
            return
        leg = _int(event.get("leg"))
        if leg is None:
            # A leg begins with its save; one that is told twice is still the same.
            began = phase == "save" and rank.phase in ("reload", "recheck")
            leg = rank.leg + began
        self._touch_phase(leg, phase, t)
        if _position(leg, phase) >= _position(rank.leg, rank.phase):
            rank.leg, rank.phase = leg, phase

    def _touch_phase(self, leg: int, phase: str, t: float) -> None:
        times = self._phases.get((leg, phase))
        if times is None:
            self._phases[leg, phase] = [t, t]
        else:
            times[0] = min(times[0], t)
            times[1] = max(times[1], t)

    def _progress(self, event: Event, rank: _Rank | None, t: float) -> None:
        if rank is None:
            return
        rss = _int(event.get("rss"))
        rank.rss = rank.rss if rss is None else rss
        for name, value in event.items():
            if name not in _KNOWN and isinstance(value, (int, float, str)):
                rank.extra[name] = value
        phase = str(event.get("phase") or rank.phase)
        leg = _int(event.get("leg"))
        key = (rank.leg if leg is None else leg, phase)
        told = [_int(event.get(name)) or 0 for name in _COUNTS]
        if any(told):
            before = rank.progress.get(key, (0, 0, 0, 0))
            a, b, c, d = map(max, before, told)
            rank.progress[key] = (a, b, c, d)
            self._touch_phase(*key, t)

    def _tensor(self, event: Event, rank: _Rank | None, t: float) -> None:
        fqn = event.get("fqn")
        if rank is None or not isinstance(fqn, str):
            return
        leg = _int(event.get("leg"))
        leg = rank.leg if leg is None else leg
        merge = self._tensors.get(fqn)
        if merge is None:
            merge = self._tensors[fqn] = TensorMerge(fqn)
        num_faults = merge.num_faults
        merge.add(rank.rank, leg, event, self.world_size)
        rank.num_bad += merge.num_faults - num_faults
        self._changed[fqn] = None
        self._touch_phase(leg, str(event.get("phase", "")), t)

    def _log(self, event: Event, rank: _Rank | None, t: float) -> None:
        number = None if rank is None else rank.rank
        line = LogLine(number, str(event.get("stream", "")), str(event.get("text", "")), t)
        if number not in self._logs:
            self._logs[number] = deque(maxlen=_MAX_LOG_LINES)
        self._logs[number].append(line)
        self._all_logs.append(line)
        self._num_log_lines += 1

    def _failed(self, event: Event, rank: _Rank | None, t: float) -> None:
        number = None if rank is None else rank.rank
        if rank is not None:
            rank.has_failed = True
        kind, message = str(event.get("kind", "exception")), str(event.get("message", ""))
        key = (number, kind, message)
        if key not in self._failures and len(self._failures) < _MAX_FAILURES:
            is_root = event.get("root") is True
            self._failures[key] = Failure(
                number, kind, message, str(event.get("stack") or ""), t, is_root
            )

    def _bye(self, event: Event, rank: _Rank | None, t: float) -> None:
        if rank is not None:
            rank.has_left = True

    def _result(self, event: Event, rank: _Rank | None, t: float) -> None:
        self.result = event


def apply(state: JobState, event: Event) -> JobState:
    """`state` after one more event (the same object: it is mutable inside)."""
    state.apply(event)
    return state


_COUNTS = ("bytes_done", "bytes_total", "tensors_done", "tensors_total")
_KNOWN = frozenset(("schema", "event", "rank", "t", "phase", "leg", "rss", "cut", *_COUNTS))
_ORDER = {phase: i for i, phase in enumerate(PHASES)}
_KINDS = {"out-of-memory": 0, "timeout": 1, "killed": 2, "launch": 3}


def _position(leg: int, phase: str) -> int:
    # The first three phases come once, before every leg.
    order = _ORDER.get(phase, -1)
    return order if order < 3 else leg * 3 + order


def _by_cause(failure: Failure) -> tuple[bool, int, float]:
    # A rank that was killed is why the others lost their connection to it.
    return (not failure.is_root, _KINDS.get(failure.kind, 4), failure.t)


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
