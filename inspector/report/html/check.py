"""`check` as a page: one checkpoint, or a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from inspector.checkpoint.find.step_folders import Found
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Coverage, Report
from inspector.checks.plan.against import ModelFit
from inspector.checks.run import JudgedRun
from inspector.checks.steps import Judged
from inspector.report.check import (
    against_sentence,
    checked_sentence,
    codes_words,
    run_findings,
    run_sentences,
    verdict_sentence,
)
from inspector.report.html.findings import finding_maps, findings_list
from inspector.report.html.markup import Html, bounded, tag
from inspector.report.html.page import Tone, facts, page, section, table

__all__ = ["check_html", "folder_html", "maps_by_folder"]

# Of a run folder: rows of its table, and checkpoints whose findings are written out.
_MAX_STEPS = 500
_MAX_JUDGED = 20
_MAX_EACH = 40
_MAX_EACH_BYTES = 60_000
_MAX_EACH_MAPS = 3
_MAX_PARTS_BYTES = 1_000_000


def check_html(
    report: Report,
    checkpoint: Checkpoint | None,
    command: str,
    *,
    is_stopped: bool = False,
    fit: ModelFit | None = None,
) -> Iterator[str]:
    """The page of one checkpoint, in pieces; nothing is drawn of one that could not be read."""
    said = verdict_sentence(report, is_stopped=is_stopped)
    tone = _tone(report, is_stopped=is_stopped)
    model: tuple[Html, ...] = ()
    if fit is not None:
        tone = tone if fit.is_complete else "bad"
        words = [fit.words, *fit.expected.notes]
        shown = facts([("expected" if i == 0 else "", text) for i, text in enumerate(words)])
        model = (section("Model", Html(shown + findings_list(fit.problems))),)
    maps = Html("") if checkpoint is None else finding_maps(checkpoint, report.findings)
    yield from page(
        f"check of {printable(report.path, 500)}",
        tone,
        said,
        (
            section("Checked", _coverage(report.checked)),
            *model,
            section("Findings", findings_list(report.findings)),
            section("Chunk maps", maps),
        ),
        command,
    )


def _tone(report: Report, *, is_stopped: bool = False) -> Tone:
    """Green is for what was read to its last byte and found sound."""
    if report.verdict in ("damaged", "suspicious") and not report.is_empty:
        return "bad"
    if is_stopped or report.verdict != "sound":
        return "open" if report.is_unread or report.is_empty or is_stopped else "bad"
    # As in the sentence: without a payload it is sound as far as the metadata tells.
    is_whole = report.checked.payloads and not report.checked.not_checked
    return "good" if is_whole else "plain"


def _coverage(checked: Coverage) -> Html:
    return facts(
        [
            ("checked", checked_sentence(checked)),
            *(("compared", against_sentence(against)) for against in checked.against),
            *(("not checked", f"{left.what}: {left.why}") for left in checked.not_checked),
        ]
    )


def maps_by_folder() -> tuple[Mapping[Found, Html], Callable[[Found, Report, Checkpoint], None]]:
    """Pictures of the checkpoints of a run, and what is to be told of each as it is judged.

    A checkpoint of which a picture was made need not stay in memory.
    """
    made: dict[Found, Html] = {}

    def take(found: Found, report: Report, checkpoint: Checkpoint) -> None:
        if found in made or len(made) < _MAX_JUDGED:
            maps = finding_maps(checkpoint, report.findings, _MAX_EACH_MAPS)
            made.update({found: maps} if maps else {})

    return made, take


def folder_html(
    path: str, run: JudgedRun, maps: Mapping[Found, Html], command: str, *, is_stopped: bool = False
) -> Iterator[str]:
    """The page of a folder of checkpoints, in pieces; pictures as by `maps_by_folder`."""
    sentences = [sentence.rstrip(".") + "." for sentence in run_sentences(run)]
    if not any(item.report.checked.payloads for item in run.judged):
        sentences.append("It rests on metadata and file sizes; no bytes were read.")
    if is_stopped:
        sentences.insert(0, "Stopped before every byte was read.")
    with_findings = [item for item in run.judged if item.report.findings]
    parts, _ = bounded(
        (_part(item, maps.get(item.found, Html(""))) for item in with_findings[:_MAX_JUDGED]),
        _MAX_PARTS_BYTES,
    )
    left = len(with_findings) - len(parts)
    if left > 0:
        more = plural(left, "more checkpoint")
        parts.append(tag("p", f"{more} with findings left out here, for length (--json has all)."))
    yield from page(
        f"check of {printable(path, 500)}: {plural(len(run.judged), 'checkpoint')}",
        _run_tone(run, is_stopped=is_stopped),
        " ".join(sentences),
        (
            section("Steps", _steps(run.judged)),
            section("Findings of the folder", findings_list(run_findings(run))),
            *parts,
        ),
        command,
    )


def _run_tone(run: JudgedRun, *, is_stopped: bool) -> Tone:
    if run.exit_code == 1:
        return "bad"
    if is_stopped or run.exit_code:
        return "open"
    is_whole = all(_tone(item.report) == "good" for item in run.judged)
    return "good" if is_whole else "plain"


def _steps(judged: Iterable[Judged]) -> Html:
    items = list(judged)
    rows = [
        (
            item.found.path or ".",
            "" if item.found.step is None else str(item.found.step),
            item.found.state_word,
            verdict_sentence(item.report),
            codes_words(item.report),
        )
        for item in items[:_MAX_STEPS]
    ]
    bad = frozenset(i for i, item in enumerate(items[:_MAX_STEPS]) if item.report.exit_code)
    return table(
        ("checkpoint", "step", "state", "verdict", "findings"),
        rows,
        numbers=frozenset({"step"}),
        names=frozenset({"checkpoint"}),
        bad=bad,
        num_more=len(items) - len(rows),
    )


def _part(item: Judged, maps: Html) -> Html:
    report = item.report
    return section(
        item.found.path or printable(report.path, 500),
        tag("p", verdict_sentence(report)),
        _coverage(report.checked),
        findings_list(report.findings, _MAX_EACH, _MAX_EACH_BYTES),
        maps,
    )
