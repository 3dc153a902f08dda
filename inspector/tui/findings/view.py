"""`FindingsView`: everything that is wrong, and the way to where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.text import format_count, natural_keys, printable
from inspector.checks.findings import SEVERITIES, Finding, Report
from inspector.errors import Cancelled, InspectError
from inspector.report.check import against_sentence, checked_sentence, verdict_sentence
from inspector.tui.advice import on_screen
from inspector.tui.background import Background
from inspector.tui.commands import CHECK_BYTES
from inspector.tui.findings.checking import DeepCheck, DeepResult
from inspector.tui.kit.bars import TaskLine
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.view import TableView
from inspector.tui.kit.virtual_table import Column, TableSource, VirtualTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.notifications import SeverityLevel

    from inspector.checks.findings import Finding
    from inspector.tui.session import Loaded

__all__ = ["FindingsView"]

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


class FindingsView(TableView):
    """The report: findings above, the one under the cursor in full below."""

    DEFAULT_CSS = """
    FindingsView #finding-scroll {
        height: auto; max-height: 60%; min-height: 6;
        border-top: hkey $panel; scrollbar-size-vertical: 1; padding: 0 1;
    }
    FindingsView #finding-text { width: 1fr; height: auto; }
    """

    @dataclass
    class Chosen(Message):
        """Enter on a finding: the user wants to see where it is."""

        finding: Finding

    @dataclass
    class Deepened(Message):
        """Every byte was read, or as many as there was time for, or it could not be done."""

        loaded: Loaded
        result: DeepResult

    def __init__(self) -> None:
        super().__init__(VirtualTable(finding_columns(()), id="findings-table"), id="findings")
        self._table.set_empty_text("The checks are still running")
        self._text = Static("", markup=False, id="finding-text")
        self._source: FindingSource | None = None
        self._report: Report | None = None
        self._deep: DeepCheck | None = None
        self._reading = Background[DeepCheck](self, self._has_read, "checking every byte")

    def compose(self) -> ComposeResult:
        yield self._table
        with VerticalScroll(id="finding-scroll", can_focus=False):
            yield self._text

    def show(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._reading.drop()
        self._deep = None
        self._report = None
        self._source = None
        self._names = []
        self._table.set_empty_text("The checks are still running")
        self._table.set_source(FindingSource(()))
        self._text.update("")
        self.refilter()

    def show_report(self, report: Report) -> None:
        row = self._table.cursor_row
        self._report = report
        self._source = FindingSource(report.findings)
        self._names = self._source.searchable
        self._table.set_empty_text(f"{verdict_sentence(report).capitalize()}")
        self._table.set_columns(finding_columns(report.findings))
        self._table.set_source(self._source)
        self.refilter()
        if row is not None:
            self._table.select_row(row)
        self._show_row(self._table.cursor_row)

    # Reading every byte.

    def toggle_deep(self) -> None:
        """Start to read every byte; while that is done, stop it."""
        if self._deep is not None:
            self._reading.stop()
        elif self.loaded is None:
            self.notify("The checkpoint is still being read.")
        else:
            deep = self._deep = DeepCheck(self.loaded)
            self._reading.ask(deep, deep.run)

    def _has_read(self, deep: DeepCheck, outcome: DeepResult | InspectError) -> None:
        self._deep = None
        if isinstance(outcome, Cancelled):
            self._tell("Stopped: no byte was read", outcome.message, "warning")
        elif isinstance(outcome, InspectError):
            self._tell("The check failed", outcome.message, "error")
        else:
            self.post_message(self.Deepened(deep.loaded, outcome))
            self._tell_result(outcome)

    def _tell_result(self, result: DeepResult) -> None:
        report = result.report
        title = "Every byte was read"
        if result.is_lost:
            title = "It cannot be read any more"
        elif result.was_stopped:
            title = "Stopped: not every byte was read"
        elif report.checked.num_unread:
            title = "What could be read was read, which is not every byte"
        said = verdict_sentence(report, is_stopped=result.was_stopped)
        if result.loaded is not None:
            said = f"it changed since it was opened; {said}"
        self._tell(title, said, "information" if report.verdict == "sound" else "error")

    def _tell(self, title: str, said: str, severity: SeverityLevel) -> None:
        self.notify(said, title=title, severity=severity, markup=False)

    def show_task(self, line: TaskLine) -> bool:
        deep = self._deep
        if deep is None:
            return False
        done = deep.progress
        num_wrong = getattr(done, "num_wrong", 0)
        stops = f"{CHECK_BYTES} stops"
        line.show("checking every byte", done, self._reading, stops, num_wrong=num_wrong)
        return True

    def step(self, steps: int) -> Finding | None:
        """Go to the next finding (or back); the one that is then under the cursor."""
        if not self._table.num_lines or self._source is None:
            return None
        self._table.move_cursor((self._table.cursor + steps) % self._table.num_lines)
        row = self._table.cursor_row
        return None if row is None else self._source.findings[row]

    @property
    def finding(self) -> Finding | None:
        row = self._table.cursor_row
        return None if row is None or self._source is None else self._source.findings[row]

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        finding = self.finding
        if finding is None or finding.fqn is None:
            return None
        return finding.fqn, finding.offsets if finding.code.startswith("values-") else None

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()
        self._show_row(event.row if event.row >= 0 else None)

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        if self._source is not None:
            self.post_message(self.Chosen(self._source.findings[event.row]))

    def _show_row(self, row: int | None) -> None:
        if row is not None and self._source is not None and row < self._source.num_rows:
            self._text.update(_finding_text(self._source.findings[row]))
        elif self._report is not None:
            self._text.update(_coverage_text(self._report))

    def copy_choices(self) -> list[tuple[str, str]]:
        finding = self.finding
        if finding is None:
            return []
        lines = [f"{finding.severity} {finding.code}: {finding.message}"]
        lines += [finding.torch_does, finding.hint]
        choices = [("finding", printable(" | ".join(filter(None, lines))))]
        if finding.fqn is not None:
            choices.append(("name", printable(finding.fqn)))
        if finding.file is not None:
            choices.append(("file", printable(finding.file)))
        return choices


def _finding_text(finding: Finding) -> Text:
    said = finding.severity.upper()
    text = Text.assemble((said, finding.severity), " ", (finding.code, "bold"), "\n")
    text.append(printable(finding.message))
    if finding.torch_does:
        text.append("\ntorch  ", "dim")
        text.append(printable(finding.torch_does))
    if finding.hint:
        text.append("\ndo     ", "dim")
        text.append(printable(on_screen(finding.hint)))
    return text


def _coverage_text(report: Report) -> Text:
    checked = report.checked
    text = Text.assemble(("checked      ", "dim"), checked_sentence(checked))
    for against in checked.against:
        text.append("\ncompared     ", "dim").append(against_sentence(against))
    for left in checked.not_checked:
        text.append("\nnot checked  ", "dim")
        text.append(f"{printable(left.what)}: {printable(on_screen(left.why))}")
    return text
