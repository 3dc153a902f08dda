"""`plan` as a page: what every rank would read, and what would go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import SEVERITIES
from inspector.report.html.findings import finding_maps, findings_list
from inspector.report.html.markup import Html, join, tag
from inspector.report.html.page import facts, page, section, table
from inspector.report.plan import RANK_COLUMNS, PlanReport, against_words, headline, rank_cells

__all__ = ["plan_html"]

_MAX_RANKS = 512
_MAX_LEFT_OUT = 100


def plan_html(planned: PlanReport, command: str) -> Iterator[str]:
    """The page of a plan, in pieces."""
    plan = planned.plan
    rows = planned.facts
    if planned.expected is not None:
        rows.append(("against", against_words(planned, planned.expected)))
        rows += [("", note) for note in planned.expected.notes]
    yield from page(
        f"load plan of {printable(plan.checkpoint.path, 500)} under {plan.mesh}",
        "bad" if planned.exit_code else "plain",
        _verdict(planned),
        (
            section("The plan", facts(rows)),
            section("What would go wrong", findings_list(planned.problems)),
            section("Left out of the plan", _left_out(planned)),
            section("Chunk maps", finding_maps(plan.checkpoint, planned.problems)),
            section("Ranks", _ranks(planned)),
            section("To prove it where the ranks are", _commands(planned)),
        ),
        command,
    )


def _verdict(planned: PlanReport) -> str:
    """What the plan comes to; it is made from the metadata alone and proves no load."""
    counts = Counter(finding.severity for finding in planned.problems)
    told = [plural(counts[s], s) for s in SEVERITIES if counts[s]]
    found = ", ".join(told) or "nothing that would go wrong"
    return f"{found}, by the metadata alone (nothing was loaded): {headline(planned.plan)}"


def _left_out(planned: PlanReport) -> Html:
    left = planned.plan.not_planned
    return table(
        ("entry", "why"),
        [(item.fqn, item.why) for item in left[:_MAX_LEFT_OUT]],
        names=frozenset({"entry"}),
        num_more=len(left) - _MAX_LEFT_OUT,
    )


def _ranks(planned: PlanReport) -> Html:
    plan = planned.plan
    return table(
        tuple(column.title.lower() for column in RANK_COLUMNS),
        [rank_cells(plan, rank) for rank in range(min(plan.world_size, _MAX_RANKS))],
        numbers=frozenset(c.title.lower() for c in RANK_COLUMNS if c.align == "right"),
        num_more=plan.world_size - _MAX_RANKS,
    )


def _commands(planned: PlanReport) -> Html:
    if not planned.commands:
        return Html("")
    warning = tag("p", planned.unsafe) if planned.unsafe else ""
    lines = [
        join((tag("dt", where), tag("dd", tag("code", line)))) for where, line in planned.commands
    ]
    return join((warning, tag("dl", *lines)))
