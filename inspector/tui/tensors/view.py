"""`TensorsView`: module tree, table of entries, and the entry under the cursor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from textual.app import ComposeResult

from inspector.checkpoint.text import printable
from inspector.tui.commands import command
from inspector.tui.kit.view import ColumnPane, RowPane, TableView
from inspector.tui.kit.virtual_table import Column, TableSource, VirtualTable

if TYPE_CHECKING:
    from inspector.checkpoint.model import Ints, Tensor
    from inspector.checks.findings import Finding, Report
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.session import Loaded
    from inspector.tui.tensors.detail import TensorDetail
    from inspector.tui.tensors.preview import Preview
    from inspector.tui.tensors.sources import EntrySource
    from inspector.tui.tensors.tree import TensorTree
    from inspector.tui.tensors.trie import ModuleTrie

__all__ = ["TensorsView", "entry_columns", "sort_ahead", "trie_ahead"]

# Rows that are looked at to choose the widths.
_SAMPLE_ROWS = 300
# `[Replicate(), Shard(0)]`: what most placements take, until they are known.
_USUAL_PLACEMENTS = 24
# More than those of two axes take: `[Replicate(), Replicate()]`.
_MOST_PLACEMENTS = 28
# What names, dtypes and shapes have together on 80 columns, beside the bytes.
_ROOM_CELLS = 61


def entry_columns(
    source: TableSource, *, placements_known: bool, has_stages: bool = False
) -> tuple[Column, ...]:
    """Columns for a source of tensors, as wide as what stands in a sample of its rows."""
    step = max(1, source.num_rows // _SAMPLE_ROWS)
    widest = dict.fromkeys(("name", "dtype", "shape", "placements", "short_placements", "ranks"), 0)
    for row in range(0, source.num_rows, step):
        for key, cells in widest.items():
            widest[key] = max(cells, len(source.text(row, key)))

    def width(key: str, least: int, most: int) -> int:
        return max(least, min(most, widest[key]))

    dtype, shape = width("dtype", 5, 18), width("shape", 5, 22)
    # Other columns go before the names lose what tells them apart, but for these two.
    name = width("name", 20, max(20, min(48, _ROOM_CELLS - dtype - shape)))
    # Those of three axes fit no table: then torch's short forms stand there, the pane tells more.
    is_short = widest["placements"] > _MOST_PLACEMENTS
    placements = width("short_placements" if is_short else "placements", 10, 44)
    if not placements_known:
        placements = _USUAL_PLACEMENTS
    return (
        Column("name", "Tensor", min_width=name, flex=3, cut="middle"),
        Column("dtype", "Dtype", width=dtype, priority=2),
        Column("shape", "Shape", width=shape, cut="middle", priority=1),
        Column(
            "short_placements" if is_short else "placements",
            "Placements",
            min_width=min(_USUAL_PLACEMENTS, placements),
            max_width=placements,
            # The pane below tells them too.
            priority=3,
        ),
        *((Column("stage", "Stage?", width=6, priority=2),) if has_stages else ()),
        Column("chunks", "Chunks", width=6, align="right", priority=4, descending_first=True),
        Column("bytes", "Bytes", width=9, align="right", descending_first=True),
        Column("ranks", "Ranks", width=width("ranks", 5, 12), priority=5, sortable=False),
    )


_WIDE_CELLS = 110
_ROOMY_LINES = 34

_MANY_ROWS = 10_000


def _trie_of(source: EntrySource) -> ModuleTrie:
    from inspector.tui.tensors.trie import ModuleTrie

    return ModuleTrie(source.row_names, source.row_bytes)


def trie_ahead(source: EntrySource) -> ModuleTrie | None:
    """The module tree, where making it takes long; for a thread. None where it does not."""
    return _trie_of(source).look_ahead() if source.num_rows > _MANY_ROWS else None


def sort_ahead(source: EntrySource) -> None:
    """Sort by name, so that the key that asks for it need not wait; for a thread."""
    if source.num_rows > _MANY_ROWS:
        _ = source.name_ranks


class TensorsView(TableView):
    """Every tensor, and every bytes entry after them."""

    DEFAULT_CSS = """
    TensorsView TensorTree { width: 34; border-right: vkey $panel; }
    TensorsView #entries { height: 1fr; }
    TensorsView #detail { height: 1fr; border-top: hkey $panel; }
    """

    BINDINGS = [
        command(
            "z",
            "zoom",
            "Zoom",
            "Give the whole screen to the tensor under the cursor, and back.",
            footer=True,
        ),
        command("b", "toggle_tree", "Tree", "Show or hide the tree of modules.", footer=True),
        command(
            "x",
            "step_axis",
            "Axis",
            "Colour the chunks by their place on one axis of the mesh, each axis in turn, and then "
            "by writing rank again.",
            footer=True,
        ),
    ]

    def __init__(self) -> None:
        super().__init__(VirtualTable((), id="entries"), id="tensors")
        #: The rows, or None before anything is shown.
        self.source: EntrySource | None = None
        self._columns: tuple[Column, ...] = ()
        self._findings: dict[str, list[Finding]] = {}
        #: Of files that are damaged as a whole, and so whatever has bytes in them.
        self._of_files: dict[str, list[Finding]] = {}
        self._marked: Finding | None = None
        self._subtree: Ints | None = None
        self._tree_wanted: bool | None = None
        self._tree_shown = False
        self._line_shown = False
        self._tree: TensorTree | None = None
        self._detail: TensorDetail | None = None

    def compose(self) -> ComposeResult:
        with RowPane(), ColumnPane(id="entries-side"):
            yield self._table

    async def complete(self) -> None:
        from inspector.tui.tensors.detail import TensorDetail
        from inspector.tui.tensors.tree import TensorTree

        side = self.query_one("#entries-side", ColumnPane)
        tree, detail = TensorTree(id="tree"), TensorDetail(id="detail")
        # Until both are there, and it is known whether there is room: nothing should jump.
        tree.display = detail.display = False
        await self.query_one(RowPane).mount(tree, before=side)
        await side.mount(detail)
        self._tree, self._detail = tree, detail
        detail.display = True
        self._arrange()
        self._fill_tree()
        self._show_row(self.table.cursor_row)

    def show_preview(self, preview: Preview) -> None:
        """Show what is known before the checkpoint is loaded."""
        self.table.set_columns(entry_columns(preview, placements_known=False))
        self.table.set_source(preview)

    def show(self, loaded: Loaded) -> None:
        from inspector.tui.tensors.sources import EntrySource

        kept = self._current_name() or loaded.at or None
        self.loaded = loaded
        source = self.source = EntrySource(loaded.checkpoint)
        self._names = source.row_names
        self._subtree = None
        self._findings, self._of_files, self._marked = {}, {}, None
        self._show_columns()
        self.table.set_source(source)
        self._fill_tree()
        self.refilter()
        if kept is not None and kept in self.names:
            self.table.select_row(self.names.index(kept))
        self._show_row(self.table.cursor_row)
        empty = "The state dict is empty: there is nothing in it to show"
        self.table.set_empty_text("No name matches the filter" if source.num_rows else empty)

    def show_trie(self, source: EntrySource, trie: ModuleTrie) -> None:
        """Show the module tree of many entries, made by `trie_ahead`."""
        if self._tree is not None and source is self.source:
            self._tree.set_trie(trie)
            self._show_badges()

    def show_writer(self, written_by: WrittenBy) -> None:
        if self.source is not None:
            self.source.written_by = written_by
            self._show_columns()
            self.table.refresh_rows()
            self._show_row(self.table.cursor_row)

    def show_report(self, report: Report) -> None:
        if self.source is None:
            return
        self._findings, self._of_files = {}, {}
        for finding in report.findings:
            names = finding.entries or (() if finding.fqn is None else (finding.fqn,))
            for fqn in names:
                self._findings.setdefault(fqn, []).append(finding)
            if not names and finding.file is not None and finding.severity == "error":
                self._of_files.setdefault(finding.file, []).append(finding)
        self._show_badges()
        self._show_row(self.table.cursor_row)

    def _show_badges(self) -> None:
        """Badges by row: the worst severity of each entry."""
        if self.source is None:
            return
        # Findings come by severity, so the first of an entry is its worst.
        worst = {fqn: findings[0].severity for fqn, findings in self._findings.items()}
        badges: dict[int, str] = {}
        if worst:
            names = self.source.row_names
            badges = {row: worst[name] for row, name in enumerate(names) if name in worst}
        badges.update(dict.fromkeys(self.source.rows_in(self._of_files), "error"))
        self.source.badges = badges
        self.table.refresh_rows()
        if self._tree is not None:
            self._tree.set_badges(badges)

    def go_to(self, finding: Finding) -> bool:
        """Put the cursor on a finding's entry and mark its box; False if it has none here."""
        if self.source is None or finding.fqn not in self.source.row_names:
            return False
        self._marked = finding
        row = self.source.row_names.index(finding.fqn)
        if not self.table.select_row(row):
            # A filter or a module hides it.
            self._subtree = None
            if self._line is not None:
                self._line.value = ""
                self._line.display = False
            self.refilter()
            self.table.select_row(row)
        self._show_row(row)
        return True

    @property
    def is_untouched(self) -> bool:
        """Whether the cursor still lies where it lay when this was opened, and nothing hides."""
        is_first = self.table.cursor == 0 and not self.is_zoomed and self._subtree is None
        return is_first and (self._line is None or not self._line.display)

    def entry_of(self, finding: Finding) -> str | None:
        """Raw name of the entry a finding is about: its own, or the first in its file."""
        source = self.source
        if source is None:
            return None
        if finding.fqn is not None:
            return finding.fqn if finding.fqn in source.row_names else None
        rows = [] if finding.file is None else source.rows_in([finding.file])
        return source.row_names[rows[0]] if rows else None

    def lead_to(self, findings: Sequence[Finding]) -> int | None:
        """Put the cursor on the first entry that is damaged; which of the findings says so."""
        for number, finding in enumerate(findings):
            name = self.entry_of(finding) if finding.severity == "error" else None
            if name is not None:
                self.go_to(replace(finding, fqn=name))
                return number
        return None

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        name, marked = self._current_name(), self._marked
        if name is None:
            return None
        is_element = marked is not None and marked.fqn == name and "values-" in marked.code
        return name, marked.offsets if marked is not None and is_element else None

    def _show_columns(self) -> None:
        if self.source is not None:
            known = self.source.written_by is not None
            stages = self.source.stages is not None
            self._columns = entry_columns(self.source, placements_known=known, has_stages=stages)
            self.table.set_columns(self._columns)

    def _fill_tree(self) -> None:
        if self._tree is None or self.source is None:
            return
        if self.source.num_rows > _MANY_ROWS:
            self._tree.set_trie(None)  # Until `trie_ahead` has one.
        else:
            self._tree.set_trie(_trie_of(self.source))
            self._show_badges()

    def _current_name(self) -> str | None:
        row = self.table.cursor_row
        if row is None:
            return None
        name = self.table.source.cell(row, "name")
        return name if isinstance(name, str) else None

    # Filter and subtree.

    def action_filter(self) -> None:
        if self.is_zoomed:
            self._set_zoomed(False)
        super().action_filter()

    def narrowed(self, rows: Ints | None) -> Ints | None:
        if self._subtree is None or rows is None:
            return self._subtree if rows is None else rows
        import numpy as np

        return np.intersect1d(rows, self._subtree)

    def back(self) -> bool:
        if self.is_zoomed:
            self.action_zoom()
            return True
        if super().back():
            return True
        if self._subtree is not None:
            self._subtree = None
            self.refilter()
            self.table.focus()
            return True
        return False

    def on_tensor_tree_node_highlighted(self, event: TensorTree.NodeHighlighted) -> None:
        event.stop()
        # The tree speaks up when it is filled, too; only a user's move narrows the table.
        if self.source is None or self._tree is None or not self._tree.has_focus:
            return
        everything = len(event.indices) == self.source.num_rows
        self._subtree = None if everything else event.indices
        self.refilter()

    def on_tensor_tree_tensor_selected(self, event: TensorTree.TensorSelected) -> None:
        event.stop()
        self.table.select_row(event.index)
        self.table.focus()

    # What is under the cursor.

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        if event.table is self.table:
            event.stop()
            self._show_row(event.row if event.row >= 0 else None)

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        if event.table is self.table:
            event.stop()
            self.action_zoom()

    def _show_row(self, row: int | None) -> None:
        detail, source = self._detail, self.source
        if detail is None or source is None:
            return
        checkpoint = source.checkpoint
        if row is None:
            detail.show_nothing()
            return
        tensor = source.tensor(row)
        name = source.row_names[row]
        findings = [*self._findings.get(name, []), *self._findings_of_files(tensor)]
        if tensor is not None:
            marked = self._marked if self._marked and self._marked.fqn == name else None
            stage = source.stage_words(row)
            detail.show_tensor(checkpoint, source.written_by, tensor, findings, marked, stage)
        else:
            entry = int(source.entries[row]) - checkpoint.num_tensors
            detail.show_bytes(checkpoint, checkpoint.bytes_entries[entry], findings)

    def _findings_of_files(self, tensor: Tensor | None) -> Iterator[Finding]:
        """Those of the files in which a tensor has bytes."""
        if tensor is None or not self._of_files or self.source is None:
            return
        files = self.source.checkpoint.files
        for number in dict.fromkeys(tensor.file.tolist()):
            if number >= 0:
                yield from self._of_files.get(files[number].path, ())

    # Room.

    @property
    def is_zoomed(self) -> bool:
        """Whether the detail has the whole view."""
        return self.has_class("-zoomed")

    def action_zoom(self) -> None:
        if self._detail is None:
            return
        self._set_zoomed(not self.is_zoomed)
        (self._detail.chunks if self.is_zoomed else self.table).focus()
        if self.is_zoomed:
            self._detail.pick_under_cursor()

    def _set_zoomed(self, zoomed: bool) -> None:
        # The class says which; what it changes is changed here. The style sheet would be matched
        # against every widget of the view, which takes longer than to draw it.
        self.set_class(zoomed, "-zoomed", update=False)
        if self._line is not None:
            if zoomed:
                self._line_shown = self._line.display
            self._line.display = self._line_shown and not zoomed
        if self._detail is not None:
            self._detail.styles.border_top = ("none", "transparent") if zoomed else None
        self._arrange()

    def action_step_axis(self) -> None:
        if self._detail is None or self.source is None:
            return
        if self._detail.step_axis(self.source.written_by):
            self._show_row(self.table.cursor_row)
        else:
            self.notify("No mesh is known for it, so there is no axis to colour by.")

    def action_toggle_tree(self) -> None:
        if self._tree is None:
            return
        self._tree_wanted = not self._tree_shown
        self._arrange()
        if self._tree_wanted:
            self._tree.focus()
        else:
            self._subtree = None
            self.refilter()
            self.table.focus()

    def on_resize(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        wide = self.size.width >= _WIDE_CELLS
        self._tree_shown = wide if self._tree_wanted is None else self._tree_wanted
        self.table.display = not self.is_zoomed
        if self._tree is not None:
            self._tree.display = self._tree_shown and not self.is_zoomed
        if self._detail is not None:
            self._detail.give_room(is_roomy=self.is_zoomed or self.size.height >= _ROOMY_LINES)

    def copy_choices(self) -> list[tuple[str, str]]:
        row, source = self.table.cursor_row, self.source
        if source is None or row is None:
            return []
        name = printable(source.row_names[row])
        cells = [name]
        cells += [printable(source.text(row, column.key)) for column in self._columns[1:]]
        folder = printable(source.checkpoint.path)
        choices = [("name", name), ("row", "\t".join(cells)), ("checkpoint", folder)]
        tensor = source.tensor(row)
        if tensor is not None and tensor.num_chunks and self._detail is not None:
            chunk = self._detail.picked or self._detail.chunks.cursor_row or 0
            file = int(tensor.file[chunk])
            if file >= 0:
                path = printable(source.checkpoint.files[file].path)
                choices.append(("file", f"{folder}/{path}"))
        return choices
