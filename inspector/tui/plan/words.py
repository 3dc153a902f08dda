"""What the load plan says in sentences, as much of it as a screen has room for. No widget."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.plan.problems import untold
from inspector.errors import InspectError
from inspector.report.plan import comparison, headline, plan_facts
from inspector.tui.advice import on_screen
from inspector.tui.plan.desk import Planned

__all__ = ["answer", "error_text", "facts_text", "short_text", "with_faults"]

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


def answer(planned: Planned, problems: Sequence[Finding], *, is_checked: bool = True) -> str:
    """Whether it loads under this mesh and with how much memory, in one sentence.

    Args:
        planned: The plan.
        problems: What goes wrong, the checkpoint's own errors with it.
        is_checked: Whether the checks of the checkpoint have ended.
    """
    plan = planned.plan
    memory = f"memory at most {format_bytes(int(plan.ranks.peak_bytes.max()))} a rank"
    errors = sum(finding.severity == "error" for finding in problems)
    if errors:
        return f"goes wrong on {plan.mesh}, {plural(errors, 'error')}; {memory}"
    if not is_checked:
        return f"{plan.mesh}: the checks are still running; {memory}"
    return f"loads on {plan.mesh}, as far as metadata tells; {memory}"


def facts_text(planned: Planned, problems: Sequence[Finding], *, is_checked: bool = True) -> Table:
    """Every sentence that the plan has to say."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=_LABEL_CELLS)
    table.add_column(ratio=1)
    plan, written_by = planned.plan, planned.order.written_by
    said = answer(planned, problems, is_checked=is_checked)
    table.add_row(Text("answer", "dim"), Text(said, "bold"))
    for label, text in plan_facts(plan, written_by, planned.as_written):
        table.add_row(Text(label, "dim"), Text(text))
    if problems:
        table.add_row(Text("goes wrong", "error"), _told(problems))
    else:
        table.add_row(Text("goes wrong", "dim"), Text("nothing that the metadata tells"))
    return table


def short_text(planned: Planned, problems: Sequence[Finding], *, is_checked: bool = True) -> Text:
    """Whether it loads, the plan in short, what goes wrong, and the mesh that wrote it."""
    text = Text(answer(planned, problems, is_checked=is_checked), "bold")
    text.append(f"\n{headline(planned.plan)}", "not bold")
    if problems:
        text.append("\n")
        text.append_text(_told(problems))
    elif planned.order.written_by is not None:
        text.append("\n")
        written_by, under = planned.order.written_by, planned.as_written
        said = comparison(planned.plan, written_by, under, short=True)
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
