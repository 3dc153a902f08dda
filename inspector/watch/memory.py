"""What was judged of a run, from one start of `watch` to the next.

A checkpoint is judged again when its listing has changed: its number of files, their bytes, the
newest of their times. Nothing else is remembered of it than its report.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from inspector._version import __version__
from inspector.checkpoint.find.step_folders import Found
from inspector.checkpoint.outside import lies_inside
from inspector.checkpoint.own_folders import open_own, private_folder, state_dir, write_whole
from inspector.checkpoint.storage.base import is_url
from inspector.checks.steps import Judged

__all__ = ["RunMemory"]

_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Kept:
    """The file's content. What another version judged is not taken over."""

    version: str
    run: str
    how: str
    judged: tuple[Judged, ...]
    told: dict[str, str] = field(default_factory=dict)


class RunMemory:
    """The reports of a run's checkpoints, kept in a file of the user's state folder.

    Args:
        run: The run folder's path or URL.
        how: How they are judged: what was judged otherwise is not remembered.
    """

    def __init__(self, run: str, how: str) -> None:
        run = run if is_url(run) else os.path.realpath(run)
        self._run, self._how = run, how
        name = hashlib.sha256(f"{run}\n{how}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self._path = state_dir() / "watch" / f"{name}.json"
        self._judged: dict[tuple[str, bool], Judged] = {}
        self._saved: dict[tuple[str, bool], Judged] = {}
        #: By path of a step: a digest of what was told of it. What is judged is not told yet.
        self.told: dict[str, str] = {}
        self._saved_told: dict[str, str] = {}

    def __iter__(self) -> Iterator[Judged]:
        return iter(self._judged.values())

    def load(self) -> None:
        """Take over what an earlier process left; nothing, if that cannot be read."""
        try:
            with open(open_own(self._path), "rb") as file:
                kept = msgspec.convert(json.loads(file.read(_MAX_BYTES)), _Kept)
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
            return
        if (kept.version, kept.run, kept.how) == (__version__, self._run, self._how):
            self._judged = {(j.found.path, j.found.is_file): j for j in kept.judged}
            self._saved = dict(self._judged)
            self.told = kept.told
            self._saved_told = dict(self.told)

    def get(self, found: Found) -> Judged | None:
        """The report of a checkpoint as it is listed now, or None."""
        judged = self._judged.get((found.path, found.is_file))
        return judged if judged is not None and judged.found == found else None

    def put(self, judged: Judged) -> None:
        """Remember a report, in place of an older one."""
        self._judged[judged.found.path, judged.found.is_file] = judged

    def keep_only(self, found: Iterable[Found]) -> None:
        """Forget what is not listed any more."""
        there = {(item.path, item.is_file) for item in found}
        for key in [key for key in self._judged if key not in there]:
            del self._judged[key]

    def save(self) -> None:
        """Write it, if it has changed.

        Raises:
            OSError: There is no room, or the state folder lies in the run.
        """
        if self._judged == self._saved and self.told == self._saved_told:
            return
        if not is_url(self._run) and lies_inside(self._path, self._run):
            raise OSError(0, "the state folder lies in the run, where nothing is written")
        private_folder(self._path.parent, state_dir())
        kept = _Kept(__version__, self._run, self._how, tuple(self), self.told)
        # Not msgspec's own JSON: a name may hold a lone surrogate.
        text = json.dumps(msgspec.to_builtins(kept))
        write_whole(self._path, [text.encode()])
        self._saved, self._saved_told = dict(self._judged), dict(self.told)
