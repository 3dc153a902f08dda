"""A folder -> the checkpoints under it, without reading any of them.

What a folder is shows in its listing and in the first and last bytes of its metadata; parsing
every step of a long run would take minutes.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from inspector.checkpoint.dcp import METADATA, rank_metadata, read_dcp
from inspector.checkpoint.framework import recognise
from inspector.checkpoint.lookalike import lookalike_of_file
from inspector.checkpoint.safetensors.sets import FileSet, OneSet, file_sets, main_set, set_of
from inspector.checkpoint.storage.local import Entry, Storage, is_url, open_storage, parent_of
from inspector.checkpoint.text import printable
from inspector.errors import InspectError, NotACheckpointError, StorageError, UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child, Limits, Progress
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage.local import Storage

__all__ = [
    "Found",
    "are_parts",
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

_MAX_DEPTH = 5
_MAX_FOLDERS = 20_000
_MAX_SECONDS = 20.0

# `step-100`, `iter_0000100`, `global_step5`, `epoch=1-step=50`, `ep1-ba20`, `checkpoint-7`, `100`
_STEP = re.compile(
    r"(?:step|iter|iteration|ba|checkpoint|ckpt|epoch|ep)s?[-_=]?0*(\d{1,15})(?!\d)", re.I
)
_PART_NAME = re.compile(r"(pytorch_model_fsdp|optimizer)_\d+")
_NUMBER = re.compile(r"0*(\d{1,15})\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that a folder holds.

    Attributes:
        path: Relative to the folder that was searched; empty for that folder itself. A file, if
            the folder holds several safetensors checkpoints side by side.
        format: `dcp` or `safetensors`.
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


def identify(storage: Storage, listing: list[Entry], path: str = "") -> list[Found]:
    """The checkpoints that a listed folder itself is: none or one, mostly.

    Only safetensors files may make several, as a folder of adapters does.
    """
    found = _identify_dcp(storage, listing, path)
    if found is not None:
        return [found]
    files = [entry for entry in listing if entry.kind == "file"]
    sets = file_sets(entry.name for entry in files)
    chosen = main_set(sets)
    if chosen is not None:
        return [_found_set(chosen, files, path)]
    return [
        _found_set(item, files, f"{path}/{item.name}" if path else item.name, is_file=True)
        for item in sets
    ]


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


def discover(storage: Storage, *, max_depth: int = _MAX_DEPTH) -> list[Found]:
    """Every checkpoint at or under a folder, by step and then by name.

    Folders whose name begins with a dot are passed over, and `sharded` in a safetensors
    checkpoint, which holds what that was put together from; links are followed, at most five
    levels deep. A step's folder that cannot be listed is `unreadable`.

    Raises:
        StorageError: The folder itself cannot be listed, or so much lies under it that looking
            through it was given up before any checkpoint was found.
    """
    give_up = time.monotonic() + _MAX_SECONDS
    found: list[Found] = []
    pending: deque[tuple[str, int]] = deque([("", 0)])
    visited = 0
    while pending:
        if visited >= _MAX_FOLDERS or time.monotonic() > give_up:
            if found:
                break
            raise StorageError(
                f"{printable(storage.root)}: no checkpoint in the first {visited:,} folders, "
                "so looking was given up",
                "give a folder nearer to the checkpoint",
            )
        path, depth = pending.popleft()
        visited += 1
        try:
            listing = storage.list(path)
        except StorageError as error:
            if not path:
                raise
            step = _step(path.rpartition("/")[2])
            if step is not None:
                found.append(Found(path, "dcp", "unreadable", step, 0, 0, None, error.message))
            continue
        here = identify(storage.join(path) if path else storage, listing, path)
        found += here
        passed = {"sharded"} if any(item.format == "safetensors" for item in here) else set()
        if depth < max_depth:
            for entry in listing:
                is_below = entry.kind == "folder" and not entry.name.startswith(".")
                if is_below and entry.name not in passed:
                    below = f"{path}/{entry.name}" if path else entry.name
                    pending.append((below, depth + 1))
    return sorted(found, key=_order)


def newest(found: list[Found]) -> Found | None:
    """The complete checkpoint of the highest step (by time where no step is known)."""
    complete = [item for item in found if item.state == "complete"]
    if not complete:
        return None
    with_step = [item for item in complete if item.step is not None]
    if with_step:
        return max(with_step, key=lambda item: (item.step or 0, item.modified_s or 0.0))
    return max(complete, key=lambda item: item.modified_s or 0.0)


def are_parts(found: Sequence[Found]) -> bool:
    """True for the folders in which Accelerate saves model and optimizer of one step."""
    folders = {item.path.rpartition("/")[0] for item in found}
    names = [item.path.rpartition("/")[2] for item in found]
    return len(found) > 1 and len(folders) == 1 and all(map(_PART_NAME.fullmatch, names))


def _order(item: Found) -> tuple[int, list[int | str]]:
    # Digits as numbers, so that layer 10 comes after layer 9; odd places hold digits alone.
    parts = re.split(r"([0-9]+)", item.path)
    numbered = [int(text) if i % 2 else text for i, text in enumerate(parts)]
    return (item.step if item.step is not None else -1, numbered)


def _step(path: str) -> int | None:
    for part in reversed(path.split("/")):
        matches = _STEP.findall(part)
        if matches:
            return int(matches[-1])
        number = _NUMBER.match(part)
        if number:
            return int(number[1])
    return None


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
    names = [entry.name for entry in storage.list() if entry.kind != "folder"]
    is_dcp = any(name.endswith((".distcp", ".metadata.tmp")) for name in names)
    return not is_dcp and bool(file_sets(names))


# Where a framework puts the one checkpoint of a folder: NeMo, OLMo-core, Accelerate, DCP's
# consolidation, a cache of the Hugging Face hub.
_INNER = re.compile(r"weights|model_and_optim|pytorch_model_fsdp_\d+|sharded|snapshots/[^/]+")
# Files that stand for the folder they lie in.
_BESIDE = frozenset({"meta.pt", "common.pt", "metadata.json", "config.json", METADATA + ".tmp"})
# Megatron-LM writes the newest iteration's number into it.
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
    if not is_set and name not in _BESIDE:
        return None
    folder = open_storage(parent_of(path))
    if not folder.has_listing:
        folder.stat_all([name])
    listing = folder.list()
    sets = file_sets(entry.name for entry in listing if entry.kind == "file")
    chosen = set_of(sets, name)
    if chosen is not None:
        return folder if chosen == main_set(sets) else OneSet(folder, chosen)
    return folder if name in _BESIDE and identify(folder, listing) else None


def _latest_iteration(path: str) -> Storage:
    """The checkpoint of the iteration that Megatron's file names."""
    folder = open_storage(parent_of(path))
    text = folder.read(_LATEST, 0, 64).decode("utf-8", "replace").strip()
    name = f"iter_{int(text):07d}" if re.fullmatch(r"[0-9]{1,15}", text) else "release"
    if folder.stat(name) is None:
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


def locate(path: str) -> Storage | list[Found]:
    """The checkpoint at `path`; or, if `path` is a folder of checkpoints, all that are under it.

    A folder with neither comes back as the folder: reading it says best what is wrong with it. One
    whose only checkpoint lies where a framework puts it is that checkpoint.

    Raises:
        InspectError: The path cannot be read, or is a file of another kind.
    """
    storage = folder_of(path)
    if is_checkpoint(storage) or isinstance(storage, OneSet):
        return storage
    here = identify(storage, storage.list())
    # Of a model's folder the user means the model, unless checkpoints lie right below.
    found = discover(storage, max_depth=2) if here else discover(storage)
    if len(found) == 1 and (not found[0].path or _INNER.fullmatch(found[0].path)):
        return open_found(storage, found[0])
    return found or storage


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
