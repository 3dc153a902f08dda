"""Real torch saves of several ranks, made in one process.

torch's own planner and file writer run once for each rank, with its `fake` process group, whose
collectives do nothing; what `dcp.save` gathers and scatters is handed over here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter, StorageWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement
from torch.testing._internal.distributed.fake_pg import FakeStore

StateDict = dict[str, Any]


def one_file_a_rank(folder: Path) -> StorageWriter:
    return FileSystemWriter(folder, single_file_per_rank=True)


def save_as_ranks(
    folder: Path,
    world: int,
    make: Callable[[int], StateDict],
    writer_of: Callable[[Path], StorageWriter] = one_file_a_rank,
) -> Path:
    """A checkpoint of what `make(rank)` gives on each rank, as `dcp.save` writes it."""
    writers, planners, plans = [], [], []
    for rank in range(world):
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        try:
            writer, planner = writer_of(folder), DefaultSavePlanner()
            planner.set_up_planner(make(rank), writer.storage_meta(), rank == 0)
            writer.set_up_storage_writer(rank == 0)
            plans.append(writer.prepare_local_plan(planner.create_local_plan()))
        finally:
            dist.destroy_process_group()
        writers.append(writer)
        planners.append(planner)
    plans, metadata = planners[0].create_global_plan(plans)
    plans = writers[0].prepare_global_plan(plans)
    written = [
        writer.write_data(planner.finish_plan(plan), planner).wait()
        for writer, planner, plan in zip(writers, planners, plans, strict=True)
    ]
    writers[0].finish(metadata, written)
    return folder


def save_per_rank(folder: Path, world: int, make: Callable[[int], StateDict]) -> Path:
    """The same with metadata of every rank's own (`use_collectives=False`): nothing is handed over.

    `dcp.save` itself runs once for each rank.
    """
    for rank in range(world):
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        try:
            dcp.save(make(rank), storage_writer=FileSystemWriter(folder), use_collectives=False)
        finally:
            dist.destroy_process_group()
    return folder


def mesh_of(*sizes: int, names: tuple[str, ...] | None = None) -> DeviceMesh:
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def sharded(full: Any, mesh: DeviceMesh, *placements: Placement) -> DTensor:
    """A tensor that every rank knows, as the piece that this rank holds."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset as place

    sizes, offsets = place(full.shape, mesh, placements)
    box = tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))
    return DTensor.from_local(
        full[box].contiguous(),
        mesh,
        placements,
        run_check=False,
        shape=full.shape,
        stride=full.stride(),
    )
