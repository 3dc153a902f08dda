"""The load plan beside torch's own planner, and its figures beside a plain count of its reads."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan as TorchPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import LoadPlan, Planner, Read, load_plan
from tests.conftest import SAMPLES, run_python
from tests.layout import synthetic

MESHES = ("fsdp:1", "fsdp:3", "fsdp:4", "fsdp:8", "hsdp:2x2", "hsdp:2x4", "hsdp:4x2")

#: Damaged, but torch's planner plans them.
PLANNED_ALL_THE_SAME = (
    "chunk_duplicate",
    "chunk_gap",
    "chunk_none",
    "chunk_overlap_and_gap",
    "chunk_unstored",
    "files_of_more_ranks",
    "pointers_swapped",
    "tensor_larger",
)


def samples() -> list[str]:
    """Every good sample that torch reads, and damaged ones that it plans."""
    found = {path.parent for path in SAMPLES.rglob("*.metadata")}
    good = sorted(str(p.relative_to(SAMPLES)) for p in found if "broken" not in p.parts)
    return good + [f"broken/{name}" for name in PLANNED_ALL_THE_SAME]


@cache
def opened(name: str) -> Checkpoint:
    return read_dcp(open_storage(str(SAMPLES / name)))


@pytest.fixture(scope="module")
def torch_plans(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """torch's plans of all samples, from one process."""
    out = tmp_path_factory.mktemp("plans") / "plans.pickle"
    paths = [str(SAMPLES / name) for name in samples()]
    command = ["-m", "tests.layout.torch_plans", str(out), ",".join(MESHES), *paths]
    run_python(*command, env={"OMP_NUM_THREADS": "1"}, timeout_s=300, check=True)
    found: dict[tuple[str, str], Any] = pickle.loads(out.read_bytes())
    return found


def as_torch(read: Read) -> tuple[Any, ...]:
    return (read.file, read.fqn, read.storage_offsets, read.dest_offsets, read.lengths)


def test_there_are_samples_of_every_kind() -> None:
    names = samples()
    assert len(names) > 25
    assert {"dtypes_4", "names_hostile_1", "per_rank_metadata_2", "fsdp2_tp_2x2"} <= set(names)


@pytest.mark.parametrize("name", samples())
def test_reads_are_those_of_torchs_planner(name: str, torch_plans: dict[Any, Any]) -> None:
    planner = Planner(opened(name))
    num_reads = 0
    for mesh in MESHES:
        plan = planner.plan(Mesh.parse(mesh))
        by_rank = torch_plans[str(SAMPLES / name), mesh]
        assert len(by_rank) == plan.world_size
        for rank, theirs in enumerate(by_rank):
            ours = [as_torch(read) for read in plan.reads(rank)]
            assert sorted(map(repr, ours)) == sorted(map(repr, theirs)), (mesh, rank)
            assert plan.ranks.num_reads[rank] == len(theirs)
            num_reads += len(theirs)
    assert num_reads or name.endswith("chunk_none")


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Any]]:
    """A shape, and boxes in it: in any order, with gaps and overlaps, none twice."""
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    found = {}
    for _ in range(draw(st.integers(0, 8))):
        low = tuple(draw(st.integers(0, n - 1)) for n in shape)
        size = tuple(draw(st.integers(1, n - a)) for n, a in zip(shape, low, strict=True))
        found[low] = (low, size, draw(st.integers(0, 3)))
    return shape, list(found.values())


@given(boxes(), st.integers(1, 14))
def test_any_boxes_are_read_as_torch_reads_them(
    found: tuple[tuple[int, ...], list[Any]], num_shards: int
) -> None:
    shape, chunks = found
    checkpoint = synthetic.from_boxes({"w": (shape, None)}, {"w": chunks}, {}, 4)
    plan = load_plan(checkpoint, Mesh("fsdp", (num_shards,)))
    saved = TensorStorageMetadata(
        TensorProperties(torch.float32),
        torch.Size(shape),
        [ChunkStorageMetadata(torch.Size(low), torch.Size(size)) for low, size, _ in chunks],
    )
    files = {tuple(low): f"__{rank}_0.distcp" for low, _, rank in chunks}
    for rank in range(num_shards):
        begin, end = shard_rows(plan, rank, shape[0])
        corner = torch.Size((begin, *[0] * (len(shape) - 1)))
        local = ChunkStorageMetadata(corner, torch.Size((end - begin, *shape[1:])))
        items = create_read_items_for_chunk_list("w", saved, [local])
        theirs = {
            (
                files[tuple(item.storage_index.offset)],
                "w",
                tuple(item.storage_offsets),
                tuple(item.dest_offsets),
                tuple(item.lengths),
            )
            for item in items
        }
        ours = [as_torch(read) for read in plan.reads(rank)]
        assert set(ours) == theirs
        assert len(ours) == len(items) == plan.ranks.num_reads[rank]


# -- the figures -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", samples())
def test_figures_are_the_sums_of_the_reads(name: str, torch_plans: dict[Any, Any]) -> None:
    """Counted from torch's own plans, one by one."""
    checkpoint = opened(name)
    planner = Planner(checkpoint)
    payloads = stored(checkpoint)
    for mesh in MESHES:
        plan = planner.plan(Mesh.parse(mesh))
        figures = plan.ranks
        for rank, theirs in enumerate(torch_plans[str(SAMPLES / name), mesh]):
            found = stored_boxes(plan, rank)
            assert len(found) == len(theirs)
            assert figures.bytes_read[rank] == sum(payloads[key] for key in found)
            assert figures.num_files[rank] == len({file for file, _, _ in found if file})
            assert figures.bytes_needed[rank] == needed(plan, rank)
            assert figures.peak_bytes[rank] == needed(plan, rank) + figures.largest_read[rank]
            assert figures.num_empty_tensors[rank] == len(empty(plan, rank))
        assert plan.bytes_read == int(figures.bytes_read.sum())
        assert plan.bytes_needed == int(figures.bytes_needed.sum())
        by_tensor = {e.fqn: e.num_ranks for e in plan.empty_tensors}
        counted: dict[str, int] = {}
        for rank in range(plan.world_size):
            for fqn in empty(plan, rank):
                counted[fqn] = counted.get(fqn, 0) + 1
        assert by_tensor == counted


Key = tuple[str | None, str, Any]


def stored(checkpoint: Checkpoint) -> dict[Key, int]:
    """Length of each payload, by file, name and corner (None for a bytes entry)."""
    paths = [*(file.path for file in checkpoint.files), None]
    found: dict[Key, int] = {}
    for tensor in checkpoint.tensors:
        rows = zip(
            tensor.offsets.tolist(), tensor.file.tolist(), tensor.byte_length.tolist(), strict=True
        )
        for corner, file, length in rows:
            found[paths[file], tensor.fqn, tuple(corner)] = max(length, 0)
    for entry in checkpoint.bytes_entries:
        found[paths[entry.file], entry.fqn, None] = max(entry.byte_length, 0)
    return found


def shard_rows(plan: LoadPlan, rank: int, height: int) -> tuple[int, int]:
    """First row and end of a rank's shard, by torch.chunk."""
    chunks = torch.arange(height).chunk(plan.mesh.num_shards)
    shard = rank % plan.mesh.num_shards
    if shard >= len(chunks) or not height:
        return height, height
    return int(chunks[shard][0]), int(chunks[shard][-1]) + 1


def stored_boxes(plan: LoadPlan, rank: int) -> list[Key]:
    """Which stored payload each read of a rank takes from, in the order of the reads."""
    shapes = {tensor.fqn: tensor.shape for tensor in plan.checkpoint.tensors}
    found: list[Key] = []
    for read in plan.reads(rank):
        corner = None
        if not read.is_bytes:
            shape = shapes[read.fqn]
            top = [0] * len(shape)
            if shape:
                top[0], _ = shard_rows(plan, rank, shape[0])
            moves = zip(top, read.dest_offsets, read.storage_offsets, strict=True)
            corner = tuple(a + b - c for a, b, c in moves)
        found.append((read.file, read.fqn, corner))
    return found


def needed(plan: LoadPlan, rank: int) -> int:
    total = 0
    for tensor in plan.checkpoint.tensors:
        if not tensor.shape:
            total += tensor.num_bytes
            continue
        begin, end = shard_rows(plan, rank, tensor.shape[0])
        total += tensor.num_bytes // max(tensor.shape[0], 1) * (end - begin)
    own = plan.checkpoint.per_rank_metadata
    entries = [e for e in plan.checkpoint.bytes_entries if not own or e.rank == rank]
    return total + sum(max(e.byte_length, 0) for e in entries)


def empty(plan: LoadPlan, rank: int) -> list[str]:
    names = []
    for tensor in plan.checkpoint.tensors:
        if tensor.shape and tensor.num_elements:
            begin, end = shard_rows(plan, rank, tensor.shape[0])
            if begin == end:
                names.append(tensor.fqn)
    return names


def test_the_reader_of_torch_fetches_whole_payloads(tmp_path: Path) -> None:
    """What `bytes_read` says, counted at the file: one row is asked for, all of it is read."""
    dcp.save({"w": torch.ones(2048, 1024)}, checkpoint_id=tmp_path, no_dist=True)
    reader = counting_reader(tmp_path)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, True)
    a_row = ChunkStorageMetadata(torch.Size((7, 0)), torch.Size((1, 1024)))
    items = create_read_items_for_chunk_list("w", metadata.state_dict_metadata["w"], [a_row])
    target = torch.zeros(1, 1024)

    class OneRow(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: Any) -> Any:
            return target

    reader.read_data(TorchPlan(items), OneRow()).wait()
    assert target.sum() == 1024
    plan = load_plan(read_dcp(open_storage(str(tmp_path))), Mesh.parse("fsdp:2048"))
    said = int(plan.ranks.bytes_read[7])
    assert plan.ranks.bytes_needed[7] == 4096
    assert said == next(iter(metadata.storage_data.values())).length
    # The zip's directory is read twice over, padding is not read at all.
    assert abs(reader.num_bytes - said) < 100_000 < said


def counting_reader(path: Path) -> Any:
    """A reader of torch's that counts in `num_bytes` what it takes from data files."""
    reader: Any = FileSystemReader(path)
    reader.num_bytes = 0

    class Raw(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            count = super().readinto(buffer) or 0
            reader.num_bytes += count
            return count

    create = reader.fs.create_stream

    @contextlib.contextmanager
    def counted(path: Any, mode: str) -> Iterator[Any]:
        if str(path).endswith(".distcp"):
            with io.BufferedReader(Raw(str(path))) as stream:
                yield stream
        else:
            with create(path, mode) as stream:
                yield stream

    reader.fs.create_stream = counted
    return reader
