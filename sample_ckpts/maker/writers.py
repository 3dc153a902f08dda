"""How the samples are saved: one generator for each kind.

A writer saves and then yields what it saved, so that the truth is taken before training goes on.
Every rank runs it. Parameters come from one seed, so that samples of the same model hold the same
values however they are sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    ShardingStrategy,
    StateDictType,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from maker import hostile
from maker.models import SimpleModel, SimpleModelUneven, TinyTransformer, TwoLayerMLP, token_batches
from maker.tensors import plain_tensors, tensors_by_dtype, tensors_by_name, tensors_by_shape

SEED = 20
GLOBAL_METADATA = (".metadata",)


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint just written, with the state dict that went into it.

    Attributes:
        path: Its folder, relative to the samples' folder.
        state: The (nested) state dict.
        reference: Whole tensors by flattened name, where the case knows them better than the
            sharded ones do.
        metadata: The names of its metadata files.
        format: `dcp` or `safetensors`.
        has_bytes: Whether the entries of `state` that are no tensors are all that there are; a
            framework may add its own.
        framework: Whose layout it is, if not its case's.
        has_boxes: Whether which box each rank held is recorded.
        ranks: The ranks that saved, if not all did.
    """

    path: str
    state: Mapping[str, Any]
    reference: Mapping[str, Tensor] | None = None
    metadata: tuple[str, ...] = GLOBAL_METADATA
    format: str = "dcp"
    has_bytes: bool = True
    framework: str = ""
    has_boxes: bool = False
    ranks: tuple[int, ...] | None = None


# Meshes and whole tensors


def mesh_of(**axes: int) -> DeviceMesh:
    """A CPU mesh with these axes, slowest first."""
    return init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes))


def whole_state(model: nn.Module, prefix: str = "model.") -> dict[str, Tensor]:
    """Copies of an unsharded model's parameters, by their flattened names in the checkpoint."""
    return {prefix + name: value.detach().clone() for name, value in model.state_dict().items()}


# FSDP1


def fsdp1_wrapped(
    model: nn.Module, mesh: DeviceMesh | None, strategy: ShardingStrategy
) -> FullyShardedDataParallel:
    """The model under FSDP1. Without `device_id` FSDP1 would look for an accelerator."""
    return FullyShardedDataParallel(
        model, sharding_strategy=strategy, device_mesh=mesh, device_id=torch.device("cpu")
    )


def fsdp1(
    path: str,
    *,
    model: Callable[[], nn.Module],
    axes: Mapping[str, int],
    state_type: StateDictType = StateDictType.SHARDED_STATE_DICT,
) -> Iterator[Saved]:
    """FSDP1, hybrid over two axes or plain over one.

    With no axes FSDP1 gets no device mesh, and then it writes ShardedTensors instead of DTensors.
    """
    plain = model()
    reference = whole_state(plain)
    strategy = ShardingStrategy.HYBRID_SHARD if len(axes) == 2 else ShardingStrategy.FULL_SHARD
    wrapped = fsdp1_wrapped(plain, mesh_of(**axes) if axes else None, strategy)
    FullyShardedDataParallel.set_state_dict_type(wrapped, state_type)
    state = {"model": wrapped.state_dict()}
    save(state, checkpoint_id=path)
    yield Saved(path, state, reference)


# FSDP2


def fsdp2_wrapped(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The model under FSDP2, each of its `layers` a unit of its own as in torchtitan."""
    for layer in getattr(model, "layers", ()):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@dataclass(slots=True)
class Training:
    """A `TinyTransformer` in training under FSDP2."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    losses: list[float]

    def run(self, batches: Tensor) -> None:
        """One step of the optimizer for each batch, whose sequences the ranks share out."""
        for batch in batches:
            tokens = batch.chunk(dist.get_world_size())[dist.get_rank()]
            logits = self.model(tokens[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
            self.losses.append(mean_over_ranks(loss.detach()))


def mean_over_ranks(value: Tensor) -> float:
    """Every rank must save the same number: which rank's bytes entry is kept is DCP's choice."""
    total = value.clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def adamw(path: str, *, axes: Mapping[str, int], affine: bool) -> Iterator[Saved]:
    """Eight layers after two real steps of AdamW, saved with all that training needs."""
    model = fsdp2_wrapped(TinyTransformer(num_layers=8, affine=affine), mesh_of(**axes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    training = Training(model, optimizer, StepLR(optimizer, step_size=1, gamma=0.9), [])
    training.run(token_batches(2))
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "lr_scheduler": training.scheduler.state_dict(),
        "step": 2,
        "train_state": {
            "ntokens_seen": torch.tensor(96, dtype=torch.int64),
            "losses": training.losses,
            "data": "synthetic",
        },
    }
    save(state, checkpoint_id=path)
    yield Saved(path, state)


def tensor_parallel(path: str, *, axes: Mapping[str, int]) -> Iterator[Saved]:
    """FSDP2 over all axes but the last, which is tensor parallel."""
    mesh = mesh_of(**axes)
    *data_axes, tp = axes
    model = TwoLayerMLP()
    reference = whole_state(model)
    plan = {"w1": ColwiseParallel(), "sequence_norm": SequenceParallel(), "w2": RowwiseParallel()}
    parallelize_module(model, mesh[tp], plan)
    fully_shard(model, mesh=mesh[tuple(data_axes)])
    state = {"model": get_model_state_dict(model), "step": 0}
    save(state, checkpoint_id=path)
    yield Saved(path, state, reference)


def shard_group_only(path: str) -> Iterator[Saved]:
    """HSDP on four ranks, of which only the first replica's two save."""
    mesh = mesh_of(replicate=2, shard=2)
    model = fsdp2_wrapped(SimpleModelUneven(), mesh)
    state = {"model": get_model_state_dict(model)}
    if mesh.get_local_rank("replicate") == 0:
        save(state, checkpoint_id=path, process_group=mesh.get_group("shard"))
    yield Saved(path, state)


def lowest_rank(path: str) -> Iterator[Saved]:
    """HSDP, every chunk written by the lowest rank: the other replica's files are empty."""
    model = fsdp2_wrapped(SimpleModelUneven(), mesh_of(replicate=2, shard=2))
    state = {"model": get_model_state_dict(model)}
    save(state, checkpoint_id=path, planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True))
    yield Saved(path, state)


def per_rank_metadata(path: str) -> Iterator[Saved]:
    """Saved without collectives (torch 2.9 on): every rank's own metadata, and no global one."""
    model = fsdp2_wrapped(SimpleModelUneven(), mesh_of(shard=2))
    state = {"model": get_model_state_dict(model), "step": 1}
    save(state, checkpoint_id=path, use_collectives=False)
    yield Saved(path, state, metadata=("__0.metadata", "__1.metadata"))


# Other layouts


def ddp(path: str) -> Iterator[Saved]:
    """DDP: every rank offers every tensor whole, and DCP shares the writing out."""
    model = DistributedDataParallel(SimpleModel())
    state = {"model": get_model_state_dict(model), "step": 0}
    save(state, checkpoint_id=path)
    yield Saved(path, state)


def run_folder(path: str) -> Iterator[Saved]:
    """A run as torchtitan leaves it, in `step-N` folders; the last save is unfinished."""
    model = fsdp2_wrapped(TinyTransformer(num_layers=1, affine=False), mesh_of(shard=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step / 100))
    training = Training(model, optimizer, scheduler, [])
    last = 300
    for step in (100, 200, last):
        training.run(token_batches(100))
        state = torchtitan_state(training, step)
        folder = f"{path}/step-{step}"
        save(state, checkpoint_id=folder)
        if step < last:
            yield Saved(folder, state)
    dist.barrier()
    if dist.get_rank() == 0:
        # DCP ends a save with this rename; a crash just before it leaves exactly these files.
        Path(folder, ".metadata").rename(Path(folder, ".metadata.tmp"))
    yield Saved(folder, state, metadata=(".metadata.tmp",))


def torchtitan_state(training: Training, step: int) -> dict[str, Any]:
    """The keys that torchtitan saves under; each rank adds its own data loader's state."""
    flattened = StateDictOptions(flatten_optimizer_state_dict=True)
    model, optimizer = training.model, training.optimizer
    rank = dist.get_rank()
    return {
        **get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=flattened),
        "lr_scheduler": {"last_epoch": training.scheduler.last_epoch},
        "dataloader": {f"dp_rank_{rank}": f"position {step * 8 // 2} of shard {rank}".encode()},
        "train_state": {
            "step": torch.tensor(step, dtype=torch.int32),
            "ntokens_seen": torch.tensor(step * 48, dtype=torch.int64),
        },
    }


# Dtypes, shapes, names


def dtypes(path: str) -> Iterator[Saved]:
    """One tensor of every dtype that training uses, then every awkward shape, over four shards."""
    mesh = mesh_of(shard=4)
    whole = {
        "dtypes": tensors_by_dtype(),
        "shapes": tensors_by_shape(),
        "names": tensors_by_name(),
    }
    plain = plain_tensors()
    sharded = {group: distributed(tensors, mesh) for group, tensors in whole.items()}
    sharded["shapes"]["transposed"] = transposed_shard(whole["shapes"]["transposed"], mesh)
    state = {**sharded, "plain": plain}
    save(state, checkpoint_id=path)
    reference = {
        f"{group}.{name}": tensor
        for group, tensors in {**whole, "plain": plain}.items()
        for name, tensor in tensors.items()
    }
    yield Saved(path, state, reference)


def distributed(tensors: Mapping[str, Tensor], mesh: DeviceMesh) -> dict[str, Tensor]:
    """The tensors as DTensors. Each rank cuts its own piece: gloo cannot scatter fp8 or uint16."""
    return {
        name: distribute_tensor(tensor, mesh, placements_for(name), src_data_rank=None)
        for name, tensor in tensors.items()
    }


def placements_for(name: str) -> list[Shard | Replicate]:
    """`Shard(0)` as FSDP cuts, but for the tensors whose names say otherwise."""
    if name.startswith("scalar"):
        return [Replicate()]
    return [Shard(1)] if name == "cut_by_columns" else [Shard(0)]


def transposed_shard(full: Tensor, mesh: DeviceMesh) -> DTensor:
    """A DTensor whose pieces lie in memory column by column: their payloads are not contiguous."""
    mine = full.chunk(mesh.size())[mesh.get_local_rank()].t().contiguous().t()
    return DTensor.from_local(
        mine, mesh, [Shard(0)], run_check=False, shape=full.shape, stride=full.stride()
    )


def hostile_names(path: str) -> Iterator[Saved]:
    """Names that attack a display. Harmless as data."""
    state: dict[str, Any] = {name: torch.tensor([float(i)]) for i, name in enumerate(hostile.NAMES)}
    state["nested"] = {"": torch.tensor([-1.0]), "a": {"": {"b": torch.tensor([-2.0])}}}
    state[hostile.BYTES_NAME] = hostile.BYTES_VALUE
    save(state, checkpoint_id=path)
    yield Saved(path, state)
