"""Makers of checkpoints of valid but odd kinds, of which nothing is to be told.

Optimizers after real steps, quantised and tied weights, averages, adapters, parallel layouts. What
`tests/checks/test_shapes.py` has is not made again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper
from torch.optim import lr_scheduler, swa_utils

from tests.cases.makers import Maker, adam, full, ranks, save
from tests.checks.ranks import StateDict, mesh_of, save_per_rank, sharded

Optimizers = Callable[[nn.Module], list[torch.optim.Optimizer]]


def net() -> nn.Module:
    torch.manual_seed(0)
    block = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(4)]
    return nn.Sequential(*block)


def train(module: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int = 2) -> None:
    for _ in range(steps):
        for optimizer in optimizers:

            def closure() -> torch.Tensor:
                module.zero_grad()
                loss: torch.Tensor = module(torch.randn(4, 8)).pow(2).sum()
                loss.backward()
                return loss

            optimizer.step(closure)


def trained(make: Optimizers, *, flat: bool = True, frozen: int = 0) -> Maker:
    """Real steps, and torch's own state dicts of model and optimizers."""

    def write(folder: Path) -> None:
        module = net()
        for parameter in list(module.parameters())[:frozen]:
            parameter.requires_grad_(False)
        optimizers = make(module)
        train(module, optimizers)
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = get_optimizer_state_dict(module, tuple(optimizers), options=options)
        save(folder, {"model": module.state_dict(), "optimizer": state})

    return write


def one(make: Callable[..., torch.optim.Optimizer], **options: Any) -> Maker:
    def made(module: nn.Module) -> list[torch.optim.Optimizer]:
        return [make([p for p in module.parameters() if p.requires_grad], **options)]

    return trained(made)


def matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.ndim == 2]


def vectors(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.ndim == 1]


def groups(**of_matrices: Any) -> Optimizers:
    def made(module: nn.Module) -> list[torch.optim.Optimizer]:
        kind = torch.optim.SGD if "momentum" in of_matrices else torch.optim.AdamW
        both = [{"params": matrices(module), **of_matrices}, {"params": vectors(module)}]
        return [kind(both, lr=1e-3)]

    return made


def whole(state: Callable[[], StateDict], **options: Any) -> Maker:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        save(folder, state(), **options)

    return write


def averaged() -> StateDict:
    module = net()
    average = swa_utils.AveragedModel(module, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(module.parameters())
    train(module, [optimizer])
    average.update_parameters(module)
    return {"model": module.state_dict(), "ema": average.state_dict()}


def tied() -> StateDict:
    module = nn.Module()
    module.embed, module.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
    module.head.weight = module.embed.weight
    params = dict(module.named_parameters())
    return {"model": module.state_dict(), "optim": {"state": adam(params)}}


def scheduled() -> StateDict:
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 10)
    warm = lr_scheduler.LinearLR(optimizer, 0.1)
    both = lr_scheduler.SequentialLR(optimizer, [warm, cosine], [1])
    train(module, [optimizer])
    both.step()
    state = both.state_dict()
    state["_schedulers"] = [s if isinstance(s, dict) else s.state_dict() for s in [cosine, warm]]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    return {"model": module.state_dict(), "lr_scheduler": state, "scaler": scaler.state_dict()}


def dynamic() -> StateDict:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, torch.qint8)
    state: StateDict = {}
    for name, value in quantized.state_dict().items():
        if isinstance(value, tuple):
            state |= {f"{name}.{i}": v.int_repr() for i, v in enumerate(value[:1])}
        elif isinstance(value, torch.Tensor):
            state[name] = value
    return {"model": state}


def observed() -> StateDict:
    module = torch.ao.quantization.FakeQuantize()
    module(torch.randn(4, 4))
    return {"model": {f"layers.{i}.fake_quant.{n}": v for i in range(3) for n, v in module.state_dict().items()}}  # fmt: skip  # noqa: E501


def block_scaled() -> StateDict:
    state: StateDict = {}
    for i in range(4):
        here = f"model.layers.{i}.self_attn.q_proj"
        state[f"{here}.weight"] = torch.randn(64, 32).to(torch.float8_e4m3fn)
        state[f"{here}.weight_scale_inv"] = torch.ones(4, 2)
        state[f"{here}.scales"] = torch.full((64, 1), 1.0).to(torch.float8_e8m0fnu)
    return state


def nibbles() -> StateDict:
    state: StateDict = {}
    for i in range(4):
        here = f"base_model.model.layers.{i}.self_attn.q_proj"
        state[f"{here}.weight"] = torch.zeros(64 * 32 // 2, 1, dtype=torch.uint8)
        state[f"{here}.weight.absmax"] = torch.zeros(32, dtype=torch.uint8)
        state[f"{here}.weight.quant_map"] = torch.randn(16)
        state[f"{here}.weight.nested_absmax"] = torch.randn(1)
        state[f"{here}.lora_A.default.weight"] = torch.randn(4, 32)
        state[f"{here}.lora_B.default.weight"] = torch.randn(64, 4)
    return state


def packed_int4() -> StateDict:
    state: StateDict = {}
    for i in range(3):
        here = f"model.layers.{i}.mlp.down_proj"
        state[f"{here}.qweight"] = torch.zeros(8, 32, dtype=torch.int32)
        state[f"{here}.qzeros"] = torch.zeros(2, 4, dtype=torch.int32)
        state[f"{here}.scales"] = torch.ones(2, 32, dtype=torch.float16)
        state[f"{here}.g_idx"] = torch.arange(64, dtype=torch.int32)
    return state


def parametrized() -> StateDict:
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    for layer in module:
        nn.utils.parametrizations.weight_norm(layer)
    return {"model": module.state_dict()}


def convolutions() -> StateDict:
    module = nn.Sequential(*(m for _ in range(4) for m in (nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))))
    return {"state_dict": module.to(memory_format=torch.channels_last).state_dict()}  # type: ignore[call-overload]


def recurrent() -> StateDict:
    return {"model": nn.LSTM(8, 8, 3, bidirectional=True).state_dict()}


def views() -> StateDict:
    whole_one = torch.randn(16, 16)
    return {
        "transposed": whole_one.T,
        "strided": whole_one[::2, 1::3],
        "expanded": torch.ones(1, 6).expand(4, 6),
        "shared.a": whole_one[:8],
        "shared.b": whole_one[8:],
        "conj": torch.randn(3, dtype=torch.complex64).conj(),
        "empty": torch.zeros(3, 0, 2),
        "scalar": torch.tensor(True),
    }


def magnitudes(rank: int) -> StateDict:
    """DoRA in FSDP: matrices of rank 4, and a vector of magnitudes."""
    mesh = mesh_of(4)
    params: StateDict = {}
    for i in range(4):
        here = f"layers.{i}.q_proj"
        params[f"{here}.lora_A.default.weight"] = sharded(full(4, 32), mesh, Shard(0))
        params[f"{here}.lora_B.default.weight"] = sharded(full(32, 4), mesh, Shard(0))
        params[f"{here}.lora_magnitude_vector.default.weight"] = sharded(full(32), mesh, Shard(0))
    return {"model": params, "optim": {"state": adam(params)}}


def frozen_tower(rank: int) -> StateDict:
    mesh = mesh_of(4)
    tower = {f"vision.blocks.{i}.attn.w": sharded(full(8, 8), mesh, Shard(0)) for i in range(6)}
    text = {f"text.layers.{i}.attn.w": sharded(full(8, 8), mesh, Shard(0)) for i in range(6)}
    return {"model": {**tower, **text}, "optim": {"state": adam(text)}}


def average_in_shards(rank: int) -> StateDict:
    mesh = mesh_of(2, 2, names=("replicate", "shard"))
    params = {f"layers.{i}.w": sharded(full(10, 4), mesh, Replicate(), Shard(0)) for i in range(4)}
    return {"model": params, "ema_model": params, "optim": {"state": adam(params)}}


def uneven(rank: int) -> StateDict:
    mesh = mesh_of(4)
    params = {f"layers.{i}.b": sharded(full(5 + i, 3), mesh, Shard(0)) for i in range(4)}
    return {"model": params, "optim": {"state": adam(params)}}


def columns(rank: int) -> StateDict:
    mesh = mesh_of(4)
    params = {f"layers.{i}.w": sharded(full(6, 10), mesh, Shard(1)) for i in range(4)}
    return {"model": params, "optim": {"state": adam(params)}}


def strided(rank: int) -> StateDict:
    """Tensor parallel first, then FSDP, both along dim 0, as `fully_shard` lays it."""
    from torch.distributed.tensor.placement_types import _StridedShard

    mesh = mesh_of(2, 2, names=("dp", "tp"))
    placements = _StridedShard(0, split_factor=2), Shard(0)
    wq = sharded(full(8, 8), mesh, *placements)
    norm = sharded(full(8), mesh, Shard(0), Replicate())
    params = {"layers.0.wq.weight": wq, "layers.0.norm.weight": norm}
    return {"model": params, "optim": {"state": adam(params)}}


def even_from_local(rank: int) -> StateDict:
    placed = DTensor.from_local(full(3, 4) + rank, mesh_of(4), [Shard(0)], run_check=False)
    return {"model": {"w": placed, "rows_of_each": placed}}


def tables_by_numpy(rank: int) -> StateDict:
    """Offsets that numpy worked out; torch pickles its numbers as they are."""
    return tables(np.int64(rank))


def tables(rank: int | np.int64) -> StateDict:
    """Embedding tables cut by rows and by columns, two pieces a rank, as torchrec lays them."""
    rows, cols = full(8, 4), full(6, 8)
    by_row = LocalShardsWrapper(
        [rows[rank : rank + 1].contiguous(), rows[rank + 4 : rank + 5].contiguous()],
        [(rank, 0), (rank + 4, 0)],
    )
    at = 2 * rank
    by_col = LocalShardsWrapper(
        [cols[:, at : at + 1].contiguous(), cols[:, at + 1 : at + 2].contiguous()],
        [(0, at), (0, at + 1)],
    )
    mesh = mesh_of(4)
    placed = {
        "rows": DTensor.from_local(
            by_row, mesh, [Shard(0)], run_check=False, shape=rows.shape, stride=(4, 1)
        ),
        "cols": DTensor.from_local(
            by_col, mesh, [Shard(1)], run_check=False, shape=cols.shape, stride=(8, 1)
        ),
    }
    return {"ebc": placed, "dense": full(3)}


def experts(rank: int) -> StateDict:
    """Experts over all ranks, dense layers on replicas of shards, a shared expert, a bias."""
    mesh, world = mesh_of(2, 2, names=("replicate", "shard")), mesh_of(4, names=("ep",))
    params: StateDict = {}
    for i in range(4):
        here = f"layers.{i}"
        params[f"{here}.attn.wq"] = sharded(full(8, 6), mesh, Replicate(), Shard(0))
        if i:
            params[f"{here}.moe.router.gate.weight"] = sharded(
                full(8, 6), mesh, Replicate(), Shard(0)
            )
            params[f"{here}.moe.experts.w1"] = sharded(full(8, 6, 4), world, Shard(0))
            params[f"{here}.moe.experts.w2"] = sharded(full(8, 4, 6), world, Shard(0))
            params[f"{here}.moe.shared_experts.w1"] = sharded(
                full(12, 6), mesh, Replicate(), Shard(0)
            )
            params[f"{here}.moe.expert_bias"] = full(8)
    return {"model": params, "optim": {"state": adam(params)}}


def stages(rank: int) -> StateDict:
    """Two stages, two shards each; the first has the embedding, the last the head."""
    mesh = mesh_of(2, 2, names=("pp", "fsdp"))
    first = rank < 2
    names = [f"layers.{i}.attn.wq.weight" for i in (range(3) if first else range(3, 7))]
    params = {n: sharded(full(8, 4), mesh["fsdp"], Shard(0)) for n in names}
    end = "tok_embeddings.weight" if first else "output.weight"
    params[end] = sharded(full(40, 4), mesh["fsdp"], Shard(0))
    return {"model": params, "optim": {"state": adam(params)}, "step": 3}


def looped_stages(rank: int) -> StateDict:
    """Two ranks of two virtual stages each: layers 0, 1, 4, 5 and 2, 3, 6, 7."""
    mine = [i for i in range(8) if i // 2 % 2 == rank]
    params = {f"layers.{i}.attn.{n}.weight": full(6, 6) for i in mine for n in ("wq", "wo")}
    return {"model": params, "optim": {"state": adam(params)}}


def own_random_states(folder: Path) -> None:
    def make(rank: int) -> StateDict:
        torch.manual_seed(rank)
        placed = sharded(full(8), mesh_of(2), Shard(0))
        return {"model": {"w": placed}, f"rng.{rank}": torch.get_rng_state()}

    save_per_rank(folder, 2, make)


def asynchronous(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"model": get_model_state_dict(net()), "step": 3}
        writer = dcp.FileSystemWriter(folder, single_file_per_rank=False, thread_count=2)
        dcp.save(state, storage_writer=writer, no_dist=True)


GOOD: dict[str, Maker] = {
    "nadam": one(torch.optim.NAdam),
    "radam": one(torch.optim.RAdam),
    "adamax": one(torch.optim.Adamax),
    "adadelta": one(torch.optim.Adadelta),
    "asgd": one(torch.optim.ASGD),
    "rprop": one(torch.optim.Rprop),
    "rmsprop, centred, with momentum": one(torch.optim.RMSprop, momentum=0.9, centered=True),
    "sgd without a state": one(torch.optim.SGD, lr=0.1),
    "sgd, nesterov": one(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam, amsgrad": one(torch.optim.Adam, amsgrad=True),
    "adamw, amsgrad in one group": trained(groups(amsgrad=True)),
    "sgd, momentum in one group": trained(groups(momentum=0.9)),
    "adam of matrices and adagrad of vectors": trained(
        lambda m: [torch.optim.Adam(matrices(m)), torch.optim.Adagrad(vectors(m))]
    ),
    "adamw, not flattened": trained(lambda m: [torch.optim.AdamW(m.parameters())], flat=False),
    "the first block frozen": trained(
        lambda m: [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad])], frozen=4
    ),
    "the first blocks frozen": trained(
        lambda m: [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad])], frozen=8
    ),
    "an average kept by torch": whole(averaged),
    "tied weights with an optimizer": whole(tied),
    "schedules and a scaler": whole(scheduled),
    "dynamically quantised": whole(dynamic),
    "observers of fake quantisation": whole(observed),
    "float8 with scales of blocks": whole(block_scaled),
    "four bits in bytes, and adapters": whole(nibbles),
    "four bits in integers": whole(packed_int4),
    "parametrisations": whole(parametrized),
    "channels last": whole(convolutions),
    "recurrent": whole(recurrent),
    "views of one storage": whole(views),
    "dora, sharded": ranks(4, magnitudes),
    "a frozen tower": ranks(4, frozen_tower),
    "an average, replicated shards": ranks(4, average_in_shards),
    "uneven shards": ranks(4, uneven),
    "columns": ranks(4, columns),
    "strided shards": ranks(4, strided),
    "from_local, even": ranks(4, even_from_local),
    "tables in pieces": ranks(4, tables),
    "tables in pieces, offsets by numpy": ranks(4, tables_by_numpy),
    "experts beside replicas": ranks(4, experts),
    "stages of shards": ranks(4, stages),
    "virtual stages": ranks(2, looped_stages),
    "random states of each rank": own_random_states,
    "a file for each item": asynchronous,
}
