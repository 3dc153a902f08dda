"""For each folder on the command line: whether plain `dcp.load` loads it, and what a job would say.

Where each rank wrote metadata of its own, as many ranks load it; else one process does.

A process of its own: what a job lets torch unpickle is set for the whole process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

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


def mesh_of(folder: str) -> str:
    """The mesh that it is loaded under."""
    num_ranks = sum(1 for _ in Path(folder).glob("__*.metadata"))
    return f"fsdp:{num_ranks or 1}"


def ranks_load(folder: str) -> str:
    """What torch raises on any rank of `mesh_of`, or nothing: every tensor into a DTensor."""
    size = Mesh.parse(mesh_of(folder)).world_size
    with tempfile.TemporaryDirectory() as place:
        for rank in range(size):
            if os.fork() == 0:
                os.dup2(2, 1)  # gloo talks.
                try:
                    raised = _rank_loads(folder, rank, size, f"{place}/store")
                except BaseException as error:
                    raised = f"{type(error).__name__}: {str(error)[-200:]}"
                Path(place, f"{rank}.txt").write_text(raised)
                os._exit(0)
        for _ in range(size):
            os.wait()
        told = [file.read_text() for file in sorted(Path(place).glob("*.txt"))]
    assert len(told) == size
    return next(filter(None, told), "")


def _rank_loads(folder: str, rank: int, size: int, meeting: str) -> str:
    store = dist.FileStore(meeting, size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (size,))
    state: dict[str, Any] = {}
    for tensor in open_checkpoint(folder).tensors:
        state[tensor.fqn] = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
        if tensor.shape:
            state[tensor.fqn] = distribute_tensor(state[tensor.fqn], mesh, [Shard(0)])
    dcp.load(state, storage_reader=FileSystemReader(folder))
    return ""


def main() -> None:
    warnings.simplefilter("ignore")
    folders = sys.argv[1:]
    loads = []
    for folder in folders:
        is_joint = mesh_of(folder) == "fsdp:1"
        loads.append(plain_load(folder) if is_joint else ranks_load(folder))
    told = [torch_reads(open_checkpoint(f), f, Mesh.parse(mesh_of(f))) for f in folders]
    for folder, raised, said in zip(folders, loads, told, strict=True):
        sys.stdout.write(json.dumps({"folder": folder, "raised": raised, **said}) + "\n")


if __name__ == "__main__":
    main()
