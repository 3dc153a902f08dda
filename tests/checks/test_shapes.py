"""State of one rank alone, holes in families, truncated aliases: told, and never of what is whole.

Every checkpoint here is written by torch: those of several ranks by its planner and file writer, in
one process (`ranks.py`).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.tensor import DTensor, Replicate, Shard

from inspector.checks.findings import Finding
from inspector.checks.judge import check
from tests.cases.makers import adam, full
from tests.checks.ranks import StateDict, mesh_of, save_as_ranks, sharded


def judged(folder: Path) -> list[Finding]:
    """What is told above a note."""
    return [f for f in check(str(folder)).findings if f.severity != "note"]


def whole(folder: Path, state: StateDict) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return folder


def only(folder: Path, code: str) -> Finding:
    (finding,) = judged(folder)
    assert (finding.code, finding.severity) == (code, "warning"), finding
    assert finding.torch_does
    assert finding.hint
    return finding


def fsdp(params: dict[str, torch.Tensor], world: int) -> dict[str, DTensor]:
    mesh = mesh_of(world)
    return {name: sharded(t, mesh, Shard(0)) for name, t in params.items()}


def flat_state(params: dict[str, Any]) -> dict[str, Any]:
    slots = adam(params)
    return {f"optim.state.{n}.{s}": t for n, of in slots.items() for s, t in of.items()}


# -- told --------------------------------------------------------------------------------------

PARAMS = {"0.weight": full(16, 8), "0.bias": full(16), "2.weight": full(8, 16)}


def test_optimizer_state_of_local_tensors_is_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        params = fsdp(PARAMS, 4)
        return {"model": params, "optim": {"state": adam(params, lambda p: p.to_local() + rank)}}

    finding = only(save_as_ranks(tmp_path, 4, make), "local-state")
    assert "optim.state: 6 tensors (exp_avg, exp_avg_sq)" in finding.message
    assert "0.weight.exp_avg [4, 8] for [16, 8], in 4 shards" in finding.message
    assert finding.num_elements == 2 * 3 * (128 + 16 + 128) // 4


def test_slots_of_other_optimizers_are_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        params = fsdp(PARAMS, 4)
        slots = "momentum", "exp_avg_slow", "hessian"
        state = {n: {s: p.to_local() + rank for s in slots} for n, p in params.items()}
        return {"model": params, "optim": {"state": state}}

    finding = only(save_as_ranks(tmp_path, 4, make), "local-state")
    assert "optim.state: 9 tensors (exp_avg_slow, hessian, momentum)" in finding.message


def test_an_average_of_local_tensors_is_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        params = fsdp(PARAMS, 4)
        return {"model": params, "ema": {n: p.to_local() + rank for n, p in params.items()}}

    finding = only(save_as_ranks(tmp_path, 4, make), "local-state")
    assert "ema: 3 tensors have the shape of one rank's shard" in finding.message
    assert "ema.0.weight [4, 8] for [16, 8], in 4 shards" in finding.message
    assert finding.num_elements == 3 * (128 + 16 + 128) // 4


def test_shards_of_uneven_lengths_are_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        params = fsdp({"w": full(10, 4), "v": full(7, 4)}, 4)
        return {"m": params, "optim": {"state": adam(params, lambda p: p.to_local())}}

    assert (
        "w.exp_avg [3, 4] for [10, 4]"
        in only(save_as_ranks(tmp_path, 4, make), "local-state").message
    )


def test_a_hole_of_a_pipeline_stage_is_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        mine = range(0, 16, 2) if rank == 0 else ()
        sd = {f"layers.{i}.{n}": full(4, 4) for i in mine for n in ("w", "norm")}
        return {"model": {**sd, "tok_embeddings.weight": full(8, 4)}}

    finding = only(save_as_ranks(tmp_path, 2, make), "family-hole")
    assert "model.layers: 1, 3, 5, 7, 9, 11, 13 are missing" in finding.message
    assert "rank 0 of 2 wrote them all" in finding.message


def test_a_hole_among_stages_that_are_sharded_is_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        mesh = mesh_of(2, 2, names=("pp", "fsdp"))
        first = 0 if rank < 2 else 8
        layers = [*range(first, first + 3)]
        sd = {f"layers.{i}.attn.wq": sharded(full(8, 4), mesh["fsdp"], Shard(0)) for i in layers}
        return {"model": sd}

    finding = only(save_as_ranks(tmp_path, 4, make), "family-hole")
    assert "model.layers: 3-7 are missing between 0-2, 8-10; ranks of their own" in finding.message


def test_one_layer_of_many_is_told(tmp_path: Path) -> None:
    layers = [i for i in range(12) if i != 7]
    sd = {f"layers.{i}.mlp.{n}.weight": full(4, 4) for i in layers for n in ("up", "down")}
    finding = only(whole(tmp_path, sd), "family-hole")
    assert "layers: 7 is missing between 0-6, 8-11; 11 others that are alike" in finding.message


def test_a_layer_that_the_optimizer_knows_is_told(tmp_path: Path) -> None:
    names = [f"layers.{i}.mlp.up.weight" for i in range(5)]
    sd = {f"model.{n}": full(4, 4) for n in names if "2" not in n}
    sd |= flat_state({n: full(4, 4) for n in names})
    assert "the optimizer has state" in only(whole(tmp_path, sd), "family-hole").message


def moe(rank: int, world: int, experts: Callable[[int], Any]) -> StateDict:
    mesh = mesh_of(world)
    sd: StateDict = {}
    for i in range(3):
        sd[f"layers.{i}.attn.wq"] = sharded(full(8, 6), mesh, Shard(0))
        sd[f"layers.{i}.moe.router.gate"] = sharded(full(8, 6), mesh, Shard(0))
        sd |= {f"layers.{i}.moe.experts.{n}": t for n, t in experts(rank).items()}
    return {"model": sd}


def test_one_expert_parallel_group_is_told(tmp_path: Path) -> None:
    def experts(rank: int) -> dict[str, Any]:
        mesh = mesh_of(2, 2, names=("ep", "fsdp"))
        return {"w1": sharded(full(4, 6, 4) + rank // 2, mesh["fsdp"], Shard(1))}

    finding = only(save_as_ranks(tmp_path, 4, lambda r: moe(r, 4, experts)), "family-hole")
    assert "experts.w1 [4, 6, 4] (3 layers like it): 4 experts" in finding.message
    assert "a router of 8 rows" in finding.message


def test_renumbered_experts_are_told(tmp_path: Path) -> None:
    def experts(rank: int) -> dict[str, Any]:
        return {f"{j}.up.weight": full(5, 3) + rank for j in range(4)}

    finding = only(save_as_ranks(tmp_path, 2, lambda r: moe(r, 2, experts)), "family-hole")
    assert "4 experts, and a router of 8 rows" in finding.message


def test_a_missing_expert_is_told(tmp_path: Path) -> None:
    sd = {"mlp.gate.weight": full(8, 5)}
    sd |= {f"mlp.experts.{j}.up.weight": full(3, 5) for j in range(8) if j not in (2, 5)}
    assert "2, 5 are missing" in only(whole(tmp_path, sd), "family-hole").message


def test_a_truncated_alias_is_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        mesh = mesh_of(2, 2, names=("fsdp", "ep"))
        good = sharded(full(8, 16, 32), mesh, Shard(1), Shard(0))
        bad = DTensor.from_local(good.to_local(), mesh["fsdp"], [Shard(1)], run_check=False)
        return {"encoder": {"mlp.experts.gate": good}, "decoder": {"mlp.experts.gate": bad}}

    finding = only(save_as_ranks(tmp_path, 4, make), "alias-shape")
    assert finding.fqn == "decoder.mlp.experts.gate"
    assert "[4, 16, 32]: made of 2 pieces [4, 8, 32]" in finding.message
    assert finding.num_elements == 4 * 16 * 32


def test_flat_pieces_are_told(tmp_path: Path) -> None:
    sd = {f"layers.{i}.self_attn.q_proj.weight": full(16, 16) for i in range(3)}
    sd |= {"norm.weight": full(16), "embed_tokens.weight": full(512 * 16 // 4)}
    finding = only(whole(tmp_path / "a", sd), "alias-shape")
    assert finding.fqn == "embed_tokens.weight"
    assert "2,048 elements are 128 rows of the width 16" in finding.message
    sd["embed_tokens.weight"] = full(512, 16)
    sd["layers.1.self_attn.q_proj.weight"] = full(64)
    finding = only(whole(tmp_path / "b", sd), "alias-shape")
    assert "[64]: flat, and others of its name have [16, 16]" in finding.message
    assert "one part of 4" in finding.message


# -- not told ----------------------------------------------------------------------------------


class Block(nn.Module):
    """A pre-norm block, with a mixture of experts in it if it is asked for."""

    def __init__(self, d: int, experts: int = 0, shared: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.attn = nn.Linear(d, d)
        self.mlp: nn.Module = nn.Linear(d, 2 * d)
        if experts:
            self.mlp = nn.Module()
            self.mlp.gate = nn.Linear(d, experts, bias=False)
            self.mlp.experts = nn.ModuleList(nn.Linear(d, 3) for _ in range(experts - shared))
            if shared:
                self.mlp.shared_experts = nn.ModuleList(nn.Linear(d, 3) for _ in range(shared))


def model_of(**modules: nn.Module) -> dict[str, torch.Tensor]:
    module = nn.Module()
    for name, child in modules.items():
        module.add_module(name, child)
    return dict(module.state_dict())


def layers(n: int, d: int = 8, **more: Any) -> nn.ModuleList:
    return nn.ModuleList(Block(d, **more) for _ in range(n))


def trained(make: Callable[[nn.Module], list[torch.optim.Optimizer]]) -> StateDict:
    """Two real steps, and torch's own state dict of them."""
    net = nn.Sequential(
        *(nn.Sequential(nn.Linear(8, 8, bias=False), nn.LayerNorm(8)) for _ in "abc")
    )
    optimizers = make(net)
    for _ in range(2):
        net(torch.randn(4, 8)).pow(2).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    state = get_optimizer_state_dict(net, tuple(optimizers), options=options)
    return {"model": net.state_dict(), "optimizer": state}


def matrices(net: nn.Module) -> list[torch.Tensor]:
    return [p for p in net.parameters() if p.ndim == 2]


def vectors(net: nn.Module) -> list[torch.Tensor]:
    return [p for p in net.parameters() if p.ndim == 1]


def partly_frozen() -> StateDict:
    model = model_of(layers=layers(8))
    moving = {n: p for n, p in model.items() if n.split(".")[1] in "13567"}
    return {"model": model, "optim": {"state": adam(moving)}}


def averaged() -> StateDict:
    model = model_of(layers=layers(12))
    some = {n: p for n, p in model.items() if n.split(".")[1] != "5"}
    return {"model": model, "ema": some}


ONE_RANK: dict[str, Callable[[], StateDict]] = {
    "adafactor": lambda: trained(lambda n: [torch.optim.Adafactor(n.parameters(), lr=1e-3)]),
    "adafactor of transformers": lambda: {
        "model": {"wq": full(16, 8), "norm": full(16)},
        "optim.state.wq.exp_avg_sq_row": full(16),
        "optim.state.wq.exp_avg_sq_col": full(8),
        "optim.state.norm.exp_avg_sq": full(16),
    },
    "muon and adamw": lambda: (
        trained(lambda n: [torch.optim.Muon(matrices(n)), torch.optim.AdamW(vectors(n))])
        if hasattr(torch.optim, "Muon")
        else trained(lambda n: [torch.optim.SGD(matrices(n), momentum=0.9)])
    ),
    "adagrad": lambda: trained(lambda n: [torch.optim.Adagrad(n.parameters())]),
    "lion": lambda: {
        **{f"model.layers.{i}.w": full(4, 4) for i in range(4)},
        **{f"optim.state.layers.{i}.w.exp_avg": full(4, 4) for i in range(4)},
    },
    "lora on some layers": lambda: {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{x}.weight": full(4, 4)
        for i in (0, 2, 4, 6, 8, 10, 12)
        for x in "AB"
    },
    "lora beside the model": lambda: {
        **model_of(layers=layers(9)),
        **{f"layers.{i}.attn.lora_A.default.weight": full(2, 8) for i in range(9) if i != 4},
    },
    "adapters in some layers": lambda: {
        **model_of(layers=layers(12)),
        **{f"layers.{i}.adapter.blocks.0.down.weight": full(2, 8) for i in range(12) if i != 7},
    },
    "frozen layers": partly_frozen,
    "trainable layers alone": lambda: {
        n: p for n, p in model_of(layers=layers(12)).items() if n.split(".")[1] in {"0", "6", "11"}
    },
    "an average of some layers": averaged,
    "tied weights": lambda: (
        lambda w: {"embed.weight": w, "lm_head.weight": w, "norm.weight": full(8)}
    )(full(32, 8)),
    "a stage": lambda: {f"layers.{i}.attn.wq": full(8, 8) for i in range(4, 8)},
    "dense and sparse layers in turn": lambda: model_of(
        layers=nn.ModuleList(Block(8, experts=4 * (i % 2)) for i in range(8))
    ),
    "shared experts": lambda: model_of(layers=layers(3, experts=8, shared=4)),
    "activations between": lambda: model_of(
        layers=nn.Sequential(*(m for _ in range(8) for m in (nn.Linear(8, 8), nn.ReLU())))
    ),
    "norms and activations between": lambda: model_of(
        blocks=nn.Sequential(
            *(m for _ in range(8) for m in (nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        )
    ),
    "blocks with dropout between": lambda: model_of(
        layers=nn.Sequential(*(m for _ in range(8) for m in (Block(8), nn.Dropout())))
    ),
    "blocks with one pooling": lambda: model_of(
        blocks=nn.Sequential(
            *(Block(8) for _ in "abcd"), nn.AvgPool1d(2), *(Block(8) for _ in "abcd")
        )
    ),
    "a u-net": lambda: model_of(
        input_blocks=nn.ModuleList(nn.AvgPool2d(2) if i % 3 == 2 else Block(8) for i in range(12)),
        output_blocks=nn.ModuleList(
            nn.Upsample(scale_factor=2) if i % 3 == 2 else Block(8) for i in range(12)
        ),
    ),
    "a detector": lambda: model_of(
        model=nn.Sequential(
            *(Block(8) for _ in range(10)),
            nn.Upsample(),
            nn.Identity(),
            Block(16),
            nn.Upsample(),
            nn.Identity(),
            Block(8),
            Block(8),
            nn.Identity(),
            Block(16),
        )
    ),
    "teacher and student": lambda: {
        "teacher": model_of(layers=layers(6, 16)),
        "student": model_of(layers=layers(3, 8)),
    },
    "gates of tasks": lambda: {
        **{f"experts.{i}.0.weight": full(4, 6) for i in range(4)},
        **{f"shared_experts.{i}.0.weight": full(4, 6) for i in range(4)},
        "gate.weight": full(8, 6),
    },
    "experts that are nothing": lambda: {
        "mlp.router.classifier.weight": full(12, 6),
        **{f"mlp.experts.{i}.up_proj.weight": full(4, 6) for i in range(8)},
    },
    "a router that is transposed": lambda: {
        "mlp.gate.weight": full(64, 8),
        "mlp.experts.w1": full(8, 64, 6),
    },
    "numbers of other things": lambda: {
        **{f"layers.{i}.weight": full(8, 8) for i in (0, 2, 4)},
        **{f"layers.{i}.weight": full(8) for i in (1, 3, 5)},
        **{f"bins.{i}.mean": full(1) for i in (0, 3, 10)},
    },
}


@pytest.mark.parametrize("name", ONE_RANK)
def test_nothing_is_said_of_one_rank(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    told = judged(whole(tmp_path, ONE_RANK[name]()))
    assert not told, told


def projected(rows: dict[str, int], params: dict[str, Any], world: int) -> dict[str, Any]:
    """State of GaLore: moments of some matrices in a few rows, the rest as they are."""
    state = adam(params)
    for name, rank in rows.items():
        small = full(rank, params[name].shape[1])
        state[name] |= {"exp_avg": small, "exp_avg_sq": small}
    return state


def galore(vectors_too: bool) -> Callable[[int], StateDict]:
    def make(rank: int) -> StateDict:
        names = [f"layers.{i}.w" for i in range(4)]
        wanted: dict[str, torch.Tensor] = {n: full(16, 32) for n in names}
        if vectors_too:
            wanted |= {"norm": full(16), "head": full(64, 16)}
        params = fsdp(wanted, 4)
        # Of as many rows as a shard has: one rank's piece would look the same.
        return {"model": params, "optim": {"state": projected(dict.fromkeys(names, 4), params, 4)}}

    return make


def apollo(rank: int) -> StateDict:
    params = fsdp({"a": full(4, 8), "b": full(4, 16), "norm": full(4)}, 4)
    return {"m": params, "optim": {"state": projected({"a": 1, "b": 1}, params, 4)}}


def whole_average(rank: int) -> StateDict:
    return {"model": fsdp(PARAMS, 4), "ema": dict(PARAMS)}


def student(rank: int) -> StateDict:
    # Its vectors are as long as a shard of the teacher's, its matrices are not as wide.
    small = {"0.weight": full(4, 2), "0.bias": full(4), "2.weight": full(2, 4)}
    return {"teacher": fsdp(PARAMS, 4), "student": small}


def by_blocks(rank: int) -> StateDict:
    # Adam-mini: second moments of blocks, of a vector's as many as a shard has elements.
    params = fsdp({"w": full(16, 4), "b": full(16)}, 4)
    state = adam(params)
    state["w"]["exp_avg_sq"] = full(4, 1)
    state["b"]["exp_avg_sq"] = full(4)
    return {"model": params, "optim": {"state": state}}


def expert_parallel(rank: int) -> StateDict:
    mesh = mesh_of(2, 2, names=("ep", "fsdp"))
    sd = moe(rank, 4, lambda _: {"w1": sharded(full(8, 6, 4), mesh, Shard(0), Shard(1))})
    model = sd["model"]
    return {**sd, "optim": {"state": adam(model)}}


def expert_parallel_by_number(rank: int) -> StateDict:
    def experts(r: int) -> dict[str, Any]:
        return {f"{j}.up.weight": full(5, 3) for j in range(4 * r, 4 * r + 4)}

    return moe(rank, 2, experts)


def rows_of_no_expert(rank: int) -> StateDict:
    # Half of the router's rows choose nothing; all ranks hold pieces of the experts there are.
    mesh = mesh_of(4)
    experts = {"w1": sharded(full(4, 9, 4), mesh, Shard(0))}
    return moe(rank, 4, lambda _: experts)


def stages(rank: int) -> StateDict:
    mesh = mesh_of(2, 2, names=("pp", "fsdp"))
    mine = range(4) if rank < 2 else range(4, 8)
    params = {f"layers.{i}.attn.wq": sharded(full(8, 4), mesh["fsdp"], Shard(0)) for i in mine}
    return {"model": params, "optim": {"state": adam(params)}}


def stages_in_turn(rank: int) -> StateDict:
    sd = {f"layers.{i}.attn.wq": full(8, 4) for i in range(rank, 16, 2)}
    return {"model": sd}


def two_dims(rank: int) -> StateDict:
    mesh = mesh_of(2, 2, names=("fsdp", "tp"))
    params = {
        "wq": sharded(full(8, 8), mesh, Shard(0), Shard(0)),
        "wo": sharded(full(8, 8), mesh, Shard(0), Shard(1)),
        "norm": sharded(full(8), mesh, Shard(0), Replicate()),
    }
    return {"model": params, "optim": {"state": adam(params)}}


def few_rows(rank: int) -> StateDict:
    # Both are cut into single rows, the one into fewer: as short as it can be.
    return fsdp({"a.head.queries": full(8, 4), "b.head.queries": full(2, 4)}, 8)


def encoder_and_decoder(rank: int) -> StateDict:
    params = fsdp(
        {"encoder.mlp.experts.gate": full(8, 16, 4), "decoder.mlp.experts.gate": full(4, 16, 4)}, 4
    )
    return {"model": params, "optim": {"state": adam(params)}}


def actor_and_critic(rank: int) -> StateDict:
    # The actor is as large as a shard of the critic.
    actor, critic = fsdp({"w": full(4, 8)}, 4), fsdp({"w": full(16, 8)}, 4)
    whole_one = {"w": full(4, 8)}
    return {"actor": actor, "critic": critic, "optim": {"state": adam(whole_one)}}


def lora(rank: int) -> StateDict:
    params = fsdp({"q.lora_A.weight": full(8, 32), "q.lora_B.weight": full(32, 8)}, 4)
    frozen = fsdp({"q.weight": full(32, 32)}, 4)
    return {"model": {**frozen, **params}, "optim": {"state": adam(params)}}


def between_on_all_ranks(rank: int) -> StateDict:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(m for _ in range(6) for m in (Block(8), nn.Dropout())))
    return {"model": fsdp(model_of(layers=blocks), 4)}


def replicated_with_holes(rank: int) -> StateDict:
    # A table larger than all else: DCP gives the rest to the other ranks.
    torch.manual_seed(0)
    blocks = nn.Sequential(*(m for _ in range(6) for m in (Block(8), nn.Dropout())))
    return {"model": {**model_of(layers=blocks), "embed.weight": full(4096, 8)}}


def names_by_number(rank: int) -> StateDict:
    params = fsdp({"0": full(8, 4), "1": full(8)}, 4)
    return {"model": {"list": params}, "optim": {"state": adam({"1": full(2), "0": full(2, 4)})}}


SEVERAL: dict[str, tuple[int, Callable[[int], StateDict]]] = {
    "galore": (4, galore(True)),
    "galore of matrices alone": (4, galore(False)),
    "apollo": (4, apollo),
    "second moments of blocks": (4, by_blocks),
    "an average that is whole": (4, whole_average),
    "a student that is not sharded": (4, student),
    "expert parallel": (4, expert_parallel),
    "expert parallel by number": (2, expert_parallel_by_number),
    "rows of the router for no expert": (4, rows_of_no_expert),
    "pipeline stages, sharded": (4, stages),
    "pipeline stages in turn": (2, stages_in_turn),
    "fsdp and tp": (4, two_dims),
    "fewer rows than ranks": (8, few_rows),
    "encoder and decoder of two sizes": (4, encoder_and_decoder),
    "actor and critic": (4, actor_and_critic),
    "lora, sharded": (4, lora),
    "dropout between, sharded": (4, between_on_all_ranks),
    "dropout between, replicated": (2, replicated_with_holes),
    "parameters by number": (4, names_by_number),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_nothing_is_said_of_several_ranks(tmp_path: Path, name: str) -> None:
    told = judged(save_as_ranks(tmp_path, *SEVERAL[name]))
    assert not told, told


def views(rank: int) -> StateDict:
    """What a rank holds of five parameters, as FSDP1 names it in a LOCAL_STATE_DICT."""
    names = {"emb.weight": 20, "l.weight": 16, "l.bias": 4, "n.weight": 4, "n.bias": 4}
    ends = itertools.accumulate(names.values())
    ranges = [(n, range(end - names[n], end)) for n, end in zip(names, ends, strict=True)]
    return {n: full(sum(i // 16 == rank for i in r)) for n, r in ranges}


def test_views_of_a_flat_parameter_are_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        flat = sharded(full(48), mesh_of(3), Shard(0))
        return {"m": {**views(rank), "bn.mean": full(8), "_flat_param": flat}}

    path = save_as_ranks(tmp_path, 3, make)
    message = only(path, "local-state").message
    assert "beside m._flat_param, which holds them in 3 shards" in message
    # torch is the judge: no rank can load its own names, and the flat parameter alone loads.
    for rank in range(3):
        with pytest.raises(dcp.api.CheckpointException, match="Size mismatch"):
            dcp.load({"m": views(rank)}, checkpoint_id=path, no_dist=True)
    flat = {"m": {"_flat_param": torch.zeros(48)}}
    dcp.load(flat, checkpoint_id=path, no_dist=True)
    assert torch.equal(flat["m"]["_flat_param"], full(48))


def test_flat_parameters_alone_are_not_told(tmp_path: Path) -> None:
    def make(rank: int) -> StateDict:
        flat = {f"{p}_flat_param": sharded(full(32), mesh_of(2), Shard(0)) for p in ("", "l.")}
        return {"m": {**flat, "bn.mean": full(8), "l.bn.mean": full(8)}, "empty": torch.zeros(0)}

    assert not judged(save_as_ranks(tmp_path, 2, make))
