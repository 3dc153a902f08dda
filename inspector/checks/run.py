"""A run folder: every checkpoint under it judged, and put together to steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from inspector.checkpoint.child.isolated import Progress
from inspector.checkpoint.child.process import Server
from inspector.checkpoint.dcp import METADATA
from inspector.checkpoint.find.identify import open_found
from inspector.checkpoint.find.search import PART_DEPTH, RunListing, Search, discover
from inspector.checkpoint.find.step_folders import (
    Found,
    StepFolder,
    is_export,
    part_name,
    step_number,
)
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.local import KeptListings, LocalStorage
from inspector.checks.findings import Coverage, Finding, NotChecked, Report
from inspector.checks.judge import Deep, check_storage
from inspector.checks.kinds import kinds_of
from inspector.checks.steps import (
    Judged,
    Step,
    asked_for,
    beside_sibling,
    newest_by,
    newest_resumable,
    newest_sound,
    steps_of,
)
from inspector.checks.trackers import check_numbering, check_trackers
from inspector.errors import Cancelled, InspectError, KilledError, StorageError

__all__ = [
    "Judged",
    "JudgedRun",
    "OnJudged",
    "check_folder",
    "find_resumable",
    "judge_run",
    "whole_step",
]


#: Told of each checkpoint as it is judged, if its metadata could be read.
OnJudged: TypeAlias = Callable[[Found, Report, "Checkpoint"], None]


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A folder of checkpoints, judged.

    Attributes:
        run: What was found.
        judged: Each checkpoint with its report; fewer, if judging was stopped.
        steps: Each step, judged as a whole.
        findings: What is wrong with the folder itself: trackers that name no sound step,
            lower numbers that were written after the highest.
    """

    run: RunListing
    judged: tuple[Judged, ...]
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]

    @property
    def newest_sound(self) -> Step | None:
        """The newest step of which every part is sound."""
        return newest_sound(self.steps)

    @property
    def newest_by(self) -> str:
        """By what that is the newest, where that is not its number alone; else empty."""
        return newest_by(self.steps)

    @property
    def newest_resumable(self) -> Step | None:
        """The newest step that training can resume from."""
        return newest_resumable(self.steps)

    @property
    def exit_code(self) -> int:
        """0 if the newest step is sound, and each without a number beside it.

        1 if one of them is not, or none is sound; 2 if not all was looked at.
        """
        if self.run.is_partial:
            return 2
        asked = asked_for(self.steps)
        if asked is None or self.newest_sound is None:
            return 1
        return 0 if asked.is_sound else 1


def judge_run(run: RunListing, judged: Iterable[Judged]) -> JudgedRun:
    """The judged checkpoints of a folder as steps; its trackers are read."""
    items = tuple(judged)
    steps = tuple(steps_of(run, items))
    if len(steps) == 1 and not steps[0].path:
        sibling = _sibling(run)
        if sibling is not None:
            steps = (beside_sibling(steps[0], sibling),)
    findings = (*check_trackers(run, steps), *check_numbering(steps))
    return JudgedRun(run, items, steps, findings)


def _sibling(run: RunListing) -> StepFolder | None:
    """The step before the one whose folder was searched, if that is the newest of its run.

    It is listed and not read; on a local disk alone, where a listing costs nothing.
    """
    path, step = run.storage.local_path(""), step_number(run.name)
    if path is None or step is None or not isinstance(run.storage, LocalStorage):
        return None
    above = LocalStorage(os.path.dirname(os.path.abspath(path)))
    try:
        names = [entry.name for entry in above.list() if entry.kind == "folder"]
        numbers = {n: number for n in names if (number := step_number(n)) is not None}
        numbers.pop(run.name, None)
        if not numbers or max(numbers.values()) > step:
            return None
        name = max(numbers, key=lambda n: numbers[n])
        found = discover(above.join(name), max_depth=PART_DEPTH)
    except StorageError:
        return None
    parts = tuple(
        replace(item, path=f"{name}/{item.path}" if item.path else name) for item in found
    )
    return StepFolder(name, numbers[name], parts) if parts else None


def whole_step(
    storage: Storage, *, deep: Deep | None = None, on_judged: OnJudged | None = None
) -> JudgedRun | None:
    """The step in a folder, if it has more than one part, or one is gone that another step has.

    Args:
        storage: The folder; a checkpoint lies in it, or in one folder below.
        deep: Reads the payloads as well.
        on_judged: Told of each part as it is judged; again, if its payloads are read as well.
    """
    run = discover(storage, max_depth=PART_DEPTH)
    parts = [item for item in run if not is_export(item.path or ".")]
    if len(run.step_folders()) > 1 or not (len(parts) > 1 or _lacks_a_name(run)):
        return None
    judged = judge_run(run, check_folder(storage, found=run, on_judged=on_judged))
    if len(parts) < 2 and not any(step.findings for step in judged.steps):
        return None
    if deep is None:
        return judged
    return judge_run(run, check_folder(storage, found=run, deep=deep, on_judged=on_judged))


def _lacks_a_name(run: RunListing) -> bool:
    """Whether the step before it has a part of a name that this one has not."""
    sibling = _sibling(run)
    if sibling is None:
        return False
    return bool({sibling.name_of(part) for part in sibling.parts} - {item.path for item in run})


def check_folder(
    storage: Storage,
    *,
    found: Iterable[Found] | None = None,
    deep: Deep | None = None,
    progress: Progress | None = None,
    on_judged: OnJudged | None = None,
    is_fresh: bool = False,
) -> Iterator[Judged]:
    """Judge every checkpoint at or under a folder, in the order of their steps.

    Args:
        storage: The folder.
        found: What `discover` found there; by default it is asked.
        deep: Reads the payloads as well.
        progress: Told the bytes of each metadata read; may cancel.
        on_judged: Told of each as it is judged.
        is_fresh: `found` was listed just now: its folders are not listed again, unless payloads
            are read, which may take hours.

    Yields:
        Each checkpoint with its report, as soon as it is judged.

    Raises:
        StorageError: The folder itself cannot be listed.
        Cancelled: `progress` said so.
    """
    found = discover(storage) if found is None else found
    kept = _seen_now(found) if is_fresh and deep is None else KeptListings()
    with Server():
        for item in found:
            with kept:
                judged = _judged(item, storage, deep, progress, on_judged)
            yield judged


def _seen_now(found: Iterable[Found]) -> KeptListings:
    """What the search listed, but checkpoints that may have been finished meanwhile."""
    if not isinstance(found, RunListing) or not isinstance(found.storage, LocalStorage):
        return KeptListings()
    root = found.storage.root
    of_checkpoints = {item.path for item in found}
    return KeptListings(
        {
            os.path.join(root, path): listing
            for path, listing in found.listings.items()
            if path not in of_checkpoints or any(entry.name == METADATA for entry in listing)
        },
        {
            os.path.join(root, path, entry.name): entry.modified_s
            for path, listing in found.listings.items()
            for entry in listing
            if entry.kind == "folder" and entry.modified_s is not None
        },
    )


def _judged(
    item: Found,
    storage: Storage,
    deep: Deep | None,
    progress: Progress | None,
    on_judged: OnJudged | None,
) -> Judged:
    read: list[Checkpoint] = []
    kinds: list[frozenset[str]] = []
    written_s: list[float | None] = []

    def look(checkpoint: Checkpoint) -> None:
        if on_judged is not None:
            read.append(checkpoint)
        kinds.append(kinds_of(checkpoint, part_name(item.path)))
        written_s.append(_written_s(checkpoint))

    try:
        here = open_found(storage, item)
        report = check_storage(here, deep=deep, progress=progress, on_read=look)
    except (Cancelled, KilledError):
        raise
    except InspectError as error:
        # A folder that vanished or was closed meanwhile must not end the others' check.
        finding = Finding(
            "metadata-unreadable",
            error.message,
            "raises OSError",
            error.hint or "see who changes the folder while it is read",
        )
        nothing = NotChecked("everything", "the folder could not be read")
        where = f"{storage.root.rstrip('/')}/{item.path}" if item.path else storage.root
        report = Report(where, (finding,), Coverage(not_checked=(nothing,)))
    if on_judged is not None:
        for checkpoint in read:
            on_judged(item, report, checkpoint)
    if not kinds:
        return Judged(item, report)
    return Judged(item, report, kinds[0], written_s[0])


def _written_s(checkpoint: Checkpoint) -> float | None:
    """When a checkpoint was finished, as far as its own files tell."""
    if checkpoint.metadata_modified_s is not None:
        return checkpoint.metadata_modified_s
    files = [file for file in checkpoint.files if file.num_payloads]
    times = [file.modified_s for file in files if file.modified_s is not None]
    return max(times) if times and len(times) == len(files) else None


def find_resumable(
    storage: Storage,
    *,
    deep: Deep | None = None,
    progress: Progress | None = None,
    on_judged: OnJudged | None = None,
) -> JudgedRun:
    """The newest step that training can resume from, found without judging the older ones.

    Steps are listed and judged from the newest on, until one is resumable beside an older one;
    a run of many steps on a slow storage takes a few round trips.

    Returns:
        The steps that were judged; `newest_resumable` is that of the whole folder.

    Raises:
        StorageError: The folder itself cannot be listed.
        Cancelled: `progress`, or whoever runs the thread, said so.
    """

    def judge_one(item: Found) -> Judged:
        return _judged(item, storage, deep, progress, on_judged)

    search = Search(storage)
    found = search.containers()
    judged: list[Judged] = []
    with Server():
        for batch in search.newest_first():
            for items in batch:
                found += items
                judged += map(judge_one, items)
                if not any("optimizer" in (item.kinds or ()) for item in judged):
                    continue  # An older step may show that an optimizer belongs to each.
                so_far = search.run(found).only(item.found for item in judged)
                if _is_known(steps_of(so_far, judged)):
                    return judge_run(so_far, judged)
        done = {item.found for item in judged}
        judged += map(judge_one, [item for item in found if item not in done])
    return judge_run(search.run(found), judged)


def _is_known(steps: list[Step]) -> bool:
    """Whether older steps can change nothing about which is the newest resumable one."""
    best = newest_resumable(steps)
    if best is None or best.kinds is None or "optimizer" not in best.kinds:
        return False
    return any(step.series == best.series and (step.step or 0) < (best.step or 0) for step in steps)
