"""What is certain of a mesh and what it only looks like; stages; meshes that are not named.

Plans come from torch's own planner pieces (`synthetic`), for meshes of several groups of
parameters and for ranks that hold tensors of their own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic as make
import torch
import torch.distributed.checkpoint as dcp
from synthetic import S0, S1, R, strided
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Checkpoint, Provenance
from inspector.checks.judge import check
from inspector.layout.mesh import Mesh
from inspector.layout.writer.written_by import WrittenBy, infer
from inspector.report.text import show_text
from inspector.report.writer import written_by_json

SAMPLES = Path(__file__).parents[2] / "sample_ckpts"

#: A tensor: shape, placements, sizes of its mesh, and the ranks that mesh lies over.
Tensor = tuple[Sequence[int], Sequence[Any], Sequence[int], Sequence[int]]


def plans_of(states: Sequence[Mapping[str, Tensor | None]]) -> list[SavePlan]:
    """The plan of each rank, from what its state dict holds."""
    plans = []
    for rank, state in enumerate(states):
        items = []
        for fqn, value in state.items():
            if value is None:
                items.append(WriteItem(index=MetadataIndex(fqn), type=WriteItemType.BYTE_IO))
                continue
            shape, placements, sizes, ranks = value
            where = np.unravel_index(list(ranks).index(rank), tuple(sizes))
            coordinate = [int(c) for c in where]
            items.append(make.tensor_item(fqn, shape, sizes, coordinate, placements))
        plans.append(SavePlan(items))
    return plans


def saved(
    states: Sequence[Mapping[str, Tensor | None]], *, lowest: bool = False, each: bool = False
) -> Checkpoint:
    """The checkpoint that torch would write, in the order in which it names the entries.

    Args:
        states: What each rank holds.
        lowest: With `dedup_save_to_lowest_rank`.
        each: With `use_collectives=False`: every rank writes what it holds, and metadata.
    """
    plans = plans_of(states)
    if not each:
        plans = dedup_save_plans(plans, save_to_lowest_rank=lowest)
    order: dict[str, Any] = dict(ChainMap(*[dict(state) for state in states]))
    state = {k: v if v is None else (v[0], v[1]) for k, v in order.items()}
    checkpoint = make.checkpoint(state, plans)
    by_torch = Provenance(torch_band="2.9 to 2.14")
    paths = {k: (k,) for k in order}
    return dataclasses.replace(
        checkpoint, state_paths=paths, provenance=by_torch, per_rank_metadata=each
    )


def everywhere(state: Mapping[str, Tensor | None], world_size: int) -> Checkpoint:
    return saved([state] * world_size)


def over(sizes: Sequence[int], start: int = 0) -> tuple[Sequence[int], Sequence[int]]:
    return sizes, range(start, start + math.prod(sizes))


def moe(sizes: tuple[int, ...], experts: Sequence[Any], dense: Any, rows: int) -> dict[str, Any]:
    """Dense tensors on a mesh of their own, experts on `sizes`."""
    state: dict[str, Any] = {}
    for i in range(4):
        state[f"layers.{i}.attn.weight"] = ((rows, 16), *dense)
        state[f"layers.{i}.norm.weight"] = ((rows,), *dense)
        state[f"layers.{i}.moe.experts.w1"] = ((8, 16, 8), experts, *over(sizes))
        state[f"layers.{i}.moe.experts.w2"] = ((8, 8, 16), experts, *over(sizes))
    return state


def kinds(found: WrittenBy) -> list[str | None]:
    assert found.layout is not None
    return [axis.kind for axis in found.layout.axes]


_FSDP_8 = ((S0,), *over((8,)))
_HSDP = ((R, S0), *over((2, 4)))


@pytest.mark.parametrize(
    ("sizes", "experts", "dense", "kind"),
    [
        ((2, 4), (strided(0, 4), S0), _FSDP_8, ["shard", "expert"]),
        ((2, 4), (S1, S0), _FSDP_8, ["shard", "expert"]),
        ((2, 2, 2), (R, strided(0, 2), S0), _HSDP, ["replicate", "shard", "expert"]),
    ],
    ids=["strided", "shard1", "hsdp"],
)
@pytest.mark.parametrize("rows", [16, 20, 10], ids=["even", "uneven", "short"])
def test_experts_on_a_mesh_of_their_own(
    sizes: tuple[int, ...], experts: Any, dense: Any, kind: list[str], rows: int
) -> None:
    found = infer(everywhere(moe(sizes, experts, dense, rows), 8))
    assert found.num_placed == found.num_items
    assert found.mesh is not None
    assert found.mesh.sizes == sizes
    assert kinds(found) == kind
    assert found.proven
    assert not found.certain, "what an axis is for is evidence"
    assert "tp" not in str(found.mesh)
    assert "tensor parallel" not in found.layout.looks_like  # type: ignore[union-attr]


def test_experts_over_the_ranks_of_hsdp() -> None:
    state: dict[str, Any] = {}
    for i in range(4):
        state[f"layers.{i}.attn.weight"] = ((8, 8), (R, S0), *over((2, 2)))
        state[f"layers.{i}.norm.weight"] = ((8,), (R, S0), *over((2, 2)))
        state[f"layers.{i}.experts.w1"] = ((8, 4, 4), (S0,), *over((4,)))
    found = infer(everywhere(state, 4))
    assert (str(found.mesh), found.certain, found.proven) == ("hsdp:2x2", False, True)
    assert kinds(found) == ["replicate", "shard"]
    assert any("experts lie otherwise" in line for line in found.caveats)
    assert found.placements(2).placements == ("Shard(0)", "Shard(0)")


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (
            "fsdp_ep_2x4",
            {
                "dense": ("dp_shard:8", [["Shard(0)"]]),
                "experts": (
                    "dp_shard_mod_ep:2,ep:4",
                    [["_StridedShard(0, sf=4)", "Shard(0)"]],
                ),
            },
        ),
        (
            "hsdp_ep_2x2x2",
            {
                "dense": ("dp_replicate:2,dp_shard:4", [["Replicate()", "Shard(0)"]]),
                "experts": (
                    "dp_replicate:2,dp_shard_mod_ep:2,ep:2",
                    [["Replicate()", "_StridedShard(0, sf=2)", "Shard(0)"]],
                ),
            },
        ),
        ("tp_8", {"all": ("tp:8", [["Shard(0)"], ["Shard(1)"], ["Replicate()"]])}),
    ],
)
def test_each_group_of_tensors_has_its_own_mesh(sample: str, said: dict[str, Any]) -> None:
    groups = written_by_json(infer(open_checkpoint(str(SAMPLES / sample))))["groups"]
    found = {
        g["what"]: (g["mesh"], sorted(list(p["placements"]) for p in g["placements"]))
        for g in groups
    }
    assert found == {what: (mesh, sorted(lists)) for what, (mesh, lists) in said.items()}


def test_experts_over_all_ranks_of_hsdp_have_one_axis() -> None:
    state: dict[str, Any] = {}
    for i in range(4):
        state[f"layers.{i}.attn.weight"] = ((8, 8), (R, S0), *over((2, 2)))
        state[f"layers.{i}.experts.w1"] = ((8, 4, 4), (S0,), *over((4,)))
    groups = written_by_json(infer(everywhere(state, 4)))["groups"]
    assert [(g["what"], g["mesh"]) for g in groups] == [
        ("dense", "dp_replicate:2,dp_shard:2"),
        ("experts", "ep:4"),
    ]


def test_who_held_a_tensor_in_one_piece_is_not_told() -> None:
    cut: dict[str, Any] = {f"a{i}": ((8, 8), (S0,), *over((4,))) for i in range(3)}
    alone: dict[str, Any] = {"alone": ((3,), (R,), (1,), (0,))}
    checkpoint = saved([cut | alone, cut, cut, cut])
    found = infer(checkpoint)
    assert found.proven
    held = {t.fqn: found.holders(t.index) for t in checkpoint.tensors}
    assert held.pop("alone") is None
    assert set(map(str, held.values())) == {"[(0,), (1,), (2,), (3,)]"}
    assert any("Tensors in one piece lie as if" in line for line in found.caveats)


def parallel(before: Sequence[Any], sizes: Sequence[int]) -> dict[str, Any]:
    """Columns and rows in turn, norms whole: what tensor parallelism makes of a block."""
    state: dict[str, Any] = {}
    for i in range(3):
        for name, placement in (("wq", S0), ("wo", S1), ("w1", S0), ("w2", S1), ("norm", R)):
            shape = (8,) if name == "norm" else (8, 8)
            state[f"layers.{i}.{name}.weight"] = (shape, (*before, placement), *over(sizes))
    return state


@pytest.mark.parametrize(
    ("before", "sizes", "mesh", "named"),
    [
        ((), (4,), "tp:4", "tp:4"),
        ((R,), (2, 2), "ddp_tp:2x2", "dp_replicate:2,tp:2"),
        ((R,), (4, 2), "ddp_tp:4x2", "dp_replicate:4,tp:2"),
    ],
)
def test_tensor_parallel_without_fsdp_is_no_fsdp(
    before: Any, sizes: tuple[int, ...], mesh: str, named: str
) -> None:
    found = infer(everywhere(parallel(before, sizes), math.prod(sizes)))
    assert found.num_placed == found.num_items
    assert (str(found.mesh), found.certain, found.proven) == (mesh, False, True)
    said = written_by_json(found)
    assert said["named_axes"] == named
    assert said["proven"] == ["sizes", "boxes", "owners"]
    assert not any(axis["certain"] for axis in said["axes"])
    assert Mesh.parse(mesh) == found.mesh


def rows_alone(before: Sequence[Any], sizes: Sequence[int], norms: str) -> dict[str, Any]:
    """Every matrix cut along dim 0; the norms whole, cut as well, or buffers of another name."""
    state: dict[str, Any] = {}
    for i in range(3):
        for name in ("wq", "wo", "w1"):
            state[f"layers.{i}.{name}.weight"] = ((8, 8), (*before, S0), *over(sizes))
        how, name = (R, "weight") if norms == "whole" else (S0, "weight")
        if norms == "buffers":
            how, name = R, "running_mean"
        state[f"layers.{i}.norm.{name}"] = ((8,), (*before, how), *over(sizes))
    return state


@pytest.mark.parametrize(
    ("before", "sizes", "mesh"), [((), (4,), "fsdp:4"), ((R,), (2, 2), "hsdp:2x2")]
)
@pytest.mark.parametrize("norms", ["whole", "cut", "buffers"])
def test_tensor_parallel_by_rows_alone(
    before: Any, sizes: tuple[int, ...], mesh: str, norms: str
) -> None:
    """With whole norms it is told from FSDP; else its files are FSDP's, and the use is open."""
    found = infer(everywhere(rows_alone(before, sizes, norms), 4))
    assert (str(found.mesh), found.certain, found.proven) == (mesh, norms != "whole", True)
    said = written_by_json(found)
    assert said["proven"] == ["sizes", "boxes", "owners"]
    assert said["use"]["certain"] is False
    if norms == "whole":
        assert (said["named_axes"], said["use"]["looks_like"]) == (None, None)
        assert any("3 tensors left whole" in doubt for doubt in said["use"]["doubts"])
    else:
        assert said["use"]["looks_like"] == ("HSDP" if before else "FSDP")
        assert any("tensor parallel whose every layer is" in d for d in said["use"]["doubts"])


@pytest.mark.parametrize(
    ("before", "sizes", "mesh", "named"),
    [((), (4,), "fsdp:4", "ep:4"), ((R,), (2, 2), "hsdp:2x2", "dp_replicate:2,ep:2")],
)
def test_experts_alone_that_are_cut_are_no_fsdp(
    before: Any, sizes: tuple[int, ...], mesh: str, named: str
) -> None:
    state: dict[str, Any] = {}
    for i in range(3):
        state[f"layers.{i}.experts.w1"] = ((8, 8, 4), (*before, S0), *over(sizes))
        state[f"layers.{i}.attn.weight"] = ((8, 8), (*before, R), *over(sizes))
    found = infer(everywhere(state, 4))
    assert (str(found.mesh), found.certain, found.proven) == (mesh, False, True)
    assert written_by_json(found)["named_axes"] == named


def test_fsdp_by_dims_of_choice_is_open() -> None:
    state = {
        f"layers.{i}.{n}": ((16, 16), (S1 if n == "w" else S0,), *over((4,)))
        for i in range(4)
        for n in ("w", "v")
    }
    found = infer(everywhere(state, 4))
    assert (str(found.mesh), found.certain, found.proven) == ("fsdp:4", False, True)
    assert kinds(found) == [None]
    assert written_by_json(found)["looks_like"] is None


def test_one_tensor_along_another_dim_does_not_unsay_fsdp() -> None:
    state = {f"w{i}": ((16, 16), (S1 if i == 0 else S0,), *over((4,))) for i in range(16)}
    found = infer(everywhere(state, 4))
    assert (str(found.mesh), found.certain) == ("fsdp:4", True)


@pytest.mark.parametrize(
    ("sizes", "mesh"), [((8,), "fsdp:8"), ((2, 4), "hsdp:2x4")], ids=["fsdp", "hsdp"]
)
def test_the_common_answer_stays_and_says_what_it_covers(sizes: tuple[int, ...], mesh: str) -> None:
    placements = (S0,) if len(sizes) == 1 else (R, S0)
    state: dict[str, Any] = {
        f"net{i}.{name}": (shape, placements, *over(sizes))
        for i in range(3)
        for name, shape in (("weight", (16, 8)), ("bias", (16,)))
    }
    found = infer(everywhere(state, 8))
    assert (str(found.mesh), found.certain, found.proven) == (mesh, True, True)
    text = "\n".join(found.evidence)
    assert "Certain are sizes, boxes and owners: 8 ranks" in text
    assert "evidence, not proof" in text
    assert any("tensor parallel whose every layer is cut along dim 0" in c for c in found.caveats)
    assert any("overwritten without a trace" in c for c in found.caveats)
    said = json.loads(json.dumps(written_by_json(found)))
    assert (said["mesh"], said["certain"], said["shape"]) == (mesh, True, list(sizes))
    assert said["cuts"][0]["dims"] == [{"dim": 0, "axes": [len(sizes) - 1]}]


def test_replicas_whose_ranks_stand_in_another_order_are_not_certain() -> None:
    """Each tensor alone looks cut by two axes, in the order of the replica that wrote it."""
    swapped = (2, 4), (0, 1, 2, 3, 4, 6, 5, 7)
    for num in (2, 3, 6):
        found = infer(everywhere({f"l{i}.w": ((8, 3), (R, S0), *swapped) for i in range(num)}, 8))
        assert found.num_placed == found.num_items
        assert (str(found.mesh), found.certain, found.proven) == ("hsdp_tp:2x2x2", False, False)
        assert any("ranks stand in another order" in caveat for caveat in found.caveats)
        assert not any("Certain are" in sentence for sentence in found.evidence)


def staged(inside: Sequence[Any], sizes: Sequence[int], num_stages: int, **how: bool) -> Checkpoint:
    """Each stage's layers on ranks of its own; a step and an optimizer's options on all."""
    width = math.prod(sizes)
    states = []
    for rank in range(width * num_stages):
        stage = rank // width
        where = over(sizes, stage * width)
        state: dict[str, Any] = {}
        for layer in (2 * stage, 2 * stage + 1):
            for name, shape in (("wq", (16, 8)), ("wo", (8, 16)), ("norm", (16,))):
                state[f"model.layers.{layer}.{name}"] = (shape, inside, *where)
                options = (R,) * len(sizes)
                state[f"optim.state.layers.{layer}.{name}.step"] = ((), options, *where)
                state[f"optim.state.layers.{layer}.{name}.exp_avg"] = (shape, inside, *where)
        keys = sorted(state, key=lambda k: k.startswith("optim"))
        states.append(
            {k: state[k] for k in keys}
            | dict.fromkeys(("optim.param_groups.0.lr", "optim.param_groups.0.eps", "step"))
        )
    return saved(states, **how)


@pytest.mark.parametrize(
    ("inside", "sizes", "mesh"),
    [
        ((S0,), (4,), "fsdp:4"),
        ((R, S0), (2, 2), "hsdp:2x2"),
        ((S0,), (2,), "fsdp:2"),
        ((R,), (4,), None),
    ],
    ids=["fsdp", "hsdp", "four stages", "ddp"],
)
def test_stages_are_groups_of_ranks_that_share_no_tensor(
    inside: Any, sizes: tuple[int, ...], mesh: str | None
) -> None:
    width = math.prod(sizes)
    num = 8 // width
    found = infer(staged(inside, sizes, num))
    assert (found.mesh, found.certain, found.proven) == (None, False, False)
    assert found.partition is not None
    assert found.num_placed == found.num_items
    stages = found.partition.stages
    assert [s.ranks for s in stages] == [
        tuple(range(n * width, (n + 1) * width)) for n in range(num)
    ]
    assert {None if s.mesh is None else str(s.mesh) for s in stages} == {mesh}
    assert stages[1].layers.endswith("layers.2 to model.layers.3")
    assert any("pipeline stages: evidence, not proof" in line for line in found.evidence)
    said = written_by_json(found)
    assert [s["ranks"][0] for s in said["stages"]] == [n * width for n in range(num)]
    assert not any(s["certain"] for s in said["stages"])


@pytest.mark.parametrize(("inside", "sizes"), [((S0,), (4,)), ((R, S0), (2, 2)), ((R, S0), (4, 2))])
def test_stages_whose_ranks_wrote_each_their_own_are_no_replicas(
    inside: Any, sizes: tuple[int, ...]
) -> None:
    """`use_collectives=False`: who wrote no piece held none, so the stages are no replicas."""
    whole = infer(staged(inside, sizes, 1, each=True))
    assert (whole.certain, whole.proven) == (True, True)
    found = infer(staged(inside, sizes, 2, each=True))
    assert (found.mesh, found.certain, found.proven) == (None, False, False)
    assert found.num_placed < 0.7 * found.num_items


def test_whole_tensors_of_stages_that_wrote_each_their_own_are_not_replicated() -> None:
    found = infer(staged((R,), (4,), 2, each=True))
    assert found.mesh is None
    assert "36 of 36 tensors are on some of them alone" in found.evidence[0]
    whole = infer(staged((R,), (4,), 1, each=True))
    assert "replicated over 4 ranks" in whole.evidence[0]


def test_stages_by_the_lowest_rank() -> None:
    """`dedup_save_to_lowest_rank`: the groups are told where every rank wrote a piece."""
    found = infer(staged((S0,), (4,), 2, lowest=True))
    assert found.partition is not None
    assert (found.num_placed, found.certain) == (found.num_items, False)
    assert [str(stage.mesh) for stage in found.partition.stages] == ["fsdp:4"] * 2
    # Ranks 2, 3, 6 and 7 wrote nothing: of which group they are no file tells.
    unseen = infer(staged((R, S0), (2, 2), 2, lowest=True))
    assert (unseen.mesh, unseen.partition, unseen.certain) == (None, None, False)


@pytest.mark.parametrize(
    "band", ["2.3", "2.4 to 2.6", "2.9 to 2.14", "2.9 or later", "2.15 or later"]
)
def test_replicas_that_one_alone_wrote_are_not_certain_of_any_later_torch(band: str) -> None:
    """2.15 begins as 2.1 does, of which they are: there the lowest rank writes by itself."""
    checkpoint = staged((R, S0), (2, 2), 1, lowest=True)
    by_torch = dataclasses.replace(checkpoint.provenance, torch_band=band)
    found = infer(dataclasses.replace(checkpoint, provenance=by_torch))
    assert (found.proven, found.certain) == (False, False)
    by_old = dataclasses.replace(by_torch, torch_band="2.0 to 2.2")
    assert infer(dataclasses.replace(checkpoint, provenance=by_old)).certain


@pytest.mark.parametrize("band", ["2.4 to 2.6", "2.15 or later"])
def test_where_both_rules_fit_the_one_of_that_torch_is_named(band: str) -> None:
    checkpoint = everywhere({f"layers.{i}.w": ((16, 8), (S0,), *over((4,))) for i in range(3)}, 4)
    by_torch = dataclasses.replace(checkpoint.provenance, torch_band=band)
    found = infer(dataclasses.replace(checkpoint, provenance=by_torch))
    assert "replaying DCP's writer puts" in found.evidence[0]


def test_one_rank_a_stage_is_told_by_the_names_alone() -> None:
    found = infer(staged((R,), (1,), 4))
    assert found.partition is not None
    assert found.partition.by_names
    assert not any("replicated over" in line for line in found.evidence)


def test_replicated_tensors_are_no_stages() -> None:
    state: dict[str, Any] = {
        f"model.layers.{i}.{n}": ((8, 8), (R,), *over((4,))) for i in range(4) for n in "abc"
    }
    found = infer(everywhere(state | {"step": None}, 4))
    assert (found.mesh, found.partition) == (None, None)
    assert "replicated over 4 ranks" in found.evidence[0]


def test_a_save_of_two_ranks_beside_four_names_no_mesh() -> None:
    sub: Any = ((6,), (S0,), (2,), (2, 3))
    plain: Any = ((4,), (R,), *over((4,)))
    found = infer(saved([{"plain": plain}] * 2 + [{"d": sub, "plain": plain}] * 2))
    assert (found.mesh, found.certain, found.partition) == (None, False, None)
    assert "hsdp" not in "\n".join(found.evidence)


@pytest.mark.parametrize("num", [1, 3])
def test_what_two_ranks_alone_held_is_not_replicated(num: int) -> None:
    sub: Any = ((6,), (S0,), (2,), (0, 1))
    plain: Any = ((4,), (R,), *over((4,)))
    cut = {f"d{i}": sub for i in range(num)}
    found = infer(saved([cut | {"plain": plain}] * 2 + [{"plain": plain}] * 2))
    assert (found.certain, found.proven) == (False, False)
    assert found.mesh is None
    assert "Of 4 ranks only 0, 1 wrote pieces" in found.evidence[0]


def test_a_mesh_under_nine_tenths_is_never_named() -> None:
    on = {n: ((16, 4), (R, S0), *over((2, 4))) for n in "abcdefgh"}
    checkpoint = everywhere(on, 8)
    file = checkpoint.columns.file.copy()
    # Half of the chunks lie with the other replica of their shard.
    file[: len(file) // 2] = (file[: len(file) // 2] + 4) % 8
    columns = dataclasses.replace(checkpoint.columns, file=file)
    found = infer(dataclasses.replace(checkpoint, columns=columns))
    assert found.num_placed < 0.9 * found.num_items
    assert (found.mesh, found.certain) == (None, False)


def by_megatron(folder: Path) -> Path:
    """Two ranks wrote of four that planned: the metadata keeps all plans, as Megatron-Core's."""
    state = {f"layers.{i}.{n}": torch.ones(4, 6) for i in range(3) for n in ("col", "row")}
    state |= {f"layers.{i}.norm": torch.ones(4) for i in range(3)}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    reader = dcp.FileSystemReader(folder)
    metadata = reader.read_metadata()
    halves: dict[str, Any] = {}
    for key in state:
        entry = metadata.state_dict_metadata[key]
        dim = 0 if "col" in key else 1
        if "norm" not in key:
            entry.chunks = _halves(entry.size, dim)  # type: ignore[union-attr]
        for n, chunk in enumerate(entry.chunks):  # type: ignore[union-attr]
            info = dataclasses.replace(
                metadata.storage_data[MetadataIndex(key, [0] * state[key].dim())]
            )
            info.relative_path = f"__{n}_0.distcp"
            halves[MetadataIndex(key, chunk.offsets)] = info  # type: ignore[index]
    metadata.storage_data = halves
    (folder / "__1_0.distcp").write_bytes((folder / "__0_0.distcp").read_bytes())
    metadata.all_local_plans = [SavePlan([]) for _ in range(4)]
    _write(metadata, folder)
    return folder


def _halves(size: torch.Size, dim: int) -> list[Any]:
    chunk = torch.distributed.checkpoint.metadata.ChunkStorageMetadata
    half = torch.Size([n // 2 if d == dim else n for d, n in enumerate(size)])
    second = torch.Size([n // 2 if d == dim else 0 for d, n in enumerate(size)])
    return [chunk(torch.Size([0] * len(size)), half), chunk(second, half)]


def _write(metadata: Metadata, folder: Path) -> None:
    import pickle

    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_ranks_that_wrote_nothing_count_where_their_plans_are_kept(tmp_path: Path) -> None:
    folder = by_megatron(tmp_path / "ckpt")
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.world_size == 4
    found = infer(checkpoint)
    assert found.world_size == 4
    assert not found.certain
    assert not found.proven
    assert str(found.mesh) != "fsdp:2"
    text = "\n".join(found.evidence)
    assert "plans of 4 ranks, and 2 of them wrote a file" in text
    assert "DCP's rule" not in text
    assert not [f for f in check(str(folder)).findings if f.code == "rank-missing"]


def test_the_text_says_what_the_json_says(tmp_path: Path) -> None:
    checkpoint = everywhere(parallel((), (4,)), 4)
    found = infer(checkpoint)
    text = "\n".join(show_text(checkpoint, found))
    assert "tp:4, 4 ranks, sizes, boxes and owners certain" in text
    assert "tensor parallel alone (evidence, not proof)" in text
