"""`Standing`: all that is known of whether a checkpoint is sound, whoever found it out.

The rule this module keeps: there is one list of findings, of metadata, files, bytes, values, seal
and verification, and one verdict, the worst of all. It is green only where every stored byte was
read and nothing is wrong with any; what was not read is never called sound without saying so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from inspector.checkpoint.text import plural
from inspector.checks.findings import SEVERITIES, Coverage, Finding, Report

__all__ = ["Badge", "Standing"]

Badge = tuple[str, str]
"""What the badge says, and its style."""

_BAD, _ODD, _GOOD, _PLAIN = ("badge.error", "badge.warning", "badge.ok", "badge.plain")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the checks, the readings and the verification have found by now.

    Attributes:
        checked: What metadata and file sizes say, or, if `is_deep`, every byte too; None before
            the checks have ended.
        is_deep: Whether the bytes were read.
        was_stopped: Whether that was stopped before its end.
        valued: Findings about values from a reading of all numbers that looked at nothing else.
        verified: What a verification found wrong.
        proved: What a verification without a difference proved: `EXACT on fsdp:2`; else empty.
        changes: What lies there now and is not as it was read, in words; empty if nothing.
        is_lost: Whether it is not there any more, or cannot be read.
    """

    checked: Report | None = None
    is_deep: bool = False
    was_stopped: bool = False
    valued: tuple[Finding, ...] = ()
    verified: tuple[Finding, ...] = ()
    proved: str = ""
    changes: str = ""
    is_lost: bool = False

    @property
    def report(self) -> Report | None:
        """The one list: by severity, what a verification found before what the checks did."""
        if self.checked is None:
            return None
        known = {(finding.code, finding.fqn) for finding in self.checked.findings}
        valued = [f for f in self.valued if (f.code, f.fqn) not in known]
        findings = [*self.verified, *self.checked.findings, *valued]
        findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        return replace(self.checked, findings=tuple(findings))

    @property
    def count(self) -> tuple[int, str]:
        """How many findings there are, and a style as bad as the worst of them."""
        report = self.report
        if report is None or not report.findings:
            return 0, ""
        worst = report.findings[0].severity
        return len(report.findings), "" if worst == "note" else worst

    @property
    def is_every_byte_read(self) -> bool:
        """Whether no stored byte was left out."""
        if self.checked is None or not self.is_deep or self.was_stopped:
            return False
        return bool(self.checked.checked.payloads) and not self.checked.checked.num_unread

    @property
    def badge(self) -> Badge:
        """The verdict and what it rests on, in a few words; and its style."""
        report = self.report
        if self.is_lost:
            return "NOT THERE ANY MORE, OR NOT READABLE", _BAD
        if self.changes:
            return "CHANGED SINCE IT WAS OPENED: r", _ODD
        if report is None:
            return "", ""
        if report.is_empty:
            return "EMPTY", _ODD
        if report.is_unread:
            return f"NOT READ: {plural(report.checked.num_unread, 'payload')}", _BAD
        if report.verdict != "sound":
            return f"{report.verdict.upper()}: {plural(report.count('error'), 'error')}", _BAD
        said = [self._sound(report.checked), self.proved]
        warnings = report.count("warning")
        if warnings:
            said.insert(0, plural(warnings, "warning"))
        text = ", ".join(part for part in said if part)
        if self.is_every_byte_read:
            text = f"sound, {text}"
            has_sums = all(f.code != "payload-no-checksum" for f in report.findings)
            return text, _ODD if warnings else _GOOD if has_sums else _PLAIN
        return f"metadata sound, {text}", _ODD if warnings else _PLAIN

    def _sound(self, checked: Coverage) -> str:
        """What the verdict rests on."""
        if self.is_every_byte_read:
            report = self.report
            bare = report is not None and any(
                finding.code == "payload-no-checksum" for finding in report.findings
            )
            return "every byte read, no checksum" if bare else "every byte read"
        if self.is_deep and checked.payloads:
            return "not every byte read"
        return "" if self.proved else "bytes unread"
