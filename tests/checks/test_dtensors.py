"""Sharded tensors in places that DCP does not walk: one rank's piece is stored for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from tests.checks.ranks import mesh_of, save_as_ranks, sharded
from tests.conftest import run_cli

# What DTensor.from_local makes does not pickle; a sum of it does, as what fully_shard makes.
FULL = torch.arange(12.0).reshape(4, 3)


def told(folder: Path) -> list[Any]:
    ran = run_cli("check", "--deep", folder, "--json")
    assert ran.code == 0
    return [f for f in ran.json()["findings"] if f["code"] == "local-state"]


def saved(folder: Path, world: int, keep: Any, *placements: Placement, sizes: Any = None) -> Path:
    def state(rank: int) -> dict[str, Any]:
        tensor = sharded(FULL, mesh_of(*(sizes or (world,))), *placements)
        return {"w": tensor, "kept": keep(tensor)}

    return save_as_ranks(folder, world, state)


KEPT = {
    "tuple": lambda t: (t + 0, 1),
    "nested": lambda t: ({"deep": [(t + 0, "x")]},),
    "two": lambda t: (t + 0, t + 1),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_sharded_tensor_in_a_tuple_is_told(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, 2, KEPT[name], Shard(0))
    (finding,) = told(folder)
    assert (finding["severity"], finding["fqn"].partition(".")[0]) == ("warning", "kept")
    assert "[2, 3] of [4, 3], Shard(0)" in finding["message"]
    # Only one rank's payload is there: the metadata has one entry of the name.
    assert finding["file"] in {"__0_0.distcp", "__1_0.distcp"}


def test_one_of_a_list_or_a_dict_is_walked_and_whole(tmp_path: Path) -> None:
    assert told(saved(tmp_path, 2, lambda t: [t, {"x": t}], Shard(0))) == []


WHOLE: dict[str, tuple[int, tuple[Placement, ...], tuple[int, ...]]] = {
    "replicated": (2, (Replicate(),), (2,)),
    "one rank": (1, (Shard(0),), (1,)),
    "replicas of one shard": (2, (Replicate(), Shard(0)), (2, 1)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_one_is_not(tmp_path: Path, name: str) -> None:
    world, placements, sizes = WHOLE[name]
    assert told(saved(tmp_path, world, lambda t: (t + 0, 1), *placements, sizes=sizes)) == []


def test_a_plain_tensor_in_a_tuple_is_not(tmp_path: Path) -> None:
    assert told(saved(tmp_path, 2, lambda t: (torch.ones(2), 1), Shard(0))) == []


@pytest.mark.parametrize("name", ["index_add_", "index_copy_", "scatter_add_"])
def test_a_piece_that_an_operation_relabelled_as_whole_is_told(tmp_path: Path, name: str) -> None:
    """torch 2.13 drops the sum and calls the shards replicas; a later one may not."""

    def state(rank: int) -> dict[str, Any]:
        mesh = mesh_of(2)
        weight = sharded(FULL, mesh, Shard(0))
        rows = torch.tensor([[0] * 3] if name == "scatter_add_" else [0])
        told = (DTensor.from_local(x, mesh, [Replicate()]) for x in (rows, torch.ones(1, 3)))
        getattr(weight, name)(0, *told)
        return {"w": weight}

    folder = save_as_ranks(tmp_path, 2, state)
    ran = run_cli("check", "--deep", folder, "--json")
    if (is_kept := ran.code == 0) and torch.__version__ >= "2.14":
        pytest.skip("this torch keeps the shards")
    assert not is_kept
    (finding,) = (f for f in ran.json()["findings"] if f["fqn"] == "w")
    assert finding["code"] == "payload-mismatch"
    assert "[2, 3], [4, 3] by the metadata" in finding["message"]
    assert "one rank's piece" in finding["hint"] and name in finding["hint"]


def test_a_payload_of_another_save_is_not_called_a_piece(tmp_path: Path) -> None:
    """Fewer rows and fewer columns: no rank's piece."""
    new, old = tmp_path / "new", tmp_path / "old"
    dcp.save({"w": torch.zeros(4, 3)}, checkpoint_id=new, no_dist=True)
    dcp.save({"w": torch.zeros(2, 2)}, checkpoint_id=old, no_dist=True)
    for file in old.glob("*.distcp"):
        (new / file.name).write_bytes(file.read_bytes())
    ran = run_cli("check", "--deep", new, "--json")
    assert ran.code == 1
    assert "one rank's piece" not in json.dumps(ran.json())
