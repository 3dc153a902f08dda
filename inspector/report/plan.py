"""A `LoadPlan` in sentences: what text and the screen say of it alike. Every name is printable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.checks.expected import Expected
from inspector.checks.findings import Finding
from inspector.layout.load_plan import LoadPlan, Planner
from inspector.layout.mesh import Mesh
from inspector.layout.written_by import WrittenBy

__all__ = [
    "Planned",
    "as_written",
    "comparison",
    "headline",
    "mesh_sentence",
    "place",
    "plan_facts",
    "worst_sentence",
]

_MAX_NAMED = 3
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Planned:
    """All that `plan` has found out.

    Attributes:
        plan: The plan.
        written_by: The mesh that wrote the checkpoint, as far as it tells.
        as_written: The plan under that mesh; None if there is none, or it is this one.
        problems: What would go wrong.
        commands: (where, line) pairs that prove it elsewhere.
        expected: What it was compared with, or None.
    """

    plan: LoadPlan
    written_by: WrittenBy
    as_written: LoadPlan | None = None
    problems: tuple[Finding, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    expected: Expected | None = None

    @property
    def exit_code(self) -> int:
        """1 if something would go wrong."""
        return int(any(finding.severity == "error" for finding in self.problems))

    @property
    def unsafe(self) -> str:
        """Why its commands are not to be run on trust; empty if nothing speaks against it."""
        if not any(finding.code == "metadata-unsafe" for finding in self.problems):
            return ""
        return (
            "WARNING: .metadata names code, and torch runs it as soon as it loads (metadata-unsafe "
            "above): do not run these lines, nor any other load"
        )

    @property
    def num_matching(self) -> int:
        """How many of the expected keys the checkpoint has, whatever they hold."""
        checkpoint = self.plan.checkpoint
        names = {*checkpoint.columns.fqns, *(entry.fqn for entry in checkpoint.bytes_entries)}
        wanted = () if self.expected is None else self.expected.wanted
        return sum(key.fqn in names for key in wanted)


def as_written(planner: Planner, written_by: WrittenBy, mesh: Mesh) -> LoadPlan | None:
    """The plan under the mesh that wrote it, if that is another one and can be planned."""
    written = written_by.mesh
    if written is None or written == mesh or not written.can_launch:
        return None
    return planner.plan(written)


def headline(plan: LoadPlan) -> str:
    """The whole plan in one sentence.

    `512 ranks read 3.1x the checkpoint; rank 7 reads from 64 files; 12 tensors leave 40 ranks
    empty-handed`.
    """
    parts = []
    if plan.checkpoint_bytes:
        verb = "reads" if plan.world_size == 1 else "read"
        ranks = plural(plan.world_size, "rank")
        parts.append(f"{ranks} {verb} {plan.times_read:.2f}x the checkpoint")
    else:
        parts.append("nothing is stored that could be read")
    num_files = int(plan.ranks.num_files[plan.most_files_rank])
    who = f"rank {plan.most_files_rank}"
    if plan.world_size > 1 and int(plan.ranks.num_files.min()) == num_files:
        parts.append(f"every rank reads from {plural(num_files, 'file')}")
    else:
        parts.append(f"{who} reads from {plural(num_files, 'file')}")
    if plan.empty_tensors:
        tensors = plural(len(plan.empty_tensors), "tensor")
        verb = "leaves" if len(plan.empty_tensors) == 1 else "leave"
        parts.append(f"{tensors} {verb} {plural(plan.num_ranks_with_empty, 'rank')} empty-handed")
    return "; ".join(parts)


def mesh_sentence(mesh: Mesh) -> str:
    """`hsdp:2x4: 8 ranks, 2 replicas of 4 shards`."""
    text = f"{mesh}: {plural(mesh.world_size, 'rank')}"
    if mesh.family == "hsdp":
        text += f", {plural(mesh.num_replicas, 'replica')} of {plural(mesh.num_shards, 'shard')}"
    return text


def place(mesh: Mesh, rank: int) -> str:
    """`replica 1, shard 3`, or `shard 3`."""
    *replica, shard = mesh.coordinate(rank)
    return "".join(f"replica {n}, " for n in replica) + f"shard {shard}"


def worst_sentence(plan: LoadPlan) -> str:
    """The rank that reads most."""
    rank, figures = plan.worst_rank, plan.ranks
    read, needed = int(figures.bytes_read[rank]), int(figures.bytes_needed[rank])
    alike = int(np.count_nonzero(figures.bytes_read == read))
    others = ""
    if alike > 1:
        others = f", as {plural(alike - 1, 'other')} " + ("does" if alike == 2 else "do")
    return (
        f"rank {rank} ({place(plan.mesh, rank)}): reads {format_bytes(read)} "
        f"to hold {format_bytes(needed)}, "
        f"{plural(int(figures.num_reads[rank]), 'read')} from "
        f"{plural(int(figures.num_files[rank]), 'file')}, "
        f"{plan.imbalance:.2f}x the mean{others}"
    )


def comparison(plan: LoadPlan, written_by: WrittenBy, under: LoadPlan | None) -> str:
    """This mesh beside the one that the checkpoint was written by."""
    if written_by.mesh is None:
        return "the mesh that wrote it cannot be told: nothing to compare with"
    wrote = f"written by {written_by.mesh}" + ("" if written_by.certain else " (not certain)")
    if written_by.mesh == plan.mesh:
        return f"{wrote}, this very mesh"
    if under is None:
        return f"{wrote}, under which no load is planned here (fsdp:S and hsdp:RxS are)"
    most = int(under.ranks.num_files.max())
    peak = int(under.ranks.peak_bytes.max())
    return (
        f"{wrote}; under that mesh {plural(under.world_size, 'rank')} would read "
        f"{under.times_read:.2f}x the checkpoint ({format_bytes(under.bytes_read)}), each from up "
        f"to {plural(most, 'file')}, with a peak of {format_bytes(peak)}"
    )


def plan_facts(
    plan: LoadPlan, written_by: WrittenBy | None = None, under: LoadPlan | None = None
) -> list[tuple[str, str]]:
    """The plan as labels and printable sentences.

    Args:
        plan: The plan.
        written_by: The mesh that wrote it; None leaves the comparison out.
        under: The plan under that mesh.
    """
    whole = "slices of payloads" if plan.checkpoint.format == "safetensors" else "whole payloads"
    peak = int(plan.ranks.peak_bytes.max())
    rank = int(plan.ranks.peak_bytes.argmax())
    largest = format_bytes(int(plan.ranks.largest_read[rank]))
    read = (
        f"{format_bytes(plan.bytes_read)} by all ranks ({whole}) for "
        f"{format_bytes(plan.bytes_needed)} needed: {plan.amplification:.2f}x; the checkpoint is "
        f"{format_bytes(plan.checkpoint_bytes)}"
    )
    memory = (
        f"at most {format_bytes(peak)} on a rank (rank {rank}), of which {largest} for the "
        "largest payload while it is read"
    )
    facts = [
        ("mesh", mesh_sentence(plan.mesh)),
        ("in short", headline(plan)),
        ("read", read),
        ("worst rank", worst_sentence(plan)),
        ("memory", memory),
    ]
    if plan.num_replicas > 1:
        facts.append(
            ("replicas", f"{plan.num_replicas} ranks read the same bytes, for every shard")
        )
    if plan.empty_tensors:
        facts.append(("empty shards", _empty(plan)))
    if written_by is not None:
        facts.append(("compared", comparison(plan, written_by, under)))
    return facts


def _empty(plan: LoadPlan) -> str:
    """Which tensors leave ranks without an element, those that leave most first."""
    most = sorted(plan.empty_tensors, key=lambda tensor: -tensor.num_ranks)
    named = [
        f"{printable(tensor.fqn, _MAX_NAME)} ({plural(tensor.num_ranks, 'rank')})"
        for tensor in most[:_MAX_NAMED]
    ]
    more = len(most) - len(named)
    return ", ".join(named) + (f" and {plural(more, 'tensor')} more" if more else "")
