"""What goes wrong in a planned load, and on which ranks, beside what torch leaves unwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.checks.findings import Finding
from inspector.checks.plan.problems import plan_problems, say_ranks
from inspector.errors import InspectError
from inspector.layout.geometry import nested_chunk_bounds
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import LoadPlan, load_plan
from inspector.layout.target.file import PlacementLine
from inspector.layout.target.rules import TargetPlacements
from inspector.layout.writer.written_by import infer
from tests.checks import editing
from tests.conftest import SAMPLES, folders_with_metadata

MESHES = ("fsdp:1", "fsdp:2", "fsdp:3", "fsdp:5", "hsdp:2x2", "hsdp:3x7")


def opened(folder: Path) -> Checkpoint:
    return read_dcp(open_storage(str(folder)))


def planned(folder: Path, mesh: str) -> LoadPlan:
    return load_plan(opened(folder), Mesh.parse(mesh))


def problems(folder: Path, mesh: str) -> list[Finding]:
    return plan_problems(planned(folder, mesh))


@pytest.mark.parametrize("folder", folders_with_metadata(SAMPLES), ids=lambda p: p.name)
def test_good_checkpoints_have_none(folder: Path) -> None:
    checkpoint = opened(folder)
    for mesh in MESHES:
        assert plan_problems(load_plan(checkpoint, Mesh.parse(mesh))) == []


def missing_by_rank(plan: LoadPlan, fqn: str) -> list[int]:
    """Elements of a tensor that each rank lacks, by painting what its reads bring."""
    tensor = next(t for t in plan.checkpoint.tensors if t.fqn == fqn)
    lacking = []
    for rank in range(plan.world_size):
        chunks = torch.arange(tensor.shape[0]).chunk(plan.mesh.num_shards)
        shard = rank % plan.mesh.num_shards
        rows = len(chunks[shard]) if shard < len(chunks) else 0
        painted = np.zeros((rows, *tensor.shape[1:]), dtype=bool)
        for read in plan.reads(rank):
            if read.fqn == fqn:
                box = zip(read.dest_offsets, read.lengths, strict=True)
                painted[tuple(slice(a, a + n) for a, n in box)] = True
        lacking.append(int((~painted).sum()))
    return lacking


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(
    "name", ["chunk_gap", "chunk_none", "chunk_overlap_and_gap", "chunk_out_of_bounds"]
)
def test_who_misses_how_much(name: str, mesh: str) -> None:
    plan = planned(SAMPLES / "broken" / name, mesh)
    gaps = [f for f in plan_problems(plan) if f.code == "chunk-gap"]
    assert gaps
    for finding in gaps:
        assert finding.fqn is not None
        lacking = missing_by_rank(plan, finding.fqn)
        assert finding.num_elements == sum(lacking) // plan.num_replicas
        ranks = np.flatnonzero(lacking)
        assert f"{say_ranks(ranks)} miss" in finding.message
        assert f"{max(lacking)} element" in finding.message


def test_bytes_missing_is_what_the_reads_do_not_bring() -> None:
    plan = planned(SAMPLES / "broken" / "chunk_gap", "fsdp:3")
    (gap,) = plan_problems(plan)
    assert gap.fqn is not None
    assert plan.bytes_missing.tolist() == [4 * n for n in missing_by_rank(plan, gap.fqn)]


def test_a_whole_scalar_is_missing(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        fqn = next(k for k, v in metadata.state_dict_metadata.items() if k.endswith(".step"))
        metadata.state_dict_metadata[fqn].chunks.clear()  # type: ignore[union-attr]

    folder = editing.edited(editing.copy_of(tmp_path), edit)
    (finding,) = problems(folder, "fsdp:3")
    assert finding.code == "chunk-gap"
    assert "ranks 0-2 miss 1 element each" in finding.message


def test_stored_nowhere(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        tensors = [i for i in metadata.storage_data if i.fqn == "model.net1.weight"]
        at = min(tensors, key=lambda index: index.offset)  # type: ignore[type-var,return-value]
        del metadata.storage_data[at]

    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "hsdp_2x2", folder)
    editing.edited(folder, edit)
    (finding,) = problems(folder, "fsdp:8")
    assert finding.code == "chunk-unstored"
    assert "1 chunk of it is stored nowhere; ranks 0-3 would read it" in finding.message
    assert finding.torch_does == "raises KeyError"


def test_bytes_stored_nowhere(tmp_path: Path) -> None:
    def edit(metadata: Metadata) -> None:
        for index in [i for i in metadata.storage_data if i.fqn.endswith((".lr", ".betas"))]:
            del metadata.storage_data[index]

    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "fsdp2_adamw_4", folder)
    editing.edited(folder, edit)
    found = problems(folder, "fsdp:2")
    assert {f.code for f in found} == {"chunk-unstored"}
    assert all("ranks 0-1 would read it" in f.message for f in found)
    assert len({f.fqn for f in found}) == len(found) >= 2


def test_a_file_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "fsdp_4", folder)
    (folder / "__3_0.distcp").unlink()
    (finding,) = problems(folder, "hsdp:2x4")
    assert (finding.code, finding.file) == ("file-missing", "__3_0.distcp")
    assert "ranks 3,7 would read" in finding.message
    assert finding.torch_does == "raises FileNotFoundError on those ranks"


def test_a_file_is_cut(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(SAMPLES / "fsdp_4", folder)
    path = folder / "__1_0.distcp"
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = problems(folder, "fsdp:4")
    assert (finding.code, finding.file) == ("file-truncated", "__1_0.distcp")
    assert "rank 1 would read 1 payload" in finding.message


def test_files_that_lead_outside_are_not_looked_at() -> None:
    assert problems(SAMPLES / "broken" / "path_parent", "fsdp:2") == []


def test_malformed_entries_are_named() -> None:
    found = problems(SAMPLES / "broken" / "entry_negative", "fsdp:2")
    assert "entry-malformed" in {f.code for f in found}
    assert all(f.torch_does for f in found)


def test_metadata_of_every_rank() -> None:
    """Sound under the mesh that saved it; under others ranks lack chunks, or metadata at all."""
    folder = SAMPLES / "per_rank_metadata_2"
    assert problems(folder, "fsdp:2") == []
    (few,) = problems(folder, "fsdp:1")
    assert few.code == "rank-metadata"
    assert "rank 0 would miss" in few.message
    more = problems(folder, "fsdp:4")
    assert [f.code for f in more] == ["rank-metadata", "rank-metadata"]
    assert "ranks 2-3 would find none" in more[0].message
    assert more[0].torch_does == "raises AssertionError: metadata is None"


def test_torch_without_own_metadata_raises_so(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with pytest.raises(BaseException, match="metadata is None"):
        dcp.load({"w": torch.zeros(1)}, checkpoint_id=tmp_path, no_dist=True)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """14 rows, which neither 4 x 3 nor 3 x 4 divides, and 24, which both do."""
    import torch.distributed.checkpoint as dcp

    state = {
        "w": torch.ones(14, 2),
        "even": torch.ones(24, 2),
        "layers.0.experts.w1": torch.ones(14, 2, 2),
        "layers.0.experts.w2": torch.ones(24, 2, 2),
    }
    folder = tmp_path_factory.mktemp("uneven")
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return opened(folder)


@pytest.mark.parametrize(
    ("mesh", "lines", "torn"),
    [
        # By --placements, for all or for one; by the mesh of the experts; by a second mesh.
        ("dp_shard:4,tp:3", {"*": "tp:0"}, {"w", "layers.0.experts.w1"}),
        ("dp_shard:4,tp:3", {"*": "tp:0", "w": "tp:1"}, {"layers.0.experts.w1"}),
        ("dp_shard:4,ep:3", {}, {"layers.0.experts.w1"}),
        ("dp_shard:12+dp_shard_mod_ep:4,ep:3", {}, {"layers.0.experts.w1"}),
        # By an axis of no known kind; one that stands before FSDP's; no cut; dims that divide.
        ("dp_shard:4,rows:3", {"w": "dp_shard:0,rows:0"}, {"w"}),
        ("tp:3,dp_shard:4", {"*": "tp:0"}, set()),
        ("dp_shard:4,tp:3", {}, set()),
        ("dp_shard:7,tp:2", {"*": "tp:0"}, set()),
    ],
)
def test_every_placement_that_is_torn_is_told(
    uneven: Checkpoint, mesh: str, lines: dict[str, str], torn: set[str]
) -> None:
    """Whoever says how a tensor lies; and none is told that torch lays as its placements say."""
    target = Mesh.parse(mesh)
    said = [PlacementLine.parse(pattern, how) for pattern, how in lines.items()]
    plan = load_plan(uneven, target, TargetPlacements(target, infer(uneven), said))
    found = [f for f in plan_problems(plan) if f.code == "strided-uneven"]
    assert {f.fqn for f in found} == torn
    beside = set()
    for place, index in enumerate(plan.planned_tensors.tolist()):
        lies, shape = plan.placement(place), uneven.columns.shape(index)
        assert lies is not None
        for dim in lies.cut_dims:
            cuts = nested_chunk_bounds(shape[dim], lies.shards(dim))
            same = all(map(np.array_equal, cuts, lies.bounds(dim, shape[dim])))
            beside |= set() if same else {uneven.columns.fqns[index]}
    assert beside == torn


def test_many_ranks_are_few_words() -> None:
    assert say_ranks(np.asarray([3])) == "rank 3"
    assert say_ranks(np.arange(8)) == "ranks 0-7"
    text = say_ranks(np.arange(0, 1024, 2))
    assert text == "ranks 0,2,4,6 and 508 more"


@pytest.mark.slow
def test_everything_broken_is_planned() -> None:
    """No sample, however broken, makes it crash; those that cannot be read say so."""
    num = 0
    for folder in sorted((SAMPLES / "broken").iterdir()):
        # The bomb takes its time until it is refused, and holds no plan.
        if not folder.is_dir() or folder.name == "metadata_bomb":
            continue
        try:
            checkpoint = opened(folder)
        except InspectError:
            continue
        for mesh in MESHES:
            plan = load_plan(checkpoint, Mesh.parse(mesh))
            plan_problems(plan)
            for rank in range(plan.world_size):
                assert sum(1 for _ in plan.reads(rank)) == plan.ranks.num_reads[rank]
        num += 1
    assert num > 20
