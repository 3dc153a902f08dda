"""What a verification found on one entry, as styled lines. Pure; every name passes the gate."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from inspector.checkpoint.text import format_shape, plural, printable
from inspector.verify.verdicts import Fault, TensorView, severity

__all__ = ["verdict_text"]


def verdict_text(view: TensorView | None) -> Text:
    """Name, verdict, what each phase said, and every fault that was kept."""
    if view is None:
        return Text("")
    return Text("\n").join(_lines(view))


def _lines(view: TensorView) -> Iterator[Text]:
    style = "bold red" if view.is_bad else "bold green" if severity(view.verdict) == 0 else "bold"
    word = view.verdict or "not compared yet"
    yield Text.assemble((printable(word, 40), style), "  ", (printable(view.fqn, 400), "bold"))
    phases = []
    for phase in view.phases:
        said = "" if phase.verdict == "EXACT" else f" {printable(phase.verdict, 40)}"
        phases.append(
            f"{printable(phase.phase, 40)}{said} by {phase.num_ranks} of {phase.num_expected} ranks"
        )
    if phases:
        yield Text(", ".join(phases), "dim")
    for fault in view.faults:
        yield from _fault(fault)
    if view.num_faults > len(view.faults):
        yield Text(f"{plural(view.num_faults - len(view.faults), 'more report')} like these", "dim")
    if view.detail and not view.faults:
        yield Text(printable(view.detail, 600))


def _fault(fault: Fault) -> Iterator[Text]:
    who = f"rank {fault.rank}, {printable(fault.phase, 40)}: "
    parts = []
    if fault.num_different is not None and fault.num_elements is not None:
        parts.append(f"{fault.num_different:,} of {fault.num_elements:,} elements differ")
    if fault.first_index is not None:
        parts.append(f"first at {format_shape(fault.first_index)}")
    yield Text.assemble(
        (who, "dim"), (printable(fault.verdict, 40), "bold red"), "  ", ", ".join(parts)
    )
    if fault.expected or fault.found:
        yield Text.assemble(
            ("    expected ", "dim"),
            printable(fault.expected or "?", 120),
            ("  found ", "dim"),
            (printable(fault.found or "?", 120), "bold"),
        )
    if fault.file:
        yield Text.assemble(("    stored in ", "dim"), printable(fault.file, 200))
    if fault.detail:
        yield Text(f"    {printable(fault.detail, 600)}")
