"""The checks as threads run them: a report, and a progress that a screen can ask for.

The rule this module keeps: a check looks at what lies there now, not at what was read when the
screen opened; and a folder that cannot be read is judged too, never left at its last verdict.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from inspector.checkpoint.find.changes import changes, is_same_save
from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.workers import BytesProgress
from inspector.checks.findings import Coverage, DeepReport, Finding, NotChecked, Report
from inspector.checks.judge import check_storage, judge
from inspector.checks.payload.deep import DeepRequest, check_deep
from inspector.errors import Cancelled, InspectError, StorageError, UsageError
from inspector.layout.writer.written_by import WrittenBy
from inspector.tui.session import Loaded

__all__ = ["DeepCheck", "DeepResult", "SecondLook", "judge_loaded", "look_again", "lost"]


def judge_loaded(loaded: Loaded, written_by: WrittenBy) -> Report:
    """What metadata and file sizes say."""
    return judge(loaded.checkpoint, loaded.storage, written_by=written_by)


def lost(loaded: Loaded, error: InspectError) -> Report:
    """The judgement of a checkpoint that was open, and cannot be read any more."""
    finding = Finding(
        getattr(error, "code", "metadata-missing"),
        f"what lies under this screen cannot be read any more: {error.message}",
        "raises an error",
        error.hint or "r reads it anew, once it is there again",
        severity="error",
    )
    nothing = NotChecked("everything", "it could not be read")
    return Report(loaded.checkpoint.path, (finding,), Coverage(not_checked=(nothing,)))


@dataclass(frozen=True, slots=True, eq=False)
class SecondLook:
    """What another look at the folder found.

    Attributes:
        changes: What is not as it was read, in words; empty if nothing is.
        loaded: The checkpoint as it is now, where it changed and was read anew; else None.
    """

    changes: str
    loaded: Loaded | None = None


def look_again(loaded: Loaded, stop: Callable[[], bool], *, reads: bool) -> SecondLook:
    """Look at the folder of an open checkpoint again; blocks.

    Args:
        loaded: As it is on the screen.
        stop: Asked while metadata is read; True ends it.
        reads: Whether to read it anew where it changed.

    Raises:
        InspectError: It is not there any more, or cannot be read.
    """
    storage = _anew(loaded)
    said = changes(loaded.checkpoint, storage)
    if not said or not reads:
        return SecondLook(said)
    fresh = read_checkpoint(storage, progress=lambda done, total: stop())
    return SecondLook(said, Loaded(storage, fresh))


def _anew(loaded: Loaded) -> Storage:
    """The checkpoint's folder, opened anew: a remote one remembers what it has seen."""
    return folder_of(loaded.checkpoint.path)


@dataclass(frozen=True, slots=True, eq=False)
class DeepResult:
    """What reading every byte came to.

    Attributes:
        report: The judgement of all: metadata, files, bytes, values, seal.
        loaded: What was read, where that is another save than the screen shows; else None.
        is_lost: Whether there was nothing any more that could be read.
        was_stopped: Whether it was told to stop before it was done.
    """

    report: Report
    loaded: Loaded | None = None
    is_lost: bool = False
    was_stopped: bool = False


class DeepCheck:
    """Judging a checkpoint anew, and every stored byte of it; asked now and then how far it is.

    Where its seal lies beside it (`PATH.seal.json`), it is compared with that, too.

    Args:
        loaded: The checkpoint as it is on the screen; nothing of it is taken as still true.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.progress: BytesProgress | None = None
        self._was_stopped = False
        self._fresh: Checkpoint | None = None

    def run(self, stop: Callable[[], bool]) -> DeepResult:
        """Read everything; blocks. What was found, and what was left out.

        Raises:
            Cancelled: It was stopped while the metadata was read.
        """

        def take(progress: BytesProgress) -> bool:
            self.progress = progress
            self._was_stopped = self._was_stopped or stop()
            return self._was_stopped

        def deep(checkpoint: Checkpoint, storage: Storage) -> DeepReport:
            wanted, unread = _request(storage)
            report = check_deep(checkpoint, storage, wanted, lambda: nullcontext(take))
            checked = replace(report.checked, not_checked=(*report.checked.not_checked, *unread))
            return replace(report, checked=checked)

        def keep(checkpoint: Checkpoint) -> None:
            self._fresh = checkpoint

        loaded = self.loaded
        try:
            storage = _anew(loaded)
            report = check_storage(
                storage, deep=deep, progress=lambda done, total: stop(), on_read=keep
            )
        except Cancelled:
            raise
        except InspectError as error:
            return DeepResult(lost(loaded, error), is_lost=True)
        fresh = self._fresh
        if fresh is None:
            return DeepResult(report, is_lost=True)
        other = None if is_same_save(fresh, loaded.checkpoint) else Loaded(storage, fresh)
        return DeepResult(report, other, was_stopped=self._was_stopped)


def _request(storage: Storage) -> tuple[DeepRequest, list[NotChecked]]:
    """What is to be read: all of it, and the seal beside it, if there is one that can be read."""
    # lazy: when a seal is asked for
    from inspector.checks.seal.seal import default_output, read_seal

    everything = DeepRequest(payloads=True, values=True)
    try:
        path = default_output(storage)
    except UsageError:
        return everything, []  # It is not on this machine, nor is a seal.
    if not os.path.isfile(path):
        return everything, []
    try:
        return replace(everything, manifest=read_seal(path), manifest_path=path), []
    except (UsageError, StorageError) as error:
        return everything, [NotChecked(f"the seal {path}", error.message)]
