"""Makers of the conditions of `test_cases`: small checkpoints as people met them, written by torch.

Each is `make(folder)`. Those of several ranks run torch's own planner and writer once for each
rank in one process (`tests/checks/ranks.py`); those that need the ranks themselves are in
`scripts/`. What torch does with a condition is asserted where it is made.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultSavePlanner, _version
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper
from torch.distributed.tensor.placement_types import _StridedShard

from tests.checks.ranks import StateDict, mesh_of, save_as_ranks, save_per_rank, sharded

Maker = Callable[[Path], None]


def full(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def save(folder: Path, state: StateDict, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=str(folder), no_dist=True, **options)


def load(folder: Path, state: StateDict) -> StateDict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=str(folder), no_dist=True)
    return state


def raises(folder: Path, state: StateDict, words: str) -> None:
    """Assert that `dcp.load` into a state dict raises, and says so."""
    try:
        load(folder, state)
    except BaseException as error:  # CheckpointException is one.
        assert words in str(error), error
    else:
        raise AssertionError("torch loads it")


def adam(params: dict[str, Any], of: Callable[[Any], Any] = lambda p: p) -> dict[str, Any]:
    return {
        n: {"step": torch.tensor(3.0), "exp_avg": of(p), "exp_avg_sq": of(p)}
        for n, p in params.items()
    }


def optimizer(step: int) -> StateDict:
    state = {"step": torch.tensor(float(step)), "exp_avg": full(4, 4), "exp_avg_sq": full(4, 4)}
    return {"optimizer": {"state": {"w": state}}}


# -- steps -------------------------------------------------------------------------------------


def torchft_run(folder: Path) -> None:
    for step in (400, 500):
        state = {"model": {"w": full(4, 4)}, **optimizer(step), "train_state": {"step": step}}
        save(folder / f"checkpoint/step-{step}", state)
    for replica in ("ft-replica-0", "ft-replica-1", "ft-replicat-1"):
        for step in (499, 500, 501):
            state = {"dataloader": {"state": {"pos": step * 8}}}
            save(folder / f"checkpoint/{replica}/step-{step}", state)


def step_of_parts(step: str, model: str, optim: str) -> Maker:
    def make(folder: Path) -> None:
        for number in (10, 20):
            here = folder / step.format(number)
            save(here / model, {"model": {"w": full(4, 4)}})
            save(here / optim, optimizer(number))
            torch.save({"last_epoch": number}, here / "lr_scheduler.pt")
        unfinish(folder / step.format(20) / optim)
        os.truncate(folder / step.format(20) / optim / ".metadata.tmp", 300)

    return make


def unfinish(folder: Path) -> None:
    (folder / ".metadata").rename(folder / ".metadata.tmp")


def part_cut_short(folder: Path) -> None:
    for step in (1, 2):
        save(folder / f"checkpoint_{step}/pytorch_model_fsdp_0", {"model": {"w": full(4, 4)}})
        save(folder / f"checkpoint_{step}/optimizer_0", optimizer(step))
    file = folder / "checkpoint_2/optimizer_0/__0_0.distcp"
    os.truncate(file, file.stat().st_size - 400)


def model_cut_short(folder: Path) -> None:
    from safetensors.torch import save_file

    for step in (5000, 10000):
        model = folder / f"checkpoints/{step:06d}/pretrained_model"
        model.mkdir(parents=True)
        save_file({"w": torch.randn(64, 64)}, model / "model.safetensors")
        save(model.parent / "training_state/optimizer_0", optimizer(step))
    os.truncate(model / "model.safetensors", 5000)


def seen_steps(folder: Path) -> None:
    for step in (100, 900):
        name = f"eid_2026-seen_steps_{step}-seen_tokens_{step * 50}-target_steps_1000-x"
        save(folder / name, {"app": {"model": {"w": full(3)}}})


def tracked(named: int, *, is_finished: bool) -> Maker:
    def make(folder: Path) -> None:
        for number in (10, 20):
            here = folder / f"iter_{number:07d}"
            state = {"module.w": full(4, 4), "optimizer.state.exp_avg.module.w": full(4, 4)}
            save(here, state)
            torch.save({"iteration": number}, here / "common.pt")
            backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
            (here / "metadata.json").write_text(json.dumps(backend))
        if not is_finished:
            unfinish(folder / "iter_0000020")
        (folder / "latest_checkpointed_iteration.txt").write_text(str(named))

    return make


def stale_step(folder: Path) -> None:
    for step in (10, 20, 30):
        state = {"model": {"w": full(4, 4) + step}, **optimizer(step)}
        save(folder / f"step-{step}", {**state, "train_state": {"step": 10, "losses": [1.0]}})


def counted(folder_name: str, step: int) -> Maker:
    def make(folder: Path) -> None:
        save(folder / folder_name, {"model": {"w": full(4)}, "train_state": {"step": step}})

    return make


def sidecars_of_a_later_save(folder: Path) -> None:
    save(folder, {"model": {"w": full(4)}})
    (folder / "extra_state").mkdir()
    late = [folder / "lr_scheduler.pt", folder / "extra_state/extra_state_rank_0.pt"]
    for path in late:
        path.write_bytes(b"x")
    for path in folder.iterdir():
        time = 1_764_410_400 + (7200 if path in late else 0)
        os.utime(path, (time, time))
    os.utime(late[1], (time + 7200, time + 7200))


def file_in_a_run(folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"t": torch.ones(2)}, folder / "one.safetensors")
    save(folder / "step1", {"w": torch.ones(2)})


def per_rank_files(folder: Path) -> None:
    (folder / "actor/huggingface").mkdir(parents=True)
    (folder / "dinov2").mkdir()
    for rank in range(4):
        for kind in ("model", "optim", "extra_state"):
            (folder / f"actor/{kind}_world_size_4_rank_{rank}.pt").write_bytes(b"x")
        (folder / f"dinov2/model_final.rank_{rank}.pth").write_bytes(b"x")
    (folder / "actor/huggingface/config.json").write_text("{}")
    config = {"FSDP_version": 2, "world_size": 4}
    (folder / "actor/fsdp_config.json").write_text(json.dumps(config))


# -- tensors -----------------------------------------------------------------------------------


class Codes(torch.Tensor):
    """A float32 tensor that keeps one byte an element."""

    codes: torch.Tensor

    @staticmethod
    def __new__(cls, codes: torch.Tensor) -> Codes:
        made: Codes = torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)
        return made

    def __init__(self, codes: torch.Tensor) -> None:
        self.codes = codes

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        first = args[0]
        if name == "is_pinned":
            return False
        if name == "copy_":
            first.codes.copy_(args[1].codes)
            return first
        if name in ("slice", "view"):
            return cls(func(first.codes, *args[1:], **(kwargs or {})))
        assert name in ("detach", "clone", "_to_copy", "alias"), name
        return cls(first.codes.clone() if name == "clone" else first.codes)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return torch._tensor._rebuild_from_type_v2, (codes_of, Codes, (self.codes,), {})


def codes_of(codes: torch.Tensor) -> Codes:
    return Codes(codes)


@contextmanager
def codes_package() -> Iterator[None]:
    """The class in a package of its own, which nothing can import later."""
    package: Any = types.ModuleType("codes_package")
    package.Codes, package.codes_of = Codes, codes_of
    before = Codes.__module__
    sys.modules["codes_package"] = package
    Codes.__module__ = codes_of.__module__ = "codes_package"
    try:
        with torch.serialization.safe_globals([Codes, codes_of]):
            yield
    finally:
        Codes.__module__ = codes_of.__module__ = before
        del sys.modules["codes_package"]


def one_byte_for_four(folder: Path) -> None:
    with codes_package():
        weight = codes_of(torch.arange(4096, dtype=torch.uint8).reshape(64, 64))
        save(folder, {"w": weight, "b": torch.ones(4)})
        empty = codes_of(torch.zeros(64, 64, dtype=torch.uint8))
        back = load(folder, {"w": empty, "b": torch.zeros(4)})
        assert torch.equal(back["w"].codes, weight.codes)


def quantised(folder: Path) -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    save(folder, {"q": torch.quantize_per_tensor(values, 0.5, 10, torch.qint8), "w": full(3)})
    into = torch.quantize_per_tensor(torch.zeros(3), 0.25, 0, torch.qint8)
    back = load(folder, {"q": into})["q"]
    assert back.int_repr().tolist() == [12, 14, 16]
    assert back.q_scale() == 0.25  # Its own, so other values.


def nan_in_some(folder: Path) -> None:
    state = {f"layers.{i}.w": torch.randn(8, 8, dtype=torch.bfloat16) for i in range(4)}
    for i in (1, 3):
        state[f"layers.{i}.w"].view(-1)[::3] = float("nan")
    save(folder, state)


# -- several ranks -----------------------------------------------------------------------------


def ranks(world: int, make: Callable[[int], StateDict]) -> Maker:
    def write(folder: Path) -> None:
        save_as_ranks(folder, world, make)

    return write


def truncated_alias(rank: int) -> StateDict:
    mesh = mesh_of(2, 2, names=("efsdp", "ep"))
    good = sharded(full(8, 16, 32), mesh, Shard(1), Shard(0))
    bad = DTensor.from_local(good.to_local(), mesh["efsdp"], [Shard(1)], run_check=False)
    return {"model": {"encoder": {"mlp.experts.gate": good}, "decoder": {"mlp.experts.gate": bad}}}


def experts_of_one_group(rank: int) -> StateDict:
    mesh, world = mesh_of(2, 2, names=("ep", "efsdp")), mesh_of(4)
    params: StateDict = {}
    for i in range(3):
        mine = full(8, 6, 4)[rank // 2 * 4 : rank // 2 * 4 + 4]
        params[f"layers.{i}.moe.experts.w1"] = sharded(mine, mesh["efsdp"], Shard(1))
        params[f"layers.{i}.moe.router.gate"] = sharded(full(8, 6), world, Shard(0))
    return {"model": params, "optimizer": {"state": adam(params)}}


def experts_renumbered(rank: int) -> StateDict:
    state: StateDict = {}
    for i in range(2):
        state[f"layers.{i}.mlp.router.weight"] = full(4, 8)
        for j in range(2):
            state[f"layers.{i}.mlp.experts.{j}.up.weight"] = full(6, 8) + rank
    return {"model": state}


def local_optimizer(rank: int) -> StateDict:
    mesh = mesh_of(4)
    shapes = {"layers.0.w": (8, 4), "layers.0.b": (8,), "layers.1.w": (12, 8), "layers.1.b": (12,)}
    params = {n: sharded(full(*s), mesh, Shard(0)) for n, s in shapes.items()}
    return {"model": params, "optim": {"state": adam(params, lambda p: p.to_local() + rank)}}


def every_second_layer(rank: int) -> StateDict:
    mine = range(0, 16, 2) if rank == 0 else ()
    state = {f"layers.{i}.{n}": full(4, 4) for i in mine for n in ("w", "norm")}
    return {"model": {**state, "tok_embeddings.weight": full(8, 4)}}


def uneven_from_local(rank: int) -> StateDict:
    whole = full(4, 4)
    piece = (whole[:1] if rank == 0 else whole[1:]).contiguous()
    placed = DTensor.from_local(
        piece, mesh_of(2), [Shard(0)], run_check=False, shape=whole.shape, stride=(4, 1)
    )
    return {"model": {"w": placed}}


def uneven_over_tp(rank: int) -> StateDict:
    """What fully_shard makes of 7 rows over 3 x 2: rank 4 holds none, rank 5 the last."""
    whole, (dp, tp) = full(7, 4), divmod(rank, 2)
    mine = whole[:4] if tp == 0 else whole[4:]
    step = -(-len(mine) // 3)
    placed = DTensor.from_local(
        mine[dp * step : (dp + 1) * step].contiguous(), mesh_of(3, 2, names=("dp", "tp")),
        [_StridedShard(0, split_factor=2), Shard(0)],
        run_check=False, shape=whole.shape, stride=(4, 1),
    )  # fmt: skip
    return {"model": {"w": placed}}


def lengths_of_any(rank: int) -> StateDict:
    rows = full(10, 4)
    at, num = {0: (0, 1), 1: (1, 5), 2: (0, 0), 3: (6, 4)}[rank]
    pieces = [rows[at : at + num].contiguous()] if num else []
    local = LocalShardsWrapper(pieces, [(at, 0)] if num else [])
    table = DTensor.from_local(
        local, mesh_of(4), [Shard(0)], run_check=False, shape=rows.shape, stride=(4, 1)
    )
    return {"table": table, "dense": sharded(full(8, 4), mesh_of(4), Shard(0))}


def group_of_two(rank: int) -> StateDict:
    return {"model": {f"layers.{i}.w1": sharded(full(4, 4), mesh_of(2), Shard(0)) for i in "abc"}}


def on_two_of_four(rank: int) -> StateDict:
    mesh = DeviceMesh("cpu", [2, 3])
    placed = sharded(full(6), mesh, Shard(0)) if rank in (2, 3) else None
    return {"plain": full(4)} if placed is None else {"d": placed, "plain": full(4)}


def hsdp_and_experts(rank: int) -> StateDict:
    mesh, world = mesh_of(2, 2, names=("replicate", "shard")), mesh_of(4, names=("ep",))
    state: StateDict = {}
    for i in range(4):
        state[f"layers.{i}.attn.weight"] = sharded(full(8, 8), mesh, Replicate(), Shard(0))
        state[f"layers.{i}.experts.w1"] = sharded(full(8, 4, 4), world, Shard(0))
    return {"model": state}


def tensor_parallel(rank: int) -> StateDict:
    mesh = mesh_of(4, names=("tp",))
    state: StateDict = {}
    for i in range(3):
        state[f"{i}.wq.weight"] = sharded(full(8, 8), mesh, Shard(0))
        state[f"{i}.wo.weight"] = sharded(full(8, 8), mesh, Shard(1))
        state[f"{i}.norm.weight"] = full(8)
    return {"model": state}


def other_on_one_rank(folder: Path) -> None:
    """A rank whose optimizer has less: without torch's validation, as some frameworks save."""

    def make(rank: int) -> StateDict:
        params = {f"layers.{i}.w": sharded(full(4, 4), mesh_of(2), Shard(0)) for i in range(4)}
        state = adam(params)
        if rank == 1:
            del state["layers.3.w"]
        return {"model": params, "optim": {"state": state}}

    planner = "torch.distributed.checkpoint.default_planner._validate_global_plan"
    with mock.patch(planner, lambda *_: []):
        save_as_ranks(folder, 2, make)


def copies_that_differ(folder: Path) -> None:
    def make(rank: int) -> StateDict:
        return {"a": sharded(full(8), mesh_of(4), Shard(0)), "w": torch.full((3,), float(rank))}

    save_per_rank(folder, 4, make)


def scalars_of_every_rank(folder: Path) -> None:
    save_per_rank(folder, 2, lambda rank: {"step": torch.tensor(3.0), "w": full(4)})


def plans_kept(folder: Path) -> None:
    class Keeping(DefaultSavePlanner):
        def create_global_plan(self, all_plans: Any) -> Any:
            plan, metadata = super().create_global_plan(all_plans)
            data = {**(metadata.planner_data or {}), "__all_local_plans__": list(all_plans)}
            return plan, dataclasses.replace(metadata, planner_data=data)

    save(folder, {"model": {"w": full(4, 4)}, "lrs": [1e-3, {"a": full(2)}]}, planner=Keeping())


# -- what a model expects ----------------------------------------------------------------------


def listing(path: Path, state: StateDict) -> None:
    rows = [
        {"fqn": k, "dtype": str(v.dtype).removeprefix("torch."), "shape": list(v.shape)}
        if isinstance(v, torch.Tensor)
        else {"fqn": k, "dtype": "bytes"}
        for k, v in state.items()
    ]
    path.write_text(json.dumps(rows))


def wanted(saved: StateDict, state: StateDict, words: str) -> Maker:
    """A checkpoint in `saved`, and in `wanted.json` what a model expects that torch refuses."""

    def make(folder: Path) -> None:
        save(folder / "saved", saved)
        listing(folder / "wanted.json", state)
        raises(folder / "saved", dict(state), words)

    return make


def layers(prefix: str, *, norms: bool = True, inside: str = "") -> StateDict:
    state: StateDict = {}
    for i in range(4):
        here = f"{prefix}layers.{i}.{inside}"
        state[f"{here}attention.wq.weight"] = full(4, 4)
        if norms:
            state |= {f"{here}attention.{n}_norm.weight": full(4) for n in "qk"}
    return {**state, f"{prefix}norm.weight": full(4)}


def vocabulary(rows: int) -> StateDict:
    name = "embedding.word_embeddings.weight"
    return {f"model.{name}": full(rows, 4), f"optimizer.state.module.{name}.exp_avg": full(rows, 4)}


def trained() -> tuple[StateDict, StateDict]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optim = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    optim.step()
    weights, state = get_state_dict(model, optim)
    return dict(weights), dict(state)


def flattened_as_of_old(folder: Path) -> None:
    """The same state dict by torch's own switch for torch <= 2.3, and as of today."""
    weights, state = trained()

    def nested() -> StateDict:
        return {
            "model": weights,
            "optim": state,
            "epochs": [1, 2, 3],
            "rng": (torch.arange(4), 5),
        }

    with mock.patch.object(_version, "_derived_version", "2_3"):
        save(folder / "saved", nested())
    save(folder / "wanted", nested())
    back = {**nested(), "epochs": [0, 0, 0], "rng": (torch.zeros(4, dtype=torch.int64), 0)}
    back["model"] = {name: torch.zeros_like(w) for name, w in weights.items()}
    load(folder / "saved", back)
    assert back["epochs"] == [1, 2, 3]
    assert torch.equal(back["model"]["0.weight"], weights["0.weight"])


def list_that_grew(folder: Path) -> None:
    state = {"model": {"w": full(4)}, "my_key": [{"key_1": 1}, {"key_2": torch.ones(2)}]}
    save(folder / "saved", state)
    save(folder / "wanted", {"model": {"w": full(4)}, "my_key": []})
    raises(folder / "saved", {"my_key": []}, "Missing key")


def flat_shard_exported(folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "model.embed_tokens.weight": full(512 * 16 // 4),
        "model.layers.0.self_attn.q_proj.weight": full(16, 16),
        "model.norm.weight": full(16),
    }
    save_file(state, folder / "model.safetensors")


def rows_by_shard(folder: Path) -> None:
    """The rows of every shard permuted for themselves, and the whole tensor's."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    whole, same = torch.randn(8, 4), torch.randn(8, 4)
    apart = torch.cat([whole[:4][[0, 2, 1, 3]], whole[4:][[0, 2, 1, 3]]])
    save(folder / "a", {"wq": whole[order], "wo": same})
    save(folder / "b", {"wq": apart, "wo": same})


def weights_that_stood_still(folder: Path) -> None:
    weights = {name: torch.randn(4, 4) for name in ("a", "b")}
    for step in (10, 20):
        state = {f"model.{n}": w + (step if n == "a" else 0) for n, w in weights.items()}
        for name in weights:
            state[f"optimizer.state.{name}.exp_avg"] = torch.randn(4, 4)
        save(folder / f"step-{step}", state)
