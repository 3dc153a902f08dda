"""A folder -> the checkpoints under it: newest steps first, in parallel, within told bounds."""

from __future__ import annotations

import copy
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inspector.checkpoint.find.identify import TRACKERS, identify, step_of
from inspector.checkpoint.find.step_folders import Found, StepFolder, split_step, step_folders
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import plural, printable
from inspector.checkpoint.workers import is_stopped
from inspector.errors import Cancelled, StorageError

__all__ = ["MAX_DEPTH", "PART_DEPTH", "RunListing", "Search", "discover", "newest"]


MAX_DEPTH = 5
#: Levels that are looked at below a step's folder, however deep it lies itself.
PART_DEPTH = 3
_MAX_FOLDERS = 20_000
_MAX_SECONDS = 20.0
#: Listings at a time: what waits for a network disk or a storage costs no processor.
_AT_ONCE = 32
_FIRST_BATCH = 4
_MAX_BATCH = 512
# Entries of folders that are handed on.
_MAX_LISTED = 50_000
# Names under which a folder with no permission is no loss.
_NOBODYS = frozenset({"lost+found", "System Volume Information"})
_BESIDE = re.compile(r".+\.(pt|pth|pkl|bin|json)", re.I)


class RunListing(list[Found]):
    """The checkpoints at or under a folder, and what else was seen while they were looked for.

    Args:
        storage: The folder.
        found: The checkpoints.
        trackers: Files that name a step, each with the folder it lies in.
        beside: Files that no checkpoint's format knows (`*.pt`, `*.json` ...), by their folder.
        folders: The folders in the folders that trackers lie in.
        not_looked_at: Folders that were not listed, at most a few, and why.
        cut_steps: Steps' folders that were not looked through.
        listings: What lies in the folders, by path; not of all where that is much.
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
        listings: Mapping[str, Sequence[Entry]] | None = None,
    ) -> None:
        super().__init__(found)
        self.storage = storage
        self.trackers = tuple(trackers)
        self.beside = dict(beside or {})
        self.folders = dict(folders or {})
        self.not_looked_at = tuple(not_looked_at)
        self.cut_steps = frozenset(cut_steps)
        self.listings = dict(listings or {})

    def only(self, found: Iterable[Found]) -> RunListing:
        """The same with some of the checkpoints."""
        kept, same = set(found), copy.copy(self)
        same[:] = [item for item in self if item in kept]
        return same

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
        self._listings: dict[str, list[Entry]] = {}
        self._num_listed = 0
        self._started = time.monotonic()
        self._max_folders = _MAX_FOLDERS
        self._seconds = _MAX_SECONDS

    @property
    def is_partial(self) -> bool:
        """True if something was not looked at."""
        return bool(self._not_looked_at)

    def run(self, found: Iterable[Found]) -> RunListing:
        """What was found, with what else was seen by now."""
        return RunListing(
            self._storage,
            sorted(found, key=_order),
            trackers=self._trackers,
            beside=self._beside,
            folders=self._folders,
            not_looked_at=self._not_looked_at,
            cut_steps=self._cut,
            listings=self._listings,
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
        if self._num_listed + len(look.listing) <= _MAX_LISTED:
            self._listings[path] = look.listing
            self._num_listed += len(look.listing)
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
        step = step_of(path)
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
        return self._is_seen(target, top) or self._is_seen(_one_hop(local), top)

    def _is_seen(self, target: str, top: str) -> bool:
        names = os.path.relpath(target, top).split(os.sep)
        is_seen = len(names) <= self._max_depth or split_step("/".join(names)) is not None
        return is_seen and not any(name.startswith(".") for name in names)


def _is_dangling(entry: Entry) -> bool:
    return entry.kind == "other" and entry.is_link


def _newest_first(place: _Place) -> tuple[int, str]:
    return (-(step_of(place.path) or 0), place.path)


def _given_up(left: list[_Place]) -> tuple[str, str]:
    shown = left[0].path or "."
    more = f" and {plural(len(left) - 1, 'other folder')}" if len(left) > 1 else ""
    return f"{shown}{more}", "so much lies under the folder that looking through it was given up"


def discover(storage: Storage, *, max_depth: int = MAX_DEPTH) -> RunListing:
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

    Of a step of several parts it is the largest one, and none if one of them is not complete; one
    that may be half overwritten is none.
    """
    name = found.name if isinstance(found, RunListing) else ""
    folders = step_folders(found, name)
    complete = [f for f in folders if all(item.is_complete for item in f.parts)]
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


def _one_hop(link: str) -> str:
    """What a link names, which may be a link itself: `latest` to a step on another disk."""
    try:
        named = os.path.join(os.path.dirname(link), os.readlink(link)).rstrip("/")
    except OSError:
        return os.path.realpath(link)
    return os.path.join(os.path.realpath(os.path.dirname(named)), os.path.basename(named))
