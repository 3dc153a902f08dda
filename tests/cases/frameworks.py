"""Makers of the conditions of `test_frameworks`: what frameworks and their parts write.

As in `makers`: torch's own planners and writers, once for each rank.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import json
import logging
import os
import pathlib
import pickle
import random
import re
import types
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper
from torch.distributed.tensor.placement_types import _StridedShard

from tests.cases.makers import (
    Maker,
    adam,
    codes_of,
    codes_package,
    full,
    listing,
    load,
    optimizer,
    raises,
    save,
    tracked,
)
from tests.checks.ranks import StateDict, mesh_of, save_as_ranks, save_per_rank, sharded

# -- tensors of classes of their own -----------------------------------------------------------


def packed_shards(folder: Path) -> None:
    """An optimizer of eight bits under FSDP: a class of its own in every shard."""

    def state_of(rank: int, fill: int) -> StateDict:
        mesh = mesh_of(2)
        codes = torch.full((32, 128), fill + rank, dtype=torch.uint8)
        packed = DTensor.from_local(codes_of(codes), mesh, [Shard(0)], run_check=False)
        weight = sharded(full(64, 128), mesh, Shard(0))
        state = {"step": torch.tensor(3.0), "exp_avg": packed, "exp_avg_sq": packed}
        return {"model": {"w": weight}, "optim": {"state": {"w": state}}}

    with codes_package():
        save_as_ranks(folder, 2, lambda rank: state_of(rank, 7))


def quantised_by_torchao(folder: Path) -> None:
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    for name, config in (("int8", Int8WeightOnlyConfig()), ("float8", Float8WeightOnlyConfig())):
        states = []
        for _ in range(2):
            net = nn.Sequential(nn.Linear(128, 128, bias=False), nn.Linear(128, 64)).bfloat16()
            quantize_(net, config)
            states.append(net.state_dict())
        save(folder / name, {"model": states[0]})
        load(folder / name, {"model": states[1]})
        first, second = (state["0.weight"].dequantize() for state in states)
        assert torch.equal(first, second)


# -- files of another save ---------------------------------------------------------------------


def trained_at(step: int, *, unused: int = 0) -> Any:
    """Four ranks, and an optimizer that counts the steps of each parameter."""

    def make(rank: int) -> StateDict:
        mesh = mesh_of(4)
        params = {f"layers.{i}.w": sharded(full(8, 4), mesh, Shard(0)) for i in range(16)}
        state = adam(params)
        for i, of_param in enumerate(state.values()):
            of_param["step"] = torch.tensor(float(step if i >= unused else step // 2))
        return {"model": params, "optim": {"state": state}}

    return make


def a_file_of_another_step(folder: Path) -> None:
    """Of the same sizes and times, as a copy of two folders into one leaves it."""
    for step in (100, 200):
        save_as_ranks(folder / f"step-{step}", 4, trained_at(step))
    of_another = (folder / "step-100/__2_0.distcp").read_bytes()
    (folder / "step-200/__2_0.distcp").write_bytes(of_another)
    for file in (folder / "step-200").iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    save_as_ranks(folder / "unused", 4, trained_at(200, unused=6))


def stage_trained_longer(folder: Path) -> None:
    """Four stages of a pipeline, of which one was frozen for a time."""

    def make(rank: int) -> StateDict:
        params = {f"layers.{4 * rank + i}.w": full(8, 4) for i in range(4)}
        state = adam(params)
        for of_param in state.values():
            of_param["step"] = torch.tensor(100.0 if rank == 2 else 200.0)
        return {"model": params, "optim": {"state": state}}

    save_as_ranks(folder, 4, make)


# -- experts, replicas, mixed optimizers -------------------------------------------------------


def experts_on_their_own_mesh(replicas: int) -> Any:
    def make(rank: int) -> StateDict:
        names = ("replicate",) * (replicas > 1) + ("efsdp", "ep")
        sizes = (replicas,) * (replicas > 1) + (2, 8 // replicas // 2)
        experts = mesh_of(*sizes, names=names)
        shards = (_StridedShard(0, split_factor=sizes[-1]), Shard(0))
        if replicas > 1:
            dense = mesh_of(replicas, 8 // replicas, names=("replicate", "dp_shard"))
            placed: Any = (Replicate(), *shards)
            flat: Any = (Replicate(), Shard(0))
        else:
            dense, placed, flat = mesh_of(8, names=("dp",)), shards, (Shard(0),)
        state: StateDict = {}
        for i in range(2):
            state[f"{i}.attn.weight"] = sharded(full(16, 16), dense, *flat)
            state[f"{i}.norm.weight"] = sharded(full(16), dense, *flat)
            state[f"{i}.router.weight"] = sharded(full(8, 16), dense, *flat)
            state[f"{i}.experts.w1"] = sharded(full(8, 16, 8), experts, *placed)
            state[f"{i}.experts.w2"] = sharded(full(8, 8, 16), experts, *placed)
        return {"model": state, "step": 3}

    return make


def replicas_of_tensor_parallel(rank: int) -> StateDict:
    mesh = mesh_of(2, 2, names=("ddp", "tp"))
    state: StateDict = {}
    for i in range(3):
        state[f"{i}.wq.weight"] = sharded(full(8, 8), mesh, Replicate(), Shard(0))
        state[f"{i}.wo.weight"] = sharded(full(8, 8), mesh, Replicate(), Shard(1))
        state[f"{i}.norm.weight"] = full(8)
    return {"model": state}


def slots(names: list[str], of: list[str]) -> StateDict:
    return {
        f"optimizer.state.{name}.{slot}": torch.tensor(5.0) if slot == "step" else full(4, 4)
        for name in names
        for slot in of
    }


def mixed_optimizers(folder: Path) -> None:
    matrices, rest = [f"layers.{i}.w" for i in range(6)], [f"layers.{i}.norm" for i in range(6)]
    model = {f"model.{name}": full(4, 4) for name in matrices + rest}
    lion, adams = ["exp_avg"], ["step", "exp_avg", "exp_avg_sq"]
    save(
        folder / "muon_lion", {**model, **slots(matrices, ["momentum_buffer"]), **slots(rest, lion)}
    )
    both = {**slots(matrices[:2], lion), **slots(matrices[2:] + rest, adams)}
    save(folder / "lion_adam", {**model, **both})
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(3)))
    flat = [p for p in net.parameters() if p.ndim == 1]
    square = [p for p in net.parameters() if p.ndim == 2]
    made = {
        "muon_adamw": [torch.optim.Muon(square), torch.optim.AdamW(flat)],
        "adafactor": [torch.optim.Adafactor([*square, *flat])],
    }
    for name, optimizers in made.items():
        for one in optimizers:
            net(torch.randn(4, 8)).sum().backward()
            one.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = StateDictOptions(flatten_optimizer_state_dict=True)
            state = get_optimizer_state_dict(net, tuple(optimizers), options=options)
        save(folder / name, {"model": net.state_dict(), "optimizer": state})


def one_local(rank: int) -> StateDict:
    """The state of one layer alone is this rank's piece; its siblings' is sharded."""
    mesh = mesh_of(4)
    params = {f"layers.{i}.w": sharded(full(8, 4), mesh, Shard(0)) for i in range(4)}
    state = adam(params)
    piece = params["layers.2.w"].to_local() + rank
    state["layers.2.w"] |= {"exp_avg": piece, "exp_avg_sq": piece}
    return {"model": params, "optim": {"state": state}}


def half_projected(rank: int) -> StateDict:
    """GaLore on half of the layers, of as many rows as a shard has."""
    mesh = mesh_of(4)
    params = {f"layers.{i}.w": sharded(full(8, 4), mesh, Shard(0)) for i in range(4)}
    state = adam(params)
    for i in range(2):
        state[f"layers.{i}.w"] |= {"exp_avg": full(2, 4), "exp_avg_sq": full(2, 4)}
    return {"model": params, "optim": {"state": state}}


# -- objects and odd tensors -------------------------------------------------------------------


class Phase(enum.Enum):
    TRAIN = "train"


class Precision(str, enum.Enum):
    BF16 = "bf16"


class Config:
    """A config of a package: mappings and lists of its own classes."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.parent: Config | None = None


def objects(folder: Path) -> None:
    """What training jobs put into a state dict, each in a list, which keeps it whole."""
    config = Config({"lr": Config(0.1), "blocks": [Config(3), Config(4)]})
    config.content["lr"].parent = config
    kept: dict[str, Any] = {
        "namespace": argparse.Namespace(lr=1e-3, dtype=torch.bfloat16, t=torch.ones(2)),
        "numpy": [np.random.get_state(), np.arange(4), np.float64(0.5), np.dtype("float32")],
        "generator": np.random.default_rng(0),
        "random": random.getstate(),
        "torch": [torch.device("cpu"), torch.float16, torch.Size([2]), torch.get_rng_state()],
        "mappings": [collections.OrderedDict(a=1), collections.defaultdict(list, a=[1])],
        "counts": [collections.Counter("ab"), collections.deque([1], maxlen=3)],
        "times": [datetime.datetime(2026, 1, 1), datetime.timedelta(seconds=1)],
        "values": [uuid.UUID(int=1), decimal.Decimal("1.5"), fractions.Fraction(1, 3), 1 + 2j],
        "plain": [range(3), {1, 2}, frozenset([1]), b"x", bytearray(b"x"), slice(1, 2), ...],
        "path": pathlib.PurePosixPath("some/where"),
        "simple": types.SimpleNamespace(a=1),
        "classes": [torch.optim.AdamW, int, str, float],
        "calls": [nn.functional.relu, functools.partial(torch.optim.AdamW, lr=0.1)],
        "module": nn.Linear(2, 2),
        "text": [re.compile("a.b"), logging.getLogger("x"), ValueError("x")],
        "enums": [Phase.TRAIN, Precision.BF16],
        "config": config,
    }
    save(folder, {"w": torch.ones(2), "obj": {name: [value] for name, value in kept.items()}})


def configs_of_omegaconf(folder: Path) -> None:
    from omegaconf import OmegaConf

    content = {"job": {"ranks": [0, 1]}, "runner": {"lr": 0.1, "blocks": [{"dim": 3}, {"dim": 4}]}}
    config = OmegaConf.create({**content, "same": "${runner.lr}"})
    save(folder, {"unit_state": {"model": {"w": full(3, 2)}, "step": 5}, "config": config})


class Named(torch.Tensor):
    pass


def odd_tensors(folder: Path) -> None:
    noted: Any = full(4, 6)
    noted.note = "x"
    bits = torch.arange(8, dtype=torch.uint8)
    state = {
        "attributes": noted,
        "strided": full(10, 6)[2:8:2],
        "overlapping": torch.arange(10.0).as_strided((4, 4), (2, 1)),
        "empty": torch.zeros(3, 0, 2),
        "bool": torch.tensor(True),
        "small_of_large": full(1000, 100)[5],
        "parameter": nn.Parameter(full(3)),
        **{n: bits.view(getattr(torch, n)) for n in ("float4_e2m1fn_x2", "complex32", "uint64")},
    }
    save(folder, state)
    back = load(folder, {name: torch.zeros_like(value) for name, value in state.items()})
    assert all(torch.equal(_bits(back[name]), _bits(state[name])) for name in state)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def of_the_script(folder: Path) -> None:
    """A tensor of a class that the training script made: no other program has it."""
    save(folder, {"x": full(4, 6).as_subclass(Named), "ok": full(2)})


# -- what a model expects ----------------------------------------------------------------------


def against(saved: StateDict, wanted: StateDict) -> Maker:
    def make(folder: Path) -> None:
        save(folder / "saved", saved)
        listing(folder / "wanted.json", wanted)

    return make


def kinds(folder: Path) -> None:
    """A step that is a tensor on one side and a number on the other."""
    save(
        folder / "saved", {"u.step": torch.tensor([5.0]), "v.step": 5, "w.step": torch.tensor(5.0)}
    )
    wanted = {"u.step": torch.tensor(0.0), "v.step": torch.tensor(0.0), "w.step": 0}
    listing(folder / "wanted.json", wanted)
    raises(folder / "saved", {"u.step": torch.tensor(0.0)}, "Size mismatch")
    raises(folder / "saved", {"w.step": 0}, "Invalid checkpoint metadata")
    assert load(folder / "saved", {"v.step": torch.tensor(0.0)}) == {"v.step": 5}


def grown_groups(folder: Path) -> None:
    """A scheduler's `initial_lr` in the optimizer's groups on one side; and a second group."""
    first: StateDict = {"lr": 0.1, "params": ["w"]}
    save(folder / "saved", {"w": full(4), "optim": {"param_groups": [{**first, "x": {}}]}})
    later = [{**first, "initial_lr": 0.2, "x": {}}, {"lr": 0.3, "params": [], "x": {}}]
    save(folder / "wanted", {"w": full(4), "optim": {"param_groups": later}})


# -- steps -------------------------------------------------------------------------------------


def tracked_by_bridge(named: int, *, is_finished: bool) -> Maker:
    """Megatron-Bridge keeps the iteration in a saved dict, as a tensor."""

    def make(folder: Path) -> None:
        tracked(named, is_finished=is_finished)(folder)
        (folder / "latest_checkpointed_iteration.txt").unlink()
        state = {"step": torch.tensor(named, dtype=torch.int32), "skipped": torch.tensor(1)}
        torch.save(state, folder / "latest_train_state.pt")

    return make


def optimizer_without_metadata(folder: Path) -> None:
    for step in (1, 2):
        save(folder / f"checkpoint_{step}/pytorch_model_fsdp_0", {"model": {"w": full(4, 4)}})
        save(folder / f"checkpoint_{step}/optimizer_0", optimizer(step))
    (folder / "checkpoint_2/optimizer_0/.metadata").unlink()


# -- safetensors by DCP ------------------------------------------------------------------------


def save_hf(folder: Path, world: int, make: Any, *, consolidated: bool = False) -> None:
    def writer_of(path: Path) -> HuggingFaceStorageWriter:
        return HuggingFaceStorageWriter(
            str(path), save_distributed=True, enable_consolidation=consolidated
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_as_ranks(folder, world, make, writer_of)


def llama(rank: int) -> StateDict:
    mesh = mesh_of(4)
    return {
        "model.embed_tokens.weight": sharded(full(64, 16), mesh, Shard(0)),
        "model.layers.0.mlp.gate_proj.weight": sharded(full(40, 16), mesh, Shard(0)),
        "model.norm.weight": sharded(full(16), mesh, Shard(0)),
    }


def consolidated(folder: Path) -> None:
    """`WHOLE` from the shards that `llama` makes, by torch."""
    save_hf(folder, 4, llama, consolidated=True)


def step_of_automodel(folder: Path) -> None:
    step = folder / "epoch_0_step_9"
    save_hf(step / "model", 4, llama)
    save_hf(step / "model/made", 4, llama, consolidated=True)
    (step / "model/made").rename(step / "model/consolidated")
    for path in (step / "model/consolidated/sharded").iterdir():
        path.unlink()
    (step / "model/consolidated/sharded").rmdir()
    save_as_ranks(step / "optim", 4, lambda rank: {"optim": {"state": adam(llama(rank))}})
    (folder / "LATEST").symlink_to("epoch_0_step_9")


def two_pieces_a_rank(rank: int) -> StateDict:
    mesh = mesh_of(4)
    pieces = [torch.full((6, 2), float(rank)), torch.full((6, 2), 100.0 + rank)]
    local = LocalShardsWrapper(pieces, [(0, 4 * rank), (0, 4 * rank + 2)])
    table = DTensor.from_local(
        local, mesh, [Shard(1)], run_check=False, shape=torch.Size((6, 16)), stride=(16, 1)
    )
    return {"table": table, "plain": sharded(full(8, 2), mesh, Shard(0))}


def a_piece_of_two_kept(folder: Path) -> None:
    """DCP's Hugging Face writer keeps one piece of a tensor for each rank."""
    save_hf(folder / "shards", 4, two_pieces_a_rank)
    save_hf(folder / "whole", 4, two_pieces_a_rank, consolidated=True)
    into = {"table": torch.full((6, 16), float("nan"))}
    reader = HuggingFaceStorageReader(path=str(folder / "shards"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(into, storage_reader=reader, no_dist=True)
    assert into["table"].isnan().sum() == 48


def index_that_lacks_a_key(folder: Path) -> None:
    from safetensors.torch import save_file

    names = [f"model.layers.{i}.mlp.gate.{n}" for i in range(4) for n in ("weight", "bias")]
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    of = {name: files[int(name.split(".")[2]) // 2] for name in names}
    for kind in ("full", "lacking", "collapsed"):
        (folder / kind).mkdir(parents=True)
        for file in files:
            save_file({n: full(4, 4) for n in names if of[n] == file}, folder / kind / file)
        mapped = dict(of)
        if kind == "lacking":
            del mapped[names[-1]]
        if kind == "collapsed":
            (folder / kind / files[0]).unlink()
            mapped = dict.fromkeys(names, files[1])
        index = folder / kind / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 8 * 64}, "weight_map": mapped}))


# -- metadata of others ------------------------------------------------------------------------


def items_of_ranks(folder: Path) -> None:
    """torch_checkpointing: `metadata.pkl`, and a file for each item and rank."""
    from safetensors.torch import save_file

    folder.mkdir()
    described = {"metadata": {"model": {"nested_path_to_metadata": {'["w"]': []}}}}
    (folder / "metadata.pkl").write_bytes(pickle.dumps(described))
    for rank in range(2):
        save_file({"w": torch.ones(3, 2)}, folder / f"model_{rank}.safetensors")


def plans_of_four_and_files_of_two(folder: Path) -> None:
    """Megatron-Core: ranks with nothing to write write no file; the metadata has all plans."""

    def make(rank: int) -> StateDict:
        mesh = mesh_of(2)
        return {f"layers.{i}.w": sharded(full(8, 6), mesh, Shard(0)) for i in range(3)}

    save_as_ranks(folder, 2, make)
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    metadata.all_local_plans = [SavePlan([]) for _ in range(4)]
    assert MetadataIndex("layers.0.w", torch.Size([4, 0])) in metadata.storage_data
    path.write_bytes(pickle.dumps(metadata))
    for file in folder.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))


def strided_without_collectives(folder: Path) -> None:
    """A lone strided shard: rows 0, 1, 4, 5 of rank 0 are recorded as rows 0 to 3."""

    def make(rank: int) -> StateDict:
        mesh, whole = mesh_of(2, names=("tp",)), full(8, 3)
        rows = whole[[0, 1, 4, 5] if rank == 0 else [2, 3, 6, 7]]
        strided = DTensor.from_local(
            rows,
            mesh,
            [_StridedShard(0, split_factor=2)],
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )
        return {"gate_up": strided, "ref": sharded(whole, mesh, Shard(0))}

    save_per_rank(folder, 2, make)
