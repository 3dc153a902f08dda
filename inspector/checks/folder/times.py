"""Which files beside a checkpoint changed at another time than it?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.errors import StorageError

__all__ = ["Span", "check_beside", "check_sidecars"]

# As slow as copying a step without its times may be, bytes a second.
_SLOW = 20e6
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
