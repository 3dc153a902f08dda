"""A `Report` -> text, JSON, and annotations for GitHub Actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from inspector.checkpoint.storage.base import Used
from inspector.checkpoint.text import format_bytes, plural, printable, redact
from inspector.checks.findings import SEVERITIES, Against, Coverage, Finding, RankShare, Report
from inspector.report.json import SCHEMA, dicts, dump
from inspector.report.table import TextColumn, render_table, wrapped

if TYPE_CHECKING:
    from inspector.checks.plan.against import ModelFit
    from inspector.checks.run import JudgedRun
    from inspector.checks.steps import Step
    from inspector.report.documents.check import (
        CheckDocument,
        CheckRunDocument,
        FindingObject,
        JudgedCheckpoint,
        RunStep,
        StorageUse,
    )

__all__ = [
    "against_sentence",
    "check_github",
    "check_json",
    "check_text",
    "checked_sentence",
    "codes_words",
    "finding_json",
    "finding_lines",
    "folder_github",
    "folder_json",
    "folder_text",
    "ranks_sentence",
    "run_findings",
    "run_sentences",
    "verdict_sentence",
]


def verdict_sentence(report: Report, *, is_stopped: bool = False) -> str:
    """The verdict and what it rests on: `damaged: 2 errors, 1 warning`.

    A sound checkpoint of which not every byte was read is sound as far as was looked.
    """
    if report.is_empty:
        return "nothing to check: the checkpoint is empty"
    counts = [plural(n, severity) for severity in SEVERITIES if (n := report.count(severity))]
    said = ", ".join(counts) if counts else "nothing is wrong"
    if is_stopped:
        return f"stopped before every byte was read; so far {report.verdict}, {said}"
    if report.is_unread:
        num = plural(report.checked.num_unread, "part" if _has_later_kinds(report) else "payload")
        return f"not read to its end: {num} could not be read; in the rest {said}"
    if report.verdict == "sound" and not report.checked.payloads:
        return f"sound as far as metadata and file sizes tell: {said}"
    return f"{report.verdict}: {said}"


def _has_later_kinds(report: Report) -> bool:
    """Whether what could not be read is of a class that no torch known here has."""
    return any(f.code == "metadata-unknown-class" for f in report.findings)


def checked_sentence(checked: Coverage) -> str:
    """What was looked at: `6 tensors, 24 chunks, 8 files`."""
    parts = [
        plural(checked.tensors, "tensor"),
        plural(checked.chunks, "chunk"),
        plural(checked.files, "file"),
    ]
    if checked.payloads:
        size = format_bytes(checked.payload_bytes)
        # What is left out is named after it: then it was not every payload's.
        every = "" if checked.not_checked else "every byte of "
        parts.append(f"{every}{plural(checked.payloads, 'payload')} ({size} read)")
    return ", ".join(parts)


def ranks_sentence(ranks: Sequence[RankShare]) -> str:
    """Who read the payloads: `2 of 4 ranks on alpha, beta, 1.2 to 1.3 GiB each`."""
    readers = [rank for rank in ranks if rank.payloads_read] or [r for r in ranks if not r.why_not]
    of = "" if len(readers) == len(ranks) else f" of {plural(len(ranks), 'rank')}"
    if not readers:
        return f"none{of}"
    sizes = [rank.bytes_read for rank in readers]
    low, high = format_bytes(min(sizes)), format_bytes(max(sizes))
    hosts = list(dict.fromkeys(printable(rank.host, 60) for rank in readers if rank.host))
    where = f" on {', '.join(hosts[:8])}{' ...' if len(hosts) > 8 else ''}" if hosts else ""
    each = f"{low} each" if low == high else f"{low} to {high} each"
    who = f"{len(readers):,}{of}" if of else plural(len(readers), "rank")
    return f"{who}{where}, {each}"


def against_sentence(against: Against) -> str:
    """What was compared with digests kept elsewhere: `6 of 6 ... are as a.seal.json says`."""
    nouns = "tensors and bytes entries" if against.kind == "seal" else "files"
    counts = f"{against.num_matching:,} of {against.num_compared:,} {nouns}"
    return f"{counts} are as {printable(against.path)} says"


# Text.

# On a terminal, findings of one code beyond this many are only counted.
_MAX_ALIKE = 8


def check_text(
    report: Report,
    width: int | None = None,
    *,
    is_stopped: bool = False,
    fit: ModelFit | None = None,
) -> Iterator[str]:
    """The lines of `check`, for a terminal `width` cells wide (None: there is none)."""
    yield f"{printable(report.path)}: {verdict_sentence(report, is_stopped=is_stopped)}"
    yield f"  checked      {checked_sentence(report.checked)}"
    if ranks := report.checked.ranks:
        yield f"  read by      {ranks_sentence(ranks)}"
    for against in report.checked.against:
        yield f"  compared     {against_sentence(against)}"
    for left in report.checked.not_checked:
        yield f"  not checked  {printable(left.what)}: {printable(left.why)}"
    if fit is not None:
        yield f"  model        {fit.words}"
        for note in fit.expected.notes:
            yield f"               {printable(note)}"
    yield from _all_findings((*report.findings, *_of_fit(fit)), width)


def _of_fit(fit: ModelFit | None) -> tuple[Finding, ...]:
    return () if fit is None else fit.problems


def _all_findings(findings: Iterable[Finding], width: int | None) -> Iterator[str]:
    """The lines of all findings; on a terminal, of many alike the first."""
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.code] += 1
        if width is None or seen[finding.code] <= _MAX_ALIKE:
            yield ""
            yield from finding_lines(finding, width)
    for code, count in seen.items():
        if width is not None and count > _MAX_ALIKE:
            yield ""
            yield f"... and {count - _MAX_ALIKE:,} more {code}: send this to a file to see all"


def finding_lines(finding: Finding, width: int | None) -> Iterator[str]:
    """The lines of one finding: code, message, what torch does, what to do."""
    yield f"{finding.severity.upper()} {finding.code}"
    for label, text in (
        ("", finding.message),
        ("torch: ", finding.torch_does),
        ("do: ", finding.hint),
    ):
        if text:
            yield from wrapped(label + printable(text), width, "  ", "    ")


_FOLDER_COLUMNS = (
    TextColumn("CHECKPOINT", min_width=16),
    TextColumn("STEP", "right"),
    TextColumn("STATE", priority=2),
    TextColumn("VERDICT"),
    TextColumn("FINDINGS", min_width=20, priority=1),
)


def folder_text(path: str, run: JudgedRun, width: int | None = None) -> Iterator[str]:
    """The lines of `check` for a folder of checkpoints."""
    judged = run.judged
    yield f"{printable(path)}: {plural(len(judged), 'checkpoint')}{_of_steps(run)}"
    rows = [
        (
            printable(item.found.path or "."),
            "" if item.found.step is None else str(item.found.step),
            item.found.state,
            item.word,
            codes_words(item.report),
        )
        for item in judged
    ]
    yield ""
    yield from render_table(_FOLDER_COLUMNS, rows, width)
    for item in judged:
        if item.report.findings:
            yield ""
            yield from check_text(item.report, width)
    yield from _all_findings(run_findings(run), width)
    yield ""
    yield from run_sentences(run)


def run_sentences(run: JudgedRun) -> Iterator[str]:
    """What comes of a run: what was not looked at, what to resume from, what is sound."""
    yield from _not_looked_at(run)
    yield from _resumable_line(run)
    yield _sound_line(run)


def _of_steps(run: JudgedRun) -> str:
    """`, 2 steps`, where a step is of more than one checkpoint."""
    if all(len(step.parts) == 1 for step in run.steps):
        return ""
    numbered = sum(step.step is not None for step in run.steps)
    return f", {plural(numbered, 'step')}" if numbered else ""


def run_findings(run: JudgedRun) -> list[Finding]:
    """Findings of the folder and of its steps, without those of single checkpoints."""
    return [*run.findings, *(finding for step in run.steps for finding in step.findings)]


def _not_looked_at(run: JudgedRun) -> Iterator[str]:
    for where, why in run.run.not_looked_at:
        yield f"Not looked at: {printable(where)}: {printable(why)}"


def _resumable_line(run: JudgedRun) -> Iterator[str]:
    """What training resumes from, where that is not the newest sound step."""
    sound, best = run.newest_sound, run.newest_resumable
    if sound is None or sound == best:
        return
    where = printable(sound.path or ".")
    yield f"Training does not resume from {where}: {sound.why_not}"
    if best is not None:
        yield f"Newest step to resume from: {printable(best.path or '.')}"


def _sound_line(run: JudgedRun) -> str:
    sound = run.newest_sound
    if sound is None:
        return "No checkpoint here is sound."
    how = f" ({run.newest_by})" if run.newest_by else ""
    return f"Newest sound checkpoint: {printable(sound.path or '.')}{how}"


def codes_words(report: Report) -> str:
    """Which findings there are, and how many of each: `chunk-gap, file-missing x3`."""
    counts = Counter(finding.code for finding in report.findings)
    return ", ".join(code if n == 1 else f"{code} x{n:,}" for code, n in counts.items())


# JSON.


def check_json(
    report: Report, used: Used | None = None, fit: ModelFit | None = None
) -> Iterator[str]:
    """The document of `check --json`; `used` is what a remote storage was asked for it."""
    document = cast("CheckDocument", {"schema": SCHEMA, **_report(report)})
    if fit is not None:
        document["against"] = {
            "path": fit.expected.path,
            "source": fit.expected.source,
            "num_keys": len(fit.expected.wanted),
            "num_matching": fit.num_matching,
            "complete": fit.is_complete,
            "notes": list(fit.expected.notes),
            "problems": [finding_json(finding) for finding in fit.problems],
        }
    if used is not None:
        document["checked"]["storage"] = _used(used)
    yield dump(document) + "\n"


def _used(used: Used) -> StorageUse:
    return {"requests": used.requests, "bytes": used.num_bytes, "failed": used.num_failed}


def folder_json(path: str, run: JudgedRun, used: Used | None = None) -> Iterator[str]:
    """The document of `check --json` for a folder of checkpoints."""
    sound, best = run.newest_sound, run.newest_resumable
    step_paths = {part.found: step.path for step in run.steps for part in step.parts}
    document: CheckRunDocument = {
        "schema": SCHEMA,
        "path": redact(path),
        "newest_sound": None if sound is None else sound.path,
        "newest_sound_step": None if sound is None else sound.step,
        "newest_resumable": None if best is None else best.path,
        "newest_resumable_step": None if best is None else best.step,
        "is_partial": run.run.is_partial,
        "not_looked_at": [{"what": what, "why": why} for what, why in run.run.not_looked_at],
        "findings": [finding_json(finding) for finding in run_findings(run)],
        "steps": [_step_json(step) for step in run.steps],
        "checkpoints": [
            {
                "format": item.found.format,
                "state": item.found.state,
                "step": item.found.step,
                "step_path": step_paths.get(item.found, item.found.path),
                **_report(item.report),
                "path": item.found.path,
            }
            for item in run.judged
        ],
    }
    if used is not None:
        document["storage"] = _used(used)
    if len(run.steps) == 1:
        document["verdict"] = run.steps[0].verdict
    yield dump(document) + "\n"


def _step_json(step: Step) -> RunStep:
    return {
        "path": step.path,
        "step": step.step,
        "verdict": step.verdict,
        "resumable": step.resumable,
        "why_not": step.why_not,
        "kinds": None if step.kinds is None else sorted(step.kinds),
        "lacks": step.lacks,
        "parts": [
            {
                "path": part.found.path,
                "format": part.found.format,
                "state": part.found.state,
                "verdict": part.report.verdict,
            }
            for part in step.parts
        ],
        "findings": [finding_json(finding) for finding in step.findings],
    }


def _report(report: Report) -> JudgedCheckpoint:
    checked = report.checked
    document: JudgedCheckpoint = {
        "path": report.path,
        "verdict": report.verdict,
        "checked": {
            "tensors": checked.tensors,
            "chunks": checked.chunks,
            "files": checked.files,
            "payloads": checked.payloads,
            "payload_bytes": checked.payload_bytes,
            "not_checked": dicts(checked.not_checked),
            "against": [
                {
                    "kind": against.kind,
                    "path": against.path,
                    "compared": against.num_compared,
                    "matching": against.num_matching,
                }
                for against in checked.against
            ],
        },
        "findings": [finding_json(finding) for finding in report.findings],
    }
    if checked.ranks:
        document["checked"]["ranks"] = [
            {
                "rank": rank.rank,
                "host": rank.host,
                "payloads": rank.payloads,
                "payload_bytes": rank.num_bytes,
                "payloads_read": rank.payloads_read,
                "bytes_read": rank.bytes_read,
                "why_not": rank.why_not or None,
            }
            for rank in checked.ranks
        ]
    return document


def finding_json(finding: Finding) -> FindingObject:
    """One finding as an object of the contract: all but what only our own merging asks for."""
    document = asdict(finding)
    del document["is_echo"]
    return cast("FindingObject", document)


# GitHub Actions.

_LEVELS = {"error": "error", "warning": "warning", "note": "notice"}


def check_github(report: Report, fit: ModelFit | None = None) -> Iterator[str]:
    """Workflow commands, one a finding, and the verdict.

    Format: docs.github.com, "Workflow commands for GitHub Actions": `::error file=F,title=T::M`,
    with %, CR and LF escaped in both, and colon and comma in properties.
    """
    for finding in (*report.findings, *_of_fit(fit)):
        yield _command(report.path, finding)
    yield _no_command(f"{printable(report.path)}: {verdict_sentence(report)}")
    if fit is not None:
        yield _no_command(f"model: {fit.words}")


def _command(path: str, finding: Finding) -> str:
    folder = printable(path)
    where = f"{folder}/{printable(finding.file)}" if finding.file is not None else folder
    message = finding.message
    if finding.torch_does:
        message += f" | torch: {finding.torch_does}"
    if finding.hint:
        message += f" | do: {finding.hint}"
    level = _LEVELS[finding.severity]
    properties = f"file={_property(where)},title={_property(finding.code)}"
    return f"::{level} {properties}::{_data(printable(message))}"


def folder_github(path: str, run: JudgedRun) -> Iterator[str]:
    """Workflow commands for a folder of checkpoints."""
    for item in run.judged:
        yield from check_github(item.report)
    for finding in run_findings(run):
        yield _command(path.rstrip("/"), finding)
    for where, why in run.run.not_looked_at:
        place = _property(printable(path))
        yield f"::error file={place},title=not looked at::{_data(printable(f'{where}: {why}'))}"
    if run.newest_sound is None:
        where = _property(printable(path))
        yield f"::error file={where},title=no sound checkpoint::No checkpoint here is sound."
        return
    yield from map(_no_command, _resumable_line(run))
    yield _no_command(_sound_line(run))


def _no_command(line: str) -> str:
    """A line that no folder's name makes a workflow command of.

    The runner takes a line that begins with `::`, and the old form `##[` wherever it stands.
    """
    line = line.replace("##[", "#\\x23[")
    return f"./{line}" if line.lstrip().startswith("::") else line


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
