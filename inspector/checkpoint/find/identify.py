"""A folder's listing -> the checkpoints that it holds itself, without reading any of them.

What a folder is shows in its listing and in the first and last bytes of its metadata; parsing
every step of a long run would take minutes.
"""

from __future__ import annotations

from collections.abc import Iterable

from inspector.checkpoint import torch_checkpointing
from inspector.checkpoint.dcp import METADATA, rank_metadata, read_dcp
from inspector.checkpoint.find.save_times import split_by_time
from inspector.checkpoint.find.step_folders import Found, State, split_step
from inspector.checkpoint.model import DataFile
from inspector.checkpoint.safetensors.sets import FileSet, OneSet, file_sets, main_set, set_of
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import printable
from inspector.checkpoint.torch_checkpointing import is_torch_checkpointing
from inspector.errors import InspectError, StorageError

__all__ = ["TRACKERS", "identify", "open_found", "step_of"]

#: A file up to this size is looked at by one request.
_SMALL_BYTES = 1 << 16
_OVERWRITTEN = "data files changed {} after the metadata: a save over it may not have finished"
#: Files that name a step of the folder they lie in.
TRACKERS = frozenset(
    "latest LATEST LATEST.txt latest.txt last latest_checkpointed_iteration.txt "
    "latest_train_state.pt trainer_state.json last_checkpoint_info.json".split()
)


def identify(storage: Storage, listing: list[Entry], path: str = "") -> list[Found]:
    """The checkpoints that a listed folder itself is: none or one, mostly.

    Only safetensors files may make several, as a folder of adapters does.
    """
    found = _identify_dcp(storage, listing, path)
    if found is not None:
        return [found]
    files = [entry for entry in listing if entry.kind == "file"]
    if is_torch_checkpointing(storage, listing):
        what = torch_checkpointing.WHAT
        return [_found(path, "torch_checkpointing", "unreadable", files, what)]
    sets = file_sets(entry.name for entry in files)
    chosen = main_set(sets)
    if chosen is not None:
        return [_found_set(chosen, files, path)]
    return [
        _found_set(item, files, f"{path}/{item.name}" if path else item.name, is_file=True)
        for item in sets
    ]


def _found(
    path: str,
    format_: str,
    state: State,
    files: list[Entry],
    detail: str,
    *,
    is_file: bool = False,
    is_overwritten: bool = False,
) -> Found:
    times = [entry.modified_s for entry in files if entry.modified_s is not None]
    return Found(
        path=path,
        format=format_,
        state=state,
        step=step_of(path.rpartition("/")[0] if is_file else path),
        num_bytes=sum(entry.num_bytes or 0 for entry in files),
        num_files=len(files),
        modified_s=max(times, default=None),
        detail=detail,
        is_file=is_file,
        is_overwritten=is_overwritten,
    )


def _found_set(found: FileSet, files: list[Entry], path: str, *, is_file: bool = False) -> Found:
    mine = [entry for entry in files if entry.name in found.names]
    num_all = len(found.files) + len(found.missing)
    detail = f"{len(found.missing)} of its {num_all} files are missing" if found.missing else ""
    state: State = "unfinished" if found.missing else "complete"
    return _found(path, "safetensors", state, mine, detail, is_file=is_file)


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
    state: State = "complete"
    detail = ""
    if METADATA in names or per_rank:
        metadata = names.get(METADATA) or next(iter(per_rank.values()))
        detail = _metadata_problem(storage, metadata)
        state = "unreadable" if detail else "complete"
        if METADATA in names and not data and not detail and not _is_pickle(storage, metadata):
            return None  # Another program's `.metadata`.
        written = [metadata] if METADATA in names else per_rank.values()
        after = "" if detail else _time_after(written, data)
        if after:
            detail = _OVERWRITTEN.format(after)
            return _found(path, "dcp", state, files, detail, is_overwritten=True)
    elif METADATA + ".tmp" in names:
        state, detail = "unfinished", "only .metadata.tmp: the save has not finished"
    elif data:
        state, detail = "unfinished", "data files without .metadata"
    else:
        return None
    return _found(path, "dcp", state, files, detail)


def _time_after(metadata: Iterable[Entry], data: list[Entry]) -> str:
    """How long after a checkpoint's metadata its data files changed; empty if they did not.

    A save writes its metadata last, and one into the same folder writes over the data first.
    """
    times = [entry.modified_s for entry in metadata if entry.modified_s is not None]
    # A file that was just opened to be written is empty.
    files = [
        DataFile(entry.name, None, entry.num_bytes or 1, 0, 0, entry.modified_s) for entry in data
    ]
    split = split_by_time(files, max(times, default=None))
    return split.gap if split is not None and split.metadata_is_older else ""


def step_of(path: str) -> int | None:
    """The training step in a path, or None."""
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
