"""`CheckpointHeader`: what this checkpoint is, in two lines that lose their tail last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.report.writer import groups_words, sure_words
from inspector.tui.kit.cell_text import cut_to, fit

if TYPE_CHECKING:
    from inspector.checkpoint.model import Checkpoint
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.findings.standing import Standing

__all__ = ["CheckpointHeader", "header_lines"]


# What the format says already.
_UNSAID = frozenset({"torch.distributed.checkpoint", "safetensors"})


def header_lines(
    checkpoint: Checkpoint, written_by: WrittenBy | None
) -> tuple[list[str], list[str]]:
    """Facts for the first and the second line, the most telling first."""
    provenance = checkpoint.provenance
    first = ["torch DCP" if checkpoint.format == "dcp" else checkpoint.format]
    if checkpoint.per_rank_metadata:
        first[0] += ", metadata per rank"
    if checkpoint.framework is not None and checkpoint.framework.name not in _UNSAID:
        first.append(f"by {checkpoint.framework.name}")
    if provenance.torch_band:
        first.append(f"by torch {provenance.torch_band}")
    if provenance.metadata_version:
        first.append(f"metadata {printable(provenance.metadata_version, 20)}")
    if written_by is None:
        ranks = checkpoint.world_size
        second = [f"written by {plural(ranks, 'rank')} ..." if ranks else "..."]
    elif written_by.mesh is not None:
        second = [f"written by {written_by.mesh} ({sure_words(written_by, short=True)})"]
    elif written_by.world_size:
        groups = groups_words(written_by, short=True)
        unknown = f"{plural(written_by.world_size, 'rank')}, mesh not known"
        second = [f"written by {groups or unknown}"]
    else:
        second = ["writer not known"]
    second += [
        plural(checkpoint.num_tensors, "tensor"),
        plural(checkpoint.num_chunks, "chunk"),
        format_bytes(checkpoint.tensor_bytes),
        plural(checkpoint.num_elements, "element"),
        f"{plural(len(checkpoint.files), 'file')} of {format_bytes(checkpoint.stored_bytes)}",
    ]
    if checkpoint.bytes_entries:
        second.append(plural(len(checkpoint.bytes_entries), "bytes entry", "bytes entries"))
    return first, second


class CheckpointHeader(Static):
    """Path and format above; mesh and counts below."""

    DEFAULT_CSS = """
    CheckpointHeader {
        height: 2;
        padding: 0 1;
        background: $panel;
        color: $foreground;
    }
    """

    class BadgeClicked(Message):
        """A click on the verdict: the user wants to see what it rests on."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._path = ""
        self._checkpoint: Checkpoint | None = None
        self._facts: tuple[list[str], list[str]] = ([], [])
        self._badge: tuple[str, str] = ("", "")

    def show_preview(self, path: str, facts: list[str]) -> None:
        """Say what is known before the checkpoint is loaded; `path` is printable."""
        self._path = path
        self._facts = ([], ["...", *facts])
        self.refresh()

    def show_writer(self, written_by: WrittenBy) -> None:
        if self._checkpoint is not None:
            self._facts = header_lines(self._checkpoint, written_by)
            self.refresh()

    def show(self, checkpoint: Checkpoint) -> None:
        """Show another checkpoint, of which it is not known yet who wrote it."""
        self._checkpoint = checkpoint
        self._path = printable(checkpoint.path)
        self._facts = header_lines(checkpoint, None)
        if checkpoint.unsafe_globals:
            self._badge = ("UNSAFE", "badge.error")
        elif checkpoint.malformed:
            is_later = all(entry.is_later for entry in checkpoint.malformed)
            kind = "of an unknown kind" if is_later else "malformed"
            self._badge = (f"{len(checkpoint.malformed)} {kind}", "badge.warning")
        else:
            self._badge = ("", "")
        self.refresh()

    def show_standing(self, standing: Standing) -> None:
        """Show the verdict, and what it rests on, at the right end of the first line."""
        badge = standing.badge
        if badge[0]:
            self._badge = badge
            self.refresh()

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        text = self._badge[0]
        # It stands at the right end of the first line, a blank on either side of it.
        start = self.size.width - 2 - (len(text) + 2)
        if text and offset is not None and offset.y == 0 and offset.x >= start:
            self.post_message(self.BadgeClicked())

    def render(self) -> Text:
        width = self.size.width - 2
        if width <= 0 or not self._path:
            return Text()
        badge, badge_style = self._badge
        room = width - (len(badge) + 3 if badge else 0)
        facts = _fitting(self._facts[0], max(0, room - min(len(self._path), room // 2) - 2))
        # Who wrote it is told in the second line where the first has no room for it.
        left = [fact for fact in self._facts[0][len(facts) :] if fact.startswith("by ")]
        tail = "  ".join(facts)
        # The end of a path tells which checkpoint it is, a scheme that it is not here.
        scheme, mark, end = self._path.rpartition("://")
        path_room = max(8, room - len(tail) - 2) - len(scheme + mark)
        path = Text(scheme + mark + cut_to(end, max(path_room, 1), "start"), style="bold")
        gap = " " * max(2, room - path.cell_len - len(tail))
        first = Text.assemble(path, gap, (tail, "dim"))
        if badge:
            first = Text.assemble(first, "  ", (f" {badge} ", badge_style))
        wanted = [*self._facts[1][:1], *left, *self._facts[1][1:]]
        facts = _fitting(wanted, width, 3)
        if not facts and wanted:
            facts = [fit(wanted[0], width).rstrip()]
        second = Text(" · ".join(facts))
        return Text("\n").join([first, second])


def _fitting(facts: list[str], room: int, gap: int = 2) -> list[str]:
    """As many facts from the front as fit into `room` cells."""
    kept: list[str] = []
    used = -gap
    for fact in facts:
        used += len(fact) + gap
        if used > room:
            break
        kept.append(fact)
    return kept
