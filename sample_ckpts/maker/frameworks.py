"""What frameworks write, by their own functions on the CPU; imported only where they are used.

Where a framework would not run here, the function says what was done instead, and so does the
samples' README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim.lr_scheduler import StepLR

from maker.models import TinyTransformer, token_batches
from maker.writers import (
    SEED,
    Saved,
    Training,
    fsdp2_wrapped,
    mesh_of,
    torchtitan_state,
)


def _trained(steps: int = 1) -> Training:
    """A small model after some steps of AdamW under FSDP2 on two ranks."""
    model = fsdp2_wrapped(TinyTransformer(num_layers=1, affine=True), mesh_of(shard=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    training = Training(model, optimizer, StepLR(optimizer, step_size=1), [])
    training.run(token_batches(steps))
    return training


def _save_with_accelerate(path: str, training: Training) -> Iterator[Saved]:
    """`save_fsdp_model` and `save_fsdp_optimizer`, which `Accelerator.save_state` calls.

    On a CPU `Accelerator.prepare` wraps a model in DDP whatever its FSDP plugin says; so the model
    comes wrapped, and these are called one by one.
    """
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import save_fsdp_model, save_fsdp_optimizer

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    accelerator = Accelerator(cpu=True)
    model, optimizer = training.model, training.optimizer
    save_fsdp_model(plugin, accelerator, model, path)
    yield Saved(f"{path}/pytorch_model_fsdp_0", {"model": get_model_state_dict(model)})
    save_fsdp_optimizer(plugin, accelerator, optimizer, model, path)
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    yield Saved(f"{path}/optimizer_0", state)


def accelerate(path: str) -> Iterator[Saved]:
    """The folder that `Accelerator.save_state` leaves under FSDP2."""
    training = _trained()
    yield from _save_with_accelerate(path, training)
    # `save_accelerator_state` writes the machine's random state here: 14 kB a rank of no use.
    random_state = {"step": 1, "torch_manual_seed": torch.tensor([SEED, dist.get_rank()])}
    torch.save(random_state, f"{path}/random_states_{dist.get_rank()}.pkl")
    if dist.get_rank() == 0:
        torch.save(training.scheduler.state_dict(), f"{path}/scheduler.bin")


def trainer(path: str) -> Iterator[Saved]:
    """A `checkpoint-N` folder of transformers' Trainer under FSDP2.

    The Trainer leaves the model to Accelerate, and saves its own state beside.
    """
    from transformers import TrainerState

    training = _trained(2)
    folder = f"{path}/checkpoint-2"
    yield from _save_with_accelerate(folder, training)
    torch.save({"cpu": torch.tensor([SEED])}, f"{folder}/rng_state_{dist.get_rank()}.pth")
    if dist.get_rank() == 0:
        torch.save(training.scheduler.state_dict(), f"{folder}/scheduler.pt")
        history = [{"step": i + 1, "loss": loss} for i, loss in enumerate(training.losses)]
        state = TrainerState(epoch=1.0, global_step=2, max_steps=2, log_history=history)
        state.save_to_json(f"{folder}/trainer_state.json")


def transformers(path: str) -> Iterator[Saved]:
    """`save_pretrained` of a tiny Llama: three safetensors files with an index."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="5KB")
    yield Saved(path, model.state_dict(), metadata=(), format="safetensors")


def lightning(path: str) -> Iterator[Saved]:
    """`Fabric.save` under its `ModelParallelStrategy` (FSDP2): DCP files and `meta.pt`."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import ModelParallelStrategy

    strategy = ModelParallelStrategy(
        lambda model, mesh: fsdp2_wrapped(model, mesh["data_parallel"]),
        data_parallel_size=2,
        tensor_parallel_size=1,
    )
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
    fabric.launch()
    torch.manual_seed(SEED)
    model = fabric.setup_module(TinyTransformer(num_layers=1, affine=True))
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=1e-3))
    fabric.save(path, {"model": model, "optimizer": optimizer, "step": 0, "lr": 1e-3})
    inner = model.module
    state = {
        "model": get_model_state_dict(inner),
        "optimizer": get_optimizer_state_dict(inner, optimizer.optimizer),
    }
    yield Saved(path, state)


def _save_with_megatron(path: str) -> Saved:
    """`megatron.core.dist_checkpointing.save` of sharded tensors and objects.

    It asks CUDA for the current device and waits for it, and for nothing else that a CPU lacks:
    the two calls are answered for it.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor

    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: torch.device("cpu")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    whole = {
        "embedding.word_embeddings.weight": torch.randn(16, 10),
        "decoder.layers.self_attention.linear_qkv.weight": torch.randn(2, 12, 10),
        "decoder.layers.mlp.linear_fc1.weight": torch.randn(2, 20, 10),
    }
    whole |= {f"optimizer.state.exp_avg.{key}": value.square() for key, value in whole.items()}
    norm = torch.ones(10)

    def shard(key: str) -> Any:
        # Layers are stacked on dim 0, tensors are cut along the first dim of a layer.
        dim = whole[key].ndim - 2
        mine = whole[key].chunk(world_size, dim)[rank].clone()
        return ShardedTensor.from_rank_offsets(key, mine, (dim, rank, world_size))

    state: dict[str, Any] = {key: shard(key) for key in whole}
    state["norm"] = ShardedTensor.from_rank_offsets(
        "decoder.final_layernorm.weight", norm, replica_id=rank
    )
    state["rng"] = ShardedObject("rng_state", {"rank": rank}, (world_size,), (rank,))
    state |= {"iteration": 100, "checkpoint_version": 3.0, "args": {"hidden_size": 10}}
    if rank == 0:
        Path(path).mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(state, path)
    # A stacked tensor is one chunk a layer; its placements are no DTensor's.
    return Saved(path, {**whole, "decoder.final_layernorm.weight": norm}, has_bytes=False)


def megatron(path: str) -> Iterator[Saved]:
    """A checkpoint folder of Megatron-LM: `iter_N`, and the file that names the latest."""
    yield _save_with_megatron(f"{path}/iter_0000100")
    if dist.get_rank() == 0:
        Path(path, "latest_checkpointed_iteration.txt").write_text("100")


def nemo(path: str) -> Iterator[Saved]:
    """A NeMo 2 folder: Megatron-Core's checkpoint in `weights`, and `context` beside it.

    Made by Megatron-Core; NeMo itself, which needs CUDA, was not run.
    """
    yield _save_with_megatron(f"{path}/weights")
    if dist.get_rank() == 0:
        Path(path, "context").mkdir()
        Path(path, "context", "model.yaml").write_text("_target_: nemo.collections.llm.GPTModel\n")


class _State:
    """Anything with a `state_dict`, as torchtitan's checkpointer takes it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state


class _Adapter:
    """As torchtitan's models bring one: their names are Hugging Face's with `model.` before."""

    def __init__(self, mapping: dict[str, int]) -> None:
        self.fqn_to_index_mapping = mapping

    def to_hf(self, state: dict[str, Any]) -> dict[str, Any]:
        return {f"model.{name}": value for name, value in state.items()}


def torchtitan(path: str) -> Iterator[Saved]:
    """Two saves of torchtitan's `CheckpointManager`: one of DCP, the last for Hugging Face."""
    from torchtitan.components.checkpointer.dcp import CheckpointManager

    training = _trained()
    state = torchtitan_state(training, 10)
    optimizer, scheduler = state["optimizer"], state["lr_scheduler"]
    names = [f"model.{name}" for name, _ in training.model.named_parameters()]
    adapter = _Adapter({name: 1 + (i >= 2) for i, name in enumerate(names)})
    manager = CheckpointManager(
        CheckpointManager.Config(enable=True, folder=path, interval=10, last_save_in_hf=True),
        dataloader=_State(state["dataloader"]),
        model_parts=[training.model],
        optimizers=_State(optimizer),
        lr_schedulers=_State(scheduler),
        states={"train_state": _State(state["train_state"])},
        sd_adapter=adapter,
        base_folder="",
    )
    manager.save(10)
    yield Saved(f"{path}/step-10", state)
    manager.save(20, last_step=True)
    whole = adapter.to_hf(dict(get_model_state_dict(training.model)))
    writer = "DCP's HuggingFaceStorageWriter"
    yield Saved(f"{path}/step-20", whole, metadata=(), format="safetensors", framework=writer)


def olmo(path: str) -> Iterator[Saved]:
    """A step of OLMo-core: its own writer, under the folders that its Checkpointer makes."""
    from olmo_core.distributed.checkpoint import save_state_dict

    training = _trained()
    model, optimizer = training.model, training.optimizer
    state = {
        "model": get_model_state_dict(model),
        "optim": get_optimizer_state_dict(model, optimizer),
    }
    save_state_dict(f"{path}/step100/model_and_optim", state)
    folder = Path(path, "step100")
    if dist.get_rank() == 0:
        (folder / "train").mkdir()
        (folder / ".metadata.json").write_text(json.dumps({"version": "v2", "ephemeral": False}))
    dist.barrier()
    torch.save({"global_step": 100}, folder / "train" / f"rank{dist.get_rank()}.pt")
    yield Saved(f"{path}/step100/model_and_optim", state)


def composer(path: str) -> Iterator[Saved]:
    """The names and keys of Composer's sharded checkpoints, saved with torch alone.

    Composer itself asks for an older torch and was not run.
    """
    training = _trained()
    model, optimizer = training.model, training.optimizer
    state = {
        "state": {
            "model": get_model_state_dict(model),
            "optimizers": {"AdamW": get_optimizer_state_dict(model, optimizer)},
            "timestamp": {"Timestamp": {"epoch": 1, "batch": 20}},
            "run_name": "sample",
        },
        "rng": [{"python": 0, "torch": torch.tensor([SEED])}],
    }
    save(state, checkpoint_id=f"{path}/ep1-ba20")
    yield Saved(f"{path}/ep1-ba20", state)
