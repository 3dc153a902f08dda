"""`verify` as a page: the verdict, what it rests on, what differs and where, and every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_bytes, format_count, plural, printable
from inspector.report.html.findings import MAX_BYTES, maps_of
from inspector.report.html.maps import MapMark
from inspector.report.html.markup import Html, bounded, join, tag
from inspector.report.html.page import Tone, facts, left_out, page, section, table
from inspector.report.verify_text import (
    fault_sentence,
    figures_sentence,
    meshes_text,
    patterns_sentence,
    phases_sentence,
    stack_lines,
    summary_sentence,
    torch_sentence,
    unverified_reasons,
)
from inspector.verify.progress import Failure, RankView, Snapshot
from inspector.verify.verdicts import TensorView

__all__ = ["verify_html"]

_MAX_WRONG = 300
_MAX_FAILURES = 20
_MAX_RANKS = 512
_TONES: dict[str, Tone] = {"differs": "bad", "unreadable": "bad", "failed": "bad"}


def verify_html(snapshot: Snapshot, checkpoint: Checkpoint | None, command: str) -> Iterator[str]:
    """The page of a finished verification, in pieces."""
    result: Mapping[str, Any] = snapshot.result or {}
    wrong = [view for view in snapshot.tensors.values() if view.is_bad]
    said = summary_sentence(result) if result else "The recording ends before the job did."
    path = str(snapshot.spec.get("path") or "")
    yield from page(
        f"verification of {printable(path, 500)}",
        _tone(result),
        said,
        (
            section("What it rests on", facts(_basis(snapshot, result))),
            section("Wrong entries", _wrong(wrong)),
            section("Failures", _failures(snapshot.failures)),
            section("Not verified", _unverified(result)),
            section("Chunk maps", Html("") if checkpoint is None else _maps(checkpoint, wrong)),
            section("Ranks", _ranks(snapshot.ranks)),
        ),
        command,
    )


def _tone(result: Mapping[str, Any]) -> Tone:
    """Green is for what was proven whole: every entry of the checkpoint is exact."""
    tensors = result.get("tensors") or {}
    if result.get("verdict") == "exact":
        is_whole = tensors.get("exact") == tensors.get("total")
        return "good" if is_whole and not tensors.get("num_not_verified") else "plain"
    return _TONES.get(str(result.get("verdict")), "open")


def _basis(snapshot: Snapshot, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    tensors: Mapping[str, Any] = result.get("tensors") or {}
    exact, total = tensors.get("exact") or 0, tensors.get("total") or 0
    told = [
        ("loaded under", meshes_text(result.get("mesh") or "?", result.get("then") or ())),
        ("placed by", patterns_sentence(snapshot.spec)),
        ("stage", str(result.get("stage") or "")),
        ("by", _by(snapshot, result)),
        ("checked", f"{exact:,} of {total:,} entries are exact, bit for bit as stored"),
        ("figures", figures_sentence(snapshot, result)),
        ("phases", phases_sentence(snapshot)),
    ]
    left = tensors.get("num_not_verified") or 0
    if left:
        told.append(("not checked", f"{plural(left, 'entry', 'entries')}; see Not verified"))
    if sentence := torch_sentence(result):
        told.append(("torch", sentence.rstrip(";")))
    if result.get("run_folder"):
        told.append(("recorded in", str(result["run_folder"])))
    return [(label, said) for label, said in told if said]


def _by(snapshot: Snapshot, result: Mapping[str, Any]) -> str:
    reads: Mapping[str, Any] = result.get("torch_reads") or snapshot.torch_reads or {}
    version = f"torch {reads['torch']}" if reads.get("torch") else "torch"
    parts = [
        plural(result.get("world_size") or 0, "rank"),
        *(str(result[key]) for key in ("via", "device", "backend") if result.get(key)),
    ]
    return f"{version}: {', '.join(parts)}"


def _wrong(views: Sequence[TensorView]) -> Html:
    shown, _ = bounded(map(_wrong_entry, views[:_MAX_WRONG]), MAX_BYTES)
    return join((*shown, left_out(len(views) - len(shown))))


def _wrong_entry(view: TensorView) -> Html:
    faults = [("", fault_sentence(fault)) for fault in view.faults[:4]]
    if view.num_faults > 4:
        faults.append(("", f"{view.num_faults - 4:,} more reports like these"))
    head = (tag("b", view.verdict or "?"), tag("code", printable(view.fqn, 300)))
    return tag("div", *head, facts(faults), class_="finding error")


def _failures(failures: Sequence[Failure]) -> Html:
    shown = []
    for failure in failures[:_MAX_FAILURES]:
        who = "the job" if failure.rank is None else f"rank {failure.rank}"
        lines = [join((line, tag("br"))) for line in stack_lines(failure)]
        told = [("who", who), ("what", printable(failure.message, 1_000))]
        stack = tag("p", *lines, class_="mono") if lines else ""
        shown.append(tag("div", tag("b", failure.kind), facts(told), stack, class_="finding error"))
    return join((*shown, left_out(len(failures) - _MAX_FAILURES)))


def _unverified(result: Mapping[str, Any]) -> Html:
    tensors: Mapping[str, Any] = result.get("tensors") or {}
    count = tensors.get("num_not_verified") or 0
    if not count:
        return Html("")
    reasons = table(("why", "entries"), unverified_reasons(tensors), names=frozenset({"entries"}))
    return join((tag("p", f"{plural(count, 'entry', 'entries')} not verified"), reasons))


def _maps(checkpoint: Checkpoint, wrong: Sequence[TensorView]) -> Html:
    marks: list[tuple[str, MapMark | None]] = []
    for view in wrong:
        marks.append((view.fqn, None))
        for first in dict.fromkeys(f.first_index for f in view.faults):
            if first is not None:
                what = "broken line = first wrong element"
                marks.append((view.fqn, MapMark(first, (1,) * len(first), "other", what)))
    return maps_of(checkpoint, marks)


def _ranks(ranks: Sequence[RankView]) -> Html:
    # Where something is wrong comes first, if not all of them fit.
    order = sorted(ranks, key=lambda r: (r.status != "failed", not r.num_bad, r.rank))
    shown = sorted(order[:_MAX_RANKS], key=lambda r: r.rank)
    bad = frozenset(i for i, r in enumerate(shown) if r.status == "failed" or r.num_bad)
    return table(
        ("rank", "status", "last phase", "loaded", "wrong", "memory", "device", "host"),
        [_rank(rank) for rank in shown],
        numbers=frozenset({"rank", "loaded", "wrong", "memory"}),
        bad=bad,
        num_more=len(ranks) - len(shown),
    )


def _rank(rank: RankView) -> tuple[str, ...]:
    peak = rank.extra.get("peak_anon_bytes")
    memory = peak if type(peak) is int else rank.rss
    return (
        str(rank.rank),
        rank.status,
        rank.phase or "-",
        format_bytes(rank.done["load"][0]) if "load" in rank.done else "-",
        format_count(rank.num_bad),
        "-" if memory is None else format_bytes(memory),
        rank.device,
        rank.host,
    )
