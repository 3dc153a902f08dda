"""Plans under meshes of several axes, beside torch's own planner on DTensors placed alike."""

from __future__ import annotations

import glob
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.testing._internal.distributed.fake_pg import FakeStore

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import LoadPlan, Planner
from inspector.layout.target.file import PlacementLine, parse_placement_file
from inspector.layout.target.placement import TargetPlacement
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.writer.written_by import infer
from tests.conftest import GOLDEN, ROOT, SAMPLES, folders_with_metadata, run_python
from tests.layout.test_load_plan import as_torch, stored
from tests.layout.torch_nd_plans import placement as torchs

MESHES = (
    "dp_shard:2,tp:2",
    "dp_shard:3,tp:2",
    "dp_shard:2,tp:3",
    "tp:2,dp_shard:3",
    "dp_replicate:2,tp:3",
    "dp_replicate:2,dp_shard:2,tp:2",
    "dp_replicate:1,dp_shard:3,tp:4",
    "dp_replicate:2,dp_shard:5,tp:1",
    "dp_shard:2,cp:2,tp:2",
    "dp_shard:2,tp:2,rows:3",
    "hsdp_tp:2x2x2",
    "dp_shard_mod_ep:2,ep:2,tp:2",
    "dp_shard:8+dp_shard_mod_ep:2,ep:4",
)
NAMES = (
    "fsdp2_tp_2x2",
    "hsdp_tp_2x2x2",
    "fsdp_uneven_4",
    "names_hostile_1",
    "dtypes_4",
    "per_rank_metadata_2",
    "fsdp2_hsdp_2x2_adamw",
    "broken/chunk_overlap_and_gap",
    "fsdp_ep_2x4",
    "hsdp_ep_2x2x2",
    "hsdp_tp_uneven_2x2x2",
    "tp_8",
    "pp_hsdp_2x2x2",
)
#: Of these the fast test plans some under some meshes; the slow one plans every sample and golden
#: file under every mesh.
FAST = [(n, m) for i, n in enumerate(NAMES) for j, m in enumerate(MESHES) if (i + j) % 8 == 0]


def opened(name: str) -> Checkpoint:
    return read_dcp(open_storage(str(SAMPLES / name)))


def lines(checkpoint: Checkpoint, mesh: Mesh) -> list[PlacementLine]:
    """Every tensor in a way of its own: rows, columns, both axes on one dim, or as the rule is."""
    axis = next((a for a, k in zip(mesh.axes, mesh.kinds, strict=True) if k == "tensor"), None)
    found = []
    for i, tensor in enumerate(checkpoint.tensors):
        if not tensor.shape or axis is None or i % 4 == 3:
            continue
        last = len(tensor.shape) - 1
        dims: list[tuple[str, int | None]] = [(axis, (0, last, 0)[i % 4])]
        if i % 4 == 2 and "rows" in mesh.axes:
            dims.append(("rows", last))
        if i % 8 == 6:
            dims.append(("dp_shard" if "shard" in mesh.kinds else axis, last))
        found.append(PlacementLine(glob.escape(tensor.fqn), tuple(dict(dims).items())))
    return found


def planned(name: str, mesh: str, *, as_cut: bool) -> LoadPlan:
    """A plan; tensors lie as the checkpoint cuts them, or each in a way of its own."""
    checkpoint, target = opened(name), Mesh.parse(mesh)
    if as_cut:
        return Planner(checkpoint).plan(target, TargetPlacements(target, infer(checkpoint)))
    rules = TargetPlacements(target, None, lines(checkpoint, target))
    return Planner(checkpoint).plan(target, rules)


def told_to_torch(path: Path, plan: LoadPlan) -> dict[str, Any]:
    """A plan as a job of `torch_nd_plans`."""
    places = enumerate(plan.planned_tensors.tolist())
    lies = {plan.checkpoint.columns.fqns[index]: plan.placement(i) for i, index in places}
    return {
        "path": str(path),
        "ranks": plan.world_size,
        "placements": {fqn: (p.mesh.sizes, p.to_strings()) for fqn, p in lies.items() if p},
    }


def reads_of_torch(jobs: list[dict[str, Any]], folder: Path) -> list[Any]:
    """What torch's planner plans for each rank of each job, in a process of its own."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = ["-m", "tests.layout.torch_nd_plans", "jobs.json", "out.pickle"]
    run_python(*command, cwd=folder, env=env, timeout_s=3600, check=True)
    found: list[Any] = pickle.loads((folder / "out.pickle").read_bytes())
    return found


def compare(jobs: list[tuple[str, str]], folder: Path, *, as_cut: bool = False) -> int:
    """The reads of our plans and torch's; how many there are."""
    told, plans = [], []
    for name, mesh in jobs:
        plan = planned(name, mesh, as_cut=as_cut)
        plans.append(plan)
        told.append(told_to_torch(SAMPLES / name, plan))
    num = 0
    for job, plan, by_rank in zip(jobs, plans, reads_of_torch(told, folder), strict=True):
        if by_rank is None:
            assert any(version in job[0] for version in UNREAD), job
            continue
        assert len(by_rank) == plan.world_size
        for rank, found in enumerate(by_rank):
            ours = [as_torch(read) for read in plan.reads(rank)]
            assert sorted(map(repr, ours)) == sorted(map(repr, found)), (job, rank)
            num += len(found)
        count_again(job, plan)
    return num


def count_again(job: tuple[str, str], plan: LoadPlan) -> None:
    """The figures of a plan are the sums of its reads and boxes, counted one by one."""
    payloads = stored(plan.checkpoint)
    tensors = {t.fqn: t for t in plan.checkpoint.tensors}
    lies = {
        plan.checkpoint.columns.fqns[index]: plan.placement(place)
        for place, index in enumerate(plan.planned_tensors.tolist())
    }
    without = dict.fromkeys(tensors, 0)
    own = plan.checkpoint.per_rank_metadata
    for rank in range(plan.world_size):
        read, files, brought = 0, set(), 0
        found = list(plan.reads(rank))
        for item in found:
            corner: Any = None
            if not item.is_bytes:
                placement = lies[item.fqn]
                assert placement is not None
                low, _ = placement.box(rank, tensors[item.fqn].shape)
                corner = tuple(
                    a + b - c
                    for a, b, c in zip(low, item.dest_offsets, item.storage_offsets, strict=True)
                )
                size = tensors[item.fqn].num_bytes // max(tensors[item.fqn].num_elements, 1)
                brought += int(np.prod(item.lengths, dtype=np.int64)) * size
            read += payloads[item.file, item.fqn, corner]
            files |= {item.file} - {None}
        needed = 0
        for fqn, tensor in tensors.items():
            placement = lies[fqn]
            assert placement is not None
            volume = int(np.prod(placement.box(rank, tensor.shape)[1], dtype=np.int64))
            needed += volume * (tensor.num_bytes // max(tensor.num_elements, 1))
            without[fqn] += int(tensor.num_elements > 0 and volume == 0)
        entries = [e for e in plan.checkpoint.bytes_entries if not own or e.rank == rank]
        needed += sum(max(e.byte_length, 0) for e in entries)
        figures = plan.ranks
        counted = (len(found), read, len(files), needed)
        said = (figures.num_reads, figures.bytes_read, figures.num_files, figures.bytes_needed)
        assert counted == tuple(int(f[rank]) for f in said), (job, rank)
        assert int(plan._runs.bytes_covered()[rank]) == brought
    said_without = {e.fqn: e.num_ranks for e in plan.empty_tensors}
    assert said_without == {fqn: n for fqn, n in without.items() if n}


def test_reads_are_those_of_torchs_planner(tmp_path: Path) -> None:
    assert compare(FAST, tmp_path) > 1000


#: Golden files whose metadata the torch of these tests cannot unpickle.
UNREAD = ("golden/2.15.0/",)


def everything() -> list[str]:
    """Every sample and golden file that torch loads, and the odd ones among `NAMES`."""
    found = [*folders_with_metadata(SAMPLES), *folders_with_metadata(GOLDEN)]
    return list(dict.fromkeys([*map(str, found), *(str(SAMPLES / name) for name in NAMES)]))


#: Set, every one of them is planned under every mesh; a mesh takes minutes then.
ALL = bool(os.environ.get("HSDP_INSPECT_ALL_PLANS"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MESHES)), ids=MESHES)
def test_reads_of_everything_are_those_of_torchs_planner(number: int, tmp_path: Path) -> None:
    """A quarter of them, other ones under each mesh.

    Under every other mesh tensors lie as the checkpoint cuts them, else each its own way.
    """
    names = everything()
    assert len(names) > 90
    assert len(MESHES) >= 10
    jobs = [(n, MESHES[number]) for i, n in enumerate(names) if ALL or (i + number) % 4 == 0]
    assert compare(jobs, tmp_path, as_cut=number % 2 == 0) > (5000 if ALL else 500)


def test_bounds_are_torchs_whatever_divides() -> None:
    """First row and length of every rank, for every size up to 40; three axes on one dim too."""
    for text in ("dp_shard:4,tp:3", "tp:3,dp_shard:4", "dp_shard:2,tp:2,etp:2", "dp_shard:5,tp:2"):
        mesh = Mesh.parse(text)
        placement = TargetPlacement(mesh, (0,) * len(mesh.sizes))
        theirs = [torchs(s) for s in placement.to_strings()]
        num_torn = 0
        for size in range(40):
            num_torn += placement.is_torn(0, size)
            for rank in range(mesh.world_size):
                coordinate = list(mesh.coordinate(rank))
                shape, offset = _compute_local_shape_and_global_offset(
                    (size,), mesh.sizes, coordinate, theirs
                )
                assert placement.box(rank, (size,)) == (tuple(offset), tuple(shape))
        assert bool(num_torn) is text.startswith("dp_shard")


def test_placements_are_those_of_fully_shard_over_tensor_parallelism() -> None:
    """torch's own composition of FSDP2 and tensor parallelism makes these placements."""
    rank, sizes = 5, (2, 2, 2)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=8)
    try:
        names = ("dp_replicate", "dp_shard", "tp")
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        module = torch.nn.Module()
        for name, dim in (("column", 0), ("row", 1)):
            weight = distribute_tensor(
                torch.zeros(10, 6), mesh["tp"], [Shard(dim)], src_data_rank=None
            )
            module.register_parameter(name, torch.nn.Parameter(weight))
        fully_shard(module, mesh=mesh["dp_replicate", "dp_shard"])
        rules = TargetPlacements(
            Mesh.parse("dp_replicate:2,dp_shard:2,tp:2"),
            None,
            parse_placement_file(['column = "tp:0"  # rows', "'row' = \"tp:1\""]).placements,
        )
        for name, parameter in module.named_parameters():
            found, source = rules.of(name, parameter.shape, 0)
            assert [torchs(s) for s in found.to_strings()] == list(parameter.placements)
            assert found.box(rank, parameter.shape)[1] == tuple(parameter.to_local().shape)
            assert source == "file"
    finally:
        dist.destroy_process_group()


def test_who_decides() -> None:
    """The file before the checkpoint before the rule."""
    checkpoint = opened("hsdp_tp_2x2x2")
    written = infer(checkpoint)
    told = {t.fqn: written.placements(t.index).placements for t in checkpoint.tensors}
    mesh = Mesh.parse("dp_shard:2,cp:2,tp:2")
    first = next(t.fqn for t in checkpoint.tensors if len(t.shape) == 2)
    rules = TargetPlacements(mesh, written, [PlacementLine(glob.escape(first), is_whole=True)])
    for tensor in checkpoint.tensors:
        found, source = rules.of(tensor.fqn, tensor.shape, tensor.index)
        assert (found.mesh.axes, found.mesh.sizes) == (("dp_shard_cp", "tp"), (4, 2))
        own = told[tensor.fqn]
        if tensor.fqn == first:
            assert (found.to_strings(), source) == (("Replicate()",) * 2, "file")
        elif own is not None and "Shard" in own[2]:
            assert source == "checkpoint"
            assert found.dims[1] == torchs(own[2]).dim
        elif tensor.shape:
            assert (found.dims, source) == ((0, None), "rule")


def test_experts_lie_on_their_own_mesh() -> None:
    rules = TargetPlacements(Mesh.parse("dp_shard:8+dp_shard_mod_ep:2,ep:4"))
    dense, _ = rules.of("layers.0.wq.weight", (64, 8), 0)
    experts, _ = rules.of("layers.0.moe.experts.w1", (8, 16, 4), 1)
    shared, _ = rules.of("layers.0.moe.shared_experts.w1", (16, 4), 2)
    assert (dense.to_strings(), dense.mesh.sizes) == (("Shard(0)",), (8,))
    assert experts.to_strings() == ("_StridedShard(0, sf=4)", "Shard(0)")
    assert shared == dense


@pytest.mark.parametrize(
    "text",
    ['a = "tp"', 'a.b = "tp:0"', 'a = 0', 'a = "tp:0,tp:1"', '[other]', 'a = "tp:0" b', "a",
     'a = "tp:0"\na = "tp:1"', 'a = "tp:\\x"'],
)  # fmt: skip
def test_what_is_no_placement(text: str) -> None:
    with pytest.raises(UsageError, match="--placements"):
        parse_placement_file(text.splitlines())


def test_what_no_load_can_be_planned_under() -> None:
    for mesh in ("pp:2,dp_shard:2", "dp_shard:2,tp:2,cp:2"):
        with pytest.raises(UsageError, match=mesh):
            TargetPlacements(Mesh.parse(mesh))
    for line in (PlacementLine("*", (("rows", 0),)),):
        with pytest.raises(UsageError, match="rows"):
            TargetPlacements(Mesh.parse("dp_shard:2,tp:2"), None, [line])
    rules = TargetPlacements(Mesh.parse("tp:2"), None, [PlacementLine("w", (("tp", 2),))])
    with pytest.raises(UsageError, match="dim 2 of w"):
        rules.of("w", (4, 4), 0)
    assert rules.unmatched(["v"]) == ("w",)
