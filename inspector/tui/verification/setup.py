"""`VerifySetupScreen`: the form of a verification: what it says, and what it offers."""

from __future__ import annotations

import os
from asyncio import TimerHandle
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input, Label, Static

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.errors import InspectError, UsageError
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh
from inspector.layout.target.file import PlacementFile, read_placement_file
from inspector.layout.target.placement import why_not
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.verify_text import memory_text, meshes_text
from inspector.tui.advice import on_screen
from inspector.tui.background import Background, after
from inspector.tui.kit.dialog import Dialog
from inspector.tui.kit.lines import ChoiceLine
from inspector.tui.mesh.offers import writer_mesh
from inspector.verify.job.commands import local_argv, shell
from inspector.verify.machine import gpus
from inspector.verify.preflight import NO_SECOND_MESH, Preflight, prepare
from inspector.verify.spec import DEVICES, VIAS, default_then, why_not_via

__all__ = [
    "DEFAULT",
    "NONE",
    "VerifySetupScreen",
    "Wishes",
    "first_mesh",
    "plan_table",
    "presets",
    "resolve",
]

#: Words for the second mesh.
DEFAULT, NONE = "default", "none"
_COMMON = ("fsdp:2", "hsdp:2x2", "fsdp:4", "hsdp:2x4", "fsdp:8")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the form says, as it was typed.

    Attributes:
        mesh: The mesh.
        then: The second one, `DEFAULT` or `NONE`.
        via: The way.
        device: The device.
        filter_text: The filter.
        placements: The file that says which axis cuts which dim; empty for none.
        stage: The pipeline stage, as `--stage` takes it; empty for all entries.
    """

    mesh: str
    then: str = DEFAULT
    via: str = "dtensor"
    device: str = "auto"
    filter_text: str = ""
    placements: str = ""
    stage: str = ""

    @property
    def thens(self) -> tuple[str, ...]:
        """The second meshes that are named, with blanks between, or commas if these are no axes."""
        found: list[str] = []
        for word in (word.strip(",") for word in self.then.split()):
            found += word.split(",") if _mesh_of(word) is None else [word]
        return tuple(word for word in found if word not in ("", DEFAULT, NONE))

    @property
    def meshes(self) -> tuple[Mesh, ...]:
        """All that are meshes: what is half typed is none."""
        return tuple(mesh for text in (self.mesh, *self.thens) if (mesh := _mesh_of(text)))

    @property
    def has_axes(self) -> bool:
        """Whether one of them has axes by name: for those placements can be told."""
        return not all(mesh.is_plain for mesh in self.meshes)

    def ways(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """The ways that there are none of, and why; and the ways that there are."""
        meshes = list(self.meshes)
        if meshes and self.then == DEFAULT:
            meshes.append(default_then(meshes[0]))
        closed = {via: why for via in VIAS for mesh in meshes if (why := why_not_via(mesh, via))}
        return closed, tuple(via for via in VIAS if via not in closed)


def _mesh_of(text: str) -> Mesh | None:
    try:
        return Mesh.parse(text)
    except InspectError:
        return None


def presets(written: Mesh | None, num_ranks: int | None = None) -> list[str]:
    """Meshes to choose from: the writer's, FSDP and HSDP over the same ranks, and small ones.

    Args:
        written: The mesh that wrote it, if that is known.
        num_ranks: How many ranks wrote it, likewise.
    """
    own = [] if written is None or why_not(written) else [str(written)]
    size = num_ranks if written is None else written.world_size
    if size is not None and 1 < size <= MAX_WORLD_SIZE:
        own.append(f"fsdp:{size}")
        if size % 2 == 0 and size > 2:
            own.append(f"hsdp:2x{size // 2}")
    return list(dict.fromkeys([*own, *_COMMON]))


def first_mesh(written: Mesh | None, num_gpus: int) -> str:
    """The mesh to begin with: the writer's, if this machine has as many cores or GPUs."""
    room = max(os.cpu_count() or 1, num_gpus, 2)
    own = [written] if written is not None and not why_not(written) else []
    small = ["hsdp:2x2", "fsdp:4"] if own and own[0].family == "hsdp" else ["fsdp:4"]
    for mesh in [*own, *map(Mesh.parse, small), Mesh.parse("fsdp:2")]:
        if 1 < mesh.world_size <= room:
            return str(mesh)
    return "fsdp:2"


def resolve(checkpoint: Checkpoint, wishes: Wishes) -> Preflight:
    """The job that was wished for. Looks at the machine: takes a moment.

    Raises:
        InspectError: There is none.
    """
    is_once = wishes.then.strip() == NONE
    asked = wishes.has_axes or wishes.stage.strip()
    told = os.path.expanduser(wishes.placements.strip()) if asked else ""
    if os.path.exists(told) and not os.path.isfile(told):
        # A pipe that nobody writes to would be waited for.
        raise UsageError(f"--placements {printable(told)}: it is no regular file")
    file = read_placement_file(told) if told else PlacementFile()
    return prepare(
        checkpoint,
        wishes.mesh,
        then=NO_SECOND_MESH if is_once else wishes.thens,
        via=wishes.via,
        device=wishes.device,
        filter_text=wishes.filter_text.strip(),
        placements=file.placements,
        stage=wishes.stage.strip(),
        stages=file.stages if wishes.stage.strip() else (),
    )


def plan_table(plan: Preflight, wishes: Wishes) -> Table:
    """What will run, what it reads and needs, and what stands against it or any other way."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=8)
    table.add_column(ratio=1)
    for label, text, style in _rows(plan):
        table.add_row(Text(label, "dim"), Text(text, style))
    for via, why in wishes.ways()[0].items():
        table.add_row(Text(f"no {via}", "dim"), Text(why))
    return table


def _rows(plan: Preflight) -> Iterator[tuple[str, str, str]]:
    spec = plan.spec
    meshes = meshes_text(spec.mesh, spec.then)
    job = (
        f"{plural(len(plan.expected.names), 'entry', 'entries')}, "
        f"{format_bytes(plan.num_bytes)}, under {meshes}; {plural(spec.world_size, 'rank')} on "
        f"{spec.device} over {spec.backend}, torch {printable(plan.interpreter.torch, 40)}"
    )
    yield "job", job, ""
    yield "reads", f"about {format_bytes(plan.read_bytes)} by all ranks together", ""
    if plan.scratch_bytes:
        free = "" if plan.scratch_free is None else f" of {format_bytes(plan.scratch_free)} free"
        parent = printable(plan.scratch_parent, 120)
        yield "scratch", f"{format_bytes(plan.scratch_bytes)}{free} in {parent}", ""
    else:
        yield "scratch", "none: nothing is saved", ""
    memory = f"{memory_text(plan)} on each rank; {format_bytes(plan.memory_free)} is free here"
    yield "memory", memory, ""
    argv = local_argv(spec, "RUN/spec.json", "RUN/logs")
    yield "command", printable(shell(argv), 800), ""
    for note in plan.notes:
        yield "note", printable(note, 400), "warning"
    for message, hint in plan.problems:
        yield "cannot", printable(message, 400), "error"
        if hint:
            yield "", printable(on_screen(hint), 200), ""


_PAUSE_S = 0.15


class VerifySetupScreen(Dialog["Preflight | None"]):
    """Dismissed with the job to start, or None."""

    DEFAULT_CSS = """
    VerifySetupScreen > Vertical {
        width: 94%; max-width: 112; max-height: 96%; padding: 0 2;
        border-title-color: $foreground; border-title-style: bold;
    }
    VerifySetupScreen Horizontal { height: 1; }
    VerifySetupScreen Label { width: 11; color: $text-muted; }
    VerifySetupScreen Input, VerifySetupScreen Input:focus {
        width: 20; height: 1; border: none; padding: 0 1; background: $boost;
    }
    VerifySetupScreen Input.-axes, VerifySetupScreen Input.-axes:focus { width: 36; }
    VerifySetupScreen #setup-told, VerifySetupScreen #setup-why { display: none; }
    VerifySetupScreen #setup-of { display: none; }
    VerifySetupScreen.-axes #setup-told, VerifySetupScreen.-closed #setup-why { display: block; }
    VerifySetupScreen.-stages #setup-told, VerifySetupScreen.-stages #setup-of { display: block; }
    VerifySetupScreen #setup-via { width: 24; }
    VerifySetupScreen #setup-why { width: 1fr; color: $text-muted; }
    VerifySetupScreen Input:focus { background: $primary 25%; }
    VerifySetupScreen #setup-filter, VerifySetupScreen #setup-placements { width: 1fr; }
    VerifySetupScreen #setup-stage { width: 1fr; }
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

    # Bindings, not `key_enter`: a key that a handler has used goes on to whatever has the focus by
    # then, which is the screen below once this one is left; and a button keeps its own enter.
    BINDINGS = [("escape", "cancel", "Cancel"), ("enter", "start", "Start")]

    def __init__(
        self,
        checkpoint: Checkpoint,
        written_by: WrittenBy | None,
        mesh: str = "",
        filter_text: str = "",
    ) -> None:
        """Put a mesh and a filter into the form.

        Args:
            checkpoint: What is to be verified.
            written_by: Who wrote it, if that is known.
            mesh: The mesh to begin with (default: one that fits this machine).
            filter_text: The filter to begin with.
        """
        super().__init__()
        self._checkpoint = checkpoint
        self._written_by = written_by
        self._first = (mesh, filter_text)
        self._plan: Preflight | None = None
        self._pause: TimerHandle | None = None
        self._starts = False
        self._was_surveyed = False
        self._survey: Background[None] = Background(self, self._surveyed, "GPUs")
        self._resolving: Background[Wishes] = Background(self, self._resolved, "plan")

    def know(self, written_by: WrittenBy) -> None:
        """Offer what follows from who wrote it; what was typed stays."""
        self._written_by = written_by
        if not self.query("#setup-mesh"):
            return  # It is told again when the form is there.
        self._fit_to_meshes()
        self.query_one("#setup-stage", Input).placeholder = _of_stages(written_by.num_stages)
        self.query_one("#setup-meshes", ChoiceLine).set_words(self._offered)

    @property
    def _offered(self) -> list[str]:
        return presets(writer_mesh(self._written_by), self._checkpoint.world_size)

    def replace(self, checkpoint: Checkpoint) -> None:
        """Plan for the checkpoint as it is now; what was asked for stays asked for."""
        self._checkpoint = checkpoint
        starts = self._starts
        self._changed()
        self._starts = starts

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "Verify: load it with torchrun, and compare every bit"
            with Horizontal():
                yield Label("mesh")
                yield Input(id="setup-mesh", placeholder="fsdp:S, or axes")
                yield ChoiceLine(self._offered, id="setup-meshes")
            with Horizontal():
                yield Label("then")
                yield Input(DEFAULT, id="setup-then", placeholder="mesh, or none")
                yield ChoiceLine((DEFAULT, NONE), DEFAULT, id="setup-thens")
            with Horizontal(id="setup-told"):
                yield Label("placements")
                yield Input(
                    id="setup-placements", placeholder="a file; empty: as the checkpoint has them"
                )
            with Horizontal(id="setup-of"):
                yield Label("stage")
                yield Input(id="setup-stage", placeholder=_of_stages(0))
            with Horizontal():
                yield Label("way")
                yield ChoiceLine(VIAS, "dtensor", id="setup-via")
                yield Static("", markup=False, id="setup-why")
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
                yield Static("enter starts · esc cancels", id="setup-hint")

    def on_mount(self) -> None:
        if self._written_by is not None:
            self.know(self._written_by)
        self.query_one("#setup-start", Button).disabled = True
        field = self.query_one("#setup-mesh", Input)
        field.value, self.query_one("#setup-filter", Input).value = self._first
        field.cursor_position = len(field.value)
        field.focus()
        self._survey.ask(None, lambda stop: len(gpus()))

    def _surveyed(self, key: None, num_gpus: int | InspectError) -> None:
        self._was_surveyed = True
        field = self.query_one("#setup-mesh", Input)
        if not field.value:
            num_gpus = num_gpus if isinstance(num_gpus, int) else 0
            field.value = first_mesh(writer_mesh(self._written_by), num_gpus)
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
            self.query_one("#setup-placements", Input).value,
            self.query_one("#setup-stage", Input).value if self.has_class("-stages") else "",
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

    def _fit_to_meshes(self) -> None:
        """Offer what there is for the meshes that are typed: ways, and a file of placements."""
        wishes = self.wishes
        self.set_class(wishes.has_axes, "-axes")
        num_stages = 0 if self._written_by is None else self._written_by.num_stages
        self.set_class(bool(num_stages or wishes.placements.strip()), "-stages")
        for name, text in (("mesh", wishes.mesh), ("then", wishes.then)):
            self.query_one(f"#setup-{name}", Input).set_class("," in text, "-axes")
        closed, ways = wishes.ways()
        line = self.query_one("#setup-via", ChoiceLine)
        if ways != line.words:
            line.set_words(ways)
            if line.value not in ways:
                line.choose(ways[0])
        self.set_class(bool(closed), "-closed")
        self.query_one("#setup-why", Static).update(f"not {', '.join(closed)}: see below")

    def _changed(self) -> None:
        self._fit_to_meshes()
        self._plan = None
        self._starts = False
        self.query_one("#setup-start", Button).disabled = True
        self._resolving.drop()
        if self._pause is not None:
            self._pause.cancel()
        self._pause = after(self, _PAUSE_S, self._ask)

    def _ask(self) -> None:
        if self.wishes.mesh:
            # A look at a driver that hangs holds up nobody who then asks for the CPU.
            self._resolving = Background(self, self._resolved, "plan")
            checkpoint, wishes = self._checkpoint, self.wishes
            self._resolving.ask(wishes, lambda stop: resolve(checkpoint, wishes))
        elif self._was_surveyed:
            self._starts = False
            self.query_one("#setup-plan", Static).update("Which mesh? Type one, or choose one.")

    def _resolved(self, wishes: Wishes, outcome: Preflight | InspectError) -> None:
        said = self.query_one("#setup-plan", Static)
        if isinstance(outcome, InspectError):
            said.update(_refusal(outcome))
            return
        self._plan = outcome
        said.update(plan_table(outcome, wishes))
        self.query_one("#setup-start", Button).disabled = bool(outcome.problems)
        if self._starts:
            self._start()

    # The answer.

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._start()

    def action_start(self) -> None:
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


def _of_stages(num_stages: int) -> str:
    """What may be typed for the stage."""
    text = f"2/{num_stages or 4}: what pipeline stage 2 of {num_stages or 4} loads; empty: all"
    return text if num_stages else f"{text}; [stages] of the file say which"


def _refusal(error: InspectError) -> Text:
    text = Text.assemble(("✗ ", "error"), (printable(error.message, 600), "error"))
    if error.hint:
        text.append(f"\n{printable(on_screen(error.hint), 400)}")
    return text
