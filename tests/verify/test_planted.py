"""248 faults in 18 real jobs: each that can be seen is found and named, and nothing else is.

What is wrong on which rank is known from `tests.helpers.planter`, which holds everything that a
rank is about to compare against what plain `dcp.load` makes of the intact checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.layout.geometry import torch_chunk_bounds
from inspector.verify.job.launcher import run
from inspector.verify.preflight import prepare
from inspector.verify.result import exit_code
from inspector.verify.selection import make_waves, placed, select
from inspector.verify.spec import JobSpec
from tests.conftest import ROOT, SAMPLES
from tests.helpers import planter
from tests.helpers.planted_kinds import KINDS, Fault, Kind

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]

NUM_FAULTS = 248
_GOOD = ("EXACT", "EMPTY")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_CAST = (*_FLOATS, "int64", "int32", "int16", "int8")
_LITTLE = 1 << 20
_ADAM, _HYBRID, _DTYPES = "fsdp2_adamw_4", "fsdp2_hsdp_2x2_adamw", "dtypes_4"


@dataclass(frozen=True)
class Plan:
    """One job: what is loaded how. In little memory it comes in waves, and in blocks of rows."""

    sample: str
    mesh: str
    then: str
    via: str = "dtensor"
    memory_bytes: int = 1 << 28


PLANS = (
    *(Plan(_ADAM, "fsdp:2", "fsdp:2", via) for via in ("dtensor", "fsdp2", "fsdp1")),
    *(Plan(_DTYPES, "fsdp:2", "fsdp:2", via) for via in ("dtensor", "fsdp2")),
    *(Plan(_HYBRID, "fsdp:4", "hsdp:2x2", via) for via in ("dtensor", "fsdp2", "fsdp1")),
    Plan(_DTYPES, "fsdp:4", "fsdp:4"),
    *(Plan(_ADAM, "hsdp:2x2", "fsdp:4", via) for via in ("dtensor", "fsdp2", "fsdp1")),
    *(Plan(_DTYPES, "hsdp:2x2", "hsdp:2x2", via) for via in ("dtensor", "fsdp2")),
    *(Plan(_HYBRID, "dp_shard:2,tp:2", "fsdp:4", via) for via in ("dtensor", "fsdp2")),
    Plan(_ADAM, "dp_replicate:2,tp:2", "dp_shard:2,tp:2"),
    Plan("torchtitan_2/step-10", "hsdp:2x2", "fsdp:4", memory_bytes=3000),
)
Where = tuple[str, int, str, int]  # phase, hop, entry, rank
Box = tuple[tuple[int, ...], tuple[int, ...]]


# --- choosing


def boxes(checkpoint: Checkpoint, spec: JobSpec, hop: int) -> dict[str, list[Box]]:
    """What each rank holds of each tensor, after the load (-1) or a reload."""
    mesh, rules = placed(checkpoint, spec)[hop + 1]
    found: dict[str, list[Box]] = {}
    for tensor in checkpoint.tensors:
        ranks = range(mesh.world_size)
        if rules is not None:
            lies, _ = rules.of(tensor.fqn, tensor.shape, tensor.index)
            found[tensor.fqn] = [lies.box(rank, tensor.shape) for rank in ranks]
        elif not tensor.shape:
            found[tensor.fqn] = [((), ())] * mesh.world_size
        else:
            starts, counts = torch_chunk_bounds(tensor.shape[0], mesh.num_shards)
            rest = tensor.shape[1:]
            shards = [mesh.coordinate(rank)[-1] for rank in ranks]
            found[tensor.fqn] = [
                ((int(starts[s]), *(0,) * len(rest)), (int(counts[s]), *rest)) for s in shards
            ]
    return found


class Chooser:
    """Goes through the kinds of faults again and again, job by job."""

    def __init__(self) -> None:
        self._kinds: list[str] = []

    def choose(self, checkpoint: Checkpoint, spec: JobSpec, plan: Plan, count: int) -> list[Fault]:
        """So many faults for a job, each in an entry of its own."""
        rng, is_small = random.Random(str(plan)), plan.memory_bytes < _LITTLE  # noqa: S311
        free = [t for t in checkpoint.tensors if t.num_elements]
        rng.shuffle(free)
        entries = list(dict.fromkeys(e.fqn for e in checkpoint.bytes_entries))
        held = [boxes(checkpoint, spec, hop) for hop in (-1, 0)]
        faults: list[Fault] = []
        passed: list[str] = []
        while len(faults) < count:
            if not self._kinds:
                assert len(passed) < len(KINDS), plan  # Nothing is left to strike.
                self._kinds = list(KINDS)
            name = self._kinds.pop(0)
            kind = KINDS[name]
            at, bit = rng.random(), rng.randrange(64)
            if kind.needs == "bytes" and entries:
                faults.append(Fault(name, entries.pop(rng.randrange(len(entries))), 0, at, bit))
                continue
            fitting = (
                self._fitting(kind, free, held, is_small) if kind.needs != "bytes" else iter(())
            )
            chosen = next(fitting, None)
            if chosen is None:
                passed.append(name)
                continue
            tensor, other, ranks = chosen
            free.remove(tensor)
            if other is not None:
                free.remove(other)
            bit = 0 if tensor.dtype == "bool" else bit
            fqn = "" if other is None else other.fqn
            faults.append(Fault(name, tensor.fqn, rng.choice(ranks), at, bit, fqn))
        self._kinds = passed + self._kinds  # The next job takes them, where it can.
        return faults

    def _fitting(
        self, kind: Kind, free: list[Tensor], held: list[dict[str, list[Box]]], is_small: bool
    ) -> Iterator[tuple[Tensor, Tensor | None, list[int]]]:
        """Tensors that a kind can strike, with another that it takes from, and the ranks."""
        if is_small and kind.needs:
            return  # What belongs together is not in one wave.
        for tensor in free:
            mine = held[kind.when in ("replan", "reloaded")][tensor.fqn]
            rows = 1 if kind.is_single else 2
            ranks = [r for r, (_, sizes) in enumerate(mine) if sizes and sizes[0] >= rows]
            if kind.is_single and not tensor.shape:
                ranks = list(range(len(mine)))
            if not ranks or not tensor.sizes.all() or (is_small and not tensor.shape):
                continue
            if not kind.is_single and len(tensor.shape) < kind.num_dims:
                continue
            if kind.of_floats and tensor.dtype not in _FLOATS:
                continue
            if kind.verdicts == ("DTYPE",) and tensor.dtype != "float32":
                continue
            if kind.needs == "chunks" and not self._has_chunks(kind, tensor, held[0][tensor.fqn]):
                continue
            if kind.needs not in ("twin", "cast"):
                yield tensor, None, ranks
                continue
            for other in free:
                alike = other.dtype == tensor.dtype
                if kind.needs == "cast":
                    alike = not alike and {other.dtype, tensor.dtype} <= set(_CAST)
                chunks = sorted(tensor.offsets.tolist()) == sorted(other.offsets.tolist())
                if other is not tensor and alike and chunks and other.shape == tensor.shape:
                    yield tensor, other, ranks

    def _has_chunks(self, kind: Kind, tensor: Tensor, mine: list[Box]) -> bool:
        if kind.when == "stored":
            return tensor.num_chunks > 1
        distinct = {box for box in mine if 0 not in box[1]}
        sizes = Counter(sizes for _, sizes in distinct)
        return len(distinct) > 1 and max(sizes.values()) > 1


# --- running


@dataclass(frozen=True)
class Done:
    """A job that has ended.

    Attributes:
        struck: Of each fault the index of the element that was struck, if one was: what was
            written down where it was planted.
        wrong: By phase, hop, entry and rank: how many elements the rank held wrongly, and the
            first.
        told: The `tensor` events of the job.
    """

    spec: JobSpec
    faults: list[Fault]
    struck: dict[str, list[Any]]
    wrong: dict[Where, tuple[int, list[int]]]
    told: dict[Where, dict[str, Any]]
    result: dict[str, Any]
    copies: dict[str, list[Box]]

    def accused(self, fqn: str) -> dict[Where, dict[str, Any]]:
        return {at: e for at, e in self.told.items() if at[2] == fqn and e["verdict"] not in _GOOD}

    def is_detectable(self, fault: Fault) -> bool:
        """By what was done, not by what the job said."""
        kind = KINDS[fault.kind]
        if kind.is_silent:
            return False
        is_torn = kind.when == "compared" and self.has_copies(fault)
        return kind.needs == "bytes" or is_torn or any(at[2] == fault.fqn for at in self.wrong)

    def has_copies(self, fault: Fault) -> bool:
        """Whether another rank holds the same as that which is struck."""
        held = self.copies[fault.fqn]
        return held.count(held[fault.rank]) > 1


def _run(plan: Plan, chooser: Chooser, count: int, folder: Path) -> Done:
    copy = folder / "checkpoint"
    shutil.copytree(SAMPLES / plan.sample, copy)
    checkpoint = open_checkpoint(str(copy))
    options: dict[str, Any] = {"via": plan.via, "device": "cpu", "memory_bytes": plan.memory_bytes}
    preflight = prepare(checkpoint, plan.mesh, then=[plan.then], **options)
    faults = chooser.choose(checkpoint, preflight.spec, plan, count)
    held = boxes(checkpoint, preflight.spec, -1)
    torch.save(planter.truth_of(copy), folder / planter.TRUTH)
    (folder / planter.FAULTS).write_text(json.dumps([dataclasses.asdict(f) for f in faults]))
    struck: dict[str, list[Any]] = defaultdict(list)
    for fqn, index in planter.plant_stored(copy, faults).items():
        struck[fqn].append(None if index is None else list(index))
    preflight = prepare(open_checkpoint(str(copy)), plan.mesh, then=[plan.then], **options)
    if plan.memory_bytes < _LITTLE:
        waves, left_out = make_waves(checkpoint, select(checkpoint, preflight.spec), preflight.spec)
        assert len(waves) > 10
        assert any(wave.rows for wave in waves)
        assert not left_out
    spec = dataclasses.replace(preflight.spec, events_dir=str(folder / "events"))
    result = run(
        spec,
        expected=preflight.expected,
        worker=planter.__name__,
        scratch_parent=str(folder / "scratch"),
    )
    wrong: dict[Where, tuple[int, list[int]]] = {}
    for record in _lines(folder, "planted-*.jsonl"):
        if "planted" in record:
            struck[record["fqn"]].append(record.get("index"))
        elif record["num"]:
            at = record["phase"], record["hop"], record["fqn"], record["rank"]
            num, first = wrong.get(at, (0, record["first"]))
            wrong[at] = num + record["num"], min(first, record["first"])
    told: dict[Where, dict[str, Any]] = {}
    for event in _lines(folder / "events", "rank-*.jsonl"):
        if event["event"] == "tensor":
            at = event["phase"], event.get("hop", -1), event["fqn"], event["rank"]
            told[at] = event
    return Done(spec, faults, struck, wrong, told, result, held)


def _lines(folder: Path, pattern: str) -> list[dict[str, Any]]:
    files = sorted(folder.glob(pattern))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    """Every job, one after the other, each started as `hsdp-inspect verify` starts it."""
    chooser, done = Chooser(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # The worker is the tests'.
        patch.setenv("OMP_NUM_THREADS", "1")
        for i, plan in enumerate(PLANS):
            count = NUM_FAULTS // len(PLANS) + (i < NUM_FAULTS % len(PLANS))
            done.append(_run(plan, chooser, count, tmp_path_factory.mktemp(f"planted{i}")))
    return done


# --- judging


def test_every_job_ran_to_its_end_and_says_that_it_differs(jobs: list[Done]) -> None:
    assert sum(len(job.faults) for job in jobs) == NUM_FAULTS
    assert {fault.kind for job in jobs for fault in job.faults} == KINDS.keys()
    for job in jobs:
        result = job.result
        assert (result["verdict"], exit_code(result)) == ("differs", 1), (job.spec, result)
        planted = {fault.fqn for fault in job.faults}
        assert planted == {fqn for fqn in planted if job.struck.get(fqn)}
        found = {fault.fqn for fault in job.faults if job.is_detectable(fault)}
        assert set(result["tensors"]["different"]) == found, job.spec


def test_what_is_wrong_is_told_by_the_right_ranks_with_the_right_elements(
    jobs: list[Done],
) -> None:
    missed = []
    for job in jobs:
        kinds = {fault.fqn: KINDS[fault.kind] for fault in job.faults}
        for at, (num, first) in job.wrong.items():
            event, kind = job.told.get(at), kinds[at[2]]
            is_right = event is not None and event["verdict"] in kind.verdicts
            if event is not None and is_right and kind.is_placed:
                is_right = event["first_index"] == first
                is_right &= event["verdict"] != "DIFFER" or event["num_different"] == num
            if not is_right:
                missed.append((str(job.spec.mesh), job.spec.via, at, num, first, event))
    assert not missed, missed[:5]


def test_nobody_else_is_accused(jobs: list[Done]) -> None:
    for job in jobs:
        faults = {fault.fqn: fault for fault in job.faults if not KINDS[fault.kind].is_silent}
        for at, event in job.told.items():
            if event["verdict"] in _GOOD:
                continue
            phase, hop, fqn, rank = at
            assert fqn in faults, event
            kind = KINDS[faults[fqn].kind]
            if phase == "save":
                assert kind.when == "save plan", event
            elif phase == "replicas" and kind.when == "compared":
                assert rank == faults[fqn].rank, event
            elif phase == "replicas":
                assert ("compare" if hop < 0 else "recheck", hop, fqn, rank) in job.wrong, event
            elif kind.is_placed:
                assert at in job.wrong, event


def test_a_single_bit_is_told_with_rank_element_and_bit(jobs: list[Done]) -> None:
    for job in jobs:
        for fault in job.faults:
            kind = KINDS[fault.kind]
            if not kind.is_single or not job.is_detectable(fault):
                continue
            accused = job.accused(fault.fqn)
            ranks = {at[3] for at in accused if at[0] != "replicas"}
            if kind.when in ("loaded", "reloaded"):
                assert ranks == {fault.rank}, fault
            if kind.when == "compared" and job.has_copies(fault):
                assert {at[0] for at in accused} == {"replicas"}
                assert {at[3] for at in accused} == {fault.rank}
            for event in accused.values():
                assert event["first_index"] in job.struck[fault.fqn], (fault, event)
                assert event["num_different"] == 1, (fault, event)
                changed = int(event["expected"], 16) ^ int(event["found"], 16)
                assert changed.bit_count() == 1, (fault, event)


def test_the_figures(jobs: list[Done]) -> None:
    """One line for each job and one for all."""
    totals = Counter[str]()
    for job in jobs:
        figures = Counter(planted=len(job.faults))
        for fault in job.faults:
            is_single = KINDS[fault.kind].is_single
            if job.is_detectable(fault):
                is_found = bool(job.accused(fault.fqn))
                figures.update(detectable=1, found=is_found)
                figures.update(single=is_single, named=is_single and is_found)
        totals += figures
        spec = job.spec
        sys.stdout.write(f"{spec.mesh} -> {spec.then[0]}, {spec.via}: {dict(figures)}\n")
    sys.stdout.write(f"{len(jobs)} jobs: {dict(totals)}\n")
    assert totals["planted"] == NUM_FAULTS
    said = " ".join((ROOT / "docs" / "verify.md").read_text().split())
    assert f"{NUM_FAULTS} faults of {len(KINDS)} kinds planted in {len(PLANS)} jobs" in said
    assert f"{totals['detectable']} of which change something" in said
    assert f"{totals['single']} single bits" in said
    assert totals["found"] == totals["detectable"]
    assert totals["named"] == totals["single"]
