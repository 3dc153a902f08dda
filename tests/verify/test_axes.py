"""Checkpoints verified on 8 ranks whose mesh has several axes: exact, and faults found."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint import open_checkpoint
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.verify.selection import placed, select
from inspector.verify.spec import JobSpec, default_then
from tests.conftest import SAMPLES
from tests.verify.roundtrip_jobs import Outcome, make_spec, run_batch

SOURCE = SAMPLES / "hsdp_tp_2x2x2"
OWN = "dp_replicate:2,dp_shard:2,tp:2"
#: The checkpoint's own mesh, FSDP alone, tensor parallelism of other sizes; and back.
MESHES = {
    "to-fsdp": ("fsdp:8", "dp_replicate:2,dp_shard:2,tp:2"),
    "to-tp4": ("dp_shard:2,tp:4", "dp_replicate:2,tp:4", "hsdp:2x4"),
    "own": (OWN, "tp:2,dp_shard:4", "dp_shard:2,cp:2,tp:2"),
}
EXPERTS = "dp_shard:8+dp_shard_mod_ep:2,ep:4"
LINES = (("*net3.weight", "tp:1"), ("*net1.*", "tp:0,dp_shard:0"))


def lies(spec: JobSpec) -> list[Counter[str]]:
    """How many elements of each tensor all ranks hold together, on each mesh of a job."""
    checkpoint = open_checkpoint(spec.path)
    result = []
    for mesh, rules in placed(checkpoint, spec):
        held = Counter[str]()
        for tensor in checkpoint.tensors:
            if rules is None:
                copies = mesh.num_replicas if tensor.shape else mesh.world_size
                held[tensor.fqn] = tensor.num_elements * copies
                continue
            found, _ = rules.of(tensor.fqn, tensor.shape, tensor.index)
            for rank in range(mesh.world_size):
                _, sizes = found.box(rank, tensor.shape)
                held[tensor.fqn] += int(torch.Size(sizes).numel())
            assert held[tensor.fqn] >= tensor.num_elements
        result.append(held)
    return result


def assert_exact(outcome: Outcome) -> None:
    """Every element of every part of every rank was compared after each load, and is equal."""
    outcome.assert_whole()
    assert not outcome.bad, outcome.bad[:3]
    assert not [e for e in outcome.of("plan") if e.get("left_out")]
    for hop, held in enumerate(lies(outcome.spec), -1):
        phase = "compare" if hop < 0 else "recheck"
        told = [e for e in outcome.of("tensor") if e["phase"] == phase and e.get("hop", -1) == hop]
        compared = Counter[str]()
        for event in told:
            compared[event["fqn"]] += event["num_compared"]
        for fqn, num in held.items():
            assert compared[fqn] == num, (phase, hop, fqn)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All jobs on eight ranks, in one process group."""
    folder = tmp_path_factory.mktemp("axes")
    torch.manual_seed(0)
    state = {
        "layers.0.moe.experts.w1": torch.randn(8, 6, 4),
        "layers.0.moe.experts.w2": torch.randn(9, 4, 6).bfloat16(),
        "layers.0.wq.weight": torch.randn(21, 4),
        "step": torch.tensor(3),
    }
    moe = folder / "moe"
    dcp.save(state, checkpoint_id=moe, no_dist=True)
    specs = {name: make_spec(folder / name, SOURCE, *m) for name, m in MESHES.items()}
    specs["lines"] = make_spec(
        folder / "lines", SAMPLES / "fsdp_8", "dp_shard:4,tp:2", "fsdp:8", placements=LINES
    )
    specs["fsdp2"] = make_spec(
        folder / "fsdp2", SOURCE, OWN, "dp_shard:4,tp:2", "dp_shard:2,cp:2,tp:2", via="fsdp2"
    )
    specs["experts"] = make_spec(folder / "experts", moe, EXPERTS, "fsdp:8", "dp_shard:2,ep:4")
    specs["misplaced"] = make_spec(
        folder / "misplaced",
        SOURCE,
        "dp_shard:4,tp:2",
        faults={"misplace": {"rank": 1, "fqn": "model.w2.weight", "index": [1, 7]}},
    )
    specs["torn"] = make_spec(
        folder / "torn",
        SOURCE,
        OWN,
        faults={"diverge_replica": {"rank": 6, "fqn": "model.w2.weight"}},
    )
    return run_batch(folder, specs)


@pytest.mark.slow
@pytest.mark.torchrun
@pytest.mark.parametrize("name", [*MESHES, "lines", "experts", "fsdp2"])
def test_every_element_is_compared_and_equal(outcomes: dict[str, Outcome], name: str) -> None:
    assert_exact(outcomes[name])


@pytest.mark.slow
@pytest.mark.torchrun
def test_fully_shard_over_tensor_parallelism_took_every_parameter(
    outcomes: dict[str, Outcome],
) -> None:
    outcome = outcomes["fsdp2"]
    ways = {e["fqn"]: e["via"] for e in outcome.of("tensor") if e["phase"] == "recheck"}
    tensors = [t for t in outcome.checkpoint.tensors if t.shape]
    assert {ways[t.fqn] for t in tensors} == {"fsdp2"}


@pytest.mark.slow
@pytest.mark.torchrun
def test_one_element_misplaced_on_one_tensor_parallel_rank(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["misplaced"]
    (_, rules), *_ = placed(outcome.checkpoint, outcome.spec)
    (tensor,) = [t for t in outcome.checkpoint.tensors if t.fqn == "model.w2.weight"]
    assert rules is not None
    # As the checkpoint cuts it: rank 1 holds columns 5 to 9 of rows 0 and 1.
    assert rules.of(tensor.fqn, tensor.shape, tensor.index)[0].box(1, tensor.shape) == (
        (0, 5),
        (2, 5),
    )
    (event,) = outcome.bad
    assert (event["rank"], event["fqn"], event["verdict"]) == (1, "model.w2.weight", "DIFFER")
    assert (event["first_index"], event["num_different"]) == ([1, 7], 2)


@pytest.mark.slow
@pytest.mark.torchrun
def test_a_copy_that_differs_from_that_of_the_other_replica(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["torn"]
    assert {(e["phase"], e["fqn"]) for e in outcome.bad} == {("replicas", "model.w2.weight")}
    assert 6 in {e["rank"] for e in outcome.bad}


def test_what_torch_lays_otherwise_than_fully_shard_is_not_verified(tmp_path: Path) -> None:
    """14 rows over dp_shard:4,tp:3: left out with a reason, so that the verdict is partial."""
    dcp.save({"w": torch.ones(14, 2), "v": torch.ones(24, 2)}, checkpoint_id=tmp_path, no_dist=True)
    lines = (("*", "tp:0"),)
    spec = JobSpec(str(tmp_path), "dp_shard:4,tp:3", then=("fsdp:12",), placements=lines)
    checkpoint = open_checkpoint(str(tmp_path))
    selection = select(checkpoint, spec)
    assert [checkpoint.columns.fqns[i] for i in selection.tensors] == ["v"]
    (left,) = selection.left_out
    assert (left.fqns, left.is_asked) == (("w",), False)
    assert re.search("does not divide over tp:3 and dp_shard:4", left.why)


def test_what_is_not_built_is_refused() -> None:
    for fields, says in (
        ({"mesh": "dp_shard:2,tp:2", "via": "fsdp1"}, "--via fsdp1"),
        ({"mesh": "tp:2,dp_shard:2", "via": "fsdp2"}, "--via fsdp2"),
        ({"mesh": "tp:4", "via": "fsdp2"}, "--via fsdp2"),
        ({"mesh": "dp_shard:2,ep:2", "via": "fsdp2"}, "--via fsdp2"),
        ({"mesh": "pp:2,dp_shard:2"}, "pipeline"),
        ({"mesh": "fsdp:4", "placements": (("w", "tp:0"),)}, "axes by name"),
    ):
        with pytest.raises(UsageError, match=says):
            JobSpec("x", **fields)  # type: ignore[arg-type]
    spec = JobSpec("x", "dp_shard:2,tp:2", placements=LINES)
    assert JobSpec.from_json(spec.to_json()) == spec
    assert [str(default_then(m)) for m in map(Mesh.parse, ("dp_shard:2,tp:2", OWN))] == [
        "fsdp:4",
        "fsdp:8",
    ]
