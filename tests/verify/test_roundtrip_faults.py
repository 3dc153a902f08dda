"""Faults planted in the checkpoint, in the job's own seams, and in a rank: each is found."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from inspector.checkpoint import open_checkpoint
from inspector.verify.job.launcher import run
from inspector.verify.result import ExpectedEntries
from inspector.verify.spec import JobSpec
from sample_ckpts.maker.editing import place
from tests.checks.editing import edited, key, stored
from tests.checks.ranks import save_per_rank
from tests.conftest import ROOT, SAMPLES
from tests.helpers import planted_worker
from tests.helpers.planted_kinds import data_start
from tests.verify.roundtrip_jobs import Outcome, make_spec, run_batch, run_job

pytestmark = pytest.mark.torchrun

SOURCE = SAMPLES / "hsdp_uneven_2x2"
FQN = "model.net3.weight"  # (30, 15) float32, in two chunks of 15 rows
MESH = "hsdp:2x2"


def _change(path: Path, at: int, change: Callable[[int], int], count: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for i in range(at, at + count):
        data[i] = change(data[i])
    path.write_bytes(data)


def _data_start(path: Path, at: int, length: int, record: str = "data/0") -> int:
    return at + data_start(path.read_bytes()[at : at + length], record)


def _flip(folder: Path) -> None:
    path, at, length = place(folder, FQN, 1)
    _change(path, _data_start(path, at, length) + 4 * (15 * 3 + 2), lambda b: b ^ 4)


def _flip_many(folder: Path) -> None:
    path, at, length = place(folder, FQN, 1)
    _change(path, _data_start(path, at, length), lambda b: b ^ 0x55, 9)


def _flip_pickle(folder: Path) -> None:
    path, at, _ = place(folder, FQN, 0)
    # A byte of data.pkl that is none of its values: the archive says so, torch does not look.
    blob = path.read_bytes()
    _change(path, blob.index(b"_rebuild_tensor_v2", at) - 14, lambda b: b)
    begin = blob.index(b"collections", at)
    _change(path, begin + 3, lambda b: b ^ 1)


def _zero(folder: Path) -> None:
    path, at, length = place(folder, FQN, 1)
    _change(path, at, lambda _: 0, length)


def _cut(folder: Path) -> None:
    path, at, length = place(folder, FQN, 1)
    path.write_bytes(path.read_bytes()[: at + length // 2])


def _remove(folder: Path) -> None:
    path, _, _ = place(folder, FQN, 1)
    path.unlink()


def _gap(metadata: Metadata) -> None:
    chunks: Any = metadata.state_dict_metadata[FQN]
    chunks.chunks = [c for c in chunks.chunks if c.offsets[0] == 0]


def _no_chunks(metadata: Metadata) -> None:
    entry: Any = metadata.state_dict_metadata[FQN]
    entry.chunks = []


def _unstored(metadata: Metadata) -> None:
    del metadata.storage_data[key(metadata, FQN)]


def _dtype(metadata: Metadata) -> None:
    entry: Any = metadata.state_dict_metadata[FQN]
    entry.properties.dtype = torch.int32


def _short_chunk(metadata: Metadata) -> None:
    entry: Any = metadata.state_dict_metadata[FQN]
    for chunk in entry.chunks:
        if chunk.offsets[0] == 15:
            chunk.sizes = torch.Size((14, 15))


def _outside(metadata: Metadata) -> None:
    stored(metadata, FQN, relative_path="../elsewhere.distcp")


IN_FILES: dict[str, Callable[[Path], None]] = {
    "flip": _flip,
    "flip-many": _flip_many,
    "flip-pickle": _flip_pickle,
    "zero": _zero,
    "cut": _cut,
    "remove": _remove,
}
IN_METADATA = {
    "gap": _gap,
    "no-chunks": _no_chunks,
    "unstored": _unstored,
    "dtype": _dtype,
    "short-chunk": _short_chunk,
    "outside": _outside,
}
SEAMS: dict[str, dict[str, Any]] = {
    "misplace": {"misplace": {"rank": 3, "fqn": FQN, "index": [29, 1]}},
    "skip-region": {"skip_region": {"rank": 1, "fqn": FQN}},
    "diverge": {"diverge_replica": {"rank": 2, "fqn": FQN}},
    "drop-chunk": {"drop_chunk_on_save": {"fqn": FQN}},
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All of them, in one torchrun."""
    folder = tmp_path_factory.mktemp("faults")
    specs = {}
    for name in (*IN_FILES, *IN_METADATA):
        copy = folder / name / "checkpoint"
        shutil.copytree(SOURCE, copy)
        if name in IN_FILES:
            IN_FILES[name](copy)
        else:
            edited(copy, IN_METADATA[name])
        specs[name] = make_spec(folder / name, copy, MESH, "fsdp:4")
    for name, faults in SEAMS.items():
        specs[name] = make_spec(folder / name, SOURCE, MESH, "fsdp:4", faults=faults)
    for via in ("fsdp2", "fsdp1"):
        name = f"misplace-{via}"
        faults = SEAMS["misplace"]
        specs[name] = make_spec(folder / name, SOURCE, MESH, "fsdp:4", via=via, faults=faults)
    no_scratch = make_spec(folder / "no-scratch", SOURCE, MESH, "fsdp:4", "hsdp:2x2")
    specs["no-scratch"] = dataclasses.replace(no_scratch, scratch_dir="/proc/none")
    copy = folder / "entry" / "checkpoint"
    shutil.copytree(SAMPLES / "fsdp2_adamw_4", copy)
    checkpoint = open_checkpoint(str(copy))
    entry = checkpoint.bytes_entries[0]
    path = copy / checkpoint.files[entry.file].path
    begin = _data_start(path, entry.byte_offset, entry.byte_length, "data.pkl")
    _change(path, begin + 2, lambda b: b ^ 1)  # False becomes True
    specs["entry"] = make_spec(folder / "entry", copy, MESH, "fsdp:4")
    return run_batch(folder, specs)


def _one(outcome: Outcome, phase: str, rank: int) -> dict[str, Any]:
    (event,) = [e for e in outcome.bad if e["phase"] == phase and e["rank"] == rank]
    return event


def _ranks(outcome: Outcome, phase: str) -> set[int]:
    return {e["rank"] for e in outcome.bad if e["phase"] == phase}


def _rest_is_exact(outcome: Outcome, but: set[str] = frozenset({FQN})) -> None:  # type: ignore[assignment]
    assert not outcome.of("failed")
    assert outcome.names == but
    assert len(outcome.of("bye")) == 4
    fqns = set(outcome.checkpoint.columns.fqns) - but
    for phase in ("compare", "recheck"):
        told = [e for e in outcome.of("tensor") if e["phase"] == phase and e["fqn"] in fqns]
        assert len(told) == 4 * len(fqns)
        assert {e["verdict"] for e in told} <= {"EXACT", "EMPTY"}
    # What was found wrong is not saved, so that it is told once.
    assert not [e for e in outcome.of("tensor") if e["phase"] == "recheck" and e["fqn"] in but]


def test_one_flipped_bit(outcomes: dict[str, Outcome]) -> None:
    """Both reads see the wrong byte; the CRC32 tells, and which bit it was."""
    outcome = outcomes["flip"]
    _rest_is_exact(outcome)
    assert _ranks(outcome, "compare") == {1, 3}
    event = _one(outcome, "compare", 1)
    assert event["verdict"] == "DIFFER"
    assert event["first_index"] == [18, 2]
    assert event["num_different"] == 1
    assert int(event["expected"], 16) ^ int(event["found"], 16) == 4
    assert event["file"].endswith(".distcp")
    assert "CRC32" in event["detail"]
    assert sum(e["payload_faults"] for e in outcome.of("bye")) == 1


def test_many_flipped_bits(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["flip-many"]
    _rest_is_exact(outcome)
    assert _ranks(outcome, "compare") == {1, 3}
    event = _one(outcome, "compare", 3)
    assert event["verdict"] == "DIFFER"
    assert event["is_partial"]


def test_a_flipped_bit_of_a_pickle(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["flip-pickle"]
    _rest_is_exact(outcome)
    assert _ranks(outcome, "compare") == {0, 2}


def test_a_flipped_bit_of_a_bytes_entry(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["entry"]
    fqn = outcome.checkpoint.bytes_entries[0].fqn
    assert outcome.names == {fqn}
    assert {e["verdict"] for e in outcome.bad} == {"DIFFER"}
    assert _ranks(outcome, "compare") == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["zero", "cut", "remove"])
def test_payloads_that_cannot_be_read(outcomes: dict[str, Outcome], name: str) -> None:
    """`dcp.load` alone would stop at the first of them."""
    outcome = outcomes[name]
    path, _, _ = place(SOURCE, FQN, 1)
    lost = {FQN}
    if name != "zero":
        checkpoint = outcome.checkpoint
        for tensor in checkpoint.tensors:
            files = {checkpoint.files[f].path for f in tensor.file.tolist()}
            if path.name in files and name == "remove":
                lost.add(tensor.fqn)
        lost = outcome.names if name == "cut" else lost
        assert FQN in lost
    _rest_is_exact(outcome, lost)
    (event,) = [e for e in outcome.bad if e["rank"] == 1 and e["fqn"] == FQN]
    assert event["verdict"] == "FAILED"
    assert "dcp.load raises" in event["detail"]
    assert event["file"] == path.name
    assert event["first_index"] == [15, 0]
    assert len(lost) < len(outcome.checkpoint.columns.fqns)


def test_a_gap(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["gap"]
    _rest_is_exact(outcome)
    assert _ranks(outcome, "compare") == {1, 3}
    event = _one(outcome, "compare", 1)
    assert event["verdict"] == "MISSING"
    assert event["num_uncovered"] == event["num_unwritten"] == 225
    assert event["first_index"] == [15, 0]


def test_no_chunks_and_a_chunk_stored_nowhere(outcomes: dict[str, Outcome]) -> None:
    for name, ranks in (("no-chunks", {0, 1, 2, 3}), ("unstored", None)):
        outcome = outcomes[name]
        _rest_is_exact(outcome)
        assert {e["verdict"] for e in outcome.bad} == {"MISSING"}
        assert ranks is None or _ranks(outcome, "compare") == ranks


def test_other_dtype_and_other_shape(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["dtype"]
    _rest_is_exact(outcome)
    assert {e["verdict"] for e in outcome.bad} == {"DTYPE"}
    outcome = outcomes["short-chunk"]
    _rest_is_exact(outcome)
    event = _one(outcome, "compare", 1)
    assert event["verdict"] == "SHAPE"
    assert event["num_uncovered"] == 15


def test_a_file_outside_the_folder_is_not_opened(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["outside"]
    (event,) = outcome.bad
    assert (event["fqn"], event["verdict"]) == (FQN, "NOT_VERIFIED")
    assert "outside" in event["detail"]


@pytest.mark.parametrize("name", ["misplace", "misplace-fsdp2", "misplace-fsdp1"])
def test_an_element_in_the_wrongplace(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    _rest_is_exact(outcome)
    event = _one(outcome, "compare", 3)
    assert _ranks(outcome, "compare") == {3}
    assert event["verdict"] == "DIFFER"
    assert event["num_different"] == 2
    assert event["first_index"] == [29, 1]
    assert event["via"] == outcome.spec.via
    # The two copies of this shard disagree now, and it is this one that is wrong.
    assert _ranks(outcome, "replicas") == {3}


def test_a_region_that_is_not_written(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["skip-region"]
    _rest_is_exact(outcome)
    event = _one(outcome, "compare", 1)
    assert event["verdict"] == "DIFFER"
    assert event["num_different"] == event["num_unwritten"] == 8 * 15
    assert event["first_index"] == [22, 0]
    assert event["found"] == "0xa5a5a5a5"


def test_a_replica_that_differs(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["diverge"]
    _rest_is_exact(outcome)
    assert not _ranks(outcome, "compare")
    event = _one(outcome, "replicas", 2)
    assert _ranks(outcome, "replicas") == {2}
    assert event["verdict"] == "DIFFER"
    assert event["first_index"] == [14, 14]


def test_a_save_that_drops_a_chunk(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["drop-chunk"]
    assert outcome.names == {FQN}
    event = _one(outcome, "save", 0)
    assert event["verdict"] == "MISSING"
    assert event["first_index"] == [15, 0]
    assert _ranks(outcome, "recheck") == {1, 2, 3}
    event = _one(outcome, "recheck", 1)
    assert event["verdict"] == "DIFFER"
    assert event["first_index"] == [15, 0]
    assert event["num_unwritten"] == 15
    assert not outcome.of("failed")


def test_no_scratch_space(outcomes: dict[str, Outcome]) -> None:
    """What was loaded is still proved; the save leg says what is missing."""
    outcome = outcomes["no-scratch"]
    (failed,) = outcome.of("failed")
    assert "scratch" in failed["message"]
    assert failed["phase"] == "save"
    assert outcome.words.keys() == {("compare", "EXACT")}
    assert len(outcome.of("bye")) == 4


def test_no_job_description_plants_a_fault() -> None:
    """What a user can write leads to no seam; a spec of an earlier version is still read."""
    old = json.loads(JobSpec("/x", MESH).to_json()) | {"inject": {"raise": 0}}
    assert JobSpec.from_json(json.dumps(old)) == JobSpec("/x", MESH)


@pytest.mark.parametrize(
    ("faults", "kind"),
    [({"raise": 1}, "exception"), ({"oom": {"rank": 1, "phase": "save"}}, "out-of-memory")],
)
def test_a_rank_that_fails(tmp_path: Path, faults: dict[str, Any], kind: str) -> None:
    outcome = run_job(make_spec(tmp_path, SOURCE, "fsdp:2", "fsdp:2", faults=faults))
    assert outcome.code == 1
    assert not outcome.of("bye")
    failed = {e["rank"]: e for e in outcome.of("failed")}
    assert failed[1]["kind"] == kind
    assert failed[1]["stack"]
    assert not failed[1]["is_echo"]
    # The other one may have been ended by torchrun before it could say a word.
    assert 0 not in failed or failed[0]["is_echo"]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "verdict"), [("slow", "exact"), ("hang", "failed")])
def test_a_rank_that_is_slow_is_not_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, verdict: str
) -> None:
    """The others wait for it in a collective for longer than `--timeout`; it reads meanwhile."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # The worker is the tests'.
    spec = JobSpec(str(SOURCE), "fsdp:2", timeout_s=12, events_dir=str(tmp_path / "job" / "events"))
    (tmp_path / "job").mkdir()
    faults = {fault: {"rank": 1, "phase": "compare", "seconds": 30}}
    (tmp_path / "job" / planted_worker.FILE).write_text(json.dumps(faults))
    checkpoint = open_checkpoint(spec.path)
    names = tuple(t.fqn for t in checkpoint.tensors)
    names += tuple(dict.fromkeys(e.fqn for e in checkpoint.bytes_entries))
    result = run(spec, expected=ExpectedEntries(names), worker=planted_worker.__name__)
    assert result["verdict"] == verdict, (result["why"], result["failures"])
    kinds = {failure["kind"] for failure in result["failures"]}
    assert kinds == (set() if fault == "slow" else {"timeout"})
    assert fault == "hang" or result["elapsed_s"] > 30


def test_a_bit_that_is_wrong_in_both_copies_is_one_element(tmp_path: Path) -> None:
    """Two payloads hold it, each with a wrong checksum; the tensor has one such element."""
    path = save_per_rank(tmp_path / "ckpt", 2, lambda _: {"w": torch.arange(12.0).reshape(6, 2)})
    checkpoint = open_checkpoint(str(path))
    (tensor,) = checkpoint.tensors
    assert tensor.num_chunks == 2
    for file, at, length in zip(tensor.file, tensor.byte_offset, tensor.byte_length, strict=True):
        data = path / checkpoint.files[int(file)].path
        _change(data, _data_start(data, int(at), int(length)) + 4 * 7 + 1, lambda b: b ^ 4)
    outcome = run_job(make_spec(tmp_path, path, "fsdp:2"))
    events = [e for e in outcome.of("tensor") if e["phase"] == "compare"]
    assert sum(e["num_different"] for e in events) == 1
    assert [e["first_index"] for e in events if e["verdict"] == "DIFFER"] == [[3, 1]]
