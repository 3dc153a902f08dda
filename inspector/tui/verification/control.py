"""Starting, stopping and telling of a verification: what app and main screen share.

The rule this module keeps: the job is the app's, not a screen's; leaving a view or a checkpoint
does not stop it, leaving the app does, after asking.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from textual.app import App, ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Static

from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.report.verify_text import summary_sentence
from inspector.tui.kit.dialog import Dialog
from inspector.tui.verification.figures import rank_figures
from inspector.tui.verification.head import without_verdict
from inspector.tui.verification.run import Run, Verification
from inspector.verify.job.commands import shell
from inspector.verify.progress import Snapshot
from inspector.verify.verdicts import TensorView

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel
    from textual.timer import Timer

    from inspector.tui.preferences import Memory
    from inspector.tui.session import Loaded
    from inspector.verify.preflight import Preflight

__all__ = [
    "AskScreen",
    "Host",
    "ask_to_cancel",
    "ask_to_leave",
    "begin",
    "close",
    "copies_of",
    "findings_of",
    "glyph_of",
    "path_of",
    "proof_of",
    "standing_of",
]


class Host(Protocol):
    """The app, as far as its views need it."""

    #: What the user chose last.
    memory: Memory
    #: The latest verification; it outlives the screen that started it.
    verification: Verification | None


class AskScreen(Dialog[str]):
    """Dismissed with the id of the answer; escape is the last of them, which changes nothing."""

    DEFAULT_CSS = """
    AskScreen > Vertical { max-width: 72; max-height: initial; border: round $warning; }
    AskScreen Static { width: 1fr; }
    AskScreen Horizontal { height: auto; margin-top: 1; }
    AskScreen Button { margin-right: 2; }
    """

    BINDINGS = [
        ("escape,n", "stay", "No"),
        ("y", "agree", "Yes"),
        ("left,h", "app.focus_previous", "Previous"),
        ("right,l", "app.focus_next", "Next"),
    ]

    def __init__(self, question: str, answers: list[tuple[str, str]]) -> None:
        """Args: `answers` are (id, label); `y` gives the first, escape the last."""
        super().__init__()
        self._question = question
        self._answers = answers

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            with Horizontal():
                for index, (answer, label) in enumerate(self._answers):
                    variant = "warning" if index == 0 else "default"
                    yield Button(label, id=answer, variant=variant, compact=True)  # type: ignore[arg-type]

    def on_mount(self) -> None:
        # Enter by mistake must not stop hours of work.
        self.query(Button).last().focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss(event.button.id or self._answers[-1][0])

    def action_stay(self) -> None:
        self.dismiss(self._answers[-1][0])

    def action_agree(self) -> None:
        self.dismiss(self._answers[0][0])


_DOES = "did this in the verification, as each rank tells in its view"
_HINT = "4 shows what every rank found; c compares the stored bytes with their checksums"
_POLL_S = 0.2
#: How long the app waits for the job's end when it is left: longer than the job's own bounds.
_CLOSE_S = 25.0


def begin(app: App[int], plan: Preflight) -> Verification:
    """Start a job; when it ends, a toast says how, whatever screen is open."""
    run = Verification(plan)
    run.start()
    timers: list[Timer] = []

    def look() -> None:
        if run.is_over:
            timers[0].stop()
            _tell(app, run)

    timers.append(app.set_interval(_POLL_S, look))
    return run


def _tell(app: App[int], run: Run) -> None:
    if run.error is not None:
        text = f"{run.error.message}\n{run.error.hint}".strip()
        app.notify(printable(text, 400), title="It could not run", severity="error", markup=False)
        return
    result = run.moment.snapshot.result or {}
    verdict = str(result.get("verdict"))
    severity: SeverityLevel = "error"
    if verdict in ("exact", "cancelled", "partial"):
        severity = "information" if verdict == "exact" else "warning"
    titles = {
        "exact": "Verified",
        "differs": "It differs",
        "unreadable": "torch cannot read it",
        "partial": "Verified in part",
        "failed": "The verification failed",
        "cancelled": "The verification was cancelled",
    }
    title = titles.get(verdict, "The verification has ended")
    app.notify(
        without_verdict(summary_sentence(result)),
        title=title,
        severity=severity,
        markup=False,
        timeout=12,
    )


def ask_to_cancel(app: App[int], run: Verification) -> None:
    """Ask, and stop the job if so; what it has found by then is kept."""

    def answered(answer: str | None) -> None:
        if answer == "stop":
            run.stop()

    question = "Stop the verification? What it has compared so far is reported."
    app.push_screen(AskScreen(question, [("stop", "Stop it"), ("stay", "Let it run")]), answered)


def ask_to_leave(app: App[int], run: Verification, leave: Callable[[], None]) -> None:
    """Ask, stop the job if so, and leave once it has ended."""

    def answered(answer: str | None) -> None:
        if answer != "stop":
            return
        run.stop()
        app.notify("Stopping the ranks ...", title="Verification", timeout=_CLOSE_S)
        timers.append(app.set_interval(_POLL_S, look))

    def look() -> None:
        if not run.is_alive:
            timers[0].stop()
            leave()

    timers: list[Timer] = []
    num_ranks = plural(run.plan.spec.world_size, "rank")
    question = f"A verification is running ({num_ranks}). Leaving ends it."
    answers = [("stop", "Stop it and quit"), ("stay", "Stay")]
    app.push_screen(AskScreen(question, answers), answered)


def close(run: Verification | None) -> None:
    """The screen is gone: no rank survives it. The job's guard sees to it, too, if this is killed.

    Blocks until the job has ended: not for the event loop.
    """
    if run is not None and run.is_alive:
        run.kill()
        run.join(_CLOSE_S)


def findings_of(snapshot: Snapshot) -> list[Finding]:
    """What a verification found, as findings on the entries concerned."""
    return [finding for view in snapshot.tensors.values() for finding in _finding(view)]


def proof_of(snapshot: Snapshot) -> str:
    """What a verification proved of the whole checkpoint: `EXACT on fsdp:2`; empty if nothing."""
    result = snapshot.result or {}
    counts = result.get("tensors") or {}
    if result.get("verdict") != "exact" or snapshot.spec.get("filter"):
        return ""
    if not counts or counts.get("exact") != counts.get("total"):
        return ""
    return f"EXACT on {printable(str(result.get('mesh')), 40)}"


def path_of(loaded: Loaded) -> str:
    """A checkpoint's path as a job has it."""
    path = loaded.checkpoint.path
    return path if is_url(path) else os.path.abspath(path)


def copies_of(run: Run | None) -> list[tuple[str, str]]:
    """What can be copied of a run itself: its command, its folder; printable."""
    if not isinstance(run, Verification):
        return []
    command = printable(shell(run.command)) if run.command else ""
    found = [("command", command), ("run folder", printable(run.folder))]
    return [(label, text) for label, text in found if text]


def standing_of(run: Run) -> tuple[str, str] | None:
    """How a run stands in a word, and a style: how far it is, or its verdict; None at the start."""
    if run.error is not None:
        return "could not run", "error"
    snapshot = run.moment.snapshot
    if snapshot.result is not None:
        verdict = str(snapshot.result.get("verdict"))
        # Green only for what was proved of all of it.
        styles = {"exact": "ok" if proof_of(snapshot) else "", "partial": "warning"}
        return verdict, styles.get(verdict, "warning" if verdict == "cancelled" else "error")
    if not snapshot.phases:
        return None
    ranks = rank_figures(snapshot, (0.0,) * len(snapshot.ranks))
    share = sum(rank.share for rank in ranks) / max(1, len(ranks))
    # All bytes may have moved while it has something to do yet.
    return f"{min(99, int(share * 100))}%", "error" if snapshot.num_bad else "accent"


def glyph_of(run: Run) -> tuple[str, str]:
    """`standing_of` in as few letters as the line of views has room for."""
    said, style = standing_of(run) or ("0%", "accent")
    if said.endswith("%"):
        return said, style
    return {"exact": "✓", "partial": "!", "cancelled": "!"}.get(said, "✗"), style


def _finding(view: TensorView) -> Iterator[Finding]:
    if not view.is_bad:
        return
    if not view.faults:
        said = printable(view.verdict, 40)
        yield Finding("verify", said, _DOES, _HINT, fqn=view.fqn)
        return
    fault = view.faults[0]
    parts = [f"{printable(fault.verdict, 40)} in {printable(fault.phase, 40)} on rank {fault.rank}"]
    if fault.num_wrong and fault.num_elements is not None:
        parts.append(f"{fault.num_wrong:,} of {fault.num_elements:,} elements")
    if fault.first_index is not None:
        parts.append(f"first at {format_shape(fault.first_index)}")
    if fault.detail:
        parts.append(printable(fault.detail, 300))
    yield Finding(
        "verify",
        ", ".join(parts),
        _DOES,
        _HINT,
        fqn=view.fqn,
        file=fault.file or None,
        num_elements=fault.num_wrong,
    )
