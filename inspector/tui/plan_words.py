"""What the load plan says in sentences, as much of it as a screen has room for. No widget."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from inspector.checkpoint.text import plural, printable
from inspector.errors import InspectError
from inspector.report.plan import comparison, headline, plan_facts
from inspector.tui.plan_desk import Planned

__all__ = ["error_text", "facts_text", "short_text"]

_LABEL_CELLS = 12
_MAX_CHARS = 400


def error_text(error: InspectError, below: str = "") -> Text:
    """Why there is no plan; `below` says what is shown all the same."""
    text = Text.assemble(("✗ ", "bold red"), (printable(error.message, _MAX_CHARS), "bold red"))
    if error.hint:
        text.append(f"\n{printable(error.hint, _MAX_CHARS)}")
    if below:
        text.append(f" {below}", "dim")
    return text


def facts_text(planned: Planned) -> Table:
    """Every sentence that the plan has to say."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=_LABEL_CELLS)
    table.add_column(ratio=1)
    plan, written_by = planned.plan, planned.order.written_by
    for label, text in plan_facts(plan, written_by, planned.as_written):
        table.add_row(Text(label, "dim"), Text(text, "bold" if label == "in short" else ""))
    if planned.problems:
        table.add_row(Text("goes wrong", "bold red"), _problem(planned))
    else:
        table.add_row(Text("goes wrong", "dim"), Text("nothing that the metadata tells"))
    return table


def short_text(planned: Planned) -> Text:
    """The plan in short, what goes wrong, and the mesh that wrote it."""
    text = Text(headline(planned.plan), "bold")
    if planned.problems:
        text.append("\n")
        text.append_text(_problem(planned))
    elif planned.order.written_by is not None:
        text.append("\n")
        said = comparison(planned.plan, planned.order.written_by, planned.as_written)
        text.append(said, "not bold dim")
    return text


def _problem(planned: Planned) -> Text:
    """The first problem in full, and how many more there are."""
    first, more = planned.problems[0], len(planned.problems) - 1
    style = "bold red" if first.severity == "error" else "yellow"
    text = Text.assemble((printable(first.message, _MAX_CHARS), style))
    text.append(f" (torch: {printable(first.torch_does, _MAX_CHARS)})", "not bold")
    if more:
        text.append(f", and {plural(more, 'more problem')}", "not bold")
    return text
