"""What is true of a sample, taken from the live tensors at save time and not from the files.

Placements are what the DTensors themselves say; values are digests of the whole tensors. Tests of
what the inspector infers from the files have their ground truth here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.tensor import DTensor


def describe(
    state: Mapping[str, Any], reference: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Placements, digests and plain values of a live state dict.

    Collective: every rank calls it, each with its own state.

    Args:
        state: The (nested) state dict that was saved.
        reference: Whole tensors by flattened name, where the case knows them without asking the
            sharded ones. Needed for dtypes that gloo cannot gather.

    Returns:
        By flattened name: `placements`, `axes` (the names of the mesh axes that these are along)
        and `digests` of the tensors; `bytes`, the repr of everything else.
    """
    flat, _ = flatten_state_dict(dict(state))
    tensors = {fqn: value for fqn, value in flat.items() if isinstance(value, Tensor)}
    rest = {fqn: repr(value) for fqn, value in flat.items() if fqn not in tensors}
    known = reference or {}
    return {
        "placements": _all_ranks({fqn: placements_of(value) for fqn, value in tensors.items()}),
        "axes": _all_ranks({fqn: axes_of(value) for fqn, value in tensors.items()}),
        "digests": _all_ranks(
            {
                fqn: digest(known[fqn] if fqn in known else whole(value))
                for fqn, value in tensors.items()
            }
        ),
        "bytes": _union_over_ranks(rest),
    }


def boxes(state: Mapping[str, Any], ranks: tuple[int, ...] | None) -> dict[str, list[str | None]]:
    """Which box of each tensor each rank held, by what the tensors themselves say.

    Collective. A box is `0:4,2:3` (begin and end along each dim); a plain tensor's is all of it;
    None stands for a rank that has no such tensor.
    """
    flat, _ = flatten_state_dict(dict(state))
    mine = {fqn: _box(value) for fqn, value in flat.items() if isinstance(value, Tensor)}
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    kept = everyone if ranks is None else [everyone[rank] for rank in ranks]
    return {fqn: [held.get(fqn) for held in kept] for part in kept for fqn in part}


def _box(tensor: Tensor) -> str:
    if isinstance(tensor, DTensor):
        (chunk,) = tensor.__create_chunk_list__()
        offsets, sizes = list(chunk.offsets), list(chunk.sizes)
    else:
        offsets, sizes = [0] * tensor.dim(), list(tensor.shape)
    return ",".join(f"{low}:{low + size}" for low, size in zip(offsets, sizes, strict=True))


def placements_of(tensor: Tensor) -> list[str] | None:
    """The placements as torch writes them, but `Shard(0)`; None for what is not a DTensor."""
    if not isinstance(tensor, DTensor):
        return None
    return [re.sub(r"\bShard\(dim=(\d+)\)", r"Shard(\1)", repr(p)) for p in tensor.placements]


def axes_of(tensor: Tensor) -> list[str] | None:
    """The mesh axes that the placements are along; None for what is not a DTensor."""
    if not isinstance(tensor, DTensor):
        return None
    return list(tensor.device_mesh.mesh_dim_names or ())


def whole(tensor: Tensor) -> Tensor:
    """The full tensor. Collective for sharded ones."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if isinstance(tensor, ShardedTensor):
        return _whole_sharded_tensor(tensor)
    return tensor


def digest(tensor: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of the elements in row-major order."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16]


def _whole_sharded_tensor(tensor: ShardedTensor) -> Tensor:
    """Puts the pieces together by hand, since `ShardedTensor.gather` asks for an accelerator."""
    mine = [
        (shard.metadata.shard_offsets, shard.tensor.detach()) for shard in tensor.local_shards()
    ]
    everyone: list[list[tuple[list[int], Tensor]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    full = torch.empty(tensor.size(), dtype=tensor.dtype)
    for offsets, piece in (pair for pieces in everyone for pair in pieces):
        full[tuple(slice(lo, lo + n) for lo, n in zip(offsets, piece.shape, strict=True))] = piece
    return full


def _all_ranks(mine: dict[str, Any]) -> dict[str, Any]:
    """What all ranks say, each of its own tensors; of what several hold, the lowest's word."""
    everyone: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    result: dict[str, Any] = {}
    for part in everyone:
        result |= {fqn: value for fqn, value in part.items() if fqn not in result}
    return result


def _union_over_ranks(mine: dict[str, str]) -> dict[str, str]:
    """Some entries exist on one rank alone, such as a data loader's."""
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return {fqn: text for part in everyone for fqn, text in part.items()}
