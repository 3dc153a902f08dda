"""Files that name the newest step, held against the steps that are there.

`latest` (DeepSpeed, and links), `latest_checkpointed_iteration.txt` (Megatron-LM, verl),
`trainer_state.json` (transformers), `last_checkpoint_info.json` (modalities),
`latest_train_state.pt` (Megatron-Bridge).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from inspector.checkpoint.find.search import RunListing
from inspector.checkpoint.find.step_folders import split_step, step_number
from inspector.checkpoint.payload.payload import whole_number_in
from inspector.checkpoint.payload.source import BytesSource
from inspector.checkpoint.storage.base import Entry
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.steps import Step
from inspector.errors import InspectError, StorageError

__all__ = ["check_numbering", "check_trackers"]

_MAX_BYTES = 64 << 20
_TRAINER = "trainer_state.json"
_BRIDGE = "latest_train_state.pt"
_MAX_SAVED_BYTES = 1 << 20
_MODALITIES = "last_checkpoint_info.json"


@dataclass(frozen=True, slots=True)
class _Named:
    """What a tracker names: a folder beside it, or a step's number."""

    shown: str
    name: str = ""
    step: int | None = None


def check_trackers(run: RunListing, steps: Sequence[Step]) -> list[Finding]:
    """A `tracker-mismatch` for each tracker whose step is not there, or is not sound."""
    findings: list[Finding] = []
    told: set[tuple[str, str]] = set()
    for folder, entry in run.trackers:
        if entry.name == _TRAINER:
            finding = _trainer(run, folder, entry, steps)
        else:
            named = _named(run, folder, entry)
            finding = None if named is None else _compared(run, folder, entry, named, steps)
        # Megatron-Bridge writes one iteration into two files.
        words = "" if finding is None else finding.message.partition(entry.name)[2]
        if finding is not None and (folder, words) not in told:
            told.add((folder, words))
            findings.append(finding)
    return findings


def _compared(
    run: RunListing, folder: str, entry: Entry, named: _Named, steps: Sequence[Step]
) -> Finding | None:
    beside = [step for step in steps if _is_in(step, folder)]
    folders = run.folders.get(folder, ())
    if named.name:
        path = f"{folder}/{named.name}" if folder else named.name
        chosen = next((s for s in beside if s.path == path or s.path.startswith(f"{path}/")), None)
        there = named.name if named.name in folders else None
    else:
        chosen = next((s for s in beside if s.step == named.step), None)
        there = next((name for name in folders if step_number(name) == named.step), None)
    if chosen is None:
        if there is not None and _is_empty(run, f"{folder}/{there}" if folder else there):
            return _finding(folder, entry, f"names {named.shown}, which is an empty folder", steps)
        if there is not None or (not beside and not run.folders.get(folder)):
            return None  # Of a format that is not judged, or no run at all.
        return _finding(folder, entry, f"names {named.shown}, which is not there", steps)
    if chosen.is_sound:
        return None
    what = "has not finished" if chosen.is_unfinished else f"is not sound ({chosen.why_not})"
    return _finding(folder, entry, f"names {named.shown}, which {what}", steps)


def _is_empty(run: RunListing, folder: str) -> bool:
    try:
        return not run.storage.list(folder)
    except StorageError:
        return False


def _is_in(step: Step, folder: str) -> bool:
    return not folder or step.path.startswith(f"{folder}/")


def _finding(folder: str, entry: Entry, what: str, steps: Iterable[Step]) -> Finding:
    path = f"{folder}/{entry.name}" if folder else entry.name
    sound = [s for s in steps if s.is_sound and s.step is not None and _is_in(s, folder)]
    best = max(sound, key=lambda s: s.step or 0, default=None)
    hint = "no step beside it is sound"
    if best is not None:
        hint = f"the newest sound step beside it is {printable(best.path, 120)}: resume from that"
    return Finding(
        "tracker-mismatch",
        f"{printable(path, 120)} {what}",
        "does not read it; the framework that resumes does, and fails or starts anew",
        hint,
        file=path,
    )


def _trainer(run: RunListing, folder: str, entry: Entry, steps: Sequence[Step]) -> Finding | None:
    """Transformers writes it into each step's folder, and at the end into the run's."""
    step = _number(_json(run, folder, entry).get("global_step"))
    if step is None:
        return None
    own = split_step(folder) if folder else None
    if own is not None and own[0] == folder:
        if own[1] == step:
            return None
        what = f"says step {step}, and its folder step {own[1]}"
        return _finding(folder, entry, what, steps)
    chosen = next((s for s in steps if _is_in(s, folder) and s.step == step), None)
    if chosen is None or chosen.is_sound:
        return None
    what = "has not finished" if chosen.is_unfinished else f"is not sound ({chosen.why_not})"
    return _finding(folder, entry, f"names step {step}, which {what}", steps)


def _named(run: RunListing, folder: str, entry: Entry) -> _Named | None:
    """The step or the folder that a tracker names; None if its content is of another kind."""
    path = f"{folder}/{entry.name}" if folder else entry.name
    if entry.kind != "file":
        local = run.storage.local_path(path)
        try:
            target = os.readlink(local or "")
        except OSError:
            return None
        return _Named(printable(target, 120), os.path.basename(target.rstrip("/")))
    if entry.name == _MODALITIES:
        given = _json(run, folder, entry).get("checkpoint_folder_path")
        if type(given) is not str or not given:
            return None
        name = given.rstrip("/").rpartition("/")[2]
        return _Named(printable(name, 120), name)
    if entry.name == _BRIDGE:
        step = _number(_saved_step(run, path, entry))
        return None if step is None else _Named(f"iteration {step}", step=step)
    if entry.num_bytes is None or not 0 < entry.num_bytes <= 512:
        return None
    try:
        text = run.storage.read(path, 0, 512).decode().strip()
    except (StorageError, UnicodeDecodeError):
        return None
    if re.fullmatch(r"[0-9]{1,15}", text):
        word = "iteration" if "iteration" in entry.name else "step"
        return _Named(f"{word} {int(text)}", step=int(text))
    name = text.rstrip("/").rpartition("/")[2]
    if re.fullmatch(r"[\w.=+-]{1,200}", name) is None:
        return None
    return _Named(printable(name, 120), name)


def _saved_step(run: RunListing, path: str, entry: Entry) -> int | None:
    if entry.num_bytes is None or not 0 < entry.num_bytes <= _MAX_SAVED_BYTES:
        return None
    try:
        data = run.storage.read(path, 0, entry.num_bytes)
        return whole_number_in(BytesSource(memoryview(data)), "step")
    except InspectError:
        return None


def _json(run: RunListing, folder: str, entry: Entry) -> dict[str, object]:
    path = f"{folder}/{entry.name}" if folder else entry.name
    if entry.num_bytes is None or entry.num_bytes > _MAX_BYTES:
        return {}
    try:
        value = json.loads(run.storage.read(path, 0, entry.num_bytes))
    except (StorageError, ValueError, RecursionError):
        return {}
    return value if type(value) is dict else {}


def _number(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


_MIN_LATER_S = 3600.0
# Of so many steps one may be followed in time by one of a lower number: a run is resumed now and
# then, and the order of a copy is mixed all over.
_STEPS_PER_RESTART = 4


def check_numbering(steps: Sequence[Step]) -> list[Finding]:
    """A warning for each series of steps of which lower numbers were written after the highest.

    A training that resumes without the counter (Accelerate's automatic naming) or from an earlier
    step writes low numbers again, while the folders of the high ones stay: the next resume by
    number takes an old state. Times alone tell it, and times tell of copies as well: silent where
    the times may be those of a copy. That is where the steps lie in the order of their names, or
    in no order of their numbers, or all within an hour.
    """
    series: dict[str, dict[int, tuple[float, Step]]] = {}
    for step in steps:
        written_s = _written_s(step)
        if step.step is not None and step.is_numbered and written_s is not None:
            members = series.setdefault(step.series, {})
            # Two folders of one number are no series.
            members[step.step] = (written_s, step) if step.step not in members else (0.0, step)
    return [found for members in series.values() if (found := _restarted(members)) is not None]


def _restarted(members: dict[int, tuple[float, Step]]) -> Finding | None:
    highest = max(members)
    by_time = sorted(members, key=lambda number: (members[number][0], number))
    later = by_time[by_time.index(highest) + 1 :]
    if not later or any(written_s <= 0 for written_s, _ in members.values()):
        return None
    apart_s = members[later[-1]][0] - members[highest][0]
    num_restarts = sum(b < a for a, b in pairwise(by_time))
    is_mixed = num_restarts > max(1, len(members) // _STEPS_PER_RESTART)
    names = [members[number][1].path for number in by_time]
    if apart_s < _MIN_LATER_S or is_mixed or names == sorted(names):
        return None
    return _restart_finding(members[highest][1], members[later[-1]][1], len(later), apart_s)


def _written_s(step: Step) -> float | None:
    """When a step was written; None where that is not known of all its parts."""
    times = [part.written_s for part in step.parts]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _restart_finding(highest: Step, last: Step, num_later: int, apart_s: float) -> Finding:
    hours = apart_s / 3600
    apart = f"{hours / 24:,.0f} days" if hours >= 48 else f"{hours:,.0f} h"
    which = printable(last.path, 120)
    who = f"{which} was" if num_later == 1 else f"{plural(num_later, 'step')} of lower numbers were"
    rest = "" if num_later == 1 else f" ({which} is the last, {apart} later)"
    later = f" {apart}" if num_later == 1 else ""
    return Finding(
        "step-mismatch",
        f"{who} written{later} after {printable(highest.path, 120)}, which has the highest "
        f"number{rest}: the numbering restarted, or a step was copied here later",
        "loads what it is told to; frameworks that resume by number (Accelerate's load_state) take "
        f"{printable(highest.path, 60)}, and those that keep a number of checkpoints delete the "
        "lowest",
        "newest here is the highest number: if the run was resumed, name the checkpoint to load, "
        f"and see whether it is {which}; else this is no fault",
        file=highest.path,
    )
