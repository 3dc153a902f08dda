"""`MeshPicker`: a mesh to type, to step through, or to choose among those that divide evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input, Label, Static

from inspector.checkpoint.text import plural
from inspector.errors import InspectError, UsageError
from inspector.layout.mesh import Mesh
from inspector.layout.target.placement import why_not
from inspector.tui.kit.lines import ChoiceLine
from inspector.tui.mesh.axes import letters_of
from inspector.tui.mesh.offers import EvenSizes, other_kind, presets, with_step

__all__ = ["MeshPicker", "MeshStepper"]


class MeshStepper(Static, can_focus=True):
    """Left and right choose a part, up and down change it; a click on a sign changes it, too.

    It shows what `show` gives it, and asks for a change by `Stepped`.
    """

    ALLOW_SELECT = False

    DEFAULT_CSS = """
    MeshStepper { height: 1; width: 1fr; color: $text-muted; }
    MeshStepper:focus { background: $primary 25%; color: $foreground; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "part(1)", "Next", show=False, id="stepper.right"),
        Binding("left,h", "part(-1)", "Previous", show=False, id="stepper.left"),
        Binding("up,k", "change(1)", "More", show=False, id="stepper.up"),
        Binding("down,j", "change(-1)", "Less", show=False, id="stepper.down"),
        Binding("enter", "change(1)", "More", show=False, id="stepper.more"),
    ]

    @dataclass
    class Stepped(Message):
        """The user wants more (1) or less (-1) of `part`: `kind`, or the name of an axis."""

        part: str
        steps: int

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id)
        self._mesh: Mesh | None = None
        self._part = "shard"
        self._spans: list[tuple[int, int, str, int]] = []

    def show(self, mesh: Mesh) -> None:
        if mesh != self._mesh:
            self._mesh = mesh
            if self._part not in self._parts:
                self._part = self._parts[-1]
            self.refresh()

    @property
    def _parts(self) -> tuple[str, ...]:
        """What left and right choose among."""
        mesh = self._mesh
        if mesh is None or mesh.is_plain:
            return ("kind", "replicate", "shard")
        return mesh.axes

    def render(self) -> Text:
        text, mesh = Text(no_wrap=True), self._mesh
        self._spans = []
        if mesh is None:
            return text
        if mesh.is_plain:
            self._draw_kind(text, mesh)
            self._draw_size(text, "replicas", "replicate", mesh.num_replicas, "<>")
            self._draw_size(text, "shards", "shard", mesh.num_shards, "-+")
        else:
            self._draw_axes(text, mesh)
        ranks = f"  {plural(mesh.world_size, 'rank')}"
        if text.cell_len + len(ranks) <= self.size.width:
            text.append(ranks, "bold")
        return text

    def _draw_axes(self, text: Text, mesh: Mesh) -> None:
        """Every axis by its name, or by its letter where there is no room for names."""
        names = mesh.axes
        signs = sum(len(str(size)) + len("   -  + ") for size in mesh.sizes)
        is_roomy = signs + sum(map(len, names)) <= self.size.width
        titles = names if is_roomy else letters_of(names)
        for name, title, size in zip(names, titles, mesh.sizes, strict=True):
            self._draw_size(text, title, name, size, "-+")

    def _draw_kind(self, text: Text, mesh: Mesh) -> None:
        start = text.cell_len
        for family in ("fsdp", "hsdp"):
            is_it = family == mesh.family
            word = f"[{family}]" if is_it else f" {family} "
            text.append(word, self._style("kind", "bold" if is_it else ""))
        self._spans.append((start, text.cell_len, "kind", 1))
        text.append(" ")

    def _draw_size(self, text: Text, title: str, part: str, size: int, signs: str) -> None:
        """A size between the keys that change it."""
        text.append(f" {title} ", self._style(part))
        for sign, steps in zip(signs, (-1, 1), strict=True):
            start = text.cell_len
            text.append(f" {sign} ", "bold")
            self._spans.append((start, text.cell_len, part, steps))
            if steps < 0:
                text.append(str(size), "bold")
        text.append(" ")

    def _style(self, part: str, style: str = "") -> str:
        chosen = self.has_focus and part == self._part
        return f"{style} reverse".strip() if chosen else style

    def action_part(self, steps: int) -> None:
        """Choose the part that up and down change."""
        parts = self._parts
        index = parts.index(self._part) + steps
        self._part = parts[max(0, min(index, len(parts) - 1))]
        self.refresh()

    def action_change(self, steps: int) -> None:
        self.post_message(self.Stepped(self._part, steps))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for start, end, part, steps in self._spans:
            if offset is not None and start <= offset.x < end:
                self._part = part
                self.refresh()
                self.post_message(self.Stepped(part, steps))


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
    MeshPicker.-axes Input, MeshPicker.-axes Input:focus { width: 36; }
    """

    class Picked(Message):
        """The user wants another mesh: the picker's `mesh`, which may be a later one already."""

    class Refused(Message):
        """What stands in the field is no mesh; the picker's `error` says why."""

    class Done(Message):
        """Enter, on a mesh that is one."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        #: The mesh that was picked last.
        self.mesh = Mesh("fsdp", (1,))
        self._even = EvenSizes((1,), True)
        self._written: Mesh | None = None
        #: Why what was typed is refused, or None.
        self.error: InspectError | None = None

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Label("mesh")
            yield Input(id="plan-mesh", placeholder="fsdp:S, hsdp:RxS, or axes")
            yield MeshStepper(id="plan-stepper")
        with Horizontal():
            yield Label("even", id="plan-even")
            yield ChoiceLine((), id="plan-presets")

    @property
    def is_editing(self) -> bool:
        return self.screen.focused is self.query_one(Input)

    def set_mesh(self, mesh: Mesh) -> None:
        """Show another mesh; what is being typed stays as it is."""
        self.mesh = mesh
        self.set_class(not mesh.is_plain, "-axes")
        field = self.query_one(Input)
        if not self.is_editing:
            self.error = None
            with field.prevent(Input.Changed):
                field.value = str(mesh)
            # What is longer than the field is shown from its beginning; `edit` goes to its end.
            field.cursor_position = 0
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
        words = presets(self.mesh, self._even.offered, self._written, room)
        line.choose(str(self.mesh))
        if tuple(words) != line.words:
            line.set_words(words)

    def on_resize(self) -> None:
        self.call_after_refresh(self._offer)

    # What the user does.

    def edit(self) -> None:
        field = self.query_one(Input)
        field.select_all()
        # At once: the keys that come in the same burst are typed into it already.
        self.screen.set_focus(field)

    def step(self, part: str, steps: int) -> None:
        """Ask for the next larger (or smaller) mesh: of an axis, or of the other kind (`kind`)."""
        if part == "kind":
            self._pick(other_kind(self.mesh))
        else:
            self._pick(with_step(self.mesh, part, steps, self._even.sizes))

    def _pick(self, mesh: Mesh) -> None:
        if mesh != self.mesh or self.error is not None:
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
            if why := why_not(mesh):
                raise UsageError(why)
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
