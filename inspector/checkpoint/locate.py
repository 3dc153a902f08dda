"""What the user typed -> the folder that is meant."""

from __future__ import annotations

from pathlib import PurePosixPath

from inspector.checkpoint.dcp import METADATA
from inspector.checkpoint.storage import Storage, open_storage
from inspector.checkpoint.text import printable
from inspector.errors import NotACheckpointError, StorageError, UsageError

__all__ = ["folder_of"]


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
