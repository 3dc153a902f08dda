"""Meshes of more than replicas and shards: tensor, expert, pipeline and context parallel.

Every model here is uneven on purpose: no dim is a multiple of the ranks that cut it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from maker.models import Experts, MoELayer, OddBlock
from maker.writers import Saved, mesh_of, whole_state


def _stored(path: str, model: nn.Module, whole: Mapping[str, torch.Tensor]) -> Iterator[Saved]:
    state = {"model": get_model_state_dict(model), "step": 0}
    save(state, checkpoint_id=path)
    yield Saved(path, state, whole, has_boxes=True)


def tensor_parallel_block(path: str, *, axes: Mapping[str, int]) -> Iterator[Saved]:
    """A block cut by columns and rows along `tp`, FSDP2 over `dp_...`, if there are any.

    Where `dp_replicate` alone stands before it, the copies are DDP's: every replica offers the
    same DTensors of its own tensor-parallel group.
    """
    mesh = mesh_of(**axes)
    model = OddBlock()
    whole = whole_state(model)
    plan = {"wq": ColwiseParallel(), "wo": RowwiseParallel()}
    parallelize_module(model, mesh["tp"] if len(axes) > 1 else mesh, plan)
    data = tuple(name for name in axes if name != "tp")
    if "dp_shard" in data:
        fully_shard(model, mesh=mesh[data])
    yield from _stored(path, model, whole)


def expert_parallel(path: str, *, experts: Mapping[str, int]) -> Iterator[Saved]:
    """FSDP2 of dense layers over all ranks of a replica, of experts over another mesh of them.

    Args:
        path: The folder.
        experts: The experts' mesh, `ep` last.
    """
    expert_mesh = mesh_of(**experts)
    *data, _ = experts
    shards = expert_mesh.size() // experts.get("dp_replicate", 1)
    axes = {"dp_replicate": experts["dp_replicate"]} if "dp_replicate" in experts else {}
    dense_mesh = mesh_of(**axes, dp_shard=shards)
    model = nn.ModuleDict({"layers": nn.ModuleList([MoELayer()])})
    whole = whole_state(model)
    for layer in model["layers"].children():
        assert isinstance(layer, MoELayer)
        _shard_experts(layer.experts, expert_mesh, tuple(data))
        fully_shard(layer, mesh=dense_mesh)
    yield from _stored(path, model, whole)


def _shard_experts(experts: Experts, mesh: DeviceMesh, data: tuple[str, ...]) -> None:
    for name, value in list(experts.named_parameters()):
        piece = distribute_tensor(value.data, mesh["ep"], [Shard(0)])
        experts.register_parameter(name, nn.Parameter(piece))
    fully_shard(experts, mesh=mesh[data])


def context_parallel(path: str, *, axes: Mapping[str, int]) -> Iterator[Saved]:
    """FSDP2 over `dp_shard`; the ranks of `cp` share out the tokens and hold the same pieces."""
    mesh = mesh_of(**axes)
    model = OddBlock()
    whole = whole_state(model)
    fully_shard(model, mesh=mesh["dp_shard"])
    yield from _stored(path, model, whole)


def _stage(mesh: DeviceMesh, layers_each: int) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """This rank's stage, and all that its ranks hold; the layers keep their numbers."""
    data = tuple(name for name in mesh.mesh_dim_names or () if name != "pp")
    first = mesh.get_local_rank("pp") * layers_each
    num_layers = mesh.size(0) * layers_each
    everything = nn.ModuleDict({str(i): OddBlock(affine=False) for i in range(num_layers)})
    stage = nn.ModuleDict(
        {
            "layers": nn.ModuleDict(
                {str(i): everything[str(i)] for i in range(first, first + layers_each)}
            )
        }
    )
    whole = whole_state(stage)
    for layer in stage["layers"].children():
        fully_shard(layer, mesh=mesh[data])
    return stage, whole


def pipeline(path: str, *, axes: Mapping[str, int]) -> Iterator[Saved]:
    """Stages of two layers each, which all save into one folder."""
    model, whole = _stage(mesh_of(**axes), 2)
    yield from _stored(path, model, whole)


def pipeline_apart(path: str, *, axes: Mapping[str, int]) -> Iterator[Saved]:
    """Stages of two layers each, each saved by its own ranks alone, in a folder of its own."""
    mesh = mesh_of(**axes)
    model, whole = _stage(mesh, 2)
    mine = mesh.get_local_rank("pp")
    state: dict[str, Any] = {"model": get_model_state_dict(model)}
    save(state, checkpoint_id=f"{path}/stage_{mine}", process_group=mesh.get_group("dp_shard"))
    for stage in range(mesh.size(0)):
        is_mine = stage == mine
        yield Saved(
            f"{path}/stage_{stage}",
            state if is_mine else {},
            whole if is_mine else {},
            has_boxes=True,
            ranks=tuple(mesh.mesh[stage].flatten().tolist()),
        )
