"""A checkpoint of the package torch_checkpointing, which is told from others and not read.

It writes `metadata.pkl`, and of each item a file for every rank (`model_0.safetensors`,
`step_0.pt`), which holds that rank's local shards under their plain names: each file alone looks
like a whole checkpoint, and is a part of one. Source: torch_checkpointing 0.1.1
(metadata_serialization.py, checkpoint_layout.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inspector.checkpoint.storage.base import Entry, Storage
from inspector.errors import StorageError

__all__ = ["HINT", "METADATA_FILE", "WHAT", "is_torch_checkpointing"]

METADATA_FILE = "metadata.pkl"
WHAT = (
    "a checkpoint of the package torch_checkpointing (metadata.pkl, and a file for each item and "
    "rank), not DCP"
)
HINT = "load it with torch_checkpointing; of one rank's safetensors file, give the path of the file"

_ITEM_OF_RANK = re.compile(r".+_\d{1,9}\.[a-z]+\Z", re.S)
# A key of every such pickle that describes tensors; read as bytes, never unpickled.
_MARK = b"nested_path_to_metadata"
_MAX_LOOK = 64 << 10


def is_torch_checkpointing(storage: Storage, listing: Sequence[Entry]) -> bool:
    """True for a listed folder that is such a checkpoint, by its names and its metadata's start."""
    files = {entry.name for entry in listing if entry.kind == "file"}
    if METADATA_FILE not in files or not any(map(_ITEM_OF_RANK.match, files)):
        return False
    try:
        return _MARK in storage.read(METADATA_FILE, 0, _MAX_LOOK)
    except StorageError:
        return False
