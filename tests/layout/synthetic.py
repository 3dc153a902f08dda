"""Checkpoints made by torch's own planner pieces, for any mesh, without processes.

Local boxes come from `_compute_local_shape_and_global_offset`, who writes what from
`dedup_save_plans`: nothing of `inspector.layout` is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from inspector.checkpoint.model import BytesEntry, Checkpoint, DataFile, TensorColumns

R = Replicate()
S0, S1 = Shard(0), Shard(1)


def strided(dim: int, factor: int) -> Any:
    return _StridedShard(dim, split_factor=factor)


def as_text(placements: Sequence[Any]) -> tuple[str, ...]:
    """Placements as the contract writes them."""
    texts = []
    for placement in placements:
        if isinstance(placement, _StridedShard):
            texts.append(f"_StridedShard({placement.dim}, sf={placement.split_factor})")
        elif isinstance(placement, Shard):
            texts.append(f"Shard({placement.dim})")
        else:
            texts.append("Replicate()")
    return tuple(texts)


def tensor_item(
    fqn: str, shape: Sequence[int], sizes: Sequence[int], coordinate: list[int], placements: Any
) -> WriteItem:
    local, offsets = _compute_local_shape_and_global_offset(
        tuple(shape), tuple(sizes), coordinate, placements
    )
    return WriteItem(
        index=MetadataIndex(fqn, torch.Size(offsets)),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(local)),
            properties=TensorProperties(dtype=torch.float32),
            size=torch.Size(shape),
        ),
    )


def make_plans(
    state: Mapping[str, Any],
    sizes: Sequence[int],
    *,
    empties: bool = True,
    bytes_on_0: bool = False,
) -> list[SavePlan]:
    """`state`: fqn -> (shape, placements), or None for a bytes entry."""
    plans = []
    for rank in range(math.prod(sizes)):
        coordinate = [int(c) for c in np.unravel_index(rank, tuple(sizes))]
        items = []
        for fqn, value in state.items():
            if value is None:
                if rank == 0 or not bytes_on_0:
                    items.append(WriteItem(index=MetadataIndex(fqn), type=WriteItemType.BYTE_IO))
                continue
            shape, placements = value
            item = tensor_item(fqn, shape, sizes, coordinate, placements)
            assert item.tensor_data is not None
            if empties or 0 not in item.tensor_data.chunk.sizes:
                items.append(item)
        plans.append(SavePlan(items))
    return plans


def save(
    state: Mapping[str, Any],
    sizes: Sequence[int],
    *,
    lowest: bool = False,
    dedup: bool = True,
    **kwargs: bool,
) -> Checkpoint:
    """The checkpoint that torch would write."""
    plans = make_plans(state, sizes, **kwargs)
    if dedup:
        plans = dedup_save_plans(plans, save_to_lowest_rank=lowest)
    return checkpoint(state, plans, per_rank=not dedup)


def checkpoint(
    state: Mapping[str, Any], plans: Sequence[SavePlan], *, per_rank: bool = False
) -> Checkpoint:
    """A `Checkpoint` of final plans; tensors come in the order in which they are written."""
    boxes: dict[str, list[tuple[Sequence[int], Sequence[int], int]]] = {}
    entries: dict[str, int] = {}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            fqn = item.index.fqn
            if item.tensor_data is None:
                entries.setdefault(fqn, rank)
            else:
                chunk = item.tensor_data.chunk
                boxes.setdefault(fqn, []).append((chunk.offsets, chunk.sizes, rank))
    return from_boxes(state, boxes, entries, len(plans), per_rank=per_rank)


def from_boxes(
    state: Mapping[str, Any],
    boxes: Mapping[str, Sequence[tuple[Sequence[int], Sequence[int], int]]],
    entries: Mapping[str, int],
    world_size: int,
    *,
    per_rank: bool = False,
) -> Checkpoint:
    fqns = list(boxes)
    shapes = [state[fqn][0] for fqn in fqns]
    every = [box for fqn in fqns for box in boxes[fqn]]
    counts = [len(boxes[fqn]) for fqn in fqns]
    lengths = [n * len(s) for n, s in zip(counts, shapes, strict=True)]
    columns = TensorColumns(
        fqns=fqns,
        properties=[("float32", "strided", False, "contiguous")],
        property_id=np.zeros(len(fqns), np.int32),
        shapes=np.asarray([n for s in shapes for n in s], np.int64),
        dim_start=np.cumsum([0, *map(len, shapes)]).astype(np.int64),
        chunk_start=np.cumsum([0, *counts]).astype(np.int64),
        box_start=np.cumsum([0, *lengths]).astype(np.int64)[:-1],
        offsets=np.asarray([n for o, _, _ in every for n in o], np.int64),
        sizes=np.asarray([n for _, s, _ in every for n in s], np.int64),
        file=np.asarray([r for _, _, r in every], np.int32),
        byte_offset=np.zeros(len(every), np.int64),
        byte_length=np.ones(len(every), np.int64),
    )
    place = {fqn: i for i, fqn in enumerate([*fqns, *entries])}
    return Checkpoint(
        path="synthetic",
        format="dcp",
        columns=columns,
        bytes_entries=tuple(BytesEntry(f, r, 0, 1, (), r) for f, r in entries.items()),
        files=tuple(DataFile(f"__{r}_0.distcp", r, 0, 0, 0) for r in range(world_size)),
        order=np.asarray([place[f] for f in state if f in place], np.int32),
        per_rank_metadata=per_rank,
    )


def adamw(params: Mapping[str, tuple[Sequence[int], Any]], num_axes: int) -> dict[str, Any]:
    """Parameters, two moments and a step each, and flattened param_groups."""
    state: dict[str, Any] = {f"model.{k}": v for k, v in params.items()}
    for name, value in params.items():
        state[f"optimizer.state.{name}.step"] = ((), (R,) * num_axes)
        state[f"optimizer.state.{name}.exp_avg"] = value
        state[f"optimizer.state.{name}.exp_avg_sq"] = value
    for key in ("lr", "betas", "eps", "weight_decay", "foreach", "params"):
        state[f"optimizer.param_groups.0.{key}"] = None
    state["step"] = None
    return state


def transformer(block: Any, num_layers: int = 3, dim: int = 64) -> dict[str, tuple[Any, Any]]:
    """`block(kind)` gives placements for `col`, `row`, `norm` and `emb` parameters."""
    params: dict[str, tuple[Any, Any]] = {"emb": ((100, dim), block("emb"))}
    for i in range(num_layers):
        params[f"{i}.wq"] = ((dim, dim), block("col"))
        params[f"{i}.wo"] = ((dim, dim), block("row"))
        params[f"{i}.w1"] = ((4 * dim, dim), block("col"))
        params[f"{i}.b1"] = ((4 * dim,), block("col"))
        params[f"{i}.w2"] = ((dim, 4 * dim), block("row"))
        params[f"{i}.norm"] = ((dim,), block("norm"))
    params["out"] = ((101, dim), block("emb"))
    return params


def uneven(placements: Any) -> dict[str, tuple[Any, Any]]:
    """Dims that no mesh divides, some with fewer rows than ranks."""
    return {
        f"p{i}": (shape, placements)
        for i, shape in enumerate(
            [(10, 5), (10,), (15, 10), (3, 4), (1,), (7, 2), (33, 3), (2,), (5, 8), (17,), (64, 3)]
        )
    }
