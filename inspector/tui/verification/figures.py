"""The figures of a verification at one moment: how far, how fast, how much.

Pure: a `Snapshot` in, values out. The time comes in from outside, so that a recording shows the
figures that the live job showed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.verify.events import READ
from inspector.verify.progress import RankView, Snapshot

__all__ = [
    "RankProgress",
    "Rates",
    "Totals",
    "mesh_of",
    "rank_figures",
    "stages",
    "totals",
    "where",
]

_WINDOW_S = 3.0
#: Before so much is done, what is left is anybody's guess.
_LEAST_SHARE = 0.03
_MOST_BYTES = 1 << 60


def stages(snapshot: Snapshot) -> tuple[str, ...]:
    """The phases that move bytes, in order."""
    if snapshot.spec.get("task"):
        return (READ,)
    both = ("load", "compare")
    return (*both, "save", "reload", "recheck") if snapshot.spec.get("then") else both


@dataclass(frozen=True, slots=True)
class RankProgress:
    """One rank as the screen shows it.

    Attributes:
        state: `waiting`, `running`, `done`, `wrong` (it found a difference), `failed` or
            `stopped` (the job ended before it did).
        phase: Where it is.
        shares: Of each stage, the part that is done, 0 to 1.
        num_bytes: Bytes it moved in all phases so far.
        rate: Bytes a second of late.
        memory: Resident bytes, or None.
        gpu_memory: Bytes on its GPU, or None.
    """

    rank: int
    state: str
    phase: str
    shares: tuple[float, ...]
    num_bytes: int
    rate: float
    memory: int | None
    gpu_memory: int | None

    @property
    def share(self) -> float:
        """How much of everything is done, 0 to 1."""
        return sum(self.shares) / len(self.shares) if self.shares else 0.0


def _clamp(number: int) -> int:
    """A size, whatever a rank says it is."""
    return max(0, min(number, _MOST_BYTES))


def _num_bytes(rank: RankView) -> int:
    return sum(_clamp(done) for done, _ in rank.done.values())


class Rates:
    """Bytes a second over the last seconds, of each rank and of all."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, tuple[int, ...]]] = deque()

    def feed(self, snapshot: Snapshot) -> tuple[float, ...]:
        """The rate of each rank, after one more look."""
        now = tuple(map(_num_bytes, snapshot.ranks))
        t = snapshot.last_t
        if self._past and (t < self._past[-1][0] or len(now) != len(self._past[-1][1])):
            self._past.clear()
        if not self._past or t > self._past[-1][0]:
            self._past.append((t, now))
        while len(self._past) > 2 and self._past[1][0] <= t - _WINDOW_S:
            self._past.popleft()
        start, before = self._past[0]
        if snapshot.result is not None or t <= start:
            return (0.0,) * len(now)
        return tuple(max(0, a - b) / (t - start) for a, b in zip(now, before, strict=True))


def rank_figures(snapshot: Snapshot, rates: tuple[float, ...]) -> tuple[RankProgress, ...]:
    """Every rank, by number."""
    names, ended = stages(snapshot), snapshot.result is not None
    # A rank that was ended because the job was has not failed.
    killed = {failure.rank for failure in snapshot.failures if failure.kind == "killed"}
    is_cancelled = ended and (snapshot.result or {}).get("verdict") == "cancelled"
    stopped = killed if is_cancelled else set()
    return tuple(
        _rank_figures(rank, names, rate, ended, was_ended=number in stopped or None in stopped)
        for number, (rank, rate) in enumerate(zip(snapshot.ranks, rates, strict=True))
    )


def _rank_figures(
    rank: RankView, names: tuple[str, ...], rate: float, ended: bool, *, was_ended: bool
) -> RankProgress:
    done = rank.done
    shares = tuple(1.0 if rank.status == "done" else _share(done.get(name)) for name in names)
    state = rank.status
    if state == "failed":
        state = "stopped" if was_ended else state
    elif rank.num_bad:
        state = "wrong"
    elif ended and state != "done":
        state = "stopped"
    gpu = rank.extra.get("cuda_bytes")
    return RankProgress(
        rank.rank,
        state,
        rank.phase,
        shares,
        _num_bytes(rank),
        rate,
        None if rank.rss is None else _clamp(rank.rss),
        _clamp(gpu) if isinstance(gpu, int) else None,
    )


def _share(done: tuple[int, int] | None) -> float:
    if done is None:
        return 0.0
    # A phase that was told of and holds no byte (an empty shard) is through.
    return min(1.0, _clamp(done[0]) / _clamp(done[1])) if done[1] > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole job.

    Attributes:
        state: `starting`, `running`, or the result's verdict.
        where: Phase of the slowest rank, with the mesh it is under.
        share: How much is done, 0 to 1.
        shares: Of each stage, how much is done on average.
        num_up: Ranks that said hello.
        num_bytes, rate: Moved by all ranks, and a second.
        elapsed_s: Since the first event.
        left_s: Reckoned, or None.
        memory: Largest resident size of a rank, or None.
        gpu_memory: Largest on a GPU, or None.
    """

    state: str
    where: str
    share: float
    shares: tuple[float, ...]
    num_up: int
    num_bytes: int
    rate: float
    elapsed_s: float
    left_s: float | None
    memory: int | None
    gpu_memory: int | None


def totals(snapshot: Snapshot, ranks: tuple[RankProgress, ...], now_t: float) -> Totals:
    """The job as a whole at the moment `now_t`, seconds since the epoch."""
    result = snapshot.result
    share = sum(rank.share for rank in ranks) / len(ranks) if ranks else 0.0
    num_up = sum(rank.state != "waiting" for rank in ranks)
    elapsed_s = max(0.0, now_t - snapshot.first_t) if snapshot.first_t else 0.0
    left_s = None
    if result is not None:
        state = str(result.get("verdict"))
        told = result.get("elapsed_s")
        elapsed_s = float(told) if isinstance(told, (int, float)) else elapsed_s
    else:
        state = "running" if snapshot.phases else "starting"
        since = sum(phase.elapsed_s for phase in snapshot.phases)
        if share >= _LEAST_SHARE and since > 0:
            left_s = since * (1 - share) / share
    resident = [rank.memory for rank in ranks if rank.memory is not None]
    on_gpu = [rank.gpu_memory for rank in ranks if rank.gpu_memory is not None]
    return Totals(
        state,
        where(snapshot, ranks),
        share,
        tuple(sum(parts) / len(ranks) for parts in zip(*(r.shares for r in ranks), strict=True)),
        num_up,
        sum(rank.num_bytes for rank in ranks),
        sum(rank.rate for rank in ranks),
        elapsed_s,
        left_s,
        max(resident, default=None),
        max(on_gpu, default=None),
    )


def where(snapshot: Snapshot, ranks: tuple[RankProgress, ...]) -> str:
    """The phase of the slowest rank; raw."""
    moving = [rank for rank in ranks if rank.state in ("running", "wrong")]
    if not moving:
        return ""
    slowest = min(moving, key=lambda rank: (rank.share, rank.rank))
    view = snapshot.ranks[slowest.rank]
    mesh = view.mesh or str(snapshot.spec.get("mesh", ""))
    return f"{view.phase} under {mesh}" if view.phase and mesh else view.phase


def mesh_of(snapshot: Snapshot) -> Mesh:
    """The mesh that the job began under; one row where the ranks do not fit it."""
    num_ranks = max(1, len(snapshot.ranks))
    try:
        mesh = Mesh.parse(str(snapshot.spec.get("mesh", "")))
    except UsageError:
        return Mesh("fsdp", (num_ranks,))
    return mesh if mesh.world_size == num_ranks else Mesh("fsdp", (num_ranks,))
