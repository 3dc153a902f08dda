"""`VerifySetupScreen`: what a verification will do, before it starts; everything can be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Button, Input, Label, Static

from inspector.checkpoint.text import printable
from inspector.errors import InspectError
from inspector.layout.mesh import Mesh
from inspector.tui.advice import on_screen
from inspector.tui.verify_setup import (
    DEFAULT,
    NONE,
    Wishes,
    first_mesh,
    plan_table,
    presets,
    resolve,
)
from inspector.tui.widgets.choice_line import ChoiceLine
from inspector.verify.preflight import Preflight
from inspector.verify.spec import DEVICES, VIAS

if TYPE_CHECKING:
    from inspector.checkpoint.model import Checkpoint

__all__ = ["VerifySetupScreen"]

_PAUSE_S = 0.15


class VerifySetupScreen(ModalScreen["Preflight | None"]):
    """Dismissed with the job to start, or None."""

    DEFAULT_CSS = """
    VerifySetupScreen { align: center middle; }
    VerifySetupScreen > Vertical {
        width: 94%; max-width: 112; height: auto; max-height: 96%;
        padding: 0 2; background: $surface; border: round $primary;
        border-title-color: $foreground; border-title-style: bold;
    }
    VerifySetupScreen Horizontal { height: 1; }
    VerifySetupScreen Label { width: 9; color: $text-muted; }
    VerifySetupScreen Input, VerifySetupScreen Input:focus {
        width: 22; height: 1; border: none; padding: 0 1; background: $boost;
    }
    VerifySetupScreen Input:focus { background: $primary 25%; }
    VerifySetupScreen #setup-filter { width: 1fr; }
    VerifySetupScreen ChoiceLine { width: 1fr; }
    VerifySetupScreen Horizontal > Input { margin-right: 2; }
    VerifySetupScreen #setup-plan-scroll {
        height: auto; max-height: 1fr; margin: 1 0; scrollbar-size-vertical: 1;
    }
    VerifySetupScreen #setup-plan { width: 1fr; height: auto; }
    VerifySetupScreen #setup-buttons { height: 1; dock: bottom; }
    VerifySetupScreen Button { margin-right: 2; }
    VerifySetupScreen #setup-hint { width: 1fr; color: $text-muted; text-align: right; }
    """

    BINDINGS = [("escape", "cancel", "Cancel")]

    class Surveyed(Message):
        """How many GPUs there are."""

        def __init__(self, num_gpus: int) -> None:
            super().__init__()
            self.num_gpus = num_gpus

    class Resolved(Message):
        """What a form comes to."""

        def __init__(self, wishes: Wishes, outcome: Preflight | InspectError) -> None:
            super().__init__()
            self.wishes = wishes
            self.outcome = outcome

    def __init__(
        self,
        checkpoint: Checkpoint,
        written: Mesh | None,
        mesh: str = "",
        filter_text: str = "",
    ) -> None:
        """Put a mesh and a filter into the form.

        Args:
            checkpoint: What is to be verified.
            written: The mesh that it was written by, if that is known.
            mesh: The mesh to begin with (default: one that fits this machine).
            filter_text: The filter to begin with.
        """
        super().__init__()
        self._checkpoint = checkpoint
        self._written = written
        self._first = (mesh, filter_text)
        self._plan: Preflight | None = None
        self._pause: Timer | None = None
        self._starts = False

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "Verify: load it with torchrun, and compare every bit"
            with Horizontal():
                yield Label("mesh")
                yield Input(id="setup-mesh", placeholder="fsdp:S or hsdp:RxS")
                yield ChoiceLine(presets(self._written), id="setup-meshes")
            with Horizontal():
                yield Label("then")
                yield Input(DEFAULT, id="setup-then", placeholder="mesh, or none")
                yield ChoiceLine((DEFAULT, NONE), DEFAULT, id="setup-thens")
            with Horizontal():
                yield Label("way")
                yield ChoiceLine(VIAS, "dtensor", id="setup-via")
            with Horizontal():
                yield Label("device")
                yield ChoiceLine(DEVICES, "auto", id="setup-device")
            with Horizontal():
                yield Label("filter")
                yield Input(
                    id="setup-filter", placeholder="only names that hold these words; !word not"
                )
            with VerticalScroll(id="setup-plan-scroll", can_focus=False):
                yield Static("looking at this machine ...", markup=False, id="setup-plan")
            with Horizontal(id="setup-buttons"):
                yield Button("Start", id="setup-start", variant="primary", compact=True)
                yield Button("Cancel", id="setup-cancel", compact=True)
                yield Static("enter starts · tab next · esc cancels", id="setup-hint")

    def on_mount(self) -> None:
        self.query_one("#setup-start", Button).disabled = True
        field = self.query_one("#setup-mesh", Input)
        field.value, self.query_one("#setup-filter", Input).value = self._first
        field.cursor_position = len(field.value)
        field.focus()
        self.run_worker(self._survey, thread=True, exit_on_error=False, group="survey")

    def _survey(self) -> None:
        from inspector.verify.machine import gpus

        self.post_message(self.Surveyed(len(gpus())))

    def on_verify_setup_screen_surveyed(self, event: Surveyed) -> None:
        event.stop()
        field = self.query_one("#setup-mesh", Input)
        if not field.value:
            field.value = first_mesh(self._written, event.num_gpus)
            field.cursor_position = len(field.value)

    # The form.

    @property
    def wishes(self) -> Wishes:
        """What the form says now."""
        return Wishes(
            self.query_one("#setup-mesh", Input).value.strip(),
            self.query_one("#setup-then", Input).value.strip() or DEFAULT,
            self.query_one("#setup-via", ChoiceLine).value,
            self.query_one("#setup-device", ChoiceLine).value,
            self.query_one("#setup-filter", Input).value,
        )

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        for field, words in (("setup-mesh", "setup-meshes"), ("setup-then", "setup-thens")):
            if event.input.id == field:
                self.query_one(f"#{words}", ChoiceLine).choose(event.value.strip())
        self._changed()

    def on_choice_line_changed(self, event: ChoiceLine.Changed) -> None:
        event.stop()
        for field, words in (("setup-mesh", "setup-meshes"), ("setup-then", "setup-thens")):
            if event.line.id == words:
                self.query_one(f"#{field}", Input).value = event.value
        self._changed()

    def _changed(self) -> None:
        self._plan = None
        self._starts = False
        self.query_one("#setup-start", Button).disabled = True
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(_PAUSE_S, self._ask)

    def _ask(self) -> None:
        if self.wishes.mesh:
            self.run_worker(
                self._resolve, thread=True, exit_on_error=False, group="plan", exclusive=True
            )

    def _resolve(self) -> None:
        wishes = self.wishes
        self.post_message(self.Resolved(wishes, resolve(self._checkpoint, wishes)))

    def on_verify_setup_screen_resolved(self, event: Resolved) -> None:
        event.stop()
        if event.wishes != self.wishes:
            return  # Something was changed meanwhile; that is being looked at.
        said = self.query_one("#setup-plan", Static)
        outcome = event.outcome
        if isinstance(outcome, InspectError):
            said.update(_refusal(outcome))
            return
        self._plan = outcome
        said.update(plan_table(outcome))
        self.query_one("#setup-start", Button).disabled = bool(outcome.problems)
        if self._starts:
            self._start()

    # The answer.

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._start()

    def key_enter(self) -> None:
        self._start()

    def _start(self) -> None:
        if self._plan is None:
            self._starts = True  # as soon as it is known what
        elif not self._plan.problems:
            self.dismiss(self._plan)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "setup-start":
            self._start()
        else:
            self.dismiss(None)

    def action_cancel(self) -> None:
        self.dismiss(None)


def _refusal(error: InspectError) -> Text:
    text = Text.assemble(("✗ ", "bold red"), (printable(error.message, 600), "bold red"))
    if error.hint:
        text.append(f"\n{printable(on_screen(error.hint), 400)}")
    return text
