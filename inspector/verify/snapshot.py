"""`Snapshot`: a job at one moment, as immutable values. `progress.JobState` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inspector.verify.verdicts import TensorView

__all__ = ["Failure", "LogLine", "PhaseTime", "RankView", "Snapshot"]


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
