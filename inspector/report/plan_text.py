"""`plan` as text: facts, a table of ranks, what would go wrong, and how to prove it elsewhere.

On a terminal it fits the width and is short; piped, it is plain and complete.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from inspector.checkpoint.text import format_bytes, format_count, plural, printable
from inspector.checks.against import summary
from inspector.checks.expected import Expected
from inspector.checks.findings import Finding
from inspector.layout.load_plan import LoadPlan
from inspector.report.check import finding_lines
from inspector.report.plan import Planned, place, plan_facts
from inspector.report.table import Column, render_table

__all__ = ["RANK_COLUMNS", "plan_text", "rank_cells"]

_LABEL_CELLS = 13
_MAX_ALIKE = 5
_MAX_NAME = 80

RANK_COLUMNS = (
    Column("RANK", "right"),
    Column("PLACE", priority=2),
    Column("NEEDS", "right"),
    Column("READS", "right"),
    Column("TIMES", "right", priority=3),
    Column("ITEMS", "right", priority=1),
    Column("FILES", "right"),
    Column("EMPTY", "right", priority=4),
    Column("PEAK", "right"),
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
    planned: Planned, width: int | None = None, max_rows: int | None = None
) -> Iterator[str]:
    """The lines of `plan`.

    Args:
        planned: What was found out.
        width: Cells of the terminal; None if there is none.
        max_rows: Ranks to list; None for all.
    """
    plan = planned.plan
    yield printable(plan.checkpoint.path)
    for label, text in plan_facts(plan, planned.written_by, planned.as_written):
        yield from _labelled(label, text, width)
    if planned.expected is not None:
        yield from _against(planned, planned.expected, width)
    listed = plan.world_size
    if max_rows is not None:
        # Replicas read alike: one of them says it all.
        listed = min(max_rows, plan.world_size // plan.num_replicas)
    yield ""
    yield from render_table(RANK_COLUMNS, (rank_cells(plan, rank) for rank in range(listed)), width)
    if listed < plan.world_size:
        alike = listed * plan.num_replicas == plan.world_size
        why = "the other replicas read the same" if alike else "send this to a file to see all"
        yield f"... and {plural(plan.world_size - listed, 'rank')} more: {why}"
    yield from _problem_lines(planned.problems, width)
    if planned.commands:
        yield ""
        if planned.unsafe:
            yield from _wrapped(planned.unsafe, width)
        yield "To prove it where the ranks are:"
        for where, line in planned.commands:
            yield f"  # {where}"
            yield f"  {printable(line)}"


def _labelled(label: str, text: str, width: int | None) -> list[str]:
    """A fact, its lines indented alike where it does not fit."""
    head = f"  {label:<{_LABEL_CELLS}}"
    if width is None:
        return [head + text]
    return textwrap.wrap(
        text,
        max(len(head) + 20, width),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    )


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(20, width))


def _against(planned: Planned, expected: Expected, width: int | None) -> Iterator[str]:
    what = f"{printable(expected.path)} ({expected.source}, {plural(len(expected.wanted), 'key')})"
    if not planned.num_matching:
        what += ", none of which is in the checkpoint: is it of another model?"
    yield from _labelled("against", f"{what}: {summary(planned.problems)}", width)
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
        names = [printable(f.fqn or f.file or f.message, _MAX_NAME) for f in more[:_MAX_ALIKE]]
        left = ", ... (send this to a file to see all)" if len(more) > len(names) else ""
        yield from textwrap.wrap(
            f"{head}: {', '.join(names)}{left}",
            max(20, width),
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
