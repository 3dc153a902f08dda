"""Checkpoints verified on 8 ranks whose mesh has several axes: exact, and faults found."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from inspector.checkpoint import open_checkpoint
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh
from inspector.report.verify_text import verify_text
from inspector.verify.events import MAX_LINE_BYTES, checked, decode, encode
from inspector.verify.progress import JobState
from inspector.verify.recording import spec_event
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
STAGES = (("*layers.[01].*", "1"), ("*layers.[23].*", "2"))
LINES = (("*net3.weight", "tp:1"), ("*net1.*", "tp:0,dp_shard:0"))


def lies(spec: JobSpec) -> list[Counter[str]]:
    """How many elements of each tensor all ranks hold together, on each mesh of a job."""
    checkpoint = open_checkpoint(spec.path)
    result = []
    taken = select(checkpoint, spec).tensors
    for mesh, rules in placed(checkpoint, spec):
        held = Counter[str]()
        for tensor in (checkpoint.tensors[i] for i in taken):
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
    assert not [e for e in outcome.bad if not e.get("asked")], outcome.bad[:3]
    left = [item for e in outcome.of("plan") for item in e.get("left_out") or ()]
    assert all(item["asked"] for item in left)
    assert bool(left) is (outcome.spec.stage[:1] in ("1", "2"))
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
    pipeline = SAMPLES / "pp_hsdp_2x2x2"
    for stage in ("2/2", "all/2"):
        name = f"stage {stage}".replace("/", " of ")
        specs[name] = make_spec(
            folder / name, pipeline, "dp_shard:4,tp:2", "fsdp:8", stage=stage, stages=STAGES
        )
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
@pytest.mark.parametrize(
    "name", [*MESHES, "lines", "experts", "fsdp2", "stage 2 of 2", "stage all of 2"]
)
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
def test_each_stage_is_loaded_and_saved_by_itself(outcomes: dict[str, Outcome]) -> None:
    in_waves = [e["wave"] for e in outcomes["stage all of 2"].of("phase") if e["phase"] == "load"]
    assert set(in_waves) == {0, 1}
    alone = outcomes["stage 2 of 2"].of("tensor")
    assert {e["fqn"] for e in alone if e["verdict"] == "EXACT"} == {
        *(f"model.layers.{n}.{w}.weight" for n in (2, 3) for w in ("wq", "wo")),
        "step",
    }


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
        ({"mesh": "fsdp:4", "stage": "3/2"}, "no stage"),
        ({"mesh": "fsdp:4", "placements": (("w", "tp:0"),)}, "axes by name"),
    ):
        with pytest.raises(UsageError, match=says):
            JobSpec("x", **fields)  # type: ignore[arg-type]
    spec = JobSpec("x", "dp_shard:2,tp:2", placements=LINES, stage="all/2", stages=STAGES)
    assert JobSpec.from_json(spec.to_json()) == spec
    assert [str(default_then(m)) for m in map(Mesh.parse, ("dp_shard:2,tp:2", OWN))] == [
        "fsdp:4",
        "fsdp:8",
    ]


@pytest.mark.parametrize("mesh", [EXPERTS, "DP:4,tp:2", OWN, "hsdp:2x4"])
def test_a_replay_says_what_was_asked(mesh: str) -> None:
    spec = JobSpec("/x", mesh, run="r", stage="1/2", stages=STAGES)
    if mesh != "hsdp:2x4":
        spec = replace(spec, placements=LINES)
    event = spec_event(spec, 1.0)
    assert checked(decode(encode(event)) or {}) == event
    assert (event["mesh"], event["stage"]) == (mesh, "1/2")
    state = JobState()
    state.apply(event)
    text = "\n".join(verify_text(state.snapshot(), {"mesh": mesh, "stage": "1/2"}))
    assert "; stage 1/2)" in text
    assert '"*layers.[01].*" = stage 1, "*layers.[23].*" = stage 2' in text
    assert ('"*net1.*" = tp:0,dp_shard:0' in text) is (mesh != "hsdp:2x4")


def test_a_very_long_file_of_placements_does_not_break_its_line() -> None:
    lines = tuple((f"layers.{i}.{'x' * 60}", "tp:0") for i in range(5000))
    event = spec_event(JobSpec("/x", "tp:2", placements=lines), 1.0)
    line = encode(event)
    told = decode(line)
    assert len(line) <= MAX_LINE_BYTES
    assert told is not None
    assert told["cut"] and told["mesh"] == "tp:2"
    assert 0 < len(told["placements"]) < 5000
