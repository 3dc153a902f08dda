"""What torch's planner plans for DTensors on a mesh of several axes, rank by rank: a script.

    python -m tests.layout.torch_nd_plans JOBS OUT

`JOBS` is JSON: a list of `{"path", "ranks", "placements": {fqn: [sizes, [str, ...]]}, "without"}`,
the sizes being those of the mesh that the tensor lies on, `without` the entries that are not
loaded (default: none); the script writes a pickle with the reads of every
rank of each. Placements are given as `Replicate()`, `Shard(0)`,
`_StridedShard(0, sf=2)`, and made into torch's; where what they name lies is torch's to say.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.layout.torch_plans import TorchRead, read_metadata, reads


def placement(text: str) -> Any:
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if text.startswith("_StridedShard"):
        return _StridedShard(numbers[0], split_factor=numbers[1])
    return Shard(numbers[0]) if numbers else Replicate()


def dtensor(entry: Any, mesh: Any, how: list[Any]) -> DTensor:
    """As FSDP2 makes it: a local part and what it is a part of."""
    local, _ = compute_local_shape_and_global_offset(entry.size, mesh, how)
    part = torch.empty(local, dtype=entry.properties.dtype, device="meta")
    whole = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
    return DTensor.from_local(
        part, mesh, how, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def plans(jobs: list[dict[str, Any]]) -> list[list[list[TorchRead]] | None]:
    """The reads of every rank of every job; None of metadata that this torch cannot unpickle."""
    found: list[list[list[TorchRead]] | None] = [[] for _ in jobs]
    for world_size in sorted({job["ranks"] for job in jobs}):
        for rank in range(world_size):
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
            meshes: dict[tuple[int, ...], Any] = {}
            for number, job in enumerate(jobs):
                by_rank = found[number]
                if job["ranks"] == world_size and by_rank is not None:
                    try:
                        metadata = read_metadata(job["path"], rank)
                    except (ValueError, TypeError, AttributeError):
                        found[number] = None
                        continue
                    by_rank.append(plan_of(metadata, job, meshes))
            dist.destroy_process_group()
    return found


def plan_of(
    metadata: Any, job: dict[str, Any], meshes: dict[tuple[int, ...], Any]
) -> list[TorchRead]:
    """What torch plans for this rank."""
    if metadata is None:
        return []
    state: dict[str, Any] = {}
    left_out = set(job.get("without", ()))
    for fqn, entry in metadata.state_dict_metadata.items():
        if fqn in left_out:
            continue
        if isinstance(entry, BytesStorageMetadata):
            state[fqn] = None
            continue
        sizes, texts = job["placements"][fqn]
        if tuple(sizes) not in meshes:
            meshes[tuple(sizes)] = init_device_mesh("cpu", tuple(sizes))
        state[fqn] = dtensor(entry, meshes[tuple(sizes)], [placement(text) for text in texts])
    return reads(metadata, state)


if __name__ == "__main__":
    told, out = sys.argv[1:]
    Path(out).write_bytes(pickle.dumps(plans(json.loads(Path(told).read_text()))))
