"""A folder -> the checkpoints under it, without reading any of them.

What a folder is shows in its listing and in the first and last bytes of its metadata; parsing
every step of a long run would take minutes.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from inspector.checkpoint import torch_checkpointing
from inspector.checkpoint.dcp import METADATA, rank_metadata, read_dcp
from inspector.checkpoint.framework import recognise
from inspector.checkpoint.lookalike import lookalike_of_file
from inspector.checkpoint.safetensors.sets import (
    FileSet,
    OneSet,
    file_sets,
    main_set,
    set_of,
    shard_rank,
)
from inspector.checkpoint.step_folders import StepFolder, split_step, step_folders, step_number
from inspector.checkpoint.storage.base import Entry, Storage, is_url, parent_of
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.text import plural, printable
from inspector.checkpoint.torch_checkpointing import is_torch_checkpointing
from inspector.checkpoint.workers import is_stopped
from inspector.errors import Cancelled, InspectError, NotACheckpointError, StorageError, UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child, Limits, Progress
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage.base import Storage

__all__ = [
    "MAX_DEPTH",
    "PART_DEPTH",
    "TRACKERS",
    "Found",
    "Run",
    "Search",
    "discover",
    "folder_of",
    "has_safetensors",
    "identify",
    "is_checkpoint",
    "locate",
    "matching",
    "newest",
    "open_found",
    "read_checkpoint",
]

MAX_DEPTH = 5
#: Levels that are looked at below a step's folder, however deep it lies itself.
PART_DEPTH = 3
_MAX_FOLDERS = 20_000
_MAX_SECONDS = 20.0
#: Listings at a time: what waits for a network disk or a storage costs no processor.
_AT_ONCE = 32
_FIRST_BATCH = 4
_MAX_BATCH = 512
#: A file up to this size is looked at by one request.
_SMALL_BYTES = 1 << 16
# Names under which a folder with no permission is no loss.
_NOBODYS = frozenset({"lost+found", "System Volume Information"})
#: Files that name a step of the folder they lie in.
TRACKERS = frozenset(
    {
        "latest",
        "LATEST",
        "LATEST.txt",
        "latest.txt",
        "last",
        "latest_checkpointed_iteration.txt",
        "trainer_state.json",
        "last_checkpoint_info.json",
    }
)
_BESIDE = re.compile(r".+\.(pt|pth|pkl|bin|json)", re.I)


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
    state: str
    step: int | None
    num_bytes: int
    num_files: int
    modified_s: float | None
    detail: str = ""
    is_file: bool = False


class Run(list[Found]):
    """The checkpoints at or under a folder, and what else was seen while they were looked for.

    Args:
        storage: The folder.
        found: The checkpoints.
        trackers: Files that name a step, each with the folder it lies in.
        beside: Files that no checkpoint's format knows (`*.pt`, `*.json` ...), by their folder.
        folders: The folders in the folders that trackers lie in.
        not_looked_at: Folders that were not listed, at most a few, and why.
        cut_steps: Steps' folders that were not looked through.
    """

    def __init__(
        self,
        storage: Storage,
        found: Iterable[Found] = (),
        *,
        trackers: Sequence[tuple[str, Entry]] = (),
        beside: Mapping[str, tuple[Entry, ...]] | None = None,
        folders: Mapping[str, tuple[str, ...]] | None = None,
        not_looked_at: Sequence[tuple[str, str]] = (),
        cut_steps: Iterable[str] = (),
    ) -> None:
        super().__init__(found)
        self.storage = storage
        self.trackers = tuple(trackers)
        self.beside = dict(beside or {})
        self.folders = dict(folders or {})
        self.not_looked_at = tuple(not_looked_at)
        self.cut_steps = frozenset(cut_steps)

    def only(self, found: Iterable[Found]) -> Run:
        """The same with some of the checkpoints."""
        kept = set(found)
        return Run(
            self.storage,
            [item for item in self if item in kept],
            trackers=self.trackers,
            beside=self.beside,
            folders=self.folders,
            not_looked_at=self.not_looked_at,
            cut_steps=self.cut_steps,
        )

    @property
    def is_partial(self) -> bool:
        """True if not every folder was looked at."""
        return bool(self.not_looked_at)

    @property
    def name(self) -> str:
        """The name of the folder itself."""
        path = self.storage.local_path("")
        whole = self.storage.root if path is None else os.path.abspath(path)
        return re.split(r"[/\\]", whole.rstrip("/\\"))[-1]

    def step_folders(self) -> list[StepFolder]:
        """The checkpoints, those of one step together."""
        return step_folders(self, self.name)


def identify(storage: Storage, listing: list[Entry], path: str = "") -> list[Found]:
    """The checkpoints that a listed folder itself is: none or one, mostly.

    Only safetensors files may make several, as a folder of adapters does.
    """
    found = _identify_dcp(storage, listing, path)
    if found is not None:
        return [found]
    files = [entry for entry in listing if entry.kind == "file"]
    if is_torch_checkpointing(storage, listing):
        return [_not_read(files, path)]
    sets = file_sets(entry.name for entry in files)
    chosen = main_set(sets)
    if chosen is not None:
        return [_found_set(chosen, files, path)]
    return [
        _found_set(item, files, f"{path}/{item.name}" if path else item.name, is_file=True)
        for item in sets
    ]


def _not_read(files: list[Entry], path: str) -> Found:
    return Found(
        path=path,
        format="torch_checkpointing",
        state="unreadable",
        step=_step(path),
        num_bytes=sum(entry.num_bytes or 0 for entry in files),
        num_files=len(files),
        modified_s=max((e.modified_s for e in files if e.modified_s is not None), default=None),
        detail=torch_checkpointing.WHAT,
    )


def _found_set(found: FileSet, files: list[Entry], path: str, *, is_file: bool = False) -> Found:
    mine = [entry for entry in files if entry.name in found.names]
    times = [entry.modified_s for entry in mine if entry.modified_s is not None]
    num_all = len(found.files) + len(found.missing)
    detail = f"{len(found.missing)} of its {num_all} files are missing" if found.missing else ""
    return Found(
        path=path,
        format="safetensors",
        state="unfinished" if found.missing else "complete",
        step=_step(path.rpartition("/")[0] if is_file else path),
        num_bytes=sum(entry.num_bytes or 0 for entry in mine),
        num_files=len(mine),
        modified_s=max(times, default=None),
        detail=detail,
        is_file=is_file,
    )


def open_found(storage: Storage, found: Found) -> Storage:
    """The storage of a checkpoint that `discover` found under a folder."""
    if not found.is_file:
        return storage.join(found.path) if found.path else storage
    folder, _, name = found.path.rpartition("/")
    here = storage.join(folder) if folder else storage
    chosen = set_of(file_sets(entry.name for entry in here.list()), name)
    if chosen is None:
        raise StorageError(f"{printable(found.path)} is not there any more")
    return OneSet(here, chosen)


def _identify_dcp(storage: Storage, listing: list[Entry], path: str) -> Found | None:
    files = [entry for entry in listing if entry.kind == "file"]
    names = {entry.name: entry for entry in listing}
    per_rank = rank_metadata(listing)
    data = [entry for entry in files if entry.name.endswith(".distcp")]
    state, detail = "complete", ""
    if METADATA in names or per_rank:
        metadata = names.get(METADATA) or next(iter(per_rank.values()))
        detail = _metadata_problem(storage, metadata)
        state = "unreadable" if detail else "complete"
        if METADATA in names and not data and not detail and not _is_pickle(storage, metadata):
            return None  # Another program's `.metadata`.
    elif METADATA + ".tmp" in names:
        state, detail = "unfinished", "only .metadata.tmp: the save did not finish"
    elif data:
        state, detail = "unfinished", "data files without .metadata"
    else:
        return None
    times = [entry.modified_s for entry in files if entry.modified_s is not None]
    return Found(
        path=path,
        format="dcp",
        state=state,
        step=_step(path),
        num_bytes=sum(entry.num_bytes or 0 for entry in files),
        num_files=len(files),
        modified_s=max(times, default=None),
        detail=detail,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder that is to be looked at; `limit` is how deep its subfolders may lie."""

    path: str
    depth: int
    limit: int


@dataclass(slots=True)
class _Look:
    """What was seen in a folder."""

    place: _Place
    listing: list[Entry] = field(default_factory=list)
    here: list[Found] = field(default_factory=list)
    error: StorageError | None = None


class Search:
    """Looks for checkpoints: `containers` first, then `newest_first`.

    Folders are listed many at a time, so that a run of thousands on a slow storage takes seconds;
    the newest steps are looked at first and each whole, so that who wants the newest alone may
    stop early, and what is given up at the end is the oldest.

    Args:
        storage: The folder.
        max_depth: How deep folders that are no step's are looked into.
    """

    def __init__(self, storage: Storage, *, max_depth: int = MAX_DEPTH) -> None:
        self.num_looked = 0
        self._storage = storage
        self._max_depth = max_depth
        self._steps: dict[str, _Place] = {}
        self._trackers: list[tuple[str, Entry]] = []
        self._beside: dict[str, tuple[Entry, ...]] = {}
        self._folders: dict[str, tuple[str, ...]] = {}
        self._not_looked_at: list[tuple[str, str]] = []
        self._cut: list[str] = []
        self._started = time.monotonic()
        self._max_folders = _MAX_FOLDERS
        self._seconds = _MAX_SECONDS

    @property
    def is_partial(self) -> bool:
        """True if something was not looked at."""
        return bool(self._not_looked_at)

    def run(self, found: Iterable[Found]) -> Run:
        """What was found, with what else was seen by now."""
        return Run(
            self._storage,
            sorted(found, key=_order),
            trackers=self._trackers,
            beside=self._beside,
            folders=self._folders,
            not_looked_at=self._not_looked_at,
            cut_steps=self._cut,
        )

    def containers(self) -> list[Found]:
        """Look at every folder that is no step's, level by level; what is in them.

        Raises:
            StorageError: The folder itself cannot be listed.
            Cancelled: The thread was told to stop.
        """
        # Half of the bound is kept for the steps.
        given_up = self._waves([_Place("", 0, self._max_depth)], share=0.5)
        found = [item for look in self._looks for item in look.here]
        if given_up:
            self._not_looked_at.append(_given_up(given_up))
        return found

    def newest_first(self) -> Iterator[list[list[Found]]]:
        """Look through the steps' folders, newest first, a batch of them at a time.

        Yields:
            For each step's folder of the batch what is in it and below.

        Raises:
            Cancelled: The thread was told to stop.
        """
        places = sorted(self._steps.values(), key=_newest_first)
        size, at = _FIRST_BATCH, 0
        while at < len(places):
            batch = places[at : at + size]
            given_up = self._waves(batch, share=1.0)
            yield [self._below(place, given_up) for place in batch]
            at, size = at + size, min(2 * size, _MAX_BATCH)
            if given_up:
                rest = [*given_up, *places[at:]]
                self._cut += [place.path for place in places[at:]]
                self._not_looked_at.append(_given_up(rest))
                return

    def _below(self, place: _Place, given_up: list[_Place]) -> list[Found]:
        """What was found in a step's folder; it is cut if some of it was not looked at."""
        inside = f"{place.path}/"
        if any(item.path == place.path or item.path.startswith(inside) for item in given_up):
            self._cut.append(place.path)
        return [
            item
            for look in self._looks
            if look.place.path == place.path or look.place.path.startswith(inside)
            for item in look.here
        ]

    def _waves(self, places: list[_Place], *, share: float) -> list[_Place]:
        """List folders, then those in them, and so on; the ones that were not looked at."""
        self._looks: list[_Look] = []
        end = self._started + self._seconds * share
        while places:
            room = max(int(self._max_folders * share) - self.num_looked, 0)
            looks, left = self._wave(places[:room], end)
            left += places[room:]
            self.num_looked += len(looks)
            below: list[_Place] = []
            for look in looks:
                self._looks.append(look)
                below += self._inside(look)
            if left:
                return left + below
            places = below
        return []

    def _wave(self, places: list[_Place], end: float) -> tuple[list[_Look], list[_Place]]:
        """Look at folders many at a time, until all are, or time is up."""
        ahead: Callable[[Sequence[str]], None] | None
        ahead = getattr(self._storage, "list_ahead", None)
        if ahead is None and len(places) > 1:
            return self._in_threads(places, end)
        looks: list[_Look] = []
        for at, place in enumerate(places):
            if time.monotonic() > end:
                return looks, places[at:]
            if ahead is not None and at % _MAX_BATCH == 0:
                ahead([item.path for item in places[at : at + _MAX_BATCH]])
            looks.append(self._look(place))
        return looks, []

    def _in_threads(self, places: list[_Place], end: float) -> tuple[list[_Look], list[_Place]]:
        looks: list[_Look | None] = [None] * len(places)
        failed: list[BaseException] = []
        numbers = iter(range(len(places)))
        stop, lock = threading.Event(), threading.Lock()

        def work() -> None:
            while not stop.is_set():
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    looks[number] = self._look(places[number])
                except BaseException as error:
                    failed.append(error)
                    stop.set()

        # A disk that never answers must not keep the program from ending.
        threads = [
            threading.Thread(target=work, name="listing", daemon=True)
            for _ in range(min(_AT_ONCE, len(places)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive() and time.monotonic() <= end:
                    if is_stopped():
                        raise Cancelled("looking through the folder was cancelled")
                    thread.join(0.05)
        finally:
            stop.set()
        if failed:
            raise failed[0]
        seen = list(looks)  # One that ends later is none of them.
        left = [place for place, look in zip(places, seen, strict=True) if look is None]
        return [look for look in seen if look is not None], left

    def _look(self, place: _Place) -> _Look:
        path, storage = place.path, self._storage
        try:
            listing = storage.list(path)
            here = identify(storage.join(path) if path else storage, listing, path)
        except StorageError as error:
            if not path:
                raise
            return _Look(place, error=error)
        return _Look(place, listing, here)

    def _inside(self, look: _Look) -> list[_Place]:
        """The folders in a folder that are to be looked at next; remembers what else is there."""
        path = look.place.path
        if look.error is not None:
            self._unlisted(look, look.error)
            return []
        self._remember(path, look.listing)
        passed = {"sharded"} if any(item.format == "safetensors" for item in look.here) else set()
        inside = []
        for entry in look.listing:
            if entry.kind != "folder" or entry.name.startswith(".") or entry.name in passed:
                continue
            if look.place.depth >= look.place.limit or self._is_alias(path, entry):
                continue
            below = f"{path}/{entry.name}" if path else entry.name
            depth = look.place.depth + 1
            split = None if split_step(path) else split_step(below)
            if split is None:
                inside.append(_Place(below, depth, look.place.limit))
            else:
                limit = max(self._max_depth, depth + PART_DEPTH)
                self._steps[below] = _Place(below, depth, limit)
        return inside

    def _unlisted(self, look: _Look, error: StorageError) -> None:
        path = look.place.path
        step = _step(path)
        if step is not None:
            look.here = [Found(path, "dcp", "unreadable", step, 0, 0, None, error.message)]
        elif path.rpartition("/")[2] not in _NOBODYS:
            self._not_looked_at.append((path, error.message))

    def _remember(self, path: str, listing: list[Entry]) -> None:
        trackers = [
            e for e in listing if e.name in TRACKERS and (e.kind == "file" or _is_dangling(e))
        ]
        if trackers:
            self._trackers += [(path, entry) for entry in trackers]
            self._folders[path] = tuple(e.name for e in listing if e.kind == "folder")
        beside = tuple(e for e in listing if e.kind == "file" and _BESIDE.fullmatch(e.name))
        if beside:
            self._beside[path] = beside

    def _is_alias(self, folder: str, entry: Entry) -> bool:
        """A link (`latest`, `last`, `best`) to what is looked at under its own name.

        A step's part may be a link to another step's, and is followed.
        """
        path = f"{folder}/{entry.name}" if folder else entry.name
        local = self._storage.local_path(path) if entry.is_link else None
        if local is None or split_step(path) is not None:
            return False
        target, top = os.path.realpath(local), os.path.realpath(self._storage.root)
        if target == top or top.startswith(target.rstrip("/") + "/"):
            return True  # It would be looked at again and again.
        names = os.path.relpath(target, top).split(os.sep)
        is_seen = len(names) <= self._max_depth or split_step("/".join(names)) is not None
        return is_seen and not any(name.startswith(".") for name in names)


def _is_dangling(entry: Entry) -> bool:
    return entry.kind == "other" and entry.is_link


def _newest_first(place: _Place) -> tuple[int, str]:
    return (-(_step(place.path) or 0), place.path)


def _given_up(left: list[_Place]) -> tuple[str, str]:
    shown = left[0].path or "."
    more = f" and {plural(len(left) - 1, 'other folder')}" if len(left) > 1 else ""
    return f"{shown}{more}", "so much lies under the folder that looking through it was given up"


def discover(storage: Storage, *, max_depth: int = MAX_DEPTH) -> Run:
    """Every checkpoint at or under a folder, by step and then by name.

    Folders whose name begins with a dot are passed over, and `sharded` in a safetensors
    checkpoint, which holds what that was put together from; links are followed, except to what is
    looked at under its own name. Containers are looked into five levels deep, a step's folder
    three levels more. A step's folder that cannot be listed is `unreadable`. What was not looked
    at is told by `Run.is_partial`, and the newest steps are looked at first.

    Raises:
        StorageError: The folder itself cannot be listed, or so much lies under it that looking
            through it was given up before any checkpoint was found.
        Cancelled: The thread was told to stop.
    """
    search = Search(storage, max_depth=max_depth)
    found = search.containers()
    for batch in search.newest_first():
        found += [item for folder in batch for item in folder]
    if not found and search.is_partial:
        raise StorageError(
            f"{printable(storage.root)}: no checkpoint in the first {search.num_looked:,} folders, "
            "so looking was given up",
            "give a folder nearer to the checkpoint",
        )
    return search.run(found)


def newest(found: Sequence[Found]) -> Found | None:
    """The complete checkpoint of the highest step (by time where no step is known).

    Of a step of several parts it is the largest one, and none if one of them is not complete.
    """
    name = found.name if isinstance(found, Run) else ""
    folders = step_folders(found, name)
    complete = [f for f in folders if all(item.state == "complete" for item in f.parts)]
    if not complete:
        return None
    with_step = [folder for folder in complete if folder.step is not None]
    if with_step:
        chosen = max(with_step, key=lambda f: (f.step or 0, _modified(f)))
    else:
        chosen = max(complete, key=_modified)
    return max(chosen.parts, key=lambda item: (_is_model(item), item.num_bytes))


def _is_model(item: Found) -> bool:
    return re.search(r"optim", item.path.rpartition("/")[2]) is None


def _modified(folder: StepFolder) -> float:
    return max((item.modified_s or 0.0 for item in folder.parts), default=0.0)


def _order(item: Found) -> tuple[int, list[int | str]]:
    # Digits as numbers, so that layer 10 comes after layer 9; odd places hold digits alone.
    parts = re.split(r"([0-9]+)", item.path)
    numbered = [int(text) if i % 2 else text for i, text in enumerate(parts)]
    return (item.step if item.step is not None else -1, numbered)


def _step(path: str) -> int | None:
    split = split_step(path)
    return None if split is None else split[1]


def _is_pickle(storage: Storage, entry: Entry) -> bool:
    try:
        return storage.read(entry.name, 0, 1) in (b"\x80", b"(", b"c")
    except StorageError:
        return False


def _metadata_problem(storage: Storage, entry: Entry) -> str:
    """Why a metadata file surely cannot be read, from its size and two of its bytes."""
    if entry.kind != "file":
        return f"{entry.name}: {entry.problem or 'it is a folder'}"
    if not entry.num_bytes:
        return f"{entry.name} is empty"
    if storage.local_path("") is None:
        return ""  # Two requests for every step of a run; reading one of them tells as much.
    try:
        if entry.num_bytes <= _SMALL_BYTES:
            whole = storage.read(entry.name, 0, entry.num_bytes)
            first, last = whole[:1], whole[-1:]
        else:
            first = storage.read(entry.name, 0, 1)
            last = storage.read(entry.name, entry.num_bytes - 1, 1)
    except StorageError as error:
        return error.message
    if first not in (b"\x80", b"(", b"c"):
        return f"{entry.name} is no pickle"
    # A pickle ends with its STOP opcode; bytes after it are rare, so only then is it read.
    return "" if last == b"." else _reading_problem(storage)


def _reading_problem(storage: Storage) -> str:
    try:
        read_dcp(storage)
    except InspectError as error:
        return error.message
    return ""


def read_checkpoint(
    storage: Storage,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    prefetched: Child | None = None,
) -> Checkpoint:
    """Read the checkpoint in a folder: DCP if its metadata is there, else safetensors.

    Args:
        storage: The folder, or one set of safetensors files in it.
        limits: What unpickling `.metadata` may cost.
        progress: Told the bytes read; may cancel.
        prefetched: A child that already reads the metadata.

    Raises:
        InspectError: As `read_dcp` and `read_safetensors` do.
    """
    try:
        checkpoint = read_dcp(storage, limits=limits, progress=progress, prefetched=prefetched)
    except NotACheckpointError:
        # DCP is tried first, and not asked for first: it has one listing to make, not two.
        if not has_safetensors(storage):
            raise
        from inspector.checkpoint.safetensors.reader import read_safetensors

        checkpoint = read_safetensors(storage, progress=progress)
    return replace(checkpoint, framework=recognise(checkpoint, storage))


def has_safetensors(storage: Storage) -> bool:
    """True for a folder with safetensors files and nothing of a DCP save."""
    if not storage.has_listing:
        storage.stat_all(["model.safetensors.index.json", "model.safetensors"])
    listing = storage.list()
    names = [entry.name for entry in listing if entry.kind != "folder"]
    is_dcp = any(name.endswith((".distcp", ".metadata.tmp")) for name in names)
    if is_dcp or not file_sets(names):
        return False
    # Of a rank's file that was asked for by name, that file is meant.
    return isinstance(storage, OneSet) or not is_torch_checkpointing(storage, listing)


# Where a framework puts the one checkpoint of a folder: NeMo, OLMo-core, Accelerate, DCP's
# consolidation, a cache of the Hugging Face hub.
_INNER = re.compile(r"weights|model_and_optim|pytorch_model_fsdp_\d+|sharded|snapshots/[^/]+")
# Files that stand for the folder they lie in.
_BESIDE_locate = frozenset(
    {"meta.pt", "common.pt", "metadata.json", "config.json", METADATA + ".tmp"}
)
# Megatron-LM and verl write the newest iteration's number into it.
_LATEST = "latest_checkpointed_iteration.txt"


def folder_of(path: str) -> Storage:
    """The storage of the folder at `path`; of its folder, if `path` is a file of a checkpoint.

    Of a safetensors file it is the files that it belongs to.

    Raises:
        UsageError: The path is empty or no path at all.
        StorageError: Nothing is there, or it may not be read.
        NotACheckpointError: It is a file of another kind.
    """
    if not path:
        raise UsageError("the path is empty", "give a checkpoint folder")
    storage = open_storage(path)
    entry = storage.stat("")
    if entry is None:
        hint = "an object store has no empty folders: look at the spelling" if is_url(path) else ""
        if not storage.has_listing:
            hint = "no folder can be listed there: give the one that holds .metadata itself"
        raise StorageError(f"{printable(path)}: there is no such file or folder", hint)
    if entry.kind == "folder":
        return storage
    if entry.kind == "other":
        raise StorageError(f"cannot read {printable(path)}: {entry.problem}")
    pure = PurePosixPath(path.partition("?")[0] if is_url(path) else path)
    if not storage.has_listing and has_safetensors(storage):
        return storage  # A web server's page about the folder is no file of it.
    folder = _folder_of_file(path, pure.name)
    if folder is not None:
        return folder
    hint = "give the folder that holds .metadata"
    if pure.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        hint = "a torch.save file is one whole checkpoint: open it with torch.load"
        part = lookalike_of_file(pure.name)
        if part is not None:
            raise NotACheckpointError(f"{printable(path)} is one file of {part.what}", part.hint)
    raise NotACheckpointError(f"{printable(path)} is a file, not a checkpoint folder", hint)


def _folder_of_file(path: str, name: str) -> Storage | None:
    """The folder that a file stands for, or None if it stands for none."""
    if name.endswith((".metadata", ".distcp")):
        return open_storage(parent_of(path))
    if name == _LATEST:
        return _latest_iteration(path)
    is_set = name.endswith((".safetensors", ".json"))
    if not is_set and name not in _BESIDE_locate:
        return None
    folder = open_storage(parent_of(path))
    if not folder.has_listing:
        folder.stat_all([name])
    listing = folder.list()
    sets = file_sets(entry.name for entry in listing if entry.kind == "file")
    chosen = set_of(sets, name)
    if chosen is not None:
        return folder if chosen == main_set(sets) else OneSet(folder, chosen)
    return folder if name in _BESIDE_locate and identify(folder, listing) else None


def _is_set(path: str) -> bool:
    """True if the path itself is a safetensors file or an index: then it alone is meant."""
    name = path.partition("?")[0] if is_url(path) else path
    is_named = name.endswith((".safetensors", ".safetensors.index.json"))
    if not is_named:
        return False
    entry = open_storage(path).stat("")
    return entry is not None and entry.kind == "file"


def _latest_iteration(path: str) -> Storage:
    """The checkpoint of the iteration that Megatron's file names."""
    folder = open_storage(parent_of(path))
    text = folder.read(_LATEST, 0, 64).decode("utf-8", "replace").strip()
    is_number = re.fullmatch(r"[0-9]{1,15}", text) is not None
    name = f"iter_{int(text):07d}" if is_number else "release"
    names = [entry.name for entry in folder.list() if entry.kind == "folder"]
    if name not in names and is_number:
        name = next((n for n in names if step_number(n) == int(text)), name)
    if name not in names:
        raise StorageError(
            f"{printable(path)} names {printable(text, 20)}, and there is no {name} beside it"
        )
    return folder.join(name)


def is_checkpoint(storage: Storage) -> bool:
    """True if the folder itself holds what a DCP checkpoint is made of, finished or not."""
    listing = storage.list()
    if any(e.name in (METADATA, METADATA + ".tmp") or e.name.endswith(".distcp") for e in listing):
        return True
    return bool(rank_metadata(listing))


def locate(path: str) -> Storage | Run:
    """The checkpoint at `path`; or, if `path` is a folder of checkpoints, all that are under it.

    A folder with neither comes back as the folder: reading it says best what is wrong with it. One
    whose only checkpoint lies where a framework puts it is that checkpoint. One of ranks' shards
    is itself, whatever of the same save lies below (their consolidation, an optimizer).

    Raises:
        InspectError: The path cannot be read, or is a file of another kind.
    """
    storage = folder_of(path)
    if is_checkpoint(storage) or isinstance(storage, OneSet) or _is_set(path):
        return storage
    if storage.root != open_storage(path).root and has_safetensors(storage):
        return storage  # A file was named: the checkpoint that it is part of is meant.
    here = identify(storage, storage.list())
    # Of a model's folder the user means the model, unless checkpoints lie right below.
    found = discover(storage, max_depth=2) if here else discover(storage)
    if _is_shards(storage, here) and all(item.step is None or not item.path for item in found):
        return storage
    if len(found) == 1 and (not found[0].path or _INNER.fullmatch(found[0].path)):
        return open_found(storage, found[0])
    return found or storage


def _is_shards(storage: Storage, here: list[Found]) -> bool:
    """True for a folder that is itself one set of ranks' shards, as DCP's writer makes it."""
    if len(here) != 1 or here[0].path or here[0].format != "safetensors":
        return False
    chosen = main_set(file_sets(entry.name for entry in storage.list() if entry.kind == "file"))
    return chosen is not None and any(shard_rank(name) is not None for name in chosen.files)


def matching(names: Sequence[str], text: str) -> list[int]:
    """Indices of the names that a filter selects, in order.

    Every word of `text` must occur in the name, whatever its case; a word after `!` must not.
    An empty filter selects everything.
    """
    words = text.casefold().split()
    wanted = [word for word in words if not word.startswith("!")]
    unwanted = [word[1:] for word in words if word.startswith("!") and len(word) > 1]
    selected: Sequence[int] = range(len(names))
    folded = [name.casefold() for name in names] if wanted or unwanted else []
    for word in wanted:
        selected = [i for i in selected if word in folded[i]]
    for word in unwanted:
        selected = [i for i in selected if word not in folded[i]]
    return list(selected)
