"""Load plans of what is odd, damaged or absurd, and of other layouts than DCP's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.opening import open_storage
from inspector.errors import InspectError, UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import Planner, load_plan
from tests.conftest import SAMPLES
from tests.layout import synthetic


def opened(name: str) -> Checkpoint:
    return read_dcp(open_storage(str(SAMPLES / name)))


@pytest.mark.parametrize("mesh", ["fsdp:1", "fsdp:3", "hsdp:2x4"])
def test_of_safetensors_slices_are_read(mesh: str) -> None:
    """As much as the slices hold that `HuggingFaceStorageReader` takes."""
    for name in ("fsdp2_tp_2x2", "fsdp_uneven_4", "dtypes_4"):
        checkpoint = dataclasses.replace(opened(name), format="safetensors")
        plan = Planner(checkpoint, entries=()).plan(Mesh.parse(mesh))
        sizes = {t.fqn: t.num_bytes // max(t.num_elements, 1) for t in checkpoint.tensors}
        for rank in range(plan.world_size):
            slices = [math.prod(r.lengths) * sizes[r.fqn] for r in plan.reads(rank)]
            assert plan.ranks.bytes_read[rank] == sum(slices)
            assert plan.ranks.largest_read[rank] >= max(slices, default=0)


def test_many_ranks_counted_the_plain_way() -> None:
    """A thousand ranks read what 64 wrote."""
    state = {f"t{i}": ((4096, 8), [synthetic.S0]) for i in range(3)}
    plan = load_plan(synthetic.save(state, (64,)), Mesh.parse("fsdp:1000"))
    for rank in range(1000):
        assert plan.ranks.num_reads[rank] == sum(1 for _ in plan.reads(rank))


# -- what is odd, damaged or absurd ------------------------------------------------------------


def synthetic_of(shape: tuple[int, ...], boxes: list[Any], dtype: str = "float32") -> Checkpoint:
    checkpoint = synthetic.from_boxes({"w": (shape, None)}, {"w": boxes}, {}, 1)
    properties = [(dtype, "strided", False, "contiguous")]
    return dataclasses.replace(
        checkpoint, columns=dataclasses.replace(checkpoint.columns, properties=properties)
    )


@pytest.mark.parametrize(
    ("shape", "boxes", "num_reads"),
    [
        ((0,), [((0,), (0,), 0)], 0),
        ((4, 0), [((0, 0), (4, 0), 0)], 0),
        ((0, 1 << 61, 1 << 61), [((0, 0, 0), (0, 1 << 61, 1 << 61), 0)], 0),
        ((), [((), (), 0)], 4),
        ((7,), [], 0),
        ((8,), [((6,), (1 << 62,), 0)], 1),
        ((8,), [((1 << 62,), (1 << 62,), 0)], 0),
        ((2, 2), [((0, 0), (2, 2), 0), ((0, 0), (2, 2), 0)], 4),
    ],
)
def test_odd_tensors(shape: tuple[int, ...], boxes: list[Any], num_reads: int) -> None:
    plan = load_plan(synthetic_of(shape, boxes), Mesh.parse("fsdp:4"))
    assert sum(1 for rank in range(4) for _ in plan.reads(rank)) == num_reads
    assert plan.ranks.num_reads.sum() == num_reads
    assert plan.not_planned == ()
    assert plan.bytes_needed >= 0


def test_what_is_absurdly_large_is_named() -> None:
    plan = load_plan(synthetic_of((1 << 40, 1 << 20), []), Mesh.parse("fsdp:4"))
    assert [item.fqn for item in plan.not_planned] == ["w"]
    assert "pebibyte" in plan.not_planned[0].why
    assert plan.bytes_needed == plan.bytes_read == 0


def test_an_unknown_dtype_is_planned() -> None:
    plan = load_plan(synthetic_of((4,), [((0,), (4,), 0)], "float3_of_2031"), Mesh.parse("fsdp:8"))
    assert plan.ranks.num_reads.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert plan.ranks.num_empty_tensors.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_too_much_altogether() -> None:

    state = {f"t{i}": ((1 << 47,), None) for i in range(10_000)}
    checkpoint = synthetic.from_boxes(state, {fqn: [] for fqn in state}, {}, 1)
    with pytest.raises(InspectError, match="exbibytes"):
        Planner(checkpoint)


@pytest.mark.parametrize("text", ["fsdp_tp:2x2", "ddp:4", "hsdp_reversed:2x2", "hsdp_tp:2x2x2"])
def test_every_family_has_a_plan(text: str) -> None:
    """Where a tensor axis cuts nothing and replicas hold copies, each group needs the whole."""
    mesh = Mesh.parse(text)
    plan, whole = (
        load_plan(opened("fsdp_4"), mesh),
        load_plan(opened("fsdp_4"), Mesh.parse("fsdp:1")),
    )
    copies = {"fsdp_tp:2x2": 2, "ddp:4": 4, "hsdp_reversed:2x2": 2, "hsdp_tp:2x2x2": 4}[text]
    assert plan.ranks.bytes_needed.sum() == copies * whole.ranks.bytes_needed.sum()


def test_a_family_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a mesh"):
        Mesh.parse("bogus:2")


def test_no_such_rank() -> None:
    plan = load_plan(opened("fsdp_4"), Mesh.parse("hsdp:2x2"))
    for rank in (-1, 4):
        with pytest.raises(ValueError, match="rank"):
            plan.reads(rank)


def test_the_largest_mesh() -> None:
    plan = load_plan(opened("fsdp2_adamw_4"), Mesh.parse("hsdp:64x1024"))
    assert len(plan.ranks.bytes_read) == 65_536
    assert np.array_equal(plan.ranks.bytes_read[:1024], plan.ranks.bytes_read[-1024:])
