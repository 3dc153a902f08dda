"""`ErrorScreen`: what the command line would have said, on the screen; and what to do about it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from inspector.checkpoint.dcp import METADATA
from inspector.checkpoint.storage.base import is_url
from inspector.checkpoint.text import printable
from inspector.errors import InspectError, MetadataError, NotACheckpointError
from inspector.tui.background import Background, Stop
from inspector.tui.commands import command
from inspector.tui.kit.key_bar import KeyBar
from inspector.tui.kit.lines import Reader

if TYPE_CHECKING:
    from inspector.checks.findings import Finding, Report

__all__ = ["ErrorScreen", "folder_above"]

_TMP = METADATA + ".tmp"


def folder_above(path: str) -> str:
    """The folder in which a local path lies; empty for a URL and for the root."""
    if not path or is_url(path):
        return ""
    full = os.path.abspath(path)
    return "" if os.path.dirname(full) == full else os.path.dirname(full)


@dataclass(frozen=True, slots=True)
class _Around:
    """What lies in the folder above: how many checkpoints, and in words the newest sound one."""

    num_checkpoints: int
    newest_sound: str


class ErrorScreen(Screen[str]):
    """An error and its hint. Dismissed with `again`, `back` or `above`."""

    DEFAULT_CSS = """
    ErrorScreen { align: center middle; }
    ErrorScreen > Reader {
        width: 90%; max-width: 100; height: auto; max-height: 92%;
        padding: 0 2; border: round $error;
    }
    ErrorScreen Static { width: 1fr; }
    """

    BINDINGS = [
        command("r", "reload", "Try again", "Read it anew.", footer=True),
        command("y", "copy", "Copy", "Copy what is wrong, the path or the command.", footer=True),
        command(
            "u",
            "above",
            "Folder above",
            "Open the folder in which it lies, with the checkpoints there.",
            footer=True,
        ),
        command("escape", "back", "Back", "Back to where it was chosen.", footer=True),
    ]

    def __init__(self, error: InspectError, *, can_go_back: bool, path: str = "") -> None:
        super().__init__()
        self.error = error
        self._path = path
        self._can_go_back = can_go_back
        self._findings: tuple[Finding, ...] = ()
        self._around: _Around | None = None

    def compose(self) -> ComposeResult:
        with Reader():
            yield Static("", markup=False, id="error-text")
        yield KeyBar()

    def on_mount(self) -> None:
        # Keys of this screen, whatever its text needs to be scrolled.
        is_judged = self._path and isinstance(self.error, (MetadataError, NotACheckpointError))
        self._show(is_final=not is_judged)
        if is_judged:
            from inspector.checks.judge import check

            # What the checks make of a folder that cannot be opened.
            judging = Background[None](self, self._judged, "checking")
            judging.ask(None, lambda stop: check(self._path))
        above = "" if self._can_go_back else folder_above(self._path)
        if above:
            looking = Background[None](self, self._looked, "looking at the folder above")
            looking.ask(None, lambda stop: _around(above, stop))

    def _judged(self, _: None, report: Report | InspectError) -> None:
        # Of an error the screen says all there is to say.
        if not isinstance(report, InspectError):
            self._findings = _most_specific(report.findings)
        self._show()

    def _looked(self, _: None, around: _Around | InspectError) -> None:
        if isinstance(around, _Around) and around.num_checkpoints:
            self._around = around
            self._show()
            self.refresh_bindings()

    def _show(self, *, is_final: bool = True) -> None:
        """Say what is wrong, once, with its own advice.

        Args:
            is_final: Whether no more is to come of what is wrong: until then no advice is given
                that the next look may take back.
        """
        text = Text("Cannot open it\n", "bold")
        findings = self._findings
        if not findings:
            text.append(f"\n{printable(self.error.message)}")
            if is_final and self.error.hint:
                text.append("\ndo     ", "dim").append(printable(self.error.hint))
        for finding in findings:
            text.append(f"\n{printable(finding.message)}")
            if finding.torch_does:
                text.append("\ntorch  ", "dim").append(printable(finding.torch_does))
            if finding.hint:
                text.append("\ndo     ", "dim").append(printable(finding.hint))
            text.append("\n")
        if self._rename:
            text.append("\n       ").append(printable(self._rename), "bold")
            text.append("  (y copies it)\n", "dim")
        if self._around is not None:
            said = self._around.newest_sound
            text.append("\nabove  ", "dim").append(f"{said}; u opens that folder")
        self.query_one("#error-text", Static).update(text)

    @property
    def _rename(self) -> str:
        """The command that finishes a save of which all but the last step was done, or empty."""
        renames = any(
            finding.code == "save-unfinished" and f"rename {_TMP} to" in finding.hint
            for finding in self._findings
        )
        if not renames or is_url(self._path):
            return ""
        old, new = (os.path.join(self._path, name) for name in (_TMP, METADATA))
        return f"mv -n -- {shlex.quote(old)} {shlex.quote(new)}"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "above":
            return self._around is not None
        return self._can_go_back if action == "back" else True

    def action_reload(self) -> None:
        self.dismiss("again")

    def action_back(self) -> None:
        self.dismiss("back")

    def action_above(self) -> None:
        self.dismiss("above")

    def action_copy(self) -> None:
        """Choose what to copy: the command first, where there is one."""
        from inspector.tui.screens.dialogs import CopyScreen

        said = [f"{f.code}: {f.message} | do: {f.hint}" for f in self._findings]
        said = said or [" | ".join(filter(None, (self.error.message, self.error.hint)))]
        choices = [("error", printable(text)) for text in said]
        if self._rename:
            choices.insert(0, ("command", printable(self._rename)))
        if self._path:
            choices.append(("path", printable(self._path)))
        self.app.push_screen(CopyScreen(choices))


def _most_specific(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Without what another finding says better: that there is no metadata, and why."""
    special = tuple(finding for finding in findings if finding.code != "metadata-missing")
    return special or findings


def _around(above: str, stop: Stop) -> _Around:
    """What lies in a folder; judges from the newest on."""
    from inspector.checkpoint.find.locate import folder_of
    from inspector.checks.run import find_resumable

    run = find_resumable(folder_of(above), progress=lambda done, total: stop())
    sound = run.newest_sound
    if sound is None:
        return _Around(len(run.judged), "no checkpoint there is sound")
    said = f"newest sound: {printable(sound.path or '.', 120)}"
    if run.doubt:
        said += f", {printable(run.doubt)}"
    return _Around(len(run.judged), said)
