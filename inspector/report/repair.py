"""What a repair would do, or did, as text and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.repair.plan import RepairStep, Unrepaired
from inspector.repair.run import RepairReport
from inspector.report.json import SCHEMA, dicts, dump

if TYPE_CHECKING:
    from inspector.report.documents.values import RepairDocument

__all__ = ["repair_json", "repair_text"]

_MAX_NAMED = 40
_LOUD = {
    "likely": "LIKELY, not proven:",
    "like": "BY THE ORDER OF ANOTHER STEP:",
    "from": "OF AN OLDER STEP, not this one's values:",
}


def repair_text(report: RepairReport) -> Iterator[str]:
    """The lines of `repair`."""
    path, steps, left = printable(report.path), report.plan.steps, report.plan.unrepaired
    output = printable(report.output or "")
    yield {
        "sound": f"{path}: sound, nothing to repair",
        "repairable": f"{path}: {report.before.verdict}; all of it can be repaired",
        "partly-repairable": f"{path}: {report.before.verdict}; a part of it can be repaired",
        "not-repairable": f"{path}: {report.before.verdict}; none of it can be repaired",
        "repaired": f"{output}: repaired, and sound by check --deep",
        "not-repaired": f"{path}: {report.before.verdict}; {output} was not written",
    }[report.verdict]
    for basis in ("proven", "likely", "like", "from"):
        yield from _steps([step for step in steps if step.basis == basis], basis)
    yield from _left(left)
    if report.verdict == "repaired":
        yield from _how(report)
    elif report.verdict == "repairable":
        yield "  nothing was written: hsdp-inspect repair PATH OUT does it, in a new folder"


def _steps(steps: list[RepairStep], basis: str) -> Iterator[str]:
    if not steps:
        return
    yield f"  {_LOUD.get(basis, 'proven:')} {plural(len(steps), 'step')}"
    for step in steps[:_MAX_NAMED]:
        what = printable(step.fqn, 120) if step.fqn is not None else printable(step.file or "", 120)
        yield f"    {what or repr('')}  [{step.kind}]"
        yield f"      {step.before} -> {step.after}"
        yield f"      {step.why}"
    if len(steps) > _MAX_NAMED:
        yield f"    and {len(steps) - _MAX_NAMED:,} more (--json lists all)"


def _left(left: tuple[Unrepaired, ...]) -> Iterator[str]:
    if not left:
        return
    yield f"  cannot be repaired: {len(left):,}"
    for item in left[:_MAX_NAMED]:
        code = f"{item.code}: " if item.code else ""
        yield f"    {code}{item.why}"
    for hint in dict.fromkeys(item.hint for item in left[:_MAX_NAMED] if item.hint):
        yield f"    hint: {hint}"
    if len(left) > _MAX_NAMED:
        yield f"    and {len(left) - _MAX_NAMED:,} more (--json lists all)"


def _how(report: RepairReport) -> Iterator[str]:
    carried = report.carried
    if carried is not None and carried.num_linked:
        yield (
            f"  {plural(carried.num_linked, 'file')} are hard links: both folders hold the same "
            "bytes, so save into neither (--copy makes copies)"
        )
    if carried is not None and carried.num_copied:
        size = format_bytes(carried.copied_bytes)
        yield f"  {plural(carried.num_copied, 'file')} copied, {size}"
    if report.torch is not None:
        yield f"  .metadata was written by torch {printable(report.torch, 40)}"
    place = printable(shlex.quote(report.output or ""))
    yield f"  prove it: hsdp-inspect verify {place} --mesh fsdp:2"


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
        "steps": dicts(report.plan.steps),
        "not_repaired": dicts(report.plan.unrepaired),
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
