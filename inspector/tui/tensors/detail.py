"""`TensorDetail`: everything about one entry: facts, evidence, chunk map, chunk list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from inspector.checkpoint.find.locate import folder_of
from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.payload.scan.literals import MAX_BYTES, Literal, read_literal
from inspector.checkpoint.text import (
    format_box,
    format_bytes,
    format_count,
    format_literal,
    format_placements,
    format_shape,
    plural,
    printable,
)
from inspector.checks.findings import Finding
from inspector.errors import InspectError
from inspector.layout.placements import TensorPlacement
from inspector.layout.writer.written_by import WrittenBy
from inspector.tui.background import Background
from inspector.tui.kit.view import ColumnPane, Pane, RowPane
from inspector.tui.kit.virtual_table import NoRows, VirtualTable
from inspector.tui.mesh.axes import axis_places
from inspector.tui.tensors.chunk_map import ChunkBoxes, ChunkMap, Mark
from inspector.tui.tensors.sources import ChunkSource, chunk_columns

__all__ = ["TensorDetail"]

_MAX_VALUE = 2000


def tensor_facts(
    checkpoint: Checkpoint, written_by: WrittenBy | None, tensor: Tensor, stage: str = ""
) -> Text:
    """Name, type, size, placements with the evidence, and `stage`, as styled lines."""
    placement = None if written_by is None else written_by.placements(tensor.index)
    stored = int((tensor.file >= 0).sum())
    kept = f"{plural(tensor.num_chunks, 'chunk')}"
    if stored < tensor.num_chunks:
        kept += f", {format_count(tensor.num_chunks - stored)} of them stored nowhere"
    kept += f" in {plural(len(set(tensor.file[tensor.file >= 0].tolist())), 'file')}"
    extras = [tensor.layout] if tensor.layout != "strided" else []
    extras += ["requires grad"] if tensor.requires_grad else []
    extras += [tensor.memory_format] if tensor.memory_format != "contiguous" else []
    extras += list(tensor.transforms)
    rows = [
        (printable(tensor.fqn), "bold"),
        (
            f"{tensor.dtype} {format_shape(tensor.shape)}  "
            f"{plural(tensor.num_elements, 'element')}, {format_bytes(tensor.num_bytes)}"
            + "".join(f", {printable(extra, 40)}" for extra in extras),
            "",
        ),
        (_placements_text(placement), "bold"),
        (kept, ""),
    ]
    rows += [(stage, "")] if stage else []
    if placement is not None and written_by is not None:
        rows += [(printable(line), "dim") for line in placement.evidence]
        if written_by.mesh is not None and placement.placements is not None:
            rows.append((f"along the axes of {written_by.mesh}", "dim"))
    return _lines(rows)


def _placements_text(placement: TensorPlacement | None) -> str:
    if placement is None:
        return "..."
    unknown = placement.placements is None
    return "placements not known" if unknown else format_placements(placement.placements)


def chunk_text(checkpoint: Checkpoint, tensor: Tensor, index: int) -> Text:
    """Where a chunk lies, in the tensor and on storage, in three lines; no number is cut."""
    file = int(tensor.file[index])
    box = format_box(tensor.offsets[index].tolist(), tensor.sizes[index].tolist())
    rank = int(checkpoint.chunk_ranks(tensor.file[index : index + 1])[0])
    text = Text.assemble(
        ("box    ", "dim"), (box, "bold"), (f"  chunk {index:,} of {tensor.num_chunks:,}", "dim")
    )
    text.append("\nrank   ", "dim").append(str(rank) if rank >= 0 else "?", "bold")
    if file < 0:
        return text.append("\nfile   ", "dim").append("stored nowhere", "error")
    text.append("  file ", "dim").append(printable(checkpoint.files[file].path, 400), "bold")
    text.append("\nbytes  ", "dim").append(f"at {tensor.byte_offset[index]}", "bold")
    return text.append(f", {tensor.byte_length[index]} long", "bold")


def bytes_facts(checkpoint: Checkpoint, entry: BytesEntry, value: str = "") -> Text:
    """What is known of a non-tensor entry without unpickling it; its plain value, if it is one."""
    rows = [(printable(entry.fqn), "bold"), ("bytes entry: a pickle, which is never run here", "")]
    if entry.file < 0:
        rows.append(("the metadata stores it nowhere", ""))
    else:
        file = checkpoint.files[entry.file]
        writer = "" if file.rank is None else f", written by rank {file.rank}"
        rows.append((f"{printable(file.path)}{writer}", ""))
        rows.append((f"bytes {entry.byte_offset} to {entry.byte_offset + entry.byte_length}", ""))
        rows.append((format_bytes(entry.byte_length), ""))
    if value:
        rows.append((f"it holds {value}", "bold"))
    return _lines(rows)


def _lines(rows: Iterable[tuple[str, str]]) -> Text:
    return Text("\n").join(Text(text, style=style) for text, style in rows)


def _with_findings(facts: Text, findings: Sequence[Finding]) -> Text:
    lines = [
        Text.assemble(
            (f"{finding.severity} {finding.code}: ", finding.severity), printable(finding.message)
        )
        for finding in findings
    ]
    # What is wrong comes right after the name: it must not scroll out of a small pane.
    name, *rest = facts.split("\n")
    return Text("\n").join([name, *lines, *rest])


class _FactsText(Static):
    """The facts; whoever shows others asks for a layout if they are of another height."""

    virtual_size = Pane.virtual_size

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(markup=False, id=id)
        self._is_shown = False
        self._is_stale = False

    def on_show(self) -> None:
        self._is_shown = True
        if self._is_stale:
            self._is_stale = False
            self.refresh(layout=True)

    def on_hide(self) -> None:
        self._is_shown = False

    def show(self, facts: Text) -> None:
        self.update(facts, layout=False)
        if not self._is_shown:
            # Nothing is measured while it is hidden.
            self._is_stale = True
            return
        size = self.content_size
        if self.get_content_height(self.container_size, self.app.size, size.width) != size.height:
            self.refresh(layout=True)


class _Facts(VerticalScroll, can_focus=False):
    """Scrolls the facts where they do not fit."""

    virtual_size = Pane.virtual_size


_ShownEntry: TypeAlias = tuple[Checkpoint, BytesEntry, Sequence[Finding]]


class TensorDetail(Pane):
    """One entry. `-zoomed` gives it room for everything at once."""

    DEFAULT_CSS = """
    TensorDetail { height: 1fr; layout: vertical; }
    TensorDetail #detail-left { width: 1fr; min-width: 30; }
    TensorDetail #detail-facts {
        height: auto; max-height: 60%; padding: 0 1; scrollbar-size-vertical: 1;
    }
    TensorDetail #detail-facts Static { width: 1fr; height: auto; }
    TensorDetail ChunkMap { width: 1fr; padding: 0 1; border-left: vkey $panel; }
    TensorDetail VirtualTable { height: 1fr; min-height: 3; }
    TensorDetail #detail-chunk {
        height: 3; padding: 0 1; background: $panel; display: none;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._tensor: Tensor | None = None
        self._shown_entry: BytesEntry | None = None
        self._reading: Background[_ShownEntry] = Background(self, self._has_read, "value")
        self._text = _FactsText(id="detail-text")
        self._facts = _Facts(self._text, id="detail-facts")
        self._map = ChunkMap(tells_current=False)
        self._picked_lines = Static("", markup=False, id="detail-chunk")
        #: Number of the axis whose places colour the map, from 1; 0 for the writing ranks.
        self._axis = 0
        #: The chunk picked in the map or the list, or None.
        self.picked: int | None = None
        self._checkpoint: Checkpoint | None = None
        #: The list of chunks.
        self.chunks = VirtualTable(chunk_columns(), id="detail-chunks")

    def compose(self) -> ComposeResult:
        with RowPane():
            yield ColumnPane(self._facts, self.chunks, id="detail-left")
            yield self._map
        yield self._picked_lines

    def give_room(self, *, is_roomy: bool) -> None:
        """Show the list of chunks beside the facts if there is room for both."""
        self.chunks.display = is_roomy
        self._facts.styles.max_height = "60%" if is_roomy else "100%"

    def show_tensor(
        self,
        checkpoint: Checkpoint,
        written_by: WrittenBy | None,
        tensor: Tensor,
        findings: Sequence[Finding] = (),
        marked: Finding | None = None,
        stage: str = "",
    ) -> None:
        """Show a tensor.

        Args:
            checkpoint: Where it is from.
            written_by: Its placements, if it is known who wrote it.
            tensor: The tensor.
            findings: What is wrong with it.
            marked: The finding among them whose box is drawn over the chunks.
            stage: Which pipeline stage holds it; empty where none is told.
        """
        before = self._tensor
        is_same = before is not None and before.index == tensor.index
        is_same = is_same and self._checkpoint is checkpoint
        self._tensor, self._checkpoint = tensor, checkpoint
        facts = tensor_facts(checkpoint, written_by, tensor, stage)
        self._text.show(_with_findings(facts, findings))
        source = ChunkSource(checkpoint, tensor)
        if not is_same:
            self._pick(None)
            self.chunks.set_columns(chunk_columns(source))
            self.chunks.set_source(source)
        marks: tuple[Mark, ...] = ()
        if marked is not None and marked.offsets is not None and marked.sizes is not None:
            kind = "gap" if marked.code == "chunk-gap" else "overlap"
            marks = (Mark(marked.offsets, marked.sizes, kind),)
        axes = axis_places(written_by, tensor) if self._axis else []
        axis = axes[self._axis - 1] if 0 < self._axis <= len(axes) else None
        boxes = ChunkBoxes(
            tensor.shape,
            tensor.offsets,
            tensor.sizes,
            source.ranks,
            marks,
            None if axis is None else axis.places,
            "" if axis is None else axis.words,
            "r" if axis is None else axis.letter,
        )
        self._map.show(boxes, self.picked)
        self._map.display = True

    def step_axis(self, written_by: WrittenBy | None) -> bool:
        """Colour the map by the next axis of the mesh, after the last by writing rank again.

        Returns:
            Whether there is one: then show the tensor anew. False without a mesh or a tensor.
        """
        if self._tensor is None or not (axes := axis_places(written_by, self._tensor)):
            return False
        self._axis = (self._axis + 1) % (len(axes) + 1)
        return True

    def show_bytes(
        self, checkpoint: Checkpoint, entry: BytesEntry, findings: Sequence[Finding] = ()
    ) -> None:
        """Show a non-tensor entry, and its value once that is read, if it is a plain one."""
        self._tensor = None
        self._pick(None)
        self._shown_entry = entry
        facts = bytes_facts(checkpoint, entry)
        self._text.show(_with_findings(facts, findings))
        if 0 < entry.byte_length <= MAX_BYTES:
            storage = folder_of(checkpoint.path)
            self._reading.ask(
                (checkpoint, entry, findings), lambda stop: read_literal(checkpoint, storage, entry)
            )
        self.chunks.set_source(NoRows())
        self._map.show(None)
        self._map.display = False

    def _has_read(self, shown: _ShownEntry, literal: Literal | InspectError | None) -> None:
        """Show the value of an entry beside what is shown of it."""
        checkpoint, entry, findings = shown
        if isinstance(literal, Literal) and self._shown_entry is entry and self._tensor is None:
            facts = bytes_facts(checkpoint, entry, format_literal(literal.value, _MAX_VALUE))
            self._text.show(_with_findings(facts, findings))

    def show_nothing(self) -> None:
        self._tensor = None
        self._pick(None)
        self._shown_entry = None
        self._text.show(Text())
        self.chunks.set_source(NoRows())
        self._map.show(None)

    # One chunk is picked, wherever it was picked.

    def pick_under_cursor(self) -> None:
        """Pick the chunk under the list's cursor: the list has the keys."""
        self._pick(self.chunks.cursor_row)

    def _pick(self, index: int | None) -> None:
        self.picked = index
        self._map.set_highlight(index)
        tensor, checkpoint = self._tensor, self._checkpoint
        is_there = tensor is not None and index is not None and index < tensor.num_chunks
        if is_there and tensor is not None and checkpoint is not None and index is not None:
            self._picked_lines.update(chunk_text(checkpoint, tensor, index), layout=False)
        self._picked_lines.display = is_there

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()
        if self._tensor is not None and event.row >= 0 and event.table.has_focus:
            self._pick(event.row)

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()

    def on_chunk_map_chunk_selected(self, event: ChunkMap.ChunkSelected) -> None:
        event.stop()
        self._pick(event.index)
        self.chunks.select_row(event.index)
