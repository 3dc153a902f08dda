"""A `LoadPlan` in sentences, which text and screen say alike, and as JSON. Names are printable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.text import format_bytes, format_count, plural, printable
from inspector.checks.findings import Finding
from inspector.layout.mesh import Mesh
from inspector.layout.reads.load_plan import LoadPlan, Planner
from inspector.layout.target.placement import why_not
from inspector.layout.target.rules import TargetPlacements, placed_words
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.check import finding_json, finding_lines
from inspector.report.json import SCHEMA, dump, dump_list
from inspector.report.table import TextColumn, render_table, wrapped

if TYPE_CHECKING:
    from inspector.checks.plan.expected import Expected
    from inspector.layout.target.stages import StageKeys
    from inspector.report.documents.check import PlanHead, PlanRank

__all__ = [
    "RANK_COLUMNS",
    "PlanReport",
    "against_words",
    "as_written",
    "comparison",
    "headline",
    "mesh_sentence",
    "place",
    "plan_facts",
    "plan_json",
    "plan_text",
    "rank_cells",
    "stages_json",
    "worst_sentence",
]

_MAX_NAMED = 3
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class PlanReport:
    """All that `plan` has found out.

    Attributes:
        plan: The plan.
        written_by: The mesh that wrote the checkpoint, as far as it tells.
        as_written: The plan under that mesh; None if there is none, or it is this one.
        problems: What would go wrong.
        commands: (where, line) pairs that prove it elsewhere.
        expected: What it was compared with, or None.
        stage: The pipeline stage whose entries are planned; None for all entries.
        num_elsewhere: Errors of the checkpoint that entries or files of other stages alone have.
    """

    plan: LoadPlan
    written_by: WrittenBy
    as_written: LoadPlan | None = None
    problems: tuple[Finding, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    expected: Expected | None = None
    stage: StageKeys | None = None
    num_elsewhere: int = 0

    @property
    def facts(self) -> list[tuple[str, str]]:
        """The plan as labels and printable sentences, the stage among them."""
        facts = plan_facts(self.plan, self.written_by, self.as_written)
        if self.stage is not None:
            text = self.stage.words
            if self.num_elsewhere:
                text += (
                    f"; {plural(self.num_elsewhere, 'error')} of what other stages load (check "
                    f"names {'it' if self.num_elsewhere == 1 else 'them'}) not counted here"
                )
            facts.insert(1, ("stage", text))
        return facts

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
        if self.expected is None:
            return 0
        from inspector.checks.plan.against import num_matching  # lazy: only with --against

        return num_matching(self.plan.checkpoint, self.expected)


def as_written(planner: Planner, written_by: WrittenBy, mesh: Mesh) -> LoadPlan | None:
    """The plan under the mesh that wrote it, if that is another one and can be planned."""
    written = written_by.mesh
    if written is None or _alike(written, mesh) or why_not(written):
        return None
    if written.is_plain:
        return planner.plan(written)
    return planner.plan(written, TargetPlacements(written, written_by))


def _alike(one: Mesh, other: Mesh) -> bool:
    """Whether two meshes are one, whatever their axes are called: `hsdp:2x4`, by name or not."""
    return (one.sizes, one.kinds, one.experts) == (other.sizes, other.kinds, other.experts)


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
    if not mesh.is_plain:
        return f"{text}, {mesh.words}"
    if mesh.family == "hsdp":
        text += f", {plural(mesh.num_replicas, 'replica')} of {plural(mesh.num_shards, 'shard')}"
    return text


def place(mesh: Mesh, rank: int) -> str:
    """`replica 1, shard 3`, or `shard 3`; of axes by name `dp_shard 3, tp 0`."""
    if not mesh.is_plain:
        pairs = zip(mesh.axes, mesh.coordinate(rank), strict=True)
        return ", ".join(f"{axis} {at}" for axis, at in pairs)
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


def comparison(
    plan: LoadPlan, written_by: WrittenBy, under: LoadPlan | None, *, short: bool = False
) -> str:
    """This mesh beside the one that the checkpoint was written by."""
    if written_by.mesh is None:
        return "the mesh that wrote it cannot be told: nothing to compare with"
    wrote = f"written by {written_by.mesh}" + ("" if written_by.certain else " (not certain)")
    if _alike(written_by.mesh, plan.mesh):
        return f"{wrote}, this very mesh"
    if under is None:
        return f"{wrote}, under which no load can be planned"
    most = int(under.ranks.num_files.max())
    peak = int(under.ranks.peak_bytes.max())
    if short:
        return f"{wrote}: {under.times_read:.2f}x, memory at most {format_bytes(peak)} a rank"
    return (
        f"{wrote}; under that mesh {plural(under.world_size, 'rank')} would read "
        f"{under.times_read:.2f}x the checkpoint ({format_bytes(under.bytes_read)}), each from up "
        f"to {plural(most, 'file')}, with a peak of {format_bytes(peak)}"
    )


def plan_facts(
    plan: LoadPlan, written_by: WrittenBy | None = None, under: LoadPlan | None = None
) -> list[tuple[str, str]]:
    """The plan as labels and printable sentences; beside that `under` the mesh of the writer."""
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
    if plan.sources:
        facts.insert(1, ("placements", placed_words(plan.mesh, plan.placements, plan.sources)))
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


_LABEL_CELLS = 13
_MAX_ALIKE = 5
_MAX_CELL_NAME = 80

RANK_COLUMNS = (
    TextColumn("RANK", "right"),
    TextColumn("PLACE", priority=2),
    TextColumn("NEEDS", "right"),
    TextColumn("READS", "right"),
    TextColumn("TIMES", "right", priority=3),
    TextColumn("ITEMS", "right", priority=1),
    TextColumn("FILES", "right"),
    TextColumn("EMPTY", "right", priority=4),
    TextColumn("PEAK", "right"),
)


def rank_cells(plan: LoadPlan, rank: int) -> tuple[str, ...]:
    """One rank as cells: rank, place, needs, reads, times, items, files, empty tensors, peak."""
    figures = plan.ranks
    needed, read = int(figures.bytes_needed[rank]), int(figures.bytes_read[rank])
    return (
        str(rank),
        place(plan.mesh, rank),
        format_bytes(needed),
        format_bytes(read),
        f"{read / needed:.2f}x" if needed else "-",
        format_count(int(figures.num_reads[rank])),
        format_count(int(figures.num_files[rank])),
        format_count(int(figures.num_empty_tensors[rank])),
        format_bytes(int(figures.peak_bytes[rank])),
    )


def plan_text(
    planned: PlanReport, width: int | None = None, max_rows: int | None = None
) -> Iterator[str]:
    """The lines of `plan`, of at most `max_rows` ranks, `width` cells wide; None for any."""
    plan = planned.plan
    yield printable(plan.checkpoint.path)
    for label, text in planned.facts:
        yield from _labelled(label, text, width)
    if planned.expected is not None:
        yield from _against(planned, planned.expected, width)
    listed = plan.world_size
    if max_rows is not None:
        # Replicas read alike: one of them says it all.
        listed = min(max_rows, plan.world_size // plan.num_replicas_after)
    yield ""
    yield from render_table(RANK_COLUMNS, (rank_cells(plan, rank) for rank in range(listed)), width)
    if listed < plan.world_size:
        alike = listed * plan.num_replicas_after == plan.world_size
        why = "the other replicas read the same" if alike else "send this to a file to see all"
        yield f"... and {plural(plan.world_size - listed, 'rank')} more: {why}"
    yield from _problem_lines(planned.problems, width)
    if planned.commands:
        yield ""
        if planned.unsafe:
            yield from wrapped(planned.unsafe, width)
        yield "To prove it where the ranks are:"
        for where, line in planned.commands:
            yield f"  # {where}"
            yield f"  {printable(line)}"


def _labelled(label: str, text: str, width: int | None) -> list[str]:
    """A fact, its lines indented alike where it does not fit."""
    head = f"  {label:<{_LABEL_CELLS}}"
    return wrapped(text, width, head, " " * len(head))


def against_words(planned: PlanReport, expected: Expected) -> str:
    """What was expected and how much of it is there, in a sentence."""
    from inspector.checks.plan.against import ModelFit  # lazy: only with --against

    return ModelFit(expected, planned.num_matching, planned.problems).words


def _against(planned: PlanReport, expected: Expected, width: int | None) -> Iterator[str]:
    yield from _labelled("against", against_words(planned, expected), width)
    for note in expected.notes:
        yield from _labelled("", printable(note), width)


def _problem_lines(problems: Sequence[Finding], width: int | None) -> Iterator[str]:
    seen: Counter[tuple[str, str]] = Counter()
    rest: dict[tuple[str, str], list[Finding]] = {}
    for finding in problems:
        kind = (finding.severity, finding.code)
        seen[kind] += 1
        if seen[kind] <= _MAX_ALIKE:
            yield ""
            yield from finding_lines(finding, width)
        else:
            rest.setdefault(kind, []).append(finding)
    for (severity, code), more in rest.items():
        yield ""
        head = f"{severity.upper()} {code}: and {len(more):,} more"
        if width is None:
            yield f"{head}:"
            yield from (f"  {printable(finding.message)}" for finding in more)
            continue
        names = [printable(f.fqn or f.file or f.message, _MAX_CELL_NAME) for f in more[:_MAX_ALIKE]]
        left = ", ... (send this to a file to see all)" if len(more) > len(names) else ""
        yield from wrapped(f"{head}: {', '.join(names)}{left}", width, later="  ")


def plan_json(planned: PlanReport, *, reads: bool = False) -> Iterator[str]:
    """The document of `plan --json [--reads]`, in pieces."""
    plan = planned.plan
    yield dump(_summary(planned))[:-1] + ', "ranks": '
    yield from dump_list(_rank(plan, rank) for rank in range(plan.world_size))
    yield f', "problems": {dump([finding_json(f) for f in planned.problems])}'
    if reads:
        yield ', "reads": '
        ranks = range(plan.world_size)
        found = ({"rank": rank, **asdict(read)} for rank in ranks for read in plan.reads(rank))
        yield from dump_list(found)
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
