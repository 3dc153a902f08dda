"""What the user typed -> the checkpoint that is meant, or the checkpoints."""

from __future__ import annotations

from pathlib import PurePosixPath

from inspector.checkpoint.dcp import METADATA, rank_metadata
from inspector.checkpoint.discover import Found, discover
from inspector.checkpoint.storage import Storage, open_storage
from inspector.checkpoint.text import printable
from inspector.errors import NotACheckpointError, StorageError, UsageError

__all__ = ["folder_of", "is_checkpoint", "locate"]


def folder_of(path: str) -> Storage:
    """The storage of the folder at `path`; of its folder, if `path` is a metadata file.

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
        raise StorageError(f"{printable(path)}: there is no such file or folder")
    if entry.kind == "folder":
        return storage
    if entry.kind == "other":
        raise StorageError(f"cannot read {printable(path)}: {entry.problem}")
    pure = PurePosixPath(path)
    if pure.name == METADATA or pure.name.endswith(".metadata"):
        return open_storage(str(pure.parent))
    hint = "give the folder that holds .metadata"
    if pure.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        hint = "a torch.save file is one whole checkpoint: open it with torch.load"
    raise NotACheckpointError(f"{printable(path)} is a file, not a checkpoint folder", hint)


def is_checkpoint(storage: Storage) -> bool:
    """True if the folder itself holds what a DCP checkpoint is made of, finished or not."""
    listing = storage.list()
    if any(e.name in (METADATA, METADATA + ".tmp") or e.name.endswith(".distcp") for e in listing):
        return True
    return bool(rank_metadata(listing))


def locate(path: str) -> Storage | list[Found]:
    """The checkpoint at `path`; or, if `path` is a folder of checkpoints, all that are under it.

    A folder with neither comes back as the folder: reading it says best what is wrong with it.

    Raises:
        InspectError: The path cannot be read, or is a file of another kind.
    """
    storage = folder_of(path)
    if is_checkpoint(storage):
        return storage
    return discover(storage) or storage
