"""`Watcher`: looks at a run again and again, and judges what is new in it once it is finished.

The rule this module keeps: nothing is said of a step that is still being written or taken away. A
step is judged when its listing has stood still for a while, and its report counts only if the
listing is the same after it was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from inspector._version import __version__
from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.find.search import RunListing, discover
from inspector.checkpoint.find.step_folders import Found, StepFolder
from inspector.checkpoint.outside import lies_inside
from inspector.checkpoint.own_folders import open_own, private_folder, state_dir, write_whole
from inspector.checkpoint.storage.base import Entry, Storage, is_url
from inspector.checks.judge import Deep
from inspector.checks.run import JudgedRun, check_folder, judge_run
from inspector.checks.steps import Judged, Step, steps_of
from inspector.errors import InspectError, KilledError

__all__ = ["RunLook", "RunMemory", "Watcher"]

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
    """What was judged of a run, from one start of `watch` to the next: a file of the state folder.

    A checkpoint is judged again when its listing has changed: its number of files, their bytes, the
    newest of their times. Nothing else is remembered of it than its report.

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


#: What is wrong with a step of which not all files have been copied yet.
_COMING = frozenset({"file-missing", "file-truncated"})
#: How long what was judged may be lost to a kill.
_SAVE_S = 5.0
_UNREACHED = "the storage did not answer while it was read"
_Listing = tuple[tuple[Found, ...], tuple[tuple[str, tuple[Entry, ...]], ...]]


@dataclass(frozen=True, slots=True)
class RunLook:
    """What one look at a run found.

    Attributes:
        run: The steps that are judged so far; None if the folder could not be listed.
        problem: Why it could not, and a hint; empty strings if it could.
        told: The steps of which something is known that was not before, oldest first.
        gone: Folders of steps that were judged once and are no more.
        waiting: Folders of steps that are being written, or have just been, each with why.
        num_bytes: Bytes of payloads that were read for it.
        unread: Why a step could not be read, if that says nothing of it; empty if all could.
    """

    run: JudgedRun | None
    problem: tuple[str, str] = ("", "")
    told: tuple[Step, ...] = ()
    gone: tuple[str, ...] = ()
    waiting: tuple[tuple[str, str], ...] = ()
    num_bytes: int = 0
    unread: str = ""

    @property
    def is_partial(self) -> bool:
        """Whether not all folders were listed: what is not seen may be there."""
        return self.run is None or self.run.run.is_partial

    @property
    def exit_code(self) -> int:
        """That of `check` for the steps that are judged; 2 if there is none or not all was seen."""
        if self.run is None or not self.run.judged or self.unread:
            return 2
        return self.run.exit_code


@dataclass(slots=True)
class _Seen:
    """A step's listing, and since when it is so, by the clock that only grows."""

    listing: _Listing
    since: float


class Watcher:
    """The steps of a run, judged as they come.

    Args:
        path: The run's folder, or its URL.
        memory: What was judged before.
        deep: Reads the payloads as well.
        settle_s: Seconds that a step's listing stands still before it is judged.
        stale_s: Seconds after which a save that was begun and does not go on is told as
            unfinished; earlier, if a later step was finished.
        clock: Seconds that only grow.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        path: str,
        memory: RunMemory,
        *,
        deep: Deep | None = None,
        settle_s: float = 30.0,
        stale_s: float = 1800.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._memory, self._deep = path, memory, deep
        self._settle_s, self._stale_s = settle_s, stale_s
        self._clock, self._now = clock, now
        self._seen: dict[str, _Seen] = {}
        self._is_first = True
        self._saved = clock()
        #: Why what was judged could not be remembered; empty if it could.
        self.memory_problem = ""

    def look(self, each: Callable[[Step], object] = lambda step: None) -> RunLook:
        """List the run, and judge what is new in it and stands still.

        Args:
            each: Told each step of `RunLook.told` as soon as it is known; damaged ones before the
                next is read, since reading them all may take hours.

        Raises:
            Cancelled: Whoever runs this thread said so; what was judged until then is remembered.
        """
        try:
            # Anew each time: a run may come, go and come again.
            run = discover(folder_of(self._path))
        except InspectError as error:
            return RunLook(None, (error.message, error.hint))
        folders = run.step_folders()
        self._note(run, folders)
        ready, waiting = self._sorted(folders)
        if not run.is_partial:
            self._memory.keep_only(run)
        self._is_first = False
        num_bytes = 0
        unread_of_any = ""
        compared = self._clock()
        told: list[Step] = []

        def tell(steps: Iterable[Step]) -> None:
            for step in self._news(steps):
                told.append(step)
                each(step)

        # The newest is what is waited for.
        for folder in reversed(ready):
            read, unread, is_same = self._judge(run, folder)
            num_bytes += sum(part.report.checked.payload_bytes for part in read)
            if unread or not is_same:
                waiting.append((folder.path, unread or "it changed while it was read"))
                unread_of_any = unread_of_any or unread
                continue
            self._save(_SAVE_S)
            # Damage at once; whether one resumes from a sound step, the others have a part in.
            # All steps are compared for that: of thousands that are read quickly, now and then.
            is_sound = all(part.report.verdict == "sound" for part in read)
            if is_sound and self._clock() - compared < _SAVE_S:
                continue
            compared = self._clock()
            known = self._known(run, folders)
            steps = steps_of(run.only(item.found for item in known), known)
            early = self._early(steps, folders)
            tell(step for step in steps if step.verdict != "sound" and step not in early)
        known = self._known(run, folders)
        judged = judge_run(run.only(item.found for item in known), known)
        early = self._early(judged.steps, folders)
        if early:
            waiting += [(step.path, "the rest of it may still be to come") for step in early]
            parts = {part.found for step in early for part in step.parts}
            known = [item for item in known if item.found not in parts]
            judged = judge_run(run.only(item.found for item in known), known)
        tell(judged.steps)
        paths = {folder.path for folder in folders}
        # Where not all was listed, nothing is known to be gone.
        gone = () if run.is_partial else tuple(p for p in self._memory.told if p not in paths)
        for path in gone:
            del self._memory.told[path]
        if waiting:
            # A tracker may name what is not judged yet.
            judged = replace(judged, findings=())
        self._save()
        return RunLook(
            judged,
            told=tuple(told),
            gone=gone,
            waiting=tuple(waiting),
            num_bytes=num_bytes,
            unread=unread_of_any,
        )

    def _note(self, run: RunListing, folders: list[StepFolder]) -> None:
        """Note since when each step's listing is as it is."""
        clock = self._clock()
        seen = {}
        for folder in folders:
            listing = _listing(run, folder)
            before = self._seen.get(folder.path)
            if before is not None and before.listing == listing:
                seen[folder.path] = before
                continue
            since = clock
            if self._is_first and before is None:
                since -= self._age_s(run.storage, folder)
            seen[folder.path] = _Seen(listing, since)
        self._seen = seen

    def _age_s(self, storage: Storage, folder: StepFolder) -> float:
        """How long a step that was there before us has stood still, by its times; 0 if unsure."""
        times: list[float] = []
        for part in folder.parts:
            local = storage.local_path(part.path)
            if local is None or part.modified_s is None:
                return 0.0  # A file that was taken away leaves no time behind in a bucket.
            times.append(part.modified_s)
            try:
                # Of the folder, and not to be set back: a copy keeps the times of what it copies.
                times.append(os.stat(local).st_ctime)
            except OSError:
                return 0.0
        return max(self._now() - max(times), 0.0)

    def _sorted(self, folders: list[StepFolder]) -> tuple[list[StepFolder], list[tuple[str, str]]]:
        """The steps to be judged now, and those to be waited for."""
        clock = self._clock()
        ready, waiting = [], []
        for folder in folders:
            seen = self._seen.get(folder.path)
            if seen is None:
                continue  # It changed while it was read.
            still_s = clock - seen.since
            is_begun = any(part.state == "unfinished" for part in folder.parts)
            is_known = all(self._memory.get(part) is not None for part in folder.parts)
            if is_known and (still_s >= self._settle_s or not is_begun):
                continue
            if still_s < self._settle_s:
                waiting.append((folder.path, "it is being written"))
            elif is_begun and still_s < self._stale_s and not _is_overtaken(folder, folders):
                waiting.append((folder.path, "its save has not finished"))
            else:
                ready.append(folder)
        return ready, waiting

    def _judge(self, run: RunListing, folder: StepFolder) -> tuple[list[Judged], str, bool]:
        """Judge a step's parts; they, why they could not be read, and whether they are as listed.

        What the network, or the memory of this machine, did to the reading says nothing of a step.
        """
        parts = [part for part in folder.parts if self._memory.get(part) is None]
        used = run.storage.used
        num_failed = 0 if used is None else used.num_failed
        judged, unread = [], ""
        try:
            judged = list(check_folder(run.storage, found=parts, deep=self._deep))
        except KilledError as error:
            unread = error.message
        if used is not None and used.num_failed > num_failed:
            unread = _UNREACHED
        is_same = not unread and self._is_same(folder)
        if not is_same:
            self._seen.pop(folder.path, None)
            return judged, unread, False
        for item in judged:
            self._memory.put(item)
        return judged, "", True

    def _is_same(self, folder: StepFolder) -> bool:
        """Whether a step's parts are listed as they were."""
        now: dict[str, list[Found]] = {}
        try:
            # Opened anew: a remote storage remembers what it listed.
            storage = folder_of(self._path)
            for part in folder.parts:
                where = part.path.rpartition("/")[0] if part.is_file else part.path
                if where not in now:
                    here = discover(storage.join(where) if where else storage)
                    now[where] = [
                        replace(found, path=f"{where}/{found.path}".strip("/")) for found in here
                    ]
                if not any(_is_alike(found, part) for found in now[where]):
                    return False
        except InspectError:
            return False
        return True

    def _save(self, at_least_s: float = 0.0) -> None:
        """Write what was judged, if that is so long ago."""
        now = self._clock()
        if now - self._saved < at_least_s:
            return
        self._saved = now
        try:
            self._memory.save()
        except (OSError, ValueError) as error:
            self.memory_problem = getattr(error, "strerror", None) or str(error)

    def _early(self, steps: Sequence[Step], folders: list[StepFolder]) -> list[Step]:
        """The newest steps that are whole as far as they go, but are perhaps not all there.

        The model's part may be finished long before the optimizer's is begun. Of the first step of
        a run nothing tells whether one belongs to it. Who copies a step may send `.metadata` first.
        """
        is_told = any("optimizer" in (step.kinds or ()) for step in steps)
        clock = self._clock()
        by_path = {folder.path: folder for folder in folders}
        early = []
        for step in steps:
            missing = any(finding.code == "part-missing" for finding in step.findings)
            is_part = bool(step.lacks) or missing or (step.is_sound and not is_told)
            is_whole = all(map(step.is_fine, step.parts))
            folder = by_path.get(step.path)
            seen = self._seen.get(step.path)
            if folder is None or seen is None or _is_overtaken(folder, folders):
                continue
            is_early = (is_part and is_whole) or _may_be_copied(step)
            if is_early and clock - seen.since < self._stale_s:
                early.append(step)
        return early

    def _known(self, run: RunListing, folders: list[StepFolder]) -> list[Judged]:
        """The reports of all steps that are judged, as they are listed now."""
        waiting = {path for path, _ in self._sorted(folders)[1]}
        known: list[Judged] = []
        for folder in folders:
            parts = [self._memory.get(part) for part in folder.parts]
            # Of a step of which a part is written, no part is told.
            if folder.path in self._seen and folder.path not in waiting and None not in parts:
                known += [part for part in parts if part is not None]
        return known

    def _news(self, steps: Iterable[Step]) -> Iterator[Step]:
        for step in steps:
            said = _said(step)
            if self._memory.told.get(step.path) != said:
                self._memory.told[step.path] = said
                yield step


def _may_be_copied(step: Step) -> bool:
    """Whether nothing is wrong but files that are not there, or not to their end."""
    errors = {f.code for part in step.parts for f in part.report.findings if f.severity == "error"}
    return bool(errors) and errors <= _COMING


def _listing(run: RunListing, folder: StepFolder) -> _Listing:
    """What of a listing stands for a step: its parts, and the files beside them."""
    inside = f"{folder.path}/" if folder.path else ""
    beside = [
        (path, entries)
        for path, entries in sorted(run.beside.items())
        if path == folder.path or (inside and path.startswith(inside))
    ]
    return folder.parts, tuple(beside)


def _is_alike(a: Found, b: Found) -> bool:
    """Whether two listings show the same files; the step may be known from above alone."""
    return replace(a, step=b.step) == b


def _is_overtaken(folder: StepFolder, folders: list[StepFolder]) -> bool:
    """Whether a later step of the same run was finished."""
    return any(
        other.series == folder.series
        and other.step is not None
        and folder.step is not None
        and other.step > folder.step
        and all(part.state == "complete" for part in other.parts)
        for other in folders
    )


def _said(step: Step) -> str:
    """A digest of what is told of a step, to know whether it is news."""
    findings = [step.findings, *(part.report.findings for part in step.parts)]
    said = [step.verdict, step.resumable, step.why_not, msgspec.to_builtins(findings)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
