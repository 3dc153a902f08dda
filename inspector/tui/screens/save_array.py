"""`SaveArrayScreen`: where a tensor, or the slice of it that is shown, is written as `.npy`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Checkbox, Input, Static

from inspector.tui.kit.pane import Dialog

__all__ = ["SaveArrayScreen", "SaveChoice", "file_name"]

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
    SaveArrayScreen { align: center middle; }
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
