"""`JobState`: all that is known of a job, folded from its events.

The rule this module keeps: no clock and no IO. A live job, a finished one, a recording and a test
are the same fold over the same events, so they show the same. Events may come late, twice or
out of order, and may hold anything that JSON can: each passes the gate of `events` first.

Reducing is cheap and mutable inside (20,000 events a second are a few percent of a core); what
leaves is an immutable `Snapshot`, made as often as somebody wants to look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from inspector.verify.events import MAX_RANKS, PHASES, checked
from inspector.verify.verdicts import TensorMerge, TensorView, severity

__all__ = ["PHASES", "Failure", "JobState", "LogLine", "PhaseTime", "RankView", "Snapshot"]


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank.

    Attributes:
        status: `waiting` (not heard of yet), `running`, `failed` or `done` (it said `bye`).
        phase, hop, mesh: Where it is; an empty phase before the first. `hop` is the position of
            the mesh in `JobSpec.then`.
        bytes_done, bytes_total, tensors_done, tensors_total: Of the present phase, over all waves
            of tensors and all hops.
        rss: Memory it holds, or None if it did not say.
        done: Bytes done and bytes in all of every phase so far.
        extra: Whatever else it told in `hello`, `progress`, `heartbeat` and `bye`
            (`anon_bytes`, `cuda_bytes`, `payloads_checked` ...).
        last_t: When it last told something, seconds since the epoch.
    """

    rank: int
    status: str = "waiting"
    pid: int | None = None
    host: str = ""
    device: str = ""
    phase: str = ""
    hop: int = 0
    mesh: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    tensors_done: int = 0
    tensors_total: int = 0
    rss: int | None = None
    num_bad: int = 0
    last_t: float = 0.0
    done: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """A `failed` event.

    `is_root` marks what the others came of, `is_echo` what only came of another.
    """

    rank: int | None
    kind: str
    message: str
    stack: str
    t: float
    is_root: bool
    is_echo: bool = False


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that a rank, or torchrun (None), printed; raw."""

    rank: int | None
    stream: str
    text: str
    t: float


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """How long a phase has taken so far, all waves together."""

    phase: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job at one moment; immutable.

    Attributes:
        spec: The `spec` event, or an empty dict before it.
        ranks: Every rank, by number.
        tensors: Every entry told of, in the order of the first report.
        num_exact, num_bad: Entries whose verdict so far is EXACT, or wrong.
        num_entries: Entries that the job is to verify, or None if nobody said.
        phases: Times of the phases, in the order in which they first ended.
        failures: Ranks that failed, and why, the root first.
        num_log_lines: Lines printed in all.
        first_t, last_t: Time of the first and of the latest event; 0 before any.
        result: The `result` event, or None while it runs.
        torch_reads: The `torch_reads` event of rank 0, or None before it.
        left_out: Entries that the ranks leave out: reason, how many, whether the user asked.
        num_foreign: Events of another job, which are passed over.
        num_raw: Bytes entries, which are compared as bytes and not unpickled.
        other_mesh: Where ranks compared entries under another mesh than was asked for; or nothing.
        started_twice: The rank that said hello as two processes, if one did: then the events are
            those of two runs of the job.
        version: Rises with every event.
    """

    spec: Mapping[str, Any]
    ranks: tuple[RankView, ...]
    tensors: Mapping[str, TensorView]
    num_exact: int
    num_bad: int
    num_entries: int | None
    phases: tuple[PhaseTime, ...]
    failures: tuple[Failure, ...]
    num_log_lines: int
    first_t: float
    last_t: float
    result: Mapping[str, Any] | None
    version: int
    torch_reads: Mapping[str, Any] | None = None
    left_out: tuple[tuple[str, int, bool], ...] = ()
    num_foreign: int = 0
    num_raw: int = 0
    other_mesh: str = ""
    started_twice: int | None = None


Event = dict[str, Any]

_MAX_LOG_LINES = 2000
_MAX_FAILURES = 1000


@dataclass(slots=True)
class _Rank:
    """What is being gathered of one rank."""

    rank: int
    pid: int | None = None
    host: str = ""
    start: tuple[int | None, str, float] | None = None
    device: str = ""
    phase: str = ""
    hop: int = 0
    mesh: str = ""
    phase_t: float = 0.0
    rss: int | None = None
    num_bad: int = 0
    last_t: float = 0.0
    has_failed: bool = False
    has_left: bool = False
    # (bytes done, bytes in all, tensors done, tensors in all) by phase, over the whole job.
    progress: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    elapsed_s: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def view(self) -> RankView:
        now = self.progress.get(self.phase, (0, 0, 0, 0))
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
            self.hop,
            self.mesh,
            *now,
            self.rss,
            self.num_bad,
            self.last_t,
            {key: value[:2] for key, value in self.progress.items()},
            dict(self.extra),
        )


class JobState:
    """The fold. `apply` takes an event; `snapshot` gives the value of it.

    Attributes:
        long_names: Names that are too long for an event, by the position of their entry, where
            somebody knows them. The others are told apart by that position.
    """

    long_names: Mapping[int, str] = MappingProxyType({})

    def __init__(self) -> None:
        self.spec: Event = {}
        self.result: Event | None = None
        self.num_entries: int | None = None
        self.torch_reads: Event | None = None
        self.num_foreign = self.num_raw = 0
        self._left_out: tuple[tuple[str, int, bool], ...] = ()
        self._other_mesh = ""
        self._started_twice: int | None = None
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
            "torch_reads": self._torch_reads,
            "finding": self._finding,
            "result": self._result,
        }

    @property
    def world_size(self) -> int:
        """Ranks there should be; before the `spec` event, those heard of."""
        size = self.spec.get("world_size") or 0
        if 0 < size <= MAX_RANKS:
            return int(size)
        return max(self._ranks, default=-1) + 1

    def apply(self, event: Event) -> None:
        name = event.get("event")
        taker = self._takers.get(name) if isinstance(name, str) else None
        if taker is None:
            return
        event = checked(event)
        is_evidence = taker is not self._takers["log"]
        if is_evidence and self.spec.get("run") and event.get("run") != self.spec["run"]:
            if name != "spec" or not self._is_begun_again(event):
                self.num_foreign += 1
                return
            # What the first attempt told is none of the second's.
            self.__init__()  # type: ignore[misc]
            taker = self._spec
        t: float = event["t"]
        number = event.get("rank")
        rank = None
        if number is not None:
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

    def _is_begun_again(self, event: Event) -> bool:
        """Whether a `spec` event begins this very job once more, before a rank of it was up."""
        is_up = any(rank.pid for rank in self._ranks.values())
        return event.get("again") == self.spec["run"] and not is_up and self.result is None

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
            self._phase_times(),
            tuple(sorted(self._failures.values(), key=_by_cause)),
            self._num_log_lines,
            self.first_t,
            self.last_t,
            self.result,
            self.version,
            self.torch_reads,
            self._left_out,
            self.num_foreign,
            self.num_raw,
            self._other_mesh,
            self._started_twice,
        )

    def _phase_times(self) -> tuple[PhaseTime, ...]:
        """By the first rank's clock: the ranks go through the phases together."""
        rank = self._ranks.get(min(self._ranks, default=0))
        if rank is None:
            return ()
        times = dict(rank.elapsed_s)
        if rank.phase:
            since = max(rank.last_t - rank.phase_t, 0.0)
            times[rank.phase] = times.get(rank.phase, 0.0) + since
        return tuple(PhaseTime(phase, elapsed_s) for phase, elapsed_s in times.items())

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
            rank.pid = event.get("pid")
            rank.host = event.get("host") or ""
            rank.device = event.get("device") or ""
            start = rank.pid, rank.host, t
            if rank.start not in (None, start):
                self._started_twice = rank.rank
            rank.start = start
            self._extra(event, rank)

    def _plan(self, event: Event, rank: _Rank | None, t: float) -> None:
        tensors, entries, number = map(event.get, ("tensors", "entries", "num_entries"))
        self.num_raw = entries or self.num_raw
        if tensors is not None and entries is not None and self.num_entries is None:
            number = tensors + entries
        if number is not None:
            self.num_entries = number
        if (left_out := event.get("left_out")) is not None:
            self._left_out = tuple(
                (str(item.get("why")), item.get("count") or 0, item.get("asked") or False)
                for item in left_out
            )

    def _phase(self, event: Event, rank: _Rank | None, t: float) -> None:
        phase = event.get("phase")
        if rank is None or not phase:
            return
        # Waves of tensors go through the same phases again and again: only time orders them.
        if t < rank.phase_t:
            return
        if rank.phase:
            spent = rank.elapsed_s.get(rank.phase, 0.0)
            rank.elapsed_s[rank.phase] = spent + t - rank.phase_t
        if phase != rank.phase or event.get("mesh"):
            rank.hop = event.get("hop") or 0
            rank.mesh = event.get("mesh") or ""
        rank.phase, rank.phase_t = phase, t

    def _progress(self, event: Event, rank: _Rank | None, t: float) -> None:
        if rank is None:
            return
        rss = event.get("rss_bytes")
        rank.rss = rank.rss if rss is None else rss
        self._extra(event, rank)
        phase = event.get("phase") or rank.phase
        told = [event.get(name) or 0 for name in _COUNTS]
        if any(told):
            before = rank.progress.get(phase, (0, 0, 0, 0))
            done, total, tensors, num_tensors = map(max, before, told)
            rank.progress[phase] = (done, total, tensors, num_tensors)

    def _extra(self, event: Event, rank: _Rank) -> None:
        for name, value in event.items():
            if name not in _KNOWN and isinstance(value, (int, float, str, dict)):
                rank.extra[name] = value

    def _tensor(self, event: Event, rank: _Rank | None, t: float) -> None:
        fqn = event.get("fqn")
        if rank is None or not isinstance(fqn, str):
            return
        entry = event.get("entry")
        if event.get("cut") is True and entry is not None and fqn.endswith(" ..."):
            fqn = self.long_names.get(entry) or f"{fqn} (entry {entry:,})"
        merge = self._tensors.get(fqn)
        if merge is None:
            merge = self._tensors[fqn] = TensorMerge(fqn)
        num_faults = merge.num_faults
        hop = event.get("hop") or 0
        merge.add(rank.rank, hop, event, self.world_size)
        if not self._other_mesh:
            self._other_mesh = self._elsewhere(event, hop)
        rank.num_bad += merge.num_faults - num_faults
        self._changed[fqn] = None

    def _elsewhere(self, event: Event, hop: int) -> str:
        """Where an entry was compared, if that is not the mesh that was asked for."""
        mesh, phase = event.get("mesh"), event.get("phase")
        if not mesh or not self.spec or phase not in ("compare", "recheck"):
            return ""
        then = self.spec.get("then") or []
        asked = self.spec.get("mesh")
        if phase == "recheck":
            asked = then[hop] if hop < len(then) else None
        return "" if mesh == asked else f"{phase} of {asked or 'no mesh'} was under {mesh}"

    def _log(self, event: Event, rank: _Rank | None, t: float) -> None:
        number = None if rank is None else rank.rank
        line = LogLine(number, event.get("stream") or "", event.get("text") or "", t)
        if number not in self._logs:
            self._logs[number] = deque(maxlen=_MAX_LOG_LINES)
        self._logs[number].append(line)
        self._all_logs.append(line)
        self._num_log_lines += 1

    def _failed(self, event: Event, rank: _Rank | None, t: float) -> None:
        number = None if rank is None else rank.rank
        if rank is not None:
            rank.has_failed = True
        kind, message = event.get("kind") or "exception", event.get("message") or ""
        key = (number, kind, message)
        if key not in self._failures and len(self._failures) < _MAX_FAILURES:
            stack = event.get("stack") or ""
            is_root, is_echo = event.get("root") is True, event.get("is_echo") is True
            self._failures[key] = Failure(number, kind, message, stack, t, is_root, is_echo)

    def _bye(self, event: Event, rank: _Rank | None, t: float) -> None:
        if rank is not None:
            rank.has_left = True
            self._extra(event, rank)

    def _torch_reads(self, event: Event, rank: _Rank | None, t: float) -> None:
        self.torch_reads = event

    def _finding(self, event: Event, rank: _Rank | None, t: float) -> None:
        if rank is not None and event.get("severity") == "error":
            rank.num_bad += 1

    def _result(self, event: Event, rank: _Rank | None, t: float) -> None:
        self.result = event


_COUNTS = ("bytes_done", "bytes_total", "tensors_done", "tensors_total")
_KNOWN = frozenset(
    ("schema", "event", "run", "rank", "t", "phase", "hop", "mesh", "cut", "pid", *_COUNTS)
)
_KINDS = {"out-of-memory": 0, "timeout": 1, "killed": 2, "launch": 3}


def _by_cause(failure: Failure) -> tuple[bool, bool, int, float]:
    # A rank that was killed is why the others lost their connection to it.
    order = _KINDS.get(failure.kind, len(_KINDS))
    return (not failure.is_root, failure.is_echo, order, failure.t)
