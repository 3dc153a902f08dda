"""The mesh is inferred: golden checkpoints of ten torch versions, samples, synthetic plans."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic as make
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import S0, S1, R, strided

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import BytesEntry, Checkpoint, DataFile, TensorColumns
from inspector.layout.writer.written_by import WrittenBy, infer
from inspector.report.writer import written_by_json

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SAMPLES = Path(__file__).parents[2] / "sample_ckpts"

CASES = sorted(p.relative_to(GOLDEN).as_posix() for p in GOLDEN.glob("*/*"))
GOLDEN_MESH = {
    "fsdp4": "fsdp:4",
    "fsdp4_opt": "fsdp:4",
    "hsdp2x2": "hsdp:2x2",
    "tp2d": "fsdp_tp:2x2",
    "ddp4": None,
    "st_flat": "fsdp:4",
    "st_nested": "fsdp:4",
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    checkpoint = open_checkpoint(str(GOLDEN / case))
    found = infer(checkpoint)
    if case == "1.13.1/st_nested":
        # torch 1.13 did not flatten: one rank pickled it all.
        assert (found.mesh, found.world_size, found.certain) == (None, 1, False)
        return
    mesh = GOLDEN_MESH[case.split("/")[1]]
    assert (str(found.mesh) if found.mesh else None) == mesh
    assert found.world_size == 4
    assert found.proven is (mesh is not None)
    # Two axes that shard: nothing in the file says which is FSDP's and which tensor parallel.
    assert found.certain is (mesh is not None and mesh != "fsdp_tp:2x2")
    assert found.num_placed == found.num_items
    assert not found.deviating
    assert all(line.isascii() for line in found.evidence)
    for tensor in checkpoint.tensors:
        placements = found.placements(tensor.index).placements
        name = tensor.fqn.split(".")[-1]
        cut = tensor.num_chunks > 1
        if case.endswith("tp2d"):
            assert placements == (("Shard(0)", "Shard(1)") if cut else ("Replicate()",) * 2)
        elif case.endswith("hsdp2x2"):
            assert placements == ("Replicate()", "Shard(0)" if cut else "Replicate()")
        elif case.endswith("ddp4") or name in ("plain", "scalar", "step", "0", "1"):
            assert placements == ("Replicate()",)
        else:
            assert placements == ("Shard(0)",)


def _truths() -> list[Any]:
    file = SAMPLES / "expected.json"
    if not file.exists():
        return []
    return [pytest.param(t, id=k) for k, t in json.loads(file.read_text()).items()]


@pytest.mark.parametrize("truth", _truths())
def test_sample(truth: dict[str, Any]) -> None:
    path = SAMPLES / truth["path"]
    if not ((path / ".metadata").exists() or (path / "__0.metadata").exists()):
        pytest.skip("the save was never finished")
    checkpoint = open_checkpoint(str(path))
    found = infer(checkpoint)
    known = {"fsdp2_tp_2x2": "fsdp_tp:2x2", "hsdp_tp_2x2x2": "hsdp_tp:2x2x2"}
    mesh = known.get(truth["sample"], truth["looks_like"])
    plain = truth["looks_like"] and truth["looks_like"].partition(":")[0] in ("fsdp", "hsdp")
    assert (str(found.mesh) if found.mesh else None) == mesh
    # Megatron-Core's planner is not DCP's: its replicas are not proven by a replay.
    by_megatron = truth["sample"] in ("megatron_2", "nemo_2")
    # All pieces lie with ranks 0 and 1: two ranks that held them alone write the same files.
    unseen = truth["sample"] == "lowest_rank_2x2"
    assert found.proven is (mesh is not None and not by_megatron and not unseen)
    assert found.certain is (found.proven and bool(plain) and truth["sample"] not in known)
    if found.partition is not None:
        return  # Each group has a mesh of its own; its boxes are looked at below.
    for tensor in checkpoint.tensors:
        expected = truth["placements"].get(tensor.fqn)
        if expected is None or truth["looks_like"] != truth["mesh"] or 0 in tensor.shape:
            continue
        got = found.placements(tensor.index).placements
        assert got is not None
        want = [text.replace("dim=", "") for text in expected]
        if len(want) < len(got):
            # A tensor on some axes of the mesh alone: the others hold copies.
            assert [p for p in got if p != "Replicate()"] == [p for p in want if p != "Replicate()"]
        else:
            assert list(got) == want, tensor.fqn


@pytest.mark.parametrize("truth", [t for t in _truths() if "boxes" in t.values[0]])
def test_every_rank_holds_the_box_that_it_is_said_to(truth: dict[str, Any]) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / truth["path"]))
    found = infer(checkpoint)
    assert found.num_placed == found.num_items
    assert found.world_size == truth["world_size"]
    assert {t.fqn for t in checkpoint.tensors} == set(truth["boxes"])
    for tensor in checkpoint.tensors:
        holders = found.holders(tensor.index)
        if holders is None:
            # Of a tensor in one piece nothing tells who else had it.
            assert tensor.num_chunks == 1
            continue
        said: list[str | None] = [None] * truth["world_size"]
        boxes = zip(tensor.offsets.tolist(), tensor.sizes.tolist(), strict=True)
        for (offsets, sizes), ranks in zip(boxes, holders, strict=True):
            ends = zip(offsets, sizes, strict=True)
            box = ",".join(f"{low}:{low + size}" for low, size in ends)
            for rank in ranks:
                assert said[rank] is None
                said[rank] = box
        assert said == truth["boxes"][tensor.fqn], tensor.fqn


# Name, mesh, sizes, placements of a tensor by its kind.
_FLAT = {"fsdp": (S0,), "hsdp": (R, S0), "hsdp_reversed": (S0, R)}


def _tp(kind: str) -> Any:
    return {
        "col": (strided(0, 2), S0),
        "row": (S0, S1),
        "norm": (S0, R),
        "emb": (S0, S1),
    }[kind]


def _hsdp_tp(kind: str) -> Any:
    return (R, *_tp(kind))


SYNTHETIC: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {}
_MESHES = (
    "fsdp:3 fsdp:8 fsdp:16 hsdp:2x2 hsdp:2x4 hsdp:4x2 hsdp:2x8 hsdp:4x4 hsdp:8x2 hsdp:2x16 "
    "hsdp:3x5 hsdp_reversed:4x2 hsdp_reversed:2x4 hsdp_reversed:2x2 hsdp_reversed:8x4"
)
for _mesh in _MESHES.split(" "):
    _family, _sizes = _mesh.split(":")
    _shape = tuple(map(int, _sizes.split("x")))
    _pl = _FLAT[_family]
    _params = make.transformer(lambda kind, pl=_pl: pl)
    SYNTHETIC[f"{_mesh} model"] = (_mesh, dict(_params), _shape)
    SYNTHETIC[f"{_mesh} adamw"] = (_mesh, make.adamw(_params, len(_shape)), _shape)
    SYNTHETIC[f"{_mesh} uneven"] = (_mesh, make.adamw(make.uneven(_pl), len(_shape)), _shape)
for _mesh, _shape, _kind in (
    ("fsdp_tp:4x2", (4, 2), _tp),
    ("fsdp_tp:2x2", (2, 2), _tp),
    ("fsdp_tp:8x2", (8, 2), _tp),
    ("hsdp_tp:2x2x2", (2, 2, 2), _hsdp_tp),
    ("hsdp_tp:2x4x2", (2, 4, 2), _hsdp_tp),
    ("hsdp_tp:4x2x2", (4, 2, 2), _hsdp_tp),
):
    _params = make.transformer(_kind)
    SYNTHETIC[f"{_mesh} model"] = (_mesh, dict(_params), _shape)
    SYNTHETIC[f"{_mesh} adamw"] = (_mesh, make.adamw(_params, len(_shape)), _shape)


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("lowest", [False, True], ids=["balanced", "lowest"])
def test_synthetic(name: str, lowest: bool) -> None:
    mesh, state, sizes = SYNTHETIC[name]
    checkpoint = make.save(state, sizes, lowest=lowest)
    found = infer(checkpoint)
    assert found.num_placed == found.num_items
    assert str(found.mesh) == mesh, found.evidence
    assert found.proven, found.evidence
    # With the shard axis first it may be context parallelism that holds the copies.
    assert found.certain is not ("tp" in mesh or "reversed" in mesh)
    assert all(not axis_is_certain for axis_is_certain in _axes_certain(found))
    for tensor in checkpoint.tensors:
        expected = make.as_text(state[tensor.fqn][1])
        assert found.placements(tensor.index).placements == expected, tensor.fqn


def _axes_certain(found: WrittenBy) -> list[bool]:
    return [axis["certain"] for axis in written_by_json(found)["axes"]]


@pytest.mark.parametrize("mesh", ["fsdp:4", "hsdp:2x4", "hsdp_reversed:4x2"])
def test_metadata_of_every_rank(mesh: str) -> None:
    family, sizes = mesh.split(":")
    shape = tuple(map(int, sizes.split("x")))
    state = make.adamw(make.uneven(_FLAT[family]), len(shape))
    found = infer(make.save(state, shape, dedup=False))
    assert (str(found.mesh), found.certain) == (mesh, family != "hsdp_reversed")
    assert "own metadata" in found.evidence[0]


def test_torch_2_3_keeps_bytes_entries_on_rank_0() -> None:
    state = make.adamw(make.uneven((R, S0)), 2)
    # Read first, so that they weigh on rank 0's load while all else is placed.
    state = {k: v for k, v in state.items() if v is None} | state
    found = infer(make.save(state, (4, 2), bytes_on_0=True))
    assert (str(found.mesh), found.certain) == ("hsdp:4x2", True)


def test_sharded_tensor_records_no_empty_chunk() -> None:
    state = make.adamw(make.uneven((S0,)), 1)
    found = infer(make.save(state, (8,), empties=False))
    assert (str(found.mesh), found.certain, found.writer) == ("fsdp:8", True, "ShardedTensor")
    assert infer(make.save(state, (8,))).writer == "DTensor"


def test_flat_parameters_are_named() -> None:
    state = {f"layers.{i}._flat_param": ((96 + 8 * i,), (S0,)) for i in range(4)}
    found = infer(make.save(state, (8,)))
    assert (str(found.mesh), found.writer) == ("fsdp:8", "FSDP1 flat parameters")
    assert any("flat parameters" in line for line in found.evidence)


def test_replicated_is_not_named() -> None:
    found = infer(make.save({"a": ((4, 4), (R,)), "b": None}, (8,)))
    assert (found.mesh, found.world_size, found.certain, found.writer) == (None, 8, False, "plain")
    assert found.placements(0).placements == ("Replicate()",)


def test_too_few_items_to_tell() -> None:
    found = infer(make.save({"a": ((8, 8), (R, S0))}, (2, 2), lowest=True))
    assert found.num_placed == found.num_items == 2
    single = infer(make.save({"a": ((1, 1), (S0,))}, (2,), empties=False))
    assert (single.mesh, single.certain) == (None, False)


def _with_files(checkpoint: Checkpoint, file: Any) -> Checkpoint:
    columns = dataclasses.replace(checkpoint.columns, file=np.asarray(file, np.int32))
    return dataclasses.replace(checkpoint, columns=columns)


def test_chunks_in_a_wrong_file_are_named() -> None:
    _, state, sizes = SYNTHETIC["hsdp:2x4 adamw"]
    checkpoint = make.save(state, sizes)
    file = checkpoint.columns.file.copy()
    moved = np.flatnonzero(file == 3)[:2]
    file[moved] = 5
    found = infer(_with_files(checkpoint, file))
    assert (str(found.mesh), found.certain) == ("hsdp:2x4", False)
    assert found.num_items - found.num_placed == 2
    assert {(d.predicted, d.actual) for d in found.deviating} == {(3, 5)}
    names = {checkpoint.columns.fqns[t] for t in range(checkpoint.num_tensors)}
    assert {d.fqn for d in found.deviating} <= names


def _drop_chunk(checkpoint: Checkpoint, index: int) -> Checkpoint:
    """Without the last chunk of a tensor."""
    c = checkpoint.columns
    chunk, ndim = int(c.chunk_start[index + 1]) - 1, len(c.shape(index))
    box = int(c.box_start[index]) + (chunk - int(c.chunk_start[index])) * ndim
    cells = slice(box, box + ndim)
    after = np.arange(c.num_tensors + 1) > index
    columns = dataclasses.replace(
        c,
        chunk_start=c.chunk_start - after,
        box_start=c.box_start - ndim * after[:-1],
        offsets=np.delete(c.offsets, cells),
        sizes=np.delete(c.sizes, cells),
        file=np.delete(c.file, chunk),
        byte_offset=np.delete(c.byte_offset, chunk),
        byte_length=np.delete(c.byte_length, chunk),
    )
    return dataclasses.replace(checkpoint, columns=columns)


@pytest.mark.parametrize("name", ["fsdp:8 adamw", "hsdp:2x4 adamw", "hsdp:2x4 uneven"])
def test_a_damaged_tensor_does_not_hide_the_mesh(name: str) -> None:
    mesh, state, sizes = SYNTHETIC[name]
    checkpoint = make.save(state, sizes)
    index = next(t.index for t in checkpoint.tensors if t.shape and t.shape[0] > 8)
    found = infer(_drop_chunk(checkpoint, index))
    assert (str(found.mesh), found.certain) == (mesh, True)
    damaged = found.placements(index)
    assert damaged.placements is None
    assert "a gap" in damaged.evidence[0]
    assert any("Not counted: 1 tensor" in line for line in found.evidence)


def test_an_overlap_and_a_box_out_of_bounds() -> None:
    state = {f"w{i}": ((16, 4), (R, S0)) for i in range(6)}
    checkpoint = make.save(state, (2, 4))
    columns = checkpoint.columns
    offsets, sizes = columns.offsets.copy(), columns.sizes.copy()
    sizes[int(columns.box_start[1])] += 1
    sizes[int(columns.box_start[2]) + 1] += 1
    damaged = dataclasses.replace(columns, offsets=offsets, sizes=sizes)
    found = infer(dataclasses.replace(checkpoint, columns=damaged))
    assert (str(found.mesh), found.certain) == ("hsdp:2x4", True)
    reasons = [found.placements(i).evidence[0] for i in (1, 2)]
    assert all("overlap" in r or "outside" in r for r in reasons)
    assert found.placements(0).placements == ("Replicate()", "Shard(0)")


def test_files_without_ranks() -> None:
    checkpoint = make.save({"w": ((16, 4), (S0,)), "g": ((4, 6), (S1,))}, (4,))
    files = tuple(DataFile(f"shard-{i}.safetensors", None, 1, 1, 1) for i in range(4))
    found = infer(dataclasses.replace(checkpoint, files=files))
    assert (found.mesh, found.world_size, found.certain) == (None, None, False)
    assert found.placements(0).placements == ("Shard(0)",)
    assert "cut at 4, 8, 12" in found.placements(0).evidence[0]


def test_an_absurd_rank_costs_nothing() -> None:
    checkpoint = make.save({"w": ((16, 4), (S0,))}, (4,))
    files = (*checkpoint.files[:3], DataFile("__999999999_0.distcp", 999_999_999, 9, 9, 1))
    found = infer(dataclasses.replace(checkpoint, files=files))
    assert (found.mesh, found.world_size) == (None, 1_000_000_000)
    assert found.placements(0).placements == ("Shard(0)",)


def test_unknown_files_are_left_out() -> None:
    _, state, sizes = SYNTHETIC["hsdp:2x4 adamw"]
    checkpoint = make.save(state, sizes)
    file = checkpoint.columns.file.copy()
    file[::7] = -1
    found = infer(_with_files(checkpoint, file))
    assert (str(found.mesh), found.certain) == ("hsdp:2x4", True)
    assert found.num_items == len(file) - len(file[::7]) + len(checkpoint.bytes_entries)


def test_an_empty_checkpoint() -> None:
    found = infer(make.save({"a": None}, (4,)))
    assert (found.mesh, found.certain) == (None, False)
    found = infer(make.save({}, (4,)))
    assert (found.mesh, found.certain) == (None, False)


@pytest.mark.parametrize("max_items", [50, 200])
@pytest.mark.parametrize("name", ["hsdp:2x8 adamw", "hsdp_tp:2x4x2 adamw", "hsdp:2x16 uneven"])
def test_sampled(name: str, max_items: int) -> None:
    mesh, state, sizes = SYNTHETIC[name]
    found = infer(make.save(state, sizes), max_items=max_items)
    assert str(found.mesh) == mesh
    assert found.sampled
    assert found.num_placed == found.num_items <= max_items + 300
    assert any(line.startswith("Sampled") for line in found.evidence)


@pytest.mark.slow
def test_many_shapes_are_sampled() -> None:
    state = {f"w{i}": ((8 + 4 * i, 2), (R, S0)) for i in range(2_200)}
    found = infer(make.save(state, (2, 4)))
    assert (str(found.mesh), found.sampled) == ("hsdp:2x4", True)
    # The walk did not reach it.
    assert found.placements(2_199).placements == ("Replicate()", "Shard(0)")


def test_evidence_is_ascii_and_names_the_next_best() -> None:
    _, state, sizes = SYNTHETIC["hsdp:2x4 adamw"]
    found: WrittenBy = infer(make.save(state, sizes))
    assert all(line.isascii() for line in found.evidence)
    assert found.evidence[0].startswith("HSDP 2x4 [Replicate(), Shard(0)]: replaying DCP's writer")
    assert f"{found.num_items} of {found.num_items}" in found.evidence[0]
    assert "next best" in found.evidence[0]


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_whatever_the_chunks_are_it_answers(data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, 12))
    small = st.integers(0, 9)
    state: dict[str, Any] = {}
    boxes = {}
    for number in range(data.draw(st.integers(0, 5))):
        shape = tuple(data.draw(st.lists(small, max_size=3)))
        box = st.tuples(*[st.lists(small, min_size=len(shape), max_size=len(shape))] * 2)
        rank = st.integers(0, world_size - 1)
        rows = data.draw(st.lists(st.tuples(box, rank), max_size=6))
        state[f"w{number}"] = (shape, ())
        boxes[f"w{number}"] = [(offsets, sizes, rank) for (offsets, sizes), rank in rows]
    per_rank = data.draw(st.booleans())
    checkpoint = make.from_boxes(state, boxes, {}, world_size, per_rank=per_rank)
    found = infer(checkpoint)
    assert found.evidence
    assert found.num_placed <= found.num_items
    for index in range(checkpoint.num_tensors):
        placement = found.placements(index)
        assert placement.evidence
        assert placement.placements is None or len(placement.placements) == (
            len(found.mesh.sizes) if found.mesh else 1
        )


def cut_into_rows(num_tensors: int, world: int) -> Checkpoint:
    """Tensors of as many rows as there are ranks, whose chunks each rank wrote."""
    count = num_tensors * world
    rank = np.tile(np.arange(world), num_tensors)
    columns = TensorColumns(
        fqns=[f"layers.{i}.weight" for i in range(num_tensors)],
        properties=[("float32", "strided", False, "contiguous")],
        property_id=np.zeros(num_tensors, np.int32),
        shapes=np.tile([world, 7], num_tensors),
        dim_start=2 * np.arange(num_tensors + 1),
        chunk_start=world * np.arange(num_tensors + 1),
        box_start=2 * world * np.arange(num_tensors + 1),
        offsets=np.stack([rank, np.zeros(count, np.int64)], 1).ravel(),
        sizes=np.tile([1, 7], count),
        file=rank.astype(np.int32),
        byte_offset=np.zeros(count, np.int64),
        byte_length=np.full(count, 28),
    )
    files = tuple(DataFile(f"__{r}_0.distcp", r, 28, 28, num_tensors) for r in range(world))
    order = np.arange(num_tensors, dtype=np.int32)
    return Checkpoint("made", "dcp", columns, (), files, order)


def test_a_million_chunks_that_lie_right_take_no_memory() -> None:
    checkpoint = cut_into_rows(1000, 1024)
    tracemalloc.start()
    found = infer(checkpoint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (str(found.mesh), found.proven) == ("fsdp:1024", True)
    assert found.num_items == found.num_placed == 1024 * 1000
    assert peak < 16 << 20


@pytest.mark.parametrize("with_bytes", [False, True])
def test_one_chunk_of_many_that_lies_elsewhere_is_named(with_bytes: bool) -> None:
    checkpoint = cut_into_rows(20, 64)
    file = checkpoint.columns.file.copy()
    file[13 * 64 + 40] = 41
    checkpoint = dataclasses.replace(
        checkpoint, columns=dataclasses.replace(checkpoint.columns, file=file)
    )
    if with_bytes:
        checkpoint = dataclasses.replace(
            checkpoint,
            bytes_entries=(BytesEntry("lr", 0, 28, 4),),
            order=np.arange(21, dtype=np.int32),
        )
    found = infer(checkpoint)
    num_items = 20 * 64 + with_bytes
    assert (str(found.mesh), found.proven) == ("fsdp:64", False)
    assert (found.num_items, found.num_placed) == (num_items, num_items - 1)
    (odd,) = found.deviating
    assert (odd.fqn, odd.offsets) == ("layers.13.weight", (40, 0))
    assert (odd.predicted, odd.actual, odd.possible) == (40, 41, False)
