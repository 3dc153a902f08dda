"""What a repair would do, or did, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from inspector.repair.run import RepairReport
from inspector.report.json import SCHEMA, dump

if TYPE_CHECKING:
    from inspector.report.documents.values import RepairDocument

__all__ = ["repair_json"]


def repair_json(report: RepairReport) -> Iterator[str]:
    """The document of `repair --json`."""
    carried = report.carried
    document: RepairDocument = {
        "schema": SCHEMA,
        "verdict": report.verdict,
        "path": report.path,
        "output": report.output,
        "before": report.before.verdict,
        "after": None if report.after is None else report.after.verdict,
        "steps": [
            {
                "kind": step.kind,
                "basis": step.basis,
                "fqn": step.fqn,
                "file": step.file,
                "before": step.before,
                "after": step.after,
                "why": step.why,
            }
            for step in report.plan.steps
        ],
        "not_repaired": [
            {
                "fqn": item.fqn,
                "file": item.file,
                "code": item.code,
                "why": item.why,
                "hint": item.hint,
            }
            for item in report.plan.unrepaired
        ],
        "files": None
        if carried is None
        else {
            "linked": carried.num_linked,
            "copied": carried.num_copied,
            "copied_bytes": carried.copied_bytes,
        },
        "torch": report.torch,
    }
    yield dump(document) + "\n"
