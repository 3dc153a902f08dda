"""`RunFolder`: where one job's spec, events, logs and scratch lie.

~/.local/state/hsdp-inspect/runs/20260131-142501-step-100-hsdp_2x4/
  spec.json        the job, as every rank reads it
  events.jsonl     every event in the order in which the front end saw it: the recording
  events/          what the ranks write: one file per rank
  logs/            torchrun's output, and each rank's
  import/          the package, alone, for the interpreter that runs the ranks
  guard.json       what the guard was told; guard.status.json: how it stands
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.checkpoint.outside import lies_inside
from inspector.checkpoint.own_folders import (
    private_folder,
    read_own,
    remove_abandoned,
    start_of,
    state_dir,
    system_id,
    temporary_folder,
)
from inspector.checkpoint.storage.base import is_url
from inspector.errors import StorageError, UsageError
from inspector.verify.job.guard import SCRATCH_PREFIX, job_pids, remove_scratch
from inspector.verify.machine import free_disk

__all__ = [
    "RunFolder",
    "copy_package",
    "link_package",
    "make_scratch",
    "meeting_folder",
    "prune_runs",
    "recorded_runs",
    "remove_leftovers",
    "runs_dir",
    "scratch_dir",
]

_PACKAGE = Path(__file__).parents[2]
#: As `RunFolder.create` names them; nothing else is ever removed.
_NAME = re.compile(r"\d{8}-\d{6}-[A-Za-z0-9._-]+")
#: As many runs are always kept, and every run of the last days.
_NUM_KEPT = 20
_KEPT_S = 3 * 86400.0
#: Folders of our own are this user's alone.
_MODE = 0o700
#: Begins the names of run folders outside the state directory.
_TEMPORARY = "hsdp-inspect-"
#: A run is not recorded on a disk that has less room: the ranks tell what they found in its files.
_RUN_BYTES = 16 << 20
_PROBE_BYTES = 1 << 16
#: What a start may remove, so that it does not wait for years of runs on a slow disk.
_MAX_REMOVED = 50


def runs_dir() -> Path:
    """The folder of all runs, under the user's state directory."""
    return state_dir() / "runs"


def scratch_dir() -> Path:
    """Where scratch folders are made if nothing else is better."""
    return state_dir() / "scratch"


class _Below:
    """A path below that of a run's folder."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, run: RunFolder, owner: object) -> Path:
        return run.path.joinpath(*self._names)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def create(
        cls,
        name: str,
        events_dir: str | Path | None = None,
        *,
        inspected: str = "",
        num_bytes: int = _RUN_BYTES,
    ) -> RunFolder:
        """Make a folder named after the time and `name`.

        Where the state directory cannot be written to, has no room, or lies in the checkpoint, the
        folder is a temporary one.

        Args:
            name: What is verified; only its letters, digits, dots, dashes and underscores stay.
            events_dir: Folder for the ranks' events, if it is to be another than `events`.
            inspected: The checkpoint, in which nothing is written; empty for none.
            num_bytes: What the job may write there.

        Raises:
            StorageError: There is nowhere to write.
        """
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[-60:] or "job"
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}"
        folder = cls(_make(stem, inspected, num_bytes))
        try:
            folder.logs.mkdir(_MODE)
            if events_dir is None:
                folder.events.mkdir(_MODE)
            else:
                Path(events_dir).mkdir(parents=True, exist_ok=True)
                if any(Path(events_dir).glob("rank-*.jsonl")):
                    raise UsageError(
                        f"{events_dir} holds the events of another job", "give an empty folder"
                    )
                folder.events.symlink_to(Path(events_dir).absolute())
            link_package(folder.imports)
        except OSError as error:
            raise StorageError(f"cannot write {folder.path}: {error.strerror}") from error
        return folder

    @property
    def is_kept(self) -> bool:
        """Whether it lies with the other runs; else it is a temporary one."""
        return self.path.parent == runs_dir()

    spec = _Below("spec.json")
    recording = _Below("events.jsonl")
    events = _Below("events")
    logs = _Below("logs")
    imports = _Below("import")
    torchrun_out = _Below("logs", "torchrun.out")
    torchrun_err = _Below("logs", "torchrun.err")
    guard_job = _Below("guard.json")
    guard_status = _Below("guard.status.json")

    def put_aside(self) -> None:
        """Rename what a first attempt left, so that a second one can have its place.

        Raises:
            OSError: It cannot be done, or its ranks have written into a folder of the user's.
        """
        if self.events.is_symlink():
            if any(self.events.glob("rank-*.jsonl")):
                raise OSError("the ranks have written there")
        else:
            self.events.rename(self.path / "events-first")
            self.events.mkdir(_MODE)
        self.logs.rename(self.path / "logs-first")
        self.logs.mkdir(_MODE)
        self.recording.rename(self.path / "events-first.jsonl")
        self.guard_status.unlink(missing_ok=True)


def _make(stem: str, inspected: str, num_bytes: int) -> Path:
    parent = runs_dir()
    for number in range(1000):
        path = parent / (stem if number == 0 else f"{stem}-{number}")
        is_made = False
        try:
            if inspected and not is_url(inspected) and lies_inside(parent, inspected):
                break
            private_folder(parent, state_dir())
            if _room(parent) < num_bytes:
                break
            path.mkdir(_MODE)
            is_made = True
            path.chmod(_MODE)
            # A quota is not told before something is written.
            with open(path / ".room", "wb") as file:
                file.write(bytes(_PROBE_BYTES))
            os.unlink(path / ".room")
        except FileExistsError:
            continue
        except OSError:
            if is_made:
                shutil.rmtree(path, ignore_errors=True)
            break
        return path
    return _make_temporary(stem, inspected, num_bytes)


def _make_temporary(stem: str, inspected: str, num_bytes: int) -> Path:
    """A run folder outside the state directory: in the first place with room, or the roomiest."""
    places = [place for place in _temporary_places() if os.access(place, os.W_OK | os.X_OK)]
    if inspected and not is_url(inspected):
        places = [place for place in places if not lies_inside(place, inspected)]
    try:
        where = next((place for place in places if _room(place) >= num_bytes), None)
        where = where or max(places, key=_room, default=None)
        path = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{stem}-", dir=where))
        path.chmod(_MODE)
    except OSError as error:
        raise StorageError(
            f"there is nowhere to record the job: {error.strerror}",
            "set XDG_STATE_HOME to a folder that can be written to",
        ) from error
    return path


def _room(place: str | Path) -> float:
    """Free bytes there; without end where nobody says."""
    free = free_disk(place)
    return math.inf if free is None else free


def _temporary_places() -> list[str]:
    """Where a run goes that the state directory cannot take."""
    return list(dict.fromkeys([tempfile.gettempdir(), "/dev/shm"]))  # noqa: S108 - a private folder


def link_package(folder: str | Path) -> None:
    """Make a folder from which this package can be imported, and nothing else.

    A whole site-packages on the ranks' path would put our torch and numpy before those of the
    interpreter that the user chose.

    Raises:
        OSError: It cannot be written.
    """
    link = Path(folder, _PACKAGE.name)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not (link.is_symlink() and link.readlink() == _PACKAGE):
        link.unlink(missing_ok=True)
        link.symlink_to(_PACKAGE)


def copy_package(folder: str | Path) -> None:
    """Make a folder with a copy of what a job needs of this package, for machines that lack it.

    Raises:
        OSError: It cannot be written.
    """
    place = Path(folder, _PACKAGE.name)
    if place.is_symlink():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    # The screen is no part of a job.
    shutil.copytree(_PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__", "tui", "cli"))


@contextmanager
def meeting_folder() -> Iterator[str]:
    """A folder for this user alone, in which a job's processes meet; empty where none can be.

    It takes a disk that knows locks, as torch's file store wants.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder())
            is_usable = _has_locks(folder)
        except OSError:
            folder, is_usable = "", False
        yield folder if is_usable else ""


def _has_locks(folder: str) -> bool:
    try:
        import fcntl  # lazy: not on every system
    except ImportError:
        return True  # torch's store asks the system itself.
    with open(os.path.join(folder, "lock"), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def make_scratch(parent: str | Path) -> str:
    """A new, empty scratch folder under `parent`; the guard removes it.

    Raises:
        StorageError: It cannot be made there.
    """
    try:
        if Path(parent) == scratch_dir():
            private_folder(scratch_dir(), state_dir())
        Path(parent).mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=Path(parent).absolute())
    except OSError as error:
        raise StorageError(
            f"the scratch folder cannot be made in {parent}: {error.strerror}",
            "--scratch DIR takes another place",
        ) from error


def recorded_runs() -> list[Path]:
    """The folders of all recorded runs, newest first."""
    try:
        return sorted((p for p in runs_dir().iterdir() if (p / "spec.json").exists()), reverse=True)
    except OSError:
        return []


def _temporary_runs() -> list[Path]:
    """The folders of runs that the state directory could not take, this user's alone."""
    found: list[Path] = []
    for place in _temporary_places():
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    name = entry.name.removeprefix(_TEMPORARY)
                    if name == entry.name or not _NAME.fullmatch(name):
                        continue
                    info = entry.stat(follow_symlinks=False)
                    is_private = stat.S_ISDIR(info.st_mode) and stat.S_IMODE(info.st_mode) == _MODE
                    if is_private and info.st_uid == os.getuid():
                        found.append(Path(entry.path))
        except OSError:
            continue
    return sorted(found, reverse=True)


def remove_leftovers() -> None:
    """Remove what runs that were killed together with their guard have left.

    That is their scratch folders; and the folders of temporary runs in which nothing happened for
    three days.
    """
    remove_abandoned()
    temporary = _temporary_runs()
    for folder in [*recorded_runs(), *temporary]:
        run = RunFolder(folder)
        try:
            job = json.loads(read_own(run.guard_job))
            scratch = job["scratch_dir"]
            if scratch and os.path.isdir(scratch) and not _is_guarded(run, job):
                remove_scratch(scratch)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for run in map(RunFolder, temporary):
        try:
            if _last_change(run) < time.time() - _KEPT_S and not _may_live(run):
                shutil.rmtree(run.path, ignore_errors=True)
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _is_guarded(run: RunFolder, job: dict[str, Any]) -> bool:
    """Whether a process of that run may still live (unsure: yes)."""
    # The home may be shared by many nodes, and be a container's as well: what runs there is not
    # seen from here. While it runs its ranks' heartbeats are recorded, every second.
    if job.get("system") != system_id() and _last_change(run) > time.time() - _KEPT_S:
        return True
    # Before the guard is there, whoever starts it is.
    pid, began = job.get("front") or (0, 0)
    if job.get("system") == system_id() and pid and start_of(pid) == began:
        return True
    return not os.path.isdir("/proc/self") or bool(job_pids(job["mark"]))


def prune_runs(now_s: float | None = None) -> list[Path]:
    """Remove the oldest runs: those beyond the newest 20 in which nothing happened for three days.

    Only a folder that a job of ours was started in goes: with the name, the guard's file and the
    link to the package that `Job` leaves there. A spec that was only printed stays, since somebody
    may hold the command that names it. Links are removed, never followed.

    Args:
        now_s: The time, in seconds since the epoch (default: now).

    Returns:
        The folders that are gone.
    """
    before_s = (time.time() if now_s is None else now_s) - _KEPT_S
    gone: list[Path] = []
    runs = [run for run in map(RunFolder, recorded_runs()) if _is_ours(run)]
    for run in reversed(runs[_NUM_KEPT:]):
        try:
            if _last_change(run) < before_s and not _may_live(run):
                shutil.rmtree(run.path)
                gone.append(run.path)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # What cannot be read, or removed, stays.
        if len(gone) == _MAX_REMOVED:
            break
    return gone


def _is_ours(run: RunFolder) -> bool:
    return (
        _NAME.fullmatch(run.path.name) is not None
        and not run.path.is_symlink()
        and run.guard_job.is_file()
        and (run.imports / _PACKAGE.name).is_symlink()
    )


def _last_change(run: RunFolder) -> float:
    """When something was last written there or to the ranks' events, in s since the epoch."""
    times = [run.path.lstat().st_mtime]
    for place in (run.path, run.events):
        if place.is_dir():
            times += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(place)]
    return max(times)


def _may_live(run: RunFolder) -> bool:
    """Whether a process or the scratch folder of that run may still be there (unsure: yes).

    Raises:
        OSError, ValueError, KeyError, TypeError: Its guard's file is not to be read.
    """
    job = json.loads(read_own(run.guard_job))
    if job["scratch_dir"] and os.path.lexists(job["scratch_dir"]):
        return True
    try:
        status = json.loads(read_own(run.guard_status))
        if status["state"] == "ended" and status["is_empty"]:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # The guard was killed before it could say so: its processes tell.
    return _is_guarded(run, job)
