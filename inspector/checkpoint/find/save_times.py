"""Which data files changed at another time than the rest, and than `.metadata`?

The rule this module keeps: times are weak evidence, so a split is told only where copying cannot
have made it. DCP writes `.metadata` last, so after an undisturbed save no data file is newer; an
overwrite in place that died leaves some files (or all) of the new save under the old metadata.

What copying without times does, and how it is told apart:
- one file after the other: the files lie as far apart as the longest pause between two of them,
  so a gap must be three times as long as either side's files are apart;
- many at a time: files of one batch end together, so a gap must be longer than copying the files
  after it takes, at 200 MB/s; at 20 MB/s where there are too few files to tell their pace;
- small ones (and clocks of hosts that differ): a gap of up to a second says nothing.

A file much older than the rest, with `.metadata` among the new ones, may also be a rank that was
done long before the others, so there the gap must be ten times as long, and a minute at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from inspector.checkpoint.model import DataFile

__all__ = ["Split", "split_by_time"]

_MIN_GAP_S = 1.0
_MIN_GAP_BEFORE_S = 60.0
_FAST = 200e6
_SLOW = 20e6


@dataclass(frozen=True, slots=True)
class Split:
    """Data files in two groups of times.

    Attributes:
        older, newer: The files; `older` may be empty (all data files are newer than `.metadata`).
        gap_s: Seconds between the two groups; `.metadata` belongs to the older if it is in it.
        metadata_is_older: `.metadata` is as old as the older files.
    """

    older: tuple[DataFile, ...]
    newer: tuple[DataFile, ...]
    gap_s: float
    metadata_is_older: bool

    @property
    def gap(self) -> str:
        """The gap in words: `1.2 s`, `5 min`, `3 h 20 min`, `2.5 days`."""
        if self.gap_s >= 2 * 86400:
            return f"{self.gap_s / 86400:.1f} days"
        if self.gap_s < 120:
            return f"{self.gap_s:.1f} s"
        hours, minutes = divmod(round(self.gap_s / 60), 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min"

    @property
    def odd(self) -> tuple[DataFile, ...]:
        """The files that are out of step: the smaller group, the newer if they are equal."""
        return self.older if 0 < len(self.older) < len(self.newer) else self.newer


def split_by_time(files: Sequence[DataFile], metadata_s: float | None) -> Split | None:
    """The split that the files' times show, or None if they show none.

    Args:
        files: Data files that the metadata names; those without bytes or time are passed over.
        metadata_s: When `.metadata` changed, seconds since the epoch.
    """
    timed = [(f.modified_s, f) for f in files if f.modified_s is not None and f.num_bytes]
    timed.sort(key=lambda item: item[0])
    if metadata_s is None or not timed:
        return None
    return _after(timed, metadata_s) or _before(timed, metadata_s)


def _after(timed: list[tuple[float, DataFile]], metadata_s: float) -> Split | None:
    """Files newer than the metadata, from the widest gap after it on."""
    num_before = sum(t <= metadata_s for t, _ in timed)
    points = [metadata_s, *(t for t, _ in timed[num_before:])]
    gaps = [b - a for a, b in pairwise(points)]
    if not gaps:
        return None
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    older, newer = timed[: num_before + widest], timed[num_before + widest :]
    pace = _FAST if max(len(older), len(newer)) > 1 else _SLOW
    allowed = max(_MIN_GAP_S, 3 * _spread(older), 3 * _spread(newer), _num_bytes(newer) / pace)
    if gaps[widest] <= allowed:
        return None
    return Split(_files(older), _files(newer), gaps[widest], True)


def _before(timed: list[tuple[float, DataFile]], metadata_s: float) -> Split | None:
    """Files much older than the others, which are as old as the metadata."""
    times = [t for t, _ in timed]
    gaps = [b - a for a, b in pairwise(times)]
    if not gaps or times[-1] > metadata_s + _MIN_GAP_S:
        return None
    widest = max(range(len(gaps)), key=gaps.__getitem__)
    older, newer = timed[: widest + 1], timed[widest + 1 :]
    spread = max(_spread(older), _spread(newer))
    if gaps[widest] <= max(_MIN_GAP_BEFORE_S, 10 * spread, _num_bytes(newer) / _SLOW):
        return None
    return Split(_files(older), _files(newer), gaps[widest], False)


def _files(timed: list[tuple[float, DataFile]]) -> tuple[DataFile, ...]:
    """The files by rank and name."""
    files = [file for _, file in timed]
    return tuple(sorted(files, key=lambda f: (-1 if f.rank is None else f.rank, f.path)))


def _spread(timed: list[tuple[float, DataFile]]) -> float:
    return timed[-1][0] - timed[0][0] if timed else 0.0


def _num_bytes(timed: list[tuple[float, DataFile]]) -> int:
    return sum(f.num_bytes or 0 for _, f in timed)
