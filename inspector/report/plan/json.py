"""A `LoadPlan` as the documents of `plan --json`, in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from inspector.layout.reads.load_plan import LoadPlan
from inspector.report.check import finding_json
from inspector.report.json import SCHEMA, dump, dump_list
from inspector.report.plan.text import PlanReport, headline

if TYPE_CHECKING:
    from inspector.layout.reads.runs import Read
    from inspector.report.documents.check import PlanHead, PlanRank, PlanRead

__all__ = ["plan_json", "stages_json"]


def plan_json(planned: PlanReport, *, reads: bool = False) -> Iterator[str]:
    """The document of `plan --json [--reads]`, in pieces."""
    plan = planned.plan
    yield dump(_summary(planned))[:-1] + ', "ranks": '
    yield from dump_list(_rank(plan, rank) for rank in range(plan.world_size))
    yield f', "problems": {dump([finding_json(f) for f in planned.problems])}'
    if reads:
        yield ', "reads": '
        ranks = range(plan.world_size)
        yield from dump_list(_read(rank, read) for rank in ranks for read in plan.reads(rank))
    yield "}\n"


def stages_json(plans: Sequence[PlanReport], *, reads: bool = False) -> Iterator[str]:
    """The document of `plan --stage all/N --json`: one plan after the other, in pieces."""
    first = plans[0].plan
    needed = sum(planned.plan.bytes_needed for planned in plans)
    read = sum(planned.plan.bytes_read for planned in plans)
    head = {
        "schema": SCHEMA,
        "path": first.checkpoint.path,
        "mesh": str(first.mesh),
        "world_size": first.world_size,
        "bytes_needed": needed,
        "bytes_read": read,
        "amplification": read / needed if needed else 1.0,
    }
    yield dump(head)[:-1] + ', "stages": ['
    for number, planned in enumerate(plans):
        yield ", " if number else ""
        yield from plan_json(planned, reads=reads)
    yield "]}\n"


def _read(rank: int, read: Read) -> PlanRead:
    return cast("PlanRead", {"rank": rank, **asdict(read)})


def _summary(planned: PlanReport) -> PlanHead:
    plan, under, written_by = planned.plan, planned.as_written, planned.written_by
    document: PlanHead = {
        "schema": SCHEMA,
        "path": plan.checkpoint.path,
        "mesh": str(plan.mesh),
        "world_size": plan.world_size,
        "num_replicas": plan.num_replicas,
        "num_shards": plan.mesh.num_shards,
        "axes": [
            {"name": name, "size": size, "kind": kind}
            for name, size, kind in zip(
                plan.mesh.axes, plan.mesh.sizes, plan.mesh.kinds, strict=True
            )
        ],
        "placed_by": plan.sources or {"rule": len(plan.planned_tensors)},
        "bytes_needed": plan.bytes_needed,
        "bytes_read": plan.bytes_read,
        "amplification": plan.amplification,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "times_read": plan.times_read,
        "imbalance": plan.imbalance,
        "worst_rank": plan.worst_rank,
        "headline": headline(plan),
        "empty_tensors": [
            {"fqn": tensor.fqn, "num_ranks": tensor.num_ranks} for tensor in plan.empty_tensors
        ],
        "not_planned": [{"fqn": item.fqn, "why": item.why} for item in plan.not_planned],
        "written_by": {
            "mesh": None if written_by.mesh is None else str(written_by.mesh),
            "certain": written_by.certain,
            "bytes_read": None if under is None else under.bytes_read,
            "times_read": None if under is None else under.times_read,
        },
        "commands": [{"where": where, "line": line} for where, line in planned.commands],
        "commands_warning": planned.unsafe or None,
    }
    stage = planned.stage
    if stage is not None:
        document["stage"] = {
            "number": stage.number,
            "count": stage.count,
            "told_by": stage.told_by,
            "words": stage.words,
            "num_entries": len(stage.tensors) + len(stage.entries),
            "num_shared": stage.num_shared,
            "num_left_out": len(stage.left_out),
            "errors_left_out": planned.num_elsewhere,
        }
    if planned.expected is not None:
        document["against"] = {
            "path": planned.expected.path,
            "source": planned.expected.source,
            "num_keys": len(planned.expected.wanted),
            "num_matching": planned.num_matching,
            "notes": planned.expected.notes,
        }
    return document


def _rank(plan: LoadPlan, rank: int) -> PlanRank:
    figures = plan.ranks
    return {
        "rank": rank,
        "coordinate": plan.mesh.coordinate(rank),
        "bytes_needed": int(figures.bytes_needed[rank]),
        "bytes_read": int(figures.bytes_read[rank]),
        "num_reads": int(figures.num_reads[rank]),
        "num_files": int(figures.num_files[rank]),
        "num_empty_tensors": int(figures.num_empty_tensors[rank]),
        "peak_bytes": int(figures.peak_bytes[rank]),
    }
