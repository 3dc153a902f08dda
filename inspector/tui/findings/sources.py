"""Findings as rows of a table. Pure; no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspector.checkpoint.text import (
    format_count,
    natural_keys,
)
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.columns import Column
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.virtual_table import TableSource

if TYPE_CHECKING:
    from inspector.checks.findings import Finding

__all__ = ["FINDING_COLUMNS", "FindingSource"]


FINDING_COLUMNS = (
    Column("severity", "Severity", width=8),
    Column("code", "Code", min_width=12, max_width=20),
    Column("subject", "Subject", min_width=14, max_width=40, flex=1, cut="middle", priority=1),
    Column("elements", "Elements", width=10, align="right", priority=2, descending_first=True),
    Column("message", "What is wrong", min_width=20, flex=3, sortable=False),
)

_SEVERITY_ORDER = {"error": 0, "warning": 1, "note": 2}


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
            return finding.fqn if finding.fqn is not None else finding.file or ""
        if column_key == "elements":
            return "" if finding.num_elements is None else format_count(finding.num_elements)
        return finding.message

    def sort_key(self, column_key: str) -> SortKeys | None:
        findings = self.findings
        if column_key == "severity":
            return [_SEVERITY_ORDER[f.severity] for f in findings]
        if column_key == "code":
            return [f.code for f in findings]
        if column_key == "subject":
            return natural_keys([f.fqn or f.file or "" for f in findings])
        if column_key == "elements":
            return [f.num_elements or 0 for f in findings]
        return None

    def marker(self, row: int) -> str:
        return self.findings[row].severity
