"""What the load plan says in sentences, as much of it as a screen has room for. No widget."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding
from inspector.checks.plan.faults import untold
from inspector.errors import InspectError
from inspector.report.plan.text import comparison, headline, plan_facts
from inspector.tui.advice import on_screen
from inspector.tui.plan.desk import Planned

__all__ = ["error_text", "facts_text", "short_text", "with_faults"]

_LABEL_CELLS = 12
_MAX_CHARS = 400


def error_text(error: InspectError, below: str = "") -> Text:
    """Why there is no plan; `below` says what is shown all the same."""
    text = Text.assemble(("✗ ", "error"), (printable(error.message, _MAX_CHARS), "error"))
    if error.hint:
        text.append(f"\n{printable(on_screen(error.hint), _MAX_CHARS)}")
    if below:
        text.append(f" {below}", "dim")
    return text


def with_faults(planned: Planned, findings: Sequence[Finding]) -> list[Finding]:
    """What goes wrong: rank by rank, and the checkpoint's own errors; errors first.

    Args:
        planned: The plan.
        findings: What the checks found; those about an entry that its filter leaves out are not
            of this load.
    """
    faults = untold(findings, planned.problems)
    if planned.order.filter_text:
        loaded = set(matching([f.fqn or "" for f in faults], planned.order.filter_text))
        faults = [f for n, f in enumerate(faults) if f.fqn is None or n in loaded]
    return sorted([*planned.problems, *faults], key=lambda f: f.severity != "error")


def facts_text(planned: Planned, problems: Sequence[Finding]) -> Table:
    """Every sentence that the plan has to say."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=_LABEL_CELLS)
    table.add_column(ratio=1)
    plan, written_by = planned.plan, planned.order.written_by
    for label, text in plan_facts(plan, written_by, planned.as_written):
        table.add_row(Text(label, "dim"), Text(text, "bold" if label == "in short" else ""))
    if problems:
        table.add_row(Text("goes wrong", "error"), _told(problems))
    else:
        table.add_row(Text("goes wrong", "dim"), Text("nothing that the metadata tells"))
    return table


def short_text(planned: Planned, problems: Sequence[Finding]) -> Text:
    """The plan in short, what goes wrong, and the mesh that wrote it."""
    text = Text(headline(planned.plan), "bold")
    if problems:
        text.append("\n")
        text.append_text(_told(problems))
    elif planned.order.written_by is not None:
        text.append("\n")
        said = comparison(planned.plan, planned.order.written_by, planned.as_written)
        text.append(said, "not bold dim")
    return text


def _told(problems: Sequence[Finding]) -> Text:
    """The first problem in full, and how many more there are."""
    first, more = problems[0], len(problems) - 1
    style = "error" if first.severity == "error" else "warning"
    text = Text.assemble((printable(first.message, _MAX_CHARS), style))
    text.append(f" (torch: {printable(first.torch_does, _MAX_CHARS)})", "not bold")
    if more:
        text.append(f", and {plural(more, 'more problem')}: 3 lists them", "not bold")
    return text
