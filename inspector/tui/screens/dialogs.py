"""Dialogs: what can be copied, what the checkpoint is, where a tensor is written as `.npy`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Checkbox, Input, OptionList, Static
from textual.widgets.option_list import Option

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import printable
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.text import summary_facts
from inspector.tui.kit.dialog import Dialog
from inspector.tui.kit.lines import FactSheet, Reader

__all__ = ["CopyScreen", "InfoScreen", "SaveArrayScreen", "SaveChoice", "file_name"]

_LABEL_CELLS = 12


class CopyScreen(Dialog[None]):
    """Choose a text; it goes to the clipboard by OSC 52, and stays on the screen, in full."""

    DEFAULT_CSS = """
    CopyScreen > Vertical {
        width: 90%; max-width: 120; height: auto; max-height: 92%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    CopyScreen OptionList, CopyScreen OptionList:focus {
        height: auto; max-height: 16; border: none; background: $surface; padding: 0;
    }
    CopyScreen #copied { height: auto; margin-top: 1; }
    CopyScreen #copy-intro { height: auto; margin-bottom: 1; }
    CopyScreen.-copied #copy-intro { display: none; }
    CopyScreen.-copied OptionList { max-height: 6; }
    """

    BINDINGS = [
        ("escape", "dismiss", "Close"),
        ("q", "dismiss", "Close"),
        ("y", "take", "Copy"),
        ("j", "move(1)", "Down"),
        ("k", "move(-1)", "Up"),
    ]

    def __init__(self, choices: list[tuple[str, str]], intro: Text | None = None) -> None:
        """Args: `choices` are labels and printable texts; `intro` says what they are."""
        super().__init__()
        self._choices = choices
        self._intro = intro

    def compose(self) -> ComposeResult:
        with Vertical():
            if self._intro is not None:
                yield Static(self._intro, markup=False, id="copy-intro")
            yield Static("Copy (y, enter), or select it with the mouse; esc closes", markup=False)
            yield OptionList(
                *(
                    Option(Text.assemble((_heading(label), "dim"), text.replace("\t", "  ")))
                    for label, text in self._choices
                ),
                markup=False,
            )
            yield Static("", markup=False, id="copied")

    def action_take(self) -> None:
        self.query_one(OptionList).action_select()

    def action_move(self, lines: int) -> None:
        choices = self.query_one(OptionList)
        if lines > 0:
            choices.action_cursor_down()
        else:
            choices.action_cursor_up()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        label, text = self._choices[event.option_index]
        self.app.copy_to_clipboard(text)
        what = label if len(label) < _LABEL_CELLS else "line"
        # What was copied may be long, and the screen small.
        self.add_class("-copied")
        self.call_after_refresh(event.option_list.scroll_to_highlight)
        self.query_one("#copied", Static).update(
            Text.assemble(
                (f"The {what} was sent to the terminal's clipboard (OSC 52). ", ""),
                (
                    "If it did not arrive (tmux needs: set -g set-clipboard on), here it is:\n",
                    "dim",
                ),
                text,
            )
        )


def _heading(label: str) -> str:
    """A label before its text, or above it if it is a sentence."""
    return f"{label:<{_LABEL_CELLS}}" if len(label) < _LABEL_CELLS else f"{label}\n"


class InfoScreen(Dialog[None]):
    """The summary that `show` prints, with all of its evidence."""

    DEFAULT_CSS = """
    InfoScreen > Reader {
        width: 90%; max-width: 120; height: auto; max-height: 90%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    """

    BINDINGS = [("escape,q,i", "dismiss", "Close")]

    def __init__(self, checkpoint: Checkpoint, written_by: WrittenBy) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._written_by = written_by

    def compose(self) -> ComposeResult:
        facts = summary_facts(self._checkpoint, self._written_by)
        path = printable(self._checkpoint.path)
        with Reader():
            yield FactSheet("bold", "", sections=[("", [("path", path), *facts])])


_MAX_NAME = 120


@dataclass(frozen=True, slots=True)
class SaveChoice:
    """What was chosen.

    Attributes:
        path: Where to.
        is_slice: The slice that is shown, not the whole tensor.
        as_float32: Elements as float32.
    """

    path: str
    is_slice: bool = False
    as_float32: bool = False


def file_name(fqn: str) -> str:
    """A name for a file of an entry: plain characters alone, no folder, not hidden."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", fqn).lstrip(".-")
    return (plain[-_MAX_NAME:].lstrip(".-") or "tensor") + ".npy"


class SaveArrayScreen(Dialog["SaveChoice | None"]):
    """Dismissed with a choice, or with None.

    Args:
        what: What is written, printable.
        name: A name for the file.
        slice_text: The slice that is shown, printable; empty if that is the whole tensor.
        raw: The dtype that numpy lacks, or an empty string.
    """

    DEFAULT_CSS = """
    SaveArrayScreen > Vertical {
        width: 90%; max-width: 100; height: auto; max-height: 92%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    SaveArrayScreen Static { width: 1fr; }
    SaveArrayScreen Input, SaveArrayScreen Input:focus {
        height: 1; border: none; padding: 0 1; margin: 1 0; background: $boost;
    }
    SaveArrayScreen Checkbox, SaveArrayScreen Checkbox:focus {
        height: 1; border: none; padding: 0; background: $surface;
    }
    SaveArrayScreen #save-hint { color: $text-muted; }
    """

    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(self, what: str, name: str, slice_text: str = "", raw: str = "") -> None:
        super().__init__()
        self._what = what
        self._file = name
        self._slice_text = slice_text
        self._raw = raw

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(f"Write {self._what} as .npy", markup=False)
            yield Input(os.path.join(os.getcwd(), self._file), select_on_focus=False)
            if self._slice_text:
                label = f"only the slice shown: {self._slice_text}"
                yield Checkbox(label.replace("[", r"\["), id="save-slice")
            if self._raw:
                label = f"as float32, exactly: numpy has no {self._raw}"
                yield Checkbox(label, value=True, id="save-float32")
            yield Static(
                "enter writes it, every byte checked · tab to the choices, space turns one · "
                "esc cancels",
                markup=False,
                id="save-hint",
            )

    def _is_on(self, name: str) -> bool:
        found = self.query(f"#{name}").results(Checkbox)
        return any(box.value for box in found)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        path = event.value.strip()
        chosen = SaveChoice(path, self._is_on("save-slice"), self._is_on("save-float32"))
        self.dismiss(chosen if path else None)

    def action_cancel(self) -> None:
        self.dismiss(None)
