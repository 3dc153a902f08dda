"""What torch's own planner plans, rank by rank, under a fake process group: a script.

    python -m tests.layout.torch_plans OUT MESH[,MESH]... PATH...

It writes a pickle of `{(path, mesh): [set of reads of rank 0, of rank 1, ...]}`, a read being
`(file, fqn, storage_offsets, dest_offsets, lengths)`. Nothing of `inspector` is used: DTensors are
made by torch, and metadata is unpickled as torch does it.
"""

from __future__ import annotations

import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import filesystem, planner
from torch.distributed.checkpoint import metadata as metadata_module
from torch.distributed.checkpoint.default_planner import create_default_local_load_plan
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor import empty as empty_dtensor
from torch.testing._internal.distributed.fake_pg import FakeStore

TorchRead = tuple[str | None, str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def target(metadata: Any, mesh: Any, placements: list[Any]) -> dict[str, Any]:
    """A state dict as FSDP2 makes it: DTensors cut along dim 0, 0-d ones whole."""
    state: dict[str, Any] = {}
    for fqn, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, BytesStorageMetadata):
            state[fqn] = None
            continue
        how = placements if len(entry.size) else [Replicate()] * len(placements)
        state[fqn] = empty_dtensor(
            entry.size, dtype=entry.properties.dtype, device_mesh=mesh, placements=how
        )
    return state


def reads(metadata: Any, state: dict[str, Any]) -> list[TorchRead]:
    """The items of torch's plan."""
    items = create_default_local_load_plan(state, metadata).items
    found = []
    for item in items:
        place = metadata.storage_data.get(item.storage_index)
        boxes = (item.storage_offsets, item.dest_offsets, item.lengths)
        path = None if place is None else place.relative_path
        found.append((path, item.storage_index.fqn, *map(tuple, boxes)))
    return found


class Unpickler(pickle.Unpickler):
    """Frameworks that are not installed put their own classes for torch's: torch's are taken."""

    def find_class(self, module: str, name: str) -> Any:
        # Where torch 1.13 had them; today's torch loads its classes there a second time.
        old = "torch.distributed._shard.checkpoint."
        module = module.replace(old, "torch.distributed.checkpoint.")
        try:
            return super().find_class(module, name)
        except ImportError:
            plain = name.removeprefix("MCore")
            return next(
                getattr(m, plain)
                for m in (filesystem, metadata_module, planner)
                if hasattr(m, plain)
            )


def read_metadata(path: str, rank: int) -> Any:
    """As `dcp.load` does it: the global metadata, or else the rank's own; None if there is none."""
    for name in (".metadata", f"__{rank}.metadata"):
        if (file := Path(path) / name).exists():
            return _unpickled(file)
    return None


@cache
def _unpickled(file: Path) -> Any:
    with file.open("rb") as stream:
        return Unpickler(stream).load()


def plans(meshes: list[str], paths: list[str]) -> dict[tuple[str, str], list[list[TorchRead]]]:
    """Every plan of every rank of every mesh."""
    result: dict[tuple[str, str], list[list[TorchRead]]] = {}
    for text in meshes:
        sizes = tuple(int(n) for n in text.split(":")[1].split("x"))
        world_size = int(torch.Size(sizes).numel())
        placements = [Shard(0)] if len(sizes) == 1 else [Replicate(), Shard(0)]
        for rank in range(world_size):
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
            mesh = init_device_mesh("cpu", sizes)
            for path in paths:
                metadata = read_metadata(path, rank)
                found = []
                if metadata is not None:
                    found = reads(metadata, target(metadata, mesh, placements))
                result.setdefault((path, text), []).append(found)
            dist.destroy_process_group()
    return result


if __name__ == "__main__":
    out, meshes, *paths = sys.argv[1:]
    Path(out).write_bytes(pickle.dumps(plans(meshes.split(","), paths)))
