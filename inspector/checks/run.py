"""A run folder: the state of every checkpoint under it, and the newest sound one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inspector.checkpoint.child.isolated import Limits, Progress
from inspector.checkpoint.child.process import Server
from inspector.checkpoint.find import Found, discover, open_found
from inspector.checkpoint.storage.base import Storage
from inspector.checks.findings import Coverage, Finding, NotChecked, Report
from inspector.checks.judge import Deep, check_storage
from inspector.errors import Cancelled, InspectError

__all__ = ["Judged", "check_folder", "newest_sound"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One checkpoint of a run folder and its report."""

    found: Found
    report: Report

    @property
    def is_sound(self) -> bool:
        """True if it can be read and nothing is wrong with it."""
        return self.report.verdict == "sound"


def check_folder(
    storage: Storage,
    *,
    found: Iterable[Found] | None = None,
    deep: Deep | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Iterator[Judged]:
    """Judge every checkpoint at or under a folder, in the order of their steps.

    Args:
        storage: The folder.
        found: What `discover` found there; by default it is asked.
        deep: Reads the payloads as well.
        limits: What unpickling one metadata file may cost.
        progress: Told the bytes of each metadata read; may cancel.

    Yields:
        Each checkpoint with its report, as soon as it is judged.

    Raises:
        StorageError: The folder itself cannot be listed.
        Cancelled: `progress` said so.
    """
    with Server():
        for item in discover(storage) if found is None else found:
            yield Judged(item, _report(item, storage, deep, limits, progress))


def _report(
    item: Found,
    storage: Storage,
    deep: Deep | None,
    limits: Limits | None,
    progress: Progress | None,
) -> Report:
    try:
        here = open_found(storage, item)
        return check_storage(here, deep=deep, limits=limits, progress=progress)
    except Cancelled:
        raise
    except InspectError as error:
        # A folder that vanished or was closed meanwhile must not end the others' check.
        finding = Finding(
            "metadata-unreadable",
            "error",
            error.message,
            "raises OSError",
            error.hint or "see who changes the folder while it is read",
        )
        nothing = NotChecked("everything", "the folder could not be read")
        where = f"{storage.root.rstrip('/')}/{item.path}" if item.path else storage.root
        return Report(where, (finding,), Coverage(not_checked=(nothing,)))


def newest_sound(judged: Iterable[Judged]) -> Judged | None:
    """The sound checkpoint of the highest step (by time where no step is known), or None.

    One of which nothing was checked (empty, or of another format) is not called sound.
    """
    sound = [
        item
        for item in judged
        if item.is_sound and all(n.what != "everything" for n in item.report.checked.not_checked)
    ]
    with_step = [item for item in sound if item.found.step is not None]
    if with_step:
        return max(with_step, key=lambda i: (i.found.step or 0, i.found.modified_s or 0.0))
    return max(sound, key=lambda i: i.found.modified_s or 0.0, default=None)
