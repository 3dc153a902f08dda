"""`MeshStepper`: a mesh on one line, each of its sizes with a less and a more."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.text import plural
from inspector.layout.mesh import Mesh

__all__ = ["MeshStepper"]

_PARTS = ("kind", "replicate", "shard")


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

    class Stepped(Message):
        """The user wants more (1) or less (-1) of `part`: `kind`, `replicate` or `shard`."""

        def __init__(self, part: str, steps: int) -> None:
            super().__init__()
            self.part = part
            self.steps = steps

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id)
        self._mesh: Mesh | None = None
        self._part = "shard"
        self._spans: list[tuple[int, int, str, int]] = []

    def show(self, mesh: Mesh) -> None:
        """Show another mesh."""
        if mesh != self._mesh:
            self._mesh = mesh
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    def on_focus(self) -> None:
        self._draw()

    def on_blur(self) -> None:
        self._draw()

    def _draw(self) -> None:
        mesh = self._mesh
        if mesh is None:
            return
        text = Text(no_wrap=True)
        self._spans = []
        self._draw_kind(text, mesh)
        self._draw_size(text, "replicas", "replicate", mesh.num_replicas, "<>")
        self._draw_size(text, "shards", "shard", mesh.num_shards, "-+")
        ranks = f"  {plural(mesh.world_size, 'rank')}"
        if text.cell_len + len(ranks) <= self.size.width:
            text.append(ranks, "bold")
        self.update(text)

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
        index = _PARTS.index(self._part) + steps
        self._part = _PARTS[max(0, min(index, len(_PARTS) - 1))]
        self._draw()

    def action_change(self, steps: int) -> None:
        """Ask for more or less of the chosen part."""
        self.post_message(self.Stepped(self._part, steps))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for start, end, part, steps in self._spans:
            if offset is not None and start <= offset.x < end:
                self._part = part
                self._draw()
                self.post_message(self.Stepped(part, steps))
