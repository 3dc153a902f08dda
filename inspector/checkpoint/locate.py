"""What the user typed -> the checkpoint that is meant, or the checkpoints."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from inspector.checkpoint.dcp import METADATA, rank_metadata
from inspector.checkpoint.discover import Found, discover, identify, open_found
from inspector.checkpoint.reading import has_safetensors
from inspector.checkpoint.safetensors_sets import OneSet, file_sets, main_set, set_of
from inspector.checkpoint.storage import Storage, is_url, open_storage, parent_of
from inspector.checkpoint.text import printable
from inspector.errors import NotACheckpointError, StorageError, UsageError

__all__ = ["folder_of", "is_checkpoint", "locate"]


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
