"""`Loading`: a path on its way to being values, in a thread, with progress and a way to stop.

It imports nothing of Textual, so that it can start while Textual is still being imported.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from inspector.checkpoint.child.isolated import Child, EarlyEntry
from inspector.checkpoint.find.locate import folder_of, locate, read_checkpoint
from inspector.checkpoint.find.search import RunListing
from inspector.checkpoint.find.step_folders import Found
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.workers import until
from inspector.crash import internal_error
from inspector.errors import InspectError

if TYPE_CHECKING:
    from inspector.tui.diff.comparison import Comparison

__all__ = ["Folder", "Loaded", "Loading", "Outcome"]


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A checkpoint, read. Who wrote it is worked out after it is on the screen.

    Attributes:
        storage: What it was read from.
        checkpoint: The same.
        at: Raw name of the entry that the cursor is to begin on; empty for the first.
    """

    storage: Storage
    checkpoint: Checkpoint
    at: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """A folder with checkpoints under it."""

    path: str
    run: RunListing

    @property
    def found(self) -> tuple[Found, ...]:
        return tuple(self.run)


Outcome: TypeAlias = "Loaded | Folder | Comparison | InspectError"


class Loading:
    """Reading a path. Ask `outcome` now and then; it is None until it is done.

    Args:
        path: What the user gave.
        whole_folder: True if a folder of checkpoints is to be listed, False if the path is
            known to be one checkpoint.
        prefetched: The child process that already reads its metadata, or None.
    """

    def __init__(
        self, path: str, *, whole_folder: bool = True, prefetched: Child | None = None
    ) -> None:
        self.path = path
        self.stage = "looking at the folder"
        self.num_done = 0
        self.num_bytes = 0
        self.outcome: Outcome | None = None
        #: The first entries of large metadata, while the rest is read.
        self.early: tuple[EarlyEntry, ...] = ()
        self._whole_folder = whole_folder
        self._prefetched = prefetched
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)

    def start(self) -> Loading:
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Stop it soon; the outcome becomes `errors.Cancelled`."""
        self._cancelled.set()

    def _progress(self, num_done: int, num_bytes: int) -> bool:
        self.stage = "reading the metadata"
        self.num_done, self.num_bytes = num_done, num_bytes
        return self._cancelled.is_set()

    def _take_early(self, early: tuple[EarlyEntry, ...]) -> None:
        self.early = early

    def _run(self) -> None:
        try:
            with until(self._cancelled.is_set):
                self.outcome = self._load()
        except InspectError as error:
            self.outcome = error
        except Exception as error:  # a thread has nobody above it
            self.outcome = internal_error(error)

    def _load(self) -> Outcome:
        target = locate(self.path) if self._whole_folder else folder_of(self.path)
        if isinstance(target, list):
            return Folder(self.path, target)
        checkpoint = read_checkpoint(
            target,
            progress=self._progress,
            prefetched=self._prefetched,
            early=self._take_early,
        )
        return Loaded(target, checkpoint)
