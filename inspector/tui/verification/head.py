"""`VerifyHead`: how a verification stands, in four lines: where it is, how far, in figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text
from textual.widgets import Static

from inspector.checkpoint.text import (
    format_bytes,
    format_count,
    format_seconds,
    format_shape,
    plural,
    printable,
)
from inspector.report.verify_text import meshes_text, num_wrong, payloads_sentence, summary_sentence
from inspector.tui.kit.cell_text import clip
from inspector.tui.mesh.paint import stage_bar
from inspector.tui.verification.figures import Totals, stages
from inspector.verify.progress import Snapshot
from inspector.verify.verdicts import Fault, TensorView, severity

__all__ = ["VerifyHead", "head_text", "seconds", "verdict_text", "without_verdict"]

_BADGES = {
    "starting": "badge.running",
    "running": "badge.running",
    "paused": "badge.warning",
    "stopping": "badge.warning",
    "exact": "badge.ok",
    "differs": "badge.error",
    "unreadable": "badge.error",
    "partial": "badge.warning",
    "failed": "badge.error",
    "cancelled": "badge.warning",
    # That the ranks have read is no verdict on what they read.
    "read": "badge.plain",
}
_LONGEST_S = 1e9
# Less than this is no time to tell of.
_LEAST_LEFT_S = 0.5


def seconds(value: float) -> str:
    """A duration, whatever a recording says it is."""
    if not math.isfinite(value) or value > _LONGEST_S:
        return "?"
    return format_seconds(max(0.0, value))


def head_text(
    snapshot: Snapshot, now: Totals, width: int, *, word: str = "", report: str = ""
) -> Text:
    """The lines, each at most `width` characters wide.

    Args:
        snapshot: The job.
        now: Its figures.
        width: Room.
        word: Said in place of the job's state: `paused`, `stopping`.
        report: Where the finished job is recorded; raw.
    """
    result = snapshot.result
    state = now.state if result is not None else word or now.state
    badge = (f" {state.upper()} ", _BADGES.get(state, "badge.plain"))
    said = _sentence(snapshot, now, result)
    for part in (" (", " under "):
        if len(badge[0]) + 2 + len(said) > width and result is not None:
            said = said.partition(part)[0]  # The last line tells of it, rather than half a mesh.
    first = Text.assemble(badge, "  ", (said, "bold"))
    lines = [first, _bar_line(snapshot, now, width), _figures(snapshot, now, width)]
    lines.append(_last(snapshot, report, width, tells_mesh=" under " not in said))
    for line in lines:
        clip(line, max(1, width))
    return Text("\n").join(lines)


def _sentence(snapshot: Snapshot, now: Totals, result: Mapping[str, Any] | None) -> str:
    if result is not None:
        return without_verdict(summary_sentence(result))  # The badge says it.
    ranks = len(snapshot.ranks)
    if not ranks:
        return "torchrun"  # The badge says that it starts.
    if now.num_up < ranks:
        return f"{plural(ranks, 'rank')}, {now.num_up} up"
    return printable(now.where, 120) or f"{plural(ranks, 'rank')} up, planning"


def _bar_line(snapshot: Snapshot, now: Totals, width: int) -> Text:
    """Each stage with its name and how far it is; without names where there is no room."""
    colours = {"exact": "ok", "cancelled": "warning", "partial": "warning"}
    colours |= dict.fromkeys(("differs", "failed", "unreadable"), "error")
    styles = {"bar": colours.get(now.state, "note"), "rest": "dim"}
    # All bytes may have moved while the job has something to do yet: it is through when it is.
    most = 100 if snapshot.result is not None else 99
    percent = f" {min(most, math.floor(now.share * 100)):3}%"
    room = width - len(percent)
    names = [*stages(snapshot)]
    cells = (room - sum(len(name) + 2 for name in names)) // max(1, len(names))
    text = Text()
    if cells < 3 or len(now.shares) != len(names):
        runs = stage_bar(now.shares or (now.share,), max(room, 8))
        text.append_tokens((run, styles.get(style, "")) for run, style in runs)
    else:
        for name, share in zip(names, now.shares, strict=True):
            text.append(f"{name} ", "" if share > 0 else "dim")
            runs = stage_bar((share,), cells)
            text.append_tokens((run, styles.get(style, "")) for run, style in runs)
            text.append(" ")
        text.append(" " * max(0, room - text.cell_len))
    text.append(percent)
    return text


def _figures(snapshot: Snapshot, now: Totals, width: int) -> Text:
    """As many figures as fit, the most telling first."""
    total = snapshot.num_entries
    of = f" of {format_count(total)}" if total is not None else ""
    so_far = "" if snapshot.result is not None else " so far"
    exact = f"{format_count(snapshot.num_exact)}{of} exact{so_far}"
    wrong = snapshot.num_bad
    if snapshot.spec.get("task"):
        exact, wrong = f"{payloads_sentence(snapshot)}{so_far}", num_wrong(snapshot)
    parts: list[tuple[str, str]] = [(exact, "bold")]
    parts.append((f"{format_count(wrong)} wrong", "error" if wrong else "dim"))
    if snapshot.failures and now.state != "cancelled":
        parts.append((plural(len(snapshot.failures), "failure"), "error"))
    parts.append((f"{seconds(now.elapsed_s)} elapsed", ""))
    if now.left_s is not None and now.left_s < _LEAST_LEFT_S:
        parts.append(("finishing", ""))
    elif now.left_s is not None:
        parts.append((f"about {seconds(now.left_s)} left", ""))
    moved = f"{format_bytes(now.num_bytes)} moved"
    parts.append((f"{moved}, {format_bytes(now.rate)}/s" if now.rate >= 1 else moved, ""))
    if now.memory is not None:
        parts.append((f"at most {format_bytes(now.memory)} on a rank", ""))
    if now.gpu_memory is not None:
        parts.append((f"{format_bytes(now.gpu_memory)} of a GPU", ""))
    text = Text()
    for said, style in parts:
        more = len(said) + (3 if text else 0)
        if text.cell_len + more > width:
            break
        if text:
            text.append(" · ", "dim")
        text.append(said, style)
    return text


def _last(snapshot: Snapshot, report: str, width: int, *, tells_mesh: bool) -> Text:
    """The worst failure; or, at the end, where the report is; or what runs."""
    is_cancelled = (snapshot.result or {}).get("verdict") == "cancelled"
    if snapshot.failures and not is_cancelled and (snapshot.result is None or not report):
        failure = snapshot.failures[0]
        who = "the job" if failure.rank is None else f"rank {failure.rank}"
        return Text(printable(f"✗ {who}: {failure.message}", max(width, 8)), "error")
    spec = snapshot.spec
    if spec.get("task"):
        said = f"{spec['task']}: {plural(len(snapshot.ranks), 'rank')} that read, each its share"
        return Text(printable(said, max(width, 8)), "dim")
    meshes = meshes_text(str(spec.get("mesh", "")), list(map(str, spec.get("then") or ())))
    if report:
        where = f"{printable(meshes, 120)} · recorded in " if tells_mesh else "recorded in "
        return Text.assemble((where, "dim"), printable(report, max(width - len(where), 8)))
    parts = [meshes, str(spec.get("via", "")), str(spec.get("device", ""))]
    parts.append(str(spec.get("backend", "")))
    if spec.get("filter"):
        parts.append(f"only names with {spec['filter']}")
    return Text(" · ".join(printable(part, 120) for part in parts if part), "dim")


def without_verdict(sentence: str) -> str:
    """A sentence about a result without its first word, which says the verdict: it is shown."""
    word, _, rest = sentence.partition(" ")
    return rest if word.rstrip(":").isupper() and rest else sentence


class VerifyHead(Static):
    """The lines, drawn anew only when they say something else."""

    DEFAULT_CSS = """
    VerifyHead { height: 4; padding: 0 1; background: $surface; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id)
        self._shown: Text | None = None

    def show(self, snapshot: Snapshot, now: Totals, *, word: str = "", report: str = "") -> None:
        """Show a moment."""
        width = self.size.width - 2
        if width <= 0:
            return
        text = head_text(snapshot, now, width, word=word, report=report)
        if text != self._shown or text.spans != (self._shown.spans if self._shown else None):
            self._shown = text
            self.update(text)


def verdict_text(view: TensorView | None) -> Text:
    """Name, verdict, what each phase said, and every fault that was kept."""
    if view is None:
        return Text("")
    return Text("\n").join(_lines(view))


def _lines(view: TensorView) -> Iterator[Text]:
    style = "error" if view.is_bad else "ok" if severity(view.verdict) == 0 else "bold"
    word = view.verdict or "not compared yet"
    yield Text.assemble((printable(word, 40), style), "  ", (printable(view.fqn, 400), "bold"))
    phases = []
    for phase in view.phases:
        said = "" if phase.verdict == "EXACT" else f" {printable(phase.verdict, 40)}"
        phases.append(
            f"{printable(phase.phase, 40)}{said} by {phase.num_ranks} of {phase.num_expected} ranks"
        )
    if view.via:
        phases.append(f"through {view.via.upper()}" if view.via != "dtensor" else "without FSDP")
    if phases:
        yield Text(", ".join(phases), "dim")
    for fault in view.faults:
        yield from _fault(fault)
    if view.num_faults > len(view.faults):
        yield Text(f"{plural(view.num_faults - len(view.faults), 'more report')} like these", "dim")
    if view.detail and not view.faults:
        yield Text(printable(view.detail, 600))


def _fault(fault: Fault) -> Iterator[Text]:
    who = f"rank {fault.rank}, {printable(fault.phase, 40)}: "
    parts = []
    of = "" if fault.num_elements is None else f" of {fault.num_elements:,}"
    if fault.num_different:
        parts.append(f"{fault.num_different:,}{of} elements differ")
    if fault.num_missing:
        parts.append(f"{fault.num_missing:,}{of} elements are in no chunk")
    if fault.first_index is not None:
        parts.append(f"first at {format_shape(fault.first_index)}")
    yield Text.assemble(
        (who, "dim"), (printable(fault.verdict, 40), "error"), "  ", ", ".join(parts)
    )
    if fault.expected or fault.found:
        yield Text.assemble(
            ("    expected ", "dim"),
            printable(fault.expected or "?", 120),
            ("  found ", "dim"),
            (printable(fault.found or "?", 120), "bold"),
        )
    if fault.file:
        yield Text.assemble(("    stored in ", "dim"), printable(fault.file, 200))
    if fault.detail:
        yield Text(f"    {printable(fault.detail, 600)}")
