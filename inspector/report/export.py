"""What an export or a repair wrote and left out, as text and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from inspector.checkpoint.payload.cast import is_cast
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.export.formats.numpy_files import is_raw
from inspector.export.outcome import ExportReport, Omission
from inspector.repair.plan import RepairStep, Unrepaired
from inspector.repair.run import RepairReport
from inspector.report.json import SCHEMA, dicts, dump

if TYPE_CHECKING:
    from inspector.report.documents.values import ExportDocument, RepairDocument

__all__ = ["export_json", "export_text", "repair_json", "repair_text"]

_MAX_NAMED = 20
_MAX_ENTRIES = 5


def export_text(report: ExportReport) -> Iterator[str]:
    """The lines of `export`."""
    output = printable(report.output)
    damaged = [item for item in report.left_out if item.kind == "damaged"]
    foreign = [item for item in report.left_out if item.kind == "not-exportable"]
    entries = [item for item in report.left_out if item.kind == "bytes"]
    if report.verdict == "refused":
        yield f"{output}: not written"
    else:
        what = plural(len(report.tensors), "tensor")
        files = f", {plural(len(report.files), 'file')}" if report.files[0].name else ""
        without = f"; WITHOUT {plural(len(damaged), 'damaged part')}" if damaged else ""
        yield f"{output}: {what}, {format_bytes(report.num_bytes)}{files} ({report.form}){without}"
        yield from _proof(report)
    yield from _listed(damaged, "damaged, and left out" if report.tensors else "damaged")
    yield from _listed(foreign, "whole, but of no type that can be written")
    if damaged and not report.tensors:
        yield "  --allow-damaged writes the rest without them; check --deep says more"
    if foreign:
        yield "  --filter '!NAME' leaves them out"
    yield from _entries(entries)
    yield from _dtypes(report)
    for path in report.leftovers:
        yield (
            f"  {printable(path)} was left by an export that was killed, or belongs to one that "
            "still runs"
        )


def _proof(report: ExportReport) -> Iterator[str]:
    checked, unchecked = report.num_checked, report.num_unchecked
    said = []
    if checked:
        said.append(f"{plural(checked, 'payload')} held against the CRC32 stored with them")
    if unchecked:
        said.append(f"{plural(unchecked, 'payload')} have none, and were taken as they are")
    said.append("what was written was read again, and is what was read")
    yield "  " + "; ".join(said)


def _listed(items: list[Omission], what: str) -> Iterator[str]:
    if not items:
        return
    yield f"  {what}: {len(items):,}"
    for item in items[:_MAX_NAMED]:
        yield f"    {printable(item.fqn, 200) or repr(item.fqn)}: {item.why}"
    if len(items) > _MAX_NAMED:
        yield f"    and {len(items) - _MAX_NAMED:,} more (--json lists all)"


def _entries(entries: list[Omission]) -> Iterator[str]:
    """The bytes entries that were left out: their names, and the reason once."""
    if not entries:
        return
    names = ", ".join(printable(item.fqn, 80) or repr(item.fqn) for item in entries[:_MAX_ENTRIES])
    more = f" and {len(entries) - _MAX_ENTRIES:,} more" if len(entries) > _MAX_ENTRIES else ""
    what = plural(len(entries), "bytes entry", "bytes entries")
    yield f"  left out: {what} ({names}{more}): {entries[0].why}"


def _dtypes(report: ExportReport) -> Iterator[str]:
    """What the reader has to know of the types."""
    cast = [tensor for tensor in report.tensors if tensor.dtype != tensor.stored_dtype]
    if cast:
        yield (
            f"  rounded to {cast[0].dtype}, to the nearest, ties to even: "
            f"{plural(len(cast), 'tensor')}"
        )
    lost = [tensor for tensor in cast if tensor.num_overflowed]
    for tensor in lost[:_MAX_NAMED]:
        yield (
            f"    {printable(tensor.fqn, 200)}: {plural(tensor.num_overflowed, 'element')} beyond "
            f"the range of {tensor.dtype} became infinite"
        )
    if len(lost) > _MAX_NAMED:
        yield f"    and {len(lost) - _MAX_NAMED:,} more (--json lists all)"
    raw = sorted({t.dtype for t in report.tensors if is_raw(t.dtype)})
    if raw and report.form in ("npz", "npy"):
        numbers = [dtype for dtype in raw if is_cast(dtype, "float32")]
        how = f", .view(ml_dtypes.{raw[0]}) reads them; --dtype f32 writes numbers"
        if numbers != raw:  # Of two halves or two values in an element it makes no numbers.
            how = f"; --dtype f32 writes numbers of {' and '.join(numbers)}" if numbers else ""
        yield f"  numpy has no {' or '.join(raw)}: the bits stand as raw bytes{how}"
    for fqn, dtype in list(report.stored_dtypes.items())[:_MAX_NAMED]:
        yield f"  {printable(fqn, 200)}: written as stored, {dtype}; the metadata says another"


def export_json(report: ExportReport) -> Iterator[str]:
    """The document of `export --json`."""
    document: ExportDocument = {
        "schema": SCHEMA,
        "verdict": report.verdict,
        "path": report.path,
        "output": report.output,
        "format": report.form,
        "num_tensors": len(report.tensors),
        "num_bytes": report.num_bytes,
        "files": dicts(report.files),
        "tensors": dicts(report.tensors),
        "left_out": dicts(report.left_out),
        "checksums": {"checked": report.num_checked, "none_stored": report.num_unchecked},
        "stored_dtypes": dict(report.stored_dtypes),
        "leftovers": list(report.leftovers),
    }
    yield dump(document) + "\n"


_MAX_STEPS = 40
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
    for step in steps[:_MAX_STEPS]:
        what = printable(step.fqn, 120) if step.fqn is not None else printable(step.file or "", 120)
        yield f"    {what or repr('')}  [{step.kind}]"
        yield f"      {step.before} -> {step.after}"
        yield f"      {step.why}"
    if len(steps) > _MAX_STEPS:
        yield f"    and {len(steps) - _MAX_STEPS:,} more (--json lists all)"


def _left(left: tuple[Unrepaired, ...]) -> Iterator[str]:
    if not left:
        return
    yield f"  cannot be repaired: {len(left):,}"
    for item in left[:_MAX_STEPS]:
        code = f"{item.code}: " if item.code else ""
        yield f"    {code}{item.why}"
    for hint in dict.fromkeys(item.hint for item in left[:_MAX_STEPS] if item.hint):
        yield f"    hint: {hint}"
    if len(left) > _MAX_STEPS:
        yield f"    and {len(left) - _MAX_STEPS:,} more (--json lists all)"


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
