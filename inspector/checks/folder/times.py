"""Which data files, and files beside them, changed at another time than the rest?

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

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from inspector.checkpoint.model import Checkpoint, DataFile
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.errors import StorageError

__all__ = ["Span", "Split", "check_beside", "check_sidecars", "split_by_time"]

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


# Folders in a DCP folder in which frameworks keep what is beside its tensors.
_FOLDERS = frozenset({"extra_state", "extra", "train", "rng", "dataloader", "training_state"})
_NAME = re.compile(
    r"(?:(?:lr_)?scheduler|extra_state|random_states?|rng(?:_states?)?|train(?:er|ing)?_state"
    r"|training_args|data_?loader|sampler|optim(?:izer)?|scaler|rank)"
    r"(?:[-_]?(?:states?|rank|dp|tp|pp|ep|cp|\d)[\w.-]*)?\.(?:pt|pth|pkl|bin)|common\.pt",
    re.I,
)
_MIN_NEWER_S = 300.0
_MIN_OLDER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Span:
    """When the files of a step were written, seconds since the epoch, and how large they are."""

    first_s: float
    last_s: float
    num_bytes: int


def is_sidecar(name: str) -> bool:
    """True for the name of a file that training writes beside a step's tensors."""
    return _NAME.fullmatch(name.rpartition("/")[2]) is not None


def check_beside(checkpoint: Checkpoint, storage: Storage) -> list[Finding]:
    """As `check_sidecars`, for what lies in the folder of one checkpoint.

    Args:
        checkpoint: The checkpoint; one of safetensors files is passed over, since what lies
            beside a model that was downloaded or exported is of no training.
        storage: Its folder.
    """
    if checkpoint.format != "dcp" or checkpoint.metadata_modified_s is None:
        return []
    listing = storage.list()
    beside = [entry for entry in listing if entry.kind == "file"]
    for entry in listing:
        if entry.kind == "folder" and entry.name in _FOLDERS:
            try:
                inside = storage.list(entry.name)
            except StorageError:
                continue  # It belongs to no checkpoint that is judged here.
            # What a checkpoint is made of is judged with that checkpoint.
            if not any(e.name.endswith((".metadata", ".distcp")) for e in inside):
                beside += [replace(e, name=f"{entry.name}/{e.name}") for e in inside]
    named = {file.path for file in checkpoint.files if file.num_payloads}
    times = [f.modified_s for f in checkpoint.files if f.num_payloads and f.modified_s is not None]
    times.append(checkpoint.metadata_modified_s)
    span = Span(min(times), max(times), checkpoint.stored_bytes)
    return check_sidecars(span, [e for e in beside if e.kind == "file" and e.name not in named])


def check_sidecars(step: Span, files: Sequence[Entry]) -> list[Finding]:
    """A `sidecar-times` finding, if files beside a step are, by their times, of another save.

    Only files that training itself writes beside a step are looked at (schedules, random states,
    data loaders), since reports and exports come at any time; and a gap must be longer than copying
    the step without its times can make.

    Args:
        step: The step's own files.
        files: Files beside them, named relative to the step's folder; those of other names than
            a training's are passed over.
    """
    spread = 3 * (step.last_s - step.first_s)
    copying = step.num_bytes / _SLOW
    newer: list[tuple[float, str]] = []
    older: list[tuple[float, str]] = []
    for entry in files:
        if entry.modified_s is None or not is_sidecar(entry.name):
            continue
        after, before = entry.modified_s - step.last_s, step.first_s - entry.modified_s
        if after > max(_MIN_NEWER_S, spread, copying):
            newer.append((after, entry.name))
        elif before > max(_MIN_OLDER_S, spread, copying):
            older.append((before, entry.name))
    return [_finding(late, word) for late, word in ((newer, "newer"), (older, "older")) if late]


def _finding(late: list[tuple[float, str]], word: str) -> Finding:
    gap, name = min(late)
    more = f" and {plural(len(late) - 1, 'other file')}" if len(late) > 1 else ""
    is_are = "are" if len(late) > 1 else "is"
    return Finding(
        "sidecar-times",
        f"{printable(name, 120)}{more} {is_are} {_gap(gap)} {word} than every file of the tensors "
        "beside it, so it may be of another save",
        "does not look at it; the training that resumes does",
        "compare the step it holds with the checkpoint's, or take another checkpoint",
        file=name,
    )


def _gap(seconds: float) -> str:
    if seconds >= 172800:
        return f"{seconds / 86400:.0f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
