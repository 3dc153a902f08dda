"""`MeshPicker`: a mesh to type, to step through, or to choose among those that divide evenly."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Label

from inspector.errors import InspectError, UsageError
from inspector.layout.mesh import Mesh
from inspector.tui.plan_meshes import EvenSizes, other_kind, presets, with_step
from inspector.tui.widgets.choice_line import ChoiceLine
from inspector.tui.widgets.mesh_stepper import MeshStepper

__all__ = ["MeshPicker"]

_USUAL_CELLS = 60


class MeshPicker(Vertical):
    """Two lines, and the mesh that they show; it tells of another by `Picked`.

    On a narrow screen it has the class `-narrow`, which its owner sets.
    """

    DEFAULT_CSS = """
    MeshPicker { height: 2; padding: 0 1; }
    MeshPicker Horizontal { height: 1; }
    MeshPicker Label { width: 13; color: $text-muted; }
    MeshPicker Input, MeshPicker Input:focus {
        width: 18; height: 1; border: none; padding: 0 1; background: $boost; margin-right: 2;
    }
    MeshPicker Input:focus { background: $primary 25%; }
    MeshPicker ChoiceLine { width: 1fr; }
    MeshPicker.-narrow Label { width: 6; }
    MeshPicker.-narrow Input { width: 15; margin-right: 1; }
    """

    class Picked(Message):
        """The user wants another mesh: the picker's `mesh`, which may be a later one already."""

    class Refused(Message):
        """What stands in the field is no mesh; the picker's `error` says why."""

    class Done(Message):
        """Enter, on a mesh that is one."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._mesh = Mesh("fsdp", (1,))
        self._even = EvenSizes((1,), True)
        self._written: Mesh | None = None
        #: Why what was typed is refused, or None.
        self.error: InspectError | None = None

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Label("mesh")
            yield Input(id="plan-mesh", placeholder="fsdp:S or hsdp:RxS")
            yield MeshStepper(id="plan-stepper")
        with Horizontal():
            yield Label("even", id="plan-even")
            yield ChoiceLine((), id="plan-presets")

    @property
    def is_editing(self) -> bool:
        """Whether a mesh is being typed."""
        return self.screen.focused is self.query_one(Input)

    @property
    def mesh(self) -> Mesh:
        """The mesh that was picked last."""
        return self._mesh

    def set_mesh(self, mesh: Mesh) -> None:
        """Show another mesh; what is being typed stays as it is."""
        self._mesh = mesh
        field = self.query_one(Input)
        if not self.is_editing:
            self.error = None
            with field.prevent(Input.Changed):
                field.value = str(mesh)
            field.cursor_position = len(field.value)
        self.query_one(MeshStepper).show(mesh)
        self._offer()

    def offer(self, even: EvenSizes, written: Mesh | None) -> None:
        """Offer other meshes.

        Args:
            even: Numbers of shards that divide evenly.
            written: The mesh that wrote the checkpoint, if it is known.
        """
        self._even, self._written = even, written
        self.query_one("#plan-even", Label).update(even.label)
        self._offer()

    def _offer(self) -> None:
        line = self.query_one(ChoiceLine)
        room = line.size.width or _USUAL_CELLS
        words = presets(self._mesh, self._even.offered, self._written, room)
        line.choose(str(self._mesh))
        if tuple(words) != line.words:
            line.set_words(words)

    def on_resize(self) -> None:
        self.call_after_refresh(self._offer)

    # What the user does.

    def edit(self) -> None:
        """Let a mesh be typed."""
        field = self.query_one(Input)
        field.select_all()
        # At once: the keys that come in the same burst are typed into it already.
        self.screen.set_focus(field)

    def step(self, part: str, steps: int) -> None:
        """Ask for the next larger (or smaller) mesh: of an axis, or of the other kind (`kind`)."""
        if part == "kind":
            self._pick(other_kind(self._mesh))
        else:
            self._pick(with_step(self._mesh, part, steps, self._even.sizes))

    def _pick(self, mesh: Mesh) -> None:
        if mesh != self._mesh or self.error is not None:
            self.set_mesh(mesh)
            self.post_message(self.Picked())

    def on_mesh_stepper_stepped(self, event: MeshStepper.Stepped) -> None:
        event.stop()
        self.step(event.part, event.steps)

    def on_choice_line_changed(self, event: ChoiceLine.Changed) -> None:
        event.stop()
        self._pick(Mesh.parse(event.value))

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        try:
            mesh = Mesh.parse(event.value)
            if not mesh.can_launch:
                raise UsageError(
                    f"{mesh}: a load is planned under fsdp:S or hsdp:RxS",
                    "S shards, in R replicas: fsdp:8, hsdp:2x4",
                )
        except InspectError as error:
            self.error = error
            self.post_message(self.Refused())
        else:
            self.error = None
            self.set_mesh(mesh)
            self.post_message(self.Picked())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self.error is None:
            self.post_message(self.Done())
