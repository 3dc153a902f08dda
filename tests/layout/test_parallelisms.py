"""What is said of checkpoints of many parallelisms, against what every rank held.

One torchrun job writes them all. The boxes of each rank are worked out by torch, from the
placements it held and from those that are told.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic as make
from torch.distributed.tensor import Replicate, Shard

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Checkpoint
from inspector.layout.target.stages import StageRequest, stage_keys
from inspector.layout.writer.written_by import WrittenBy, infer
from inspector.report.writer import written_by_json
from tests.conftest import run_torchrun

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]

#: Case: mesh, certain, what it looks like, mesh of each stage.
SAID: dict[str, tuple[str | None, bool, str | None, list[str | None]]] = {
    "fsdp8": ("fsdp:8", True, "dp_shard:8", []),
    "hsdp2x4": ("hsdp:2x4", True, "dp_replicate:2,dp_shard:4", []),
    "hsdp2x4_uneven": ("hsdp:2x4", True, "dp_replicate:2,dp_shard:4", []),
    "fsdp8_columns": ("fsdp:8", False, None, []),
    "tp8": ("tp:8", False, "tp:8", []),
    "ddp4_tp2": ("ddp_tp:4x2", False, "dp_replicate:4,tp:2", []),
    "fsdp4_tp2": ("fsdp_tp:4x2", False, "dp_shard:4,tp:2", []),
    "fsdp4_tp2_uneven": ("fsdp_tp:4x2", False, "dp_shard:4,tp:2", []),
    "hsdp2x2_tp2": ("hsdp_tp:2x2x2", False, "dp_replicate:2,dp_shard:2,tp:2", []),
    "pp2_fsdp4": (None, False, None, ["fsdp:4"] * 2),
    "pp2_hsdp2x2": (None, False, None, ["hsdp:2x2"] * 2),
    "pp2_fsdp2_tp2": (None, False, None, ["fsdp_tp:2x2"] * 2),
    "pp2_ddp4": (None, False, None, [None] * 2),
    "pp8": (None, False, None, [None] * 8),
    "ep4_fsdp8": ("fsdp_ep:2x4", False, "dp_shard:2,ep:4", []),
    "ep4_fsdp8_columns": ("fsdp_ep:2x4", False, "dp_shard:2,ep:4", []),
    "ep2_hsdp2x4": ("hsdp_ep:2x2x2", False, "dp_replicate:2,dp_shard:2,ep:2", []),
    "tp8_rows": ("fsdp:8", False, None, []),
    "submeshes": (None, False, None, []),
    "replicated": (None, False, None, []),
    # Of ranks that wrote each their own, no mesh explains what some did not write.
    "pp2_fsdp4_each": (None, False, None, []),
    "pp2_ddp4_each": (None, False, None, []),
    "hsdp2x2_tp2_each": ("hsdp_tp:2x2x2", False, "dp_replicate:2,dp_shard:2,tp:2", []),
    "pp2_fsdp2_tp2_lowest": (None, False, None, ["fsdp_tp:2x2"] * 2),
    "hsdp2x4_cached": ("hsdp:2x4", True, "dp_replicate:2,dp_shard:4", []),
}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parallelisms")
    script = Path(__file__).with_name("parallelisms.py")
    done = run_torchrun(8, script, out)
    assert (out / list(SAID)[-1] / "side.json").exists(), done.err[-2_000:]
    return out


@pytest.mark.parametrize("case", SAID)
def test_what_is_said_is_true(case: str, written: Path) -> None:
    checkpoint = open_checkpoint(str(written / case / "ckpt"))
    truth = json.loads((written / case / "side.json").read_text())
    found = infer(checkpoint)
    mesh, certain, named, stages = SAID[case]
    said = written_by_json(found)
    assert (said["mesh"], said["certain"], said["named_axes"]) == (mesh, certain, named)
    assert [stage["mesh"] for stage in said["stages"]] == stages
    assert not any(axis["certain"] for axis in said["axes"])
    if mesh is not None:
        assert found.num_placed == found.num_items
        assert found.proven
        assert_boxes(checkpoint, found, truth)
    if stages:
        assert found.num_placed == found.num_items
        assert_stages(found, truth)
        assert_keys(checkpoint, found, truth)


def assert_boxes(checkpoint: Checkpoint, found: WrittenBy, truth: dict[str, Any]) -> None:
    """Every rank holds the box that the placements told give it."""
    assert found.mesh is not None
    sizes = found.mesh.sizes
    assert math.prod(sizes) == 8
    for tensor in checkpoint.tensors:
        held = truth[tensor.fqn]
        told = found.placements(tensor.index).placements
        if held["kind"] != "DTensor":
            assert told is None or set(told) == {"Replicate()"}, tensor.fqn
            continue
        if told is None:
            assert "flattened mesh" in found.placements(tensor.index).evidence[0]
            continue
        mesh = np.asarray(held["mesh"])
        for rank in held["held_by"] if mesh.size == 8 else mesh.ravel().tolist():
            where = [int(n[0]) for n in np.nonzero(mesh == rank)]
            true = box(tensor.shape, mesh.shape, where, held["placements"])
            here = [int(n) for n in np.unravel_index(rank, sizes)]
            assert box(tensor.shape, sizes, here, told) == true, (tensor.fqn, rank)


def box(shape: Any, sizes: Any, where: list[int], placements: Any) -> tuple[Any, Any]:
    parsed = [parse(text) for text in placements]
    item = make.tensor_item("t", shape, sizes, where, parsed)
    assert item.tensor_data is not None
    chunk = item.tensor_data.chunk
    return tuple(chunk.offsets), tuple(chunk.sizes)


def parse(text: str) -> Any:
    """torch writes `Shard(dim=0)` and, by version, `S(0)`; told is `Shard(0)`."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if text.startswith("_S"):
        return make.strided(numbers[0], numbers[1])
    return Shard(numbers[0]) if text.startswith("S") else Replicate()


def assert_stages(found: WrittenBy, truth: dict[str, Any]) -> None:
    """The groups are those of the ranks that held the same tensors."""
    assert found.partition is not None
    groups = {tuple(v["held_by"]) for v in truth.values() if len(v["held_by"]) < 8}
    assert {stage.ranks for stage in found.partition.stages} == groups
    counts = {g: sum(tuple(v["held_by"]) == g for v in truth.values()) for g in groups}
    assert {s.ranks: s.num_tensors for s in found.partition.stages} == counts


def assert_keys(checkpoint: Checkpoint, found: WrittenBy, truth: dict[str, Any]) -> None:
    """What `--stage` takes lacks nothing that the stage held, and has no cut tensor too many."""
    assert found.partition is not None
    stages = found.partition.stages
    request = StageRequest(None, len(stages))
    for stage, keys in zip(stages, stage_keys(checkpoint, request, (), found), strict=True):
        taken = {checkpoint.columns.fqns[i] for i in keys.tensors}
        held = {fqn for fqn, v in truth.items() if set(v["held_by"]) & set(stage.ranks)}
        assert held <= taken
        assert {fqn for fqn in taken - held if len(_chunks(checkpoint, fqn)) > 1} == set()


def _chunks(checkpoint: Checkpoint, fqn: str) -> Any:
    return checkpoint.columns.tensor(checkpoint.columns.fqns.index(fqn)).offsets
