"""Writes checkpoints of many parallelisms, by torch itself on gloo, and what every rank held.

Started by `test_parallelisms` under torchrun with eight ranks:

    torchrun --standalone --nproc-per-node 8 parallelisms.py OUT

Each case is `OUT/CASE/ckpt` and `OUT/CASE/side.json`: for every tensor its kind, placements, mesh
and the ranks that held it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

DIM, HIDDEN, WORDS, EXPERTS = 16, 32, 40, 8


class Block(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.wq = nn.Linear(dim, dim)
        self.wo = nn.Linear(dim, dim)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.norm = nn.LayerNorm(dim)


class Experts(nn.Module):
    def __init__(self, num: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(num, dim, hidden))
        self.w2 = nn.Parameter(torch.randn(num, hidden, dim))


class MoeBlock(nn.Module):
    def __init__(self, num: int) -> None:
        super().__init__()
        self.attn = nn.Linear(DIM, DIM)
        self.router = nn.Linear(DIM, num, bias=False)
        self.experts = Experts(num, DIM, HIDDEN)


class Model(nn.Module):
    """Embedding, numbered layers, norm and output; a stage has some of them."""

    def __init__(
        self,
        layers: Iterable[int],
        block: Callable[[], nn.Module],
        *,
        first: bool = True,
        last: bool = True,
        dim: int = DIM,
        words: int = WORDS,
    ) -> None:
        super().__init__()
        if first:
            self.tok_embeddings = nn.Embedding(words, dim)
        self.layers = nn.ModuleDict({str(i): block() for i in layers})
        if last:
            self.norm = nn.LayerNorm(dim)
            self.output = nn.Linear(dim, words, bias=False)


def dense(layers: Iterable[int] = (0, 1), **kwargs: Any) -> Model:
    torch.manual_seed(0)
    dim = kwargs.get("dim", DIM)
    return Model(layers, lambda: Block(dim, 14 if dim != DIM else HIDDEN), **kwargs)


def stage_of(number: int, per_stage: int = 2, num: int = 2) -> Model:
    layers = range(number * per_stage, (number + 1) * per_stage)
    return dense(layers, first=number == 0, last=number == num - 1)


def mesh(*sizes: int, names: str) -> DeviceMesh:
    return init_device_mesh("cpu", sizes, mesh_dim_names=tuple(names.split()))


def shard(model: Model, over: DeviceMesh, **kwargs: Any) -> Model:
    for layer in model.layers.values():
        fully_shard(layer, mesh=over, **kwargs)
    fully_shard(model, mesh=over)
    return model


def tensor_parallel(model: Model, over: DeviceMesh) -> Model:
    for layer in model.layers.values():
        columns, rows = ColwiseParallel(), RowwiseParallel()
        parallelize_module(layer, over, {"wq": columns, "wo": rows, "w1": columns, "w2": rows})
    return model


def with_adam(model: nn.Module, **extra: Any) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    return {**weights, "optimizer": state, **extra}


def moe(dense_mesh: DeviceMesh, experts_mesh: DeviceMesh, num: int = EXPERTS) -> dict[str, Any]:
    """Experts by expert parallelism on axis `ep` and FSDP on the others; all else by FSDP."""
    torch.manual_seed(0)
    model = Model((0, 1), lambda: MoeBlock(num))
    names = tuple(experts_mesh.mesh_dim_names or ())
    outer = experts_mesh[names[:-1]]
    too_few = experts_mesh.size() > num
    for layer in model.layers.values():
        experts = layer.experts
        for name, parameter in list(experts.named_parameters(recurse=False)):
            split = distribute_tensor(parameter.data, experts_mesh["ep"], [Shard(0)])
            experts.register_parameter(name, nn.Parameter(split))
        kwargs = {"shard_placement_fn": lambda _: Shard(1)} if too_few else {}
        fully_shard(experts, mesh=outer, **kwargs)
        fully_shard(layer, mesh=dense_mesh)
    fully_shard(model, mesh=dense_mesh)
    return with_adam(model)


def by_columns(parameter: nn.Parameter) -> Shard:
    return Shard(1 if parameter.dim() > 1 else 0)


def by_rows(model: Model, over: DeviceMesh) -> Model:
    """Tensor parallelism that cuts every matrix along dim 0, and leaves the norms whole."""
    for layer in model.layers.values():
        rows = dict.fromkeys(("wq", "wo", "w1", "w2"), ColwiseParallel())
        parallelize_module(layer, over, rows)
    return model


def partly(rank: int) -> dict[str, Any]:
    """A tensor over all ranks, and one over each half of them."""
    halves = [DeviceMesh("cpu", list(range(n, n + 4)), mesh_dim_names=("x",)) for n in (0, 4)]
    name = "low" if rank < 4 else "high"
    here = distribute_tensor(torch.randn(8, 3), halves[rank // 4], [Shard(0)])
    return {
        "all": distribute_tensor(torch.randn(16, 3), mesh(8, names="a"), [Shard(0)]),
        name: here,
    }


def cases(rank: int) -> dict[str, Callable[[], dict[str, Any]]]:
    def fsdp_tp(model: Model, *sizes: int, names: str) -> dict[str, Any]:
        whole = mesh(*sizes, names=names)
        data = tuple(names.split()[:-1])
        return with_adam(shard(tensor_parallel(model, whole["tp"]), whole[data]))

    def pipeline(*sizes: int, names: str) -> dict[str, Any]:
        whole = mesh(2, *sizes, names=f"pp {names}")
        model = stage_of(whole.get_local_rank("pp"))
        inner = names.split()
        if "tp" in inner:
            model = tensor_parallel(model, whole["tp"])
        data = tuple(n for n in inner if n != "tp")
        return with_adam(shard(model, whole[data]), step=7)

    return {
        "fsdp8": lambda: with_adam(shard(dense(), mesh(8, names="dp"))),
        "hsdp2x4": lambda: with_adam(shard(dense(), mesh(2, 4, names="rep dp"))),
        "hsdp2x4_uneven": lambda: with_adam(
            shard(dense(dim=10, words=23), mesh(2, 4, names="rep dp"))
        ),
        "fsdp8_columns": lambda: with_adam(
            shard(dense(), mesh(8, names="dp"), shard_placement_fn=by_columns)
        ),
        "tp8": lambda: {
            "model": get_model_state_dict(tensor_parallel(dense(), mesh(8, names="tp")))
        },
        "ddp4_tp2": lambda: with_adam(tensor_parallel(dense(), mesh(4, 2, names="rep tp")["tp"])),
        "fsdp4_tp2": lambda: fsdp_tp(dense(), 4, 2, names="dp tp"),
        "fsdp4_tp2_uneven": lambda: fsdp_tp(dense(dim=10, words=23), 4, 2, names="dp tp"),
        "hsdp2x2_tp2": lambda: fsdp_tp(dense(), 2, 2, 2, names="rep dp tp"),
        "pp2_fsdp4": lambda: pipeline(4, names="dp"),
        "pp2_hsdp2x2": lambda: pipeline(2, 2, names="rep dp"),
        "pp2_fsdp2_tp2": lambda: pipeline(2, 2, names="dp tp"),
        "pp2_ddp4": lambda: with_adam(stage_of(rank // 4), step=7),
        "pp8": lambda: {"model": stage_of(rank, 1, 8).state_dict(), "step": 3},
        "ep4_fsdp8": lambda: moe(mesh(8, names="dp"), mesh(2, 4, names="efsdp ep")),
        "ep4_fsdp8_columns": lambda: moe(mesh(8, names="dp"), mesh(2, 4, names="efsdp ep"), 4),
        "ep2_hsdp2x4": lambda: moe(mesh(2, 4, names="rep dp"), mesh(2, 2, 2, names="rep efsdp ep")),
        "tp8_rows": lambda: with_adam(by_rows(dense(), mesh(8, names="tp"))),
        "submeshes": lambda: partly(rank),
        "replicated": lambda: {"model": dense().state_dict(), "step": 1},
    }


#: Cases saved once more, and how: a case, and what `dcp.save` is given.
OTHERWISE: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "pp2_fsdp4_each": ("pp2_fsdp4", lambda: {"use_collectives": False}),
    "pp2_ddp4_each": ("pp2_ddp4", lambda: {"use_collectives": False}),
    "hsdp2x2_tp2_each": ("hsdp2x2_tp2", lambda: {"use_collectives": False}),
    "pp2_fsdp2_tp2_lowest": (
        "pp2_fsdp2_tp2",
        lambda: {"planner": DefaultSavePlanner(dedup_save_to_lowest_rank=True)},
    ),
    # The second save takes the plan that the first one left.
    "hsdp2x4_cached": (
        "hsdp2x4",
        lambda: {"planner": DefaultSavePlanner(enable_plan_caching=True)},
    ),
}


def described(state: Any, path: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Kind, placements and mesh of every tensor of a state dict."""
    if isinstance(state, dict):
        parts = [described(value, (*path, str(key))) for key, value in state.items()]
        return {name: found for part in parts for name, found in part.items()}
    if isinstance(state, DTensor):
        placements = [str(placement) for placement in state.placements]
        where = {"placements": placements, "mesh": state.device_mesh.mesh.tolist()}
        return {".".join(path): {"kind": "DTensor", "shape": list(state.shape), **where}}
    if isinstance(state, torch.Tensor):
        return {".".join(path): {"kind": "Tensor", "shape": list(state.shape)}}
    return {}


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    makers = cases(rank)
    for name in (*makers, *OTHERWISE):
        case, how = OTHERWISE.get(name, (name, dict))
        state = makers[case]()
        if name.endswith("_cached"):
            dcp.save(state, checkpoint_id=out / name / "first", **how())
        dcp.save(state, checkpoint_id=out / name / "ckpt", **how())
        held: list[Any] = [None] * world_size
        dist.all_gather_object(held, described(state))
        if rank == 0:
            side: dict[str, Any] = {}
            for holder, tensors in enumerate(held):
                for key, value in tensors.items():
                    side.setdefault(key, {**value, "held_by": []})["held_by"].append(holder)
            (out / name / "side.json").write_text(json.dumps(side))
    dist.barrier()
    os._exit(0)  # Interpreters of eight ranks take seconds to leave.


if __name__ == "__main__":
    main(Path(sys.argv[1]))
