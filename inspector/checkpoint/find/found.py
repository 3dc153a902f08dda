"""`Found`: a checkpoint that a folder holds, as a listing and a few bytes tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Found", "State"]

State = Literal["complete", "unfinished", "unreadable"]


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that a folder holds.

    Attributes:
        path: Relative to the folder that was searched; empty for that folder itself. A file, if
            the folder holds several safetensors checkpoints side by side.
        format: `dcp` or `safetensors`; or `torch_checkpointing`, which is told and not read.
        state: `complete`, `unfinished` or `unreadable`.
        step: Training step, as the path tells it, or None.
        num_bytes: Size of the files in it (not below it).
        num_files: How many.
        modified_s: Newest modification time in it, seconds since the epoch, or None.
        detail: Why it is not complete; empty if it is.
        is_file: `path` is a file: the set of safetensors files that it belongs to.
    """

    path: str
    format: str
    state: State
    step: int | None
    num_bytes: int
    num_files: int
    modified_s: float | None
    detail: str = ""
    is_file: bool = False
