"""What the user typed -> the checkpoint that is meant, or the checkpoints; and reading one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from inspector.checkpoint.dcp import METADATA, rank_metadata, read_dcp
from inspector.checkpoint.framework import recognise
from inspector.checkpoint.outside import note_inspected
from inspector.checkpoint.safetensors.sets import OneSet, file_sets, main_set, set_of, shard_rank
from inspector.checkpoint.storage.base import Storage, is_url, parent_of
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.text import plural, printable
from inspector.checkpoint.torch_checkpointing import is_torch_checkpointing
from inspector.errors import NotACheckpointError, StorageError, UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child, Early, Progress
    from inspector.checkpoint.find.search import RunListing
    from inspector.checkpoint.find.step_folders import Found
    from inspector.checkpoint.model import Checkpoint

__all__ = [
    "folder_of",
    "has_safetensors",
    "is_checkpoint",
    "locate",
    "locate_one",
    "matching",
    "read_checkpoint",
]


def read_checkpoint(
    storage: Storage,
    *,
    progress: Progress | None = None,
    prefetched: Child | None = None,
    early: Early | None = None,
) -> Checkpoint:
    """Read the checkpoint in a folder: DCP if its metadata is there, else safetensors.

    Args:
        storage: The folder, or one set of safetensors files in it.
        progress: Told the bytes read; may cancel.
        prefetched: A child that already reads the metadata.
        early: Given the first entries of large metadata while the rest is read.

    Raises:
        InspectError: As `read_dcp` and `read_safetensors` do.
    """
    try:
        checkpoint = read_dcp(storage, progress=progress, prefetched=prefetched, early=early)
    except NotACheckpointError:
        # DCP is tried first, and not asked for first: it has one listing to make, not two.
        if not has_safetensors(storage):
            raise
        # lazy: `check` begins without
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
_BESIDE = frozenset({"meta.pt", "common.pt", "metadata.json", "config.json", METADATA + ".tmp"})
# Megatron-LM and verl write the newest iteration's number into it.
_LATEST = "latest_checkpointed_iteration.txt"
#: Of a safetensors file, before its header.
_LENGTH_BYTES = 8


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
    if not is_url(path):
        note_inspected(path)
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
    hint = _hint_by_content(storage, entry.num_bytes) or "give the folder that holds .metadata"
    if pure.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        hint = "a torch.save file is one whole checkpoint: open it with torch.load"
        # lazy: what is a checkpoint looks like no other
        from inspector.checkpoint.lookalike import lookalike_of_file

        part = lookalike_of_file(pure.name)
        if part is not None:
            raise NotACheckpointError(f"{printable(path)} is one file of {part.what}", part.hint)
    raise NotACheckpointError(f"{printable(path)} is a file, not a checkpoint folder", hint)


def _hint_by_content(storage: Storage, size: int | None) -> str:
    """What to do with a file whose name does not say what it is, by how it begins; or nothing."""
    if size is None or size <= _LENGTH_BYTES:
        return ""
    try:
        begin = storage.read("", 0, _LENGTH_BYTES + 1)
    except StorageError:
        return ""
    # https://huggingface.co/docs/safetensors: the header's length, then the header, which is JSON.
    if int.from_bytes(begin[:-1], "little") < size and begin.endswith(b"{"):
        return "it begins as a safetensors file: let its name end in .safetensors, as readers ask"
    if begin.startswith(b"PK\x03\x04"):
        return "it is a zip archive, as torch.save and numpy write: open it with what wrote it"
    return ""


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
    # lazy: as in `locate`
    from inspector.checkpoint.find.identify import identify

    return folder if name in _BESIDE and identify(folder, listing) else None


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
    # lazy: as in `locate`
    from inspector.checkpoint.find.step_folders import step_number

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


def locate(path: str) -> Storage | RunListing:
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
    # lazy: for the path of a checkpoint nothing is looked for
    from inspector.checkpoint.find.identify import identify, open_found

    # lazy: as above
    from inspector.checkpoint.find.search import discover

    here = identify(storage, storage.list())
    # Of a model's folder the user means the model, unless checkpoints lie right below.
    found = discover(storage, max_depth=2) if here else discover(storage)
    if _is_shards(storage, here) and all(item.step is None or not item.path for item in found):
        return storage
    if len(found) == 1 and (not found[0].path or _INNER.fullmatch(found[0].path)):
        return open_found(storage, found[0])
    return found or storage


def locate_one(path: str) -> Storage:
    """The checkpoint at `path`, where only one can be meant.

    Raises:
        UsageError: There are several.
        InspectError: As for `locate`.
    """
    target = locate(path)
    if not isinstance(target, list):
        return target
    names = ", ".join(printable(found.path or ".") for found in target[:3])
    more = " ..." if len(target) > 3 else ""
    raise UsageError(
        f"{printable(path)} holds {plural(len(target), 'checkpoint')}: give the path of one",
        f"they are {names}{more}",
    )


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
