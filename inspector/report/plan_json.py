"""`plan --json`: the contract's document, in pieces, so that a million reads never stand in memory.

Names are raw; the encoder escapes everything that is not ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from inspector.layout.load_plan import LoadPlan
from inspector.report.check import finding_json
from inspector.report.json import SCHEMA
from inspector.report.plan import Planned, headline

__all__ = ["plan_json"]


def plan_json(planned: Planned, *, reads: bool = False) -> Iterator[str]:
    """The document of `plan --json [--reads]`, in pieces."""
    plan = planned.plan
    yield json.dumps(_summary(planned))[:-1]
    yield ', "ranks": ['
    for rank in range(plan.world_size):
        yield ("," if rank else "") + "\n" + json.dumps(_rank(plan, rank))
    yield '], "problems": ' + json.dumps([finding_json(f) for f in planned.problems])
    if reads:
        yield ', "reads": ['
        separator = "\n"
        for rank in range(plan.world_size):
            for read in plan.reads(rank):
                item = {
                    "rank": rank,
                    "fqn": read.fqn,
                    "file": read.file,
                    "storage_offsets": read.storage_offsets,
                    "dest_offsets": read.dest_offsets,
                    "lengths": read.lengths,
                    "byte_offset": read.byte_offset,
                    "byte_length": read.byte_length,
                    "is_bytes": read.is_bytes,
                }
                yield separator + json.dumps(item)
                separator = ",\n"
        yield "]"
    yield "}\n"


def _summary(planned: Planned) -> dict[str, Any]:
    plan, under, written_by = planned.plan, planned.as_written, planned.written_by
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "path": plan.checkpoint.path,
        "mesh": str(plan.mesh),
        "world_size": plan.world_size,
        "num_replicas": plan.num_replicas,
        "num_shards": plan.mesh.num_shards,
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
    if planned.expected is not None:
        document["against"] = {
            "path": planned.expected.path,
            "source": planned.expected.source,
            "num_keys": len(planned.expected.wanted),
            "num_matching": planned.num_matching,
            "notes": list(planned.expected.notes),
        }
    return document


def _rank(plan: LoadPlan, rank: int) -> dict[str, Any]:
    figures = plan.ranks
    return {
        "rank": rank,
        "coordinate": list(plan.mesh.coordinate(rank)),
        "bytes_needed": int(figures.bytes_needed[rank]),
        "bytes_read": int(figures.bytes_read[rank]),
        "num_reads": int(figures.num_reads[rank]),
        "num_files": int(figures.num_files[rank]),
        "num_empty_tensors": int(figures.num_empty_tensors[rank]),
        "peak_bytes": int(figures.peak_bytes[rank]),
    }
