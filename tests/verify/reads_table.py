"""For each folder on the command line: whether plain `dcp.load` loads it, and what a job would say.

A process of its own: what a job lets torch unpickle is set for the whole process.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from inspector.checkpoint import open_checkpoint
from inspector.layout.mesh import Mesh
from inspector.verify.ranks.witness.reading import torch_reads


def plain_load(folder: str) -> str:
    """What torch raises, or nothing: every tensor of the checkpoint into a plain tensor."""
    checkpoint = open_checkpoint(folder)
    names = {t.fqn for t in checkpoint.tensors}
    try:
        metadata = FileSystemReader(folder).read_metadata()
        state: dict[str, Any] = {}
        for fqn, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, TensorStorageMetadata):
                state[fqn] = torch.empty(entry.size, dtype=entry.properties.dtype)
            elif fqn in names:
                state[fqn] = torch.empty(checkpoint.tensors[0].shape)
        dcp.load(state or {"?": 0}, storage_reader=FileSystemReader(folder))
    except BaseException as error:  # CheckpointException is no Exception
        return f"{type(error).__name__}: {str(error)[-200:]}"
    return ""


def main() -> None:
    warnings.simplefilter("ignore")
    folders = sys.argv[1:]
    loads = [plain_load(folder) for folder in folders]
    told = [torch_reads(open_checkpoint(f), f, Mesh.parse("fsdp:1")) for f in folders]
    for folder, raised, said in zip(folders, loads, told, strict=True):
        sys.stdout.write(json.dumps({"folder": folder, "raised": raised, **said}) + "\n")


if __name__ == "__main__":
    main()
