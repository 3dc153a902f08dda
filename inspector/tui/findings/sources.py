"""Findings as rows of a table. Pure; no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspector.checkpoint.text import format_count, natural_keys, printable
from inspector.checks.findings import SEVERITIES
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.columns import Column
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.virtual_table import TableSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inspector.checks.findings import Finding

__all__ = ["FindingSource", "finding_columns"]


# Rows that are looked at to choose the widths.
_SAMPLE_ROWS = 300


def finding_columns(findings: Sequence[Finding]) -> tuple[Column, ...]:
    """Columns as wide as what stands in them; what is wrong goes last on a narrow screen.

    The severity has its glyph before the row, and the number of elements stands in the message:
    these two columns go first.
    """
    step = max(1, len(findings) // _SAMPLE_ROWS)
    sample = findings[::step]
    code = max(map(len, (finding.code for finding in sample)), default=4)
    subject = max((len(printable(_subject(f), 40)) for f in sample), default=7)
    return (
        Column("severity", "Severity", width=8, priority=3),
        Column("code", "Code", min_width=min(code, 20), max_width=min(code, 24)),
        Column(
            "subject",
            "Subject",
            min_width=max(7, min(subject, 20)),
            max_width=max(7, min(subject, 48)),
            cut="middle",
            priority=1,
        ),
        Column("elements", "Elements", width=10, align="right", priority=2, descending_first=True),
        Column("message", "What is wrong", min_width=34, flex=1, sortable=False),
    )


def _subject(finding: Finding) -> str:
    return finding.fqn if finding.fqn is not None else finding.file or ""


def _message(finding: Finding) -> str:
    """What is wrong, without the name that stands in the column before it."""
    subject = printable(_subject(finding), 200)
    return finding.message.removeprefix(f"{subject}: ") if subject else finding.message


class FindingSource(TableSource):
    """Findings, as a report has them: by severity, then by code."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        #: What a filter looks at, per row.
        self.searchable = [
            f"{f.severity} {f.code} {f.fqn or ''} {f.file or ''} {f.message}" for f in findings
        ]

    @property
    def num_rows(self) -> int:
        return len(self.findings)

    def cell(self, row: int, column_key: str) -> Cell:
        finding = self.findings[row]
        if column_key == "severity":
            return (finding.severity, finding.severity)
        if column_key == "code":
            return finding.code
        if column_key == "subject":
            return _subject(finding)
        if column_key == "elements":
            return "" if finding.num_elements is None else format_count(finding.num_elements)
        return _message(finding)

    def sort_key(self, column_key: str) -> SortKeys | None:
        findings = self.findings
        if column_key == "severity":
            return [SEVERITIES.index(f.severity) for f in findings]
        if column_key == "code":
            return [f.code for f in findings]
        if column_key == "subject":
            return natural_keys([f.fqn or f.file or "" for f in findings])
        if column_key == "elements":
            return [f.num_elements or 0 for f in findings]
        return None

    def marker(self, row: int) -> str:
        return self.findings[row].severity
