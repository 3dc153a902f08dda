"""`LoadPlanView`: what each rank of a mesh would read; the mesh can be changed, and is redrawn.

The rule this module keeps: nothing is worked out here. A plan is made in a thread, and shown when
it comes, unless another mesh was asked for meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.text import plural, printable
from inspector.errors import InspectError
from inspector.layout.mesh import Mesh
from inspector.report.plan import headline
from inspector.tui.background import Background, after
from inspector.tui.commands import command
from inspector.tui.kit.lines import FilterLine
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.mesh.offers import EvenSizes, even_sizes, first_mesh, writer_mesh
from inspector.tui.mesh.picker import MeshPicker
from inspector.tui.mesh.rank_grid import MeshView
from inspector.tui.plan.desk import Order, PlanDesk, Planned
from inspector.tui.plan.grid import PlanGrid
from inspector.tui.plan.reads_pane import ReadsPane
from inspector.tui.plan.sources import PlanRankSource, rank_columns
from inspector.tui.plan.words import error_text, facts_text, short_text, with_faults
from inspector.tui.screens.dialogs import CopyScreen
from inspector.verify.job.commands import elsewhere
from inspector.verify.preflight import too_many_ranks

if TYPE_CHECKING:
    from inspector.checks.findings import Finding, Report
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.session import Loaded

__all__ = ["LoadPlanView"]

_WIDE_CELLS = 120
_ROOMY_LINES = 34
#: Lines of the view that are not the grid's, on a small screen and on a large one.
_SMALL_REST, _ROOMY_REST = 15, 29
#: A plan that takes longer than this is announced.
_SLOW_S = 0.1


class LoadPlanView(MeshView):
    """A mesh to choose, its ranks as a grid and as a table, the reads of one of them."""

    DEFAULT_CSS = """
    LoadPlanView #plan-facts { height: auto; max-height: 16; padding: 0 1; }
    LoadPlanView #plan-legend { height: 1; padding: 0 1; color: $text-muted; }
    LoadPlanView PlanGrid { margin: 0 1; }
    LoadPlanView #plan-lower { height: 1fr; }
    LoadPlanView #plan-left { width: 78; height: 1fr; }
    LoadPlanView.-narrow #plan-left { width: 1fr; }
    LoadPlanView VirtualTable { height: 1fr; min-height: 3; }
    LoadPlanView.-none #plan-lower, LoadPlanView.-none #plan-legend { display: none; }
    LoadPlanView.-none PlanGrid { display: none; }
    LoadPlanView.-even #plan-empty { display: none; }
    LoadPlanView.-roomy #plan-facts { margin-top: 1; }
    LoadPlanView.-roomy #plan-legend { margin-top: 1; }
    LoadPlanView.-roomy #plan-lower { margin-top: 1; }
    LoadPlanView.-narrow #plan-right { display: none; border-left: none; }
    LoadPlanView.-narrow.-reads #plan-right, LoadPlanView.-narrow.-empty #plan-right {
        display: block;
    }
    LoadPlanView.-narrow.-reads #plan-left, LoadPlanView.-narrow.-empty #plan-left {
        display: none;
    }
    LoadPlanView.-narrow.-reads #plan-empty, LoadPlanView.-narrow.-empty #plan-reads {
        display: none;
    }
    LoadPlanView.-narrow.-empty #plan-reads-title { display: none; }
    LoadPlanView.-narrow.-empty #plan-empty { border-top: none; }
    """

    BINDINGS = [
        command("m", "mesh", "Mesh", "Type a mesh: hsdp:8x64 or dp_shard:4,tp:2.", footer=True),
        command(
            "plus,equals_sign", "size('shard', 1)", "More shards", "The next that divides evenly."
        ),
        command("minus", "size('shard', -1)", "Fewer shards", "The number of shards before."),
        command("greater_than_sign", "size('replicate', 1)", "More replicas", "Twice as many."),
        command("less_than_sign", "size('replicate', -1)", "Fewer replicas", "Half; one is FSDP."),
        command("f", "size('kind', 1)", "FSDP or HSDP", "The other kind, with the same ranks."),
        command("w", "worst", "Worst rank", "Go to the rank that reads most.", footer=True),
        command("e", "empty", "Empty", "The tensors that leave ranks empty.", footer=True),
        command(
            "v",
            "verify",
            "Verify",
            "Load it under this mesh with torchrun, and compare every bit; asks first.",
            footer=True,
        ),
    ]

    @dataclass
    class VerifyAsked(Message):
        """The user wants a verification under the mesh of the plan."""

        mesh: str
        filter_text: str

    def __init__(self) -> None:
        super().__init__(VirtualTable((), id="plan-ranks"), id="plan")
        self.add_class("-none")
        self._right = ReadsPane()
        self._written_by: WrittenBy | None = None
        self._desk: PlanDesk | None = None
        self._order: Order | None = None
        self._answered: Order | None = None
        #: What is shown.
        self.planned: Planned | None = None
        #: What the checks found; None before they have ended.
        self._findings: tuple[Finding, ...] | None = None
        self._even = EvenSizes((1,), True)
        self._is_chosen = False
        self._rank = 0
        self._pane = ""
        self._plans = Background[Order](self, self._plan_ready, "planning")

    def compose(self) -> ComposeResult:
        yield MeshPicker(id="plan-picker")
        with VerticalScroll(id="plan-facts", can_focus=False):
            yield Static("", markup=False, id="plan-text")
        yield Static("", markup=False, id="plan-legend")
        yield PlanGrid(id="plan-grid")
        with Horizontal(id="plan-lower"):
            with Vertical(id="plan-left"):
                yield self._table
            yield self._right

    @property
    def names(self) -> list[str]:
        return [] if self._desk is None else self._desk.names

    @property
    def filter_text(self) -> str:
        """The words that the entries to load must hold."""
        return "" if self._line is None else self._line.value.strip()

    # What comes from outside.

    def show(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._desk = PlanDesk(loaded.checkpoint)
        self._findings = None
        self._written_by, self._order, self._is_chosen = None, None, False
        self._go_to(first_mesh(loaded.checkpoint, None))

    def show_report(self, report: Report) -> None:
        """Tell the checkpoint's own errors beside what goes wrong rank by rank."""
        self._findings = report.findings
        self._show_words()

    def show_writer(self, written_by: WrittenBy) -> None:
        self._written_by = written_by
        if self.loaded is not None and not self._is_chosen:
            self._go_to(first_mesh(self.loaded.checkpoint, written_by))
        else:
            self._ask()

    def on_show(self) -> None:
        self._ask()

    @property
    def _is_looked_at(self) -> bool:
        return self.display and self.size.width > 0

    # From a mesh to a plan.

    async def prepare_filter(self) -> None:
        """Above the sentences: a filter that leaves nothing must not hide itself."""
        line = FilterLine()
        line.display = False
        await self.mount(line, before="#plan-facts")
        self._line = line

    def refilter(self) -> None:
        """The filter says what is loaded, not which ranks are listed."""
        self._ask()

    @property
    def mesh(self) -> Mesh:
        """The mesh that is asked for; its plan may still be made."""
        return self.query_one(MeshPicker).mesh

    def _go_to(self, mesh: Mesh) -> None:
        self.query_one(MeshPicker).set_mesh(mesh)
        self._ask()

    def _ask(self) -> None:
        """Have the plan made, unless it is already, or nobody looks."""
        desk, order = self._desk, self._order
        if desk is None or not self._is_looked_at:
            return
        if not self.mesh.is_plain and self._written_by is None:
            # How tensors lie on named axes is known from who wrote it; that comes, and asks again.
            self._order = None
            line = "#plan-text" if self.planned is None else "#plan-legend"
            self.query_one(line, Static).update("looking at who wrote it ...")
            return
        wanted = Order(self.mesh, self.filter_text, self._written_by)
        if order is not None and wanted.is_same(order):
            return
        self._order = wanted
        self._plans.ask(wanted, lambda stop: desk.make(wanted))
        after(self, _SLOW_S, lambda: self._say_busy(wanted))

    def _say_busy(self, order: Order) -> None:
        """Say what takes so long, if it does."""
        if order is not self._order or order is self._answered or self.loaded is None:
            return
        if self.planned is None:
            of = self.loaded.checkpoint
            chunks, tensors = plural(of.num_chunks, "chunk"), plural(of.num_tensors, "tensor")
            said = f"looking at where {chunks} of {tensors} lie, for {order.mesh} ..."
            self.query_one("#plan-text", Static).update(said)
        else:
            self.query_one("#plan-legend", Static).update(f"planning {order.mesh} ...")

    def _plan_ready(self, order: Order, outcome: Planned | InspectError) -> None:
        if order is not self._order:
            return
        self._answered = order
        if isinstance(outcome, InspectError):
            self.planned = None
            self.add_class("-none")
            self.query_one("#plan-text", Static).update(error_text(outcome))
            self._count("")
        else:
            self._show_planned(outcome)

    def _show_planned(self, planned: Planned) -> None:
        before, self.planned = self.planned, planned
        plan = planned.plan
        self.remove_class("-none")
        self.set_class(not plan.empty_tensors, "-even")
        if before is None or before.plan.items is not plan.items:
            self._even = even_sizes(plan.items.tensors)
        self.query_one(MeshPicker).offer(self._even, writer_mesh(self._written_by))
        self._show_words()
        self.query_one(PlanGrid).show(plan)
        rank = min(self._rank, plan.world_size - 1)
        if before is None or before.plan.mesh != plan.mesh:
            self._table.set_columns(rank_columns(plan.mesh))
        self._table.set_source(PlanRankSource(plan))
        self._table.select_row(rank)
        self._right.show(planned)
        self._show_rank(rank)
        self._arrange()
        self.refresh_bindings()
        count = plural(plan.world_size, "rank")
        if planned.order.filter_text:
            count += f", {planned.num_entries:,} of {plural(len(self.names), 'entry', 'entries')}"
        self._count(count)
        self.call_after_refresh(self._show_legend)

    def _count(self, text: str) -> None:
        self.count_text = text
        self.post_message(self.Counted(self, text))

    def _show_words(self) -> None:
        """The sentences, as many as there is room for; or what is wrong with what was typed."""
        planned, text = self.planned, self.query_one("#plan-text", Static)
        error = self.query_one(MeshPicker).error
        if error is not None:
            below = "" if planned is None else f"Below is {planned.plan.mesh}."
            text.update(error_text(error, below))
        elif planned is not None:
            say = facts_text if self.has_class("-roomy") else short_text
            faults = with_faults(planned, self._findings or ())
            text.update(say(planned, faults, is_checked=self._findings is not None))

    def _show_legend(self) -> None:
        if self.planned is not None and self.planned.order is self._order:
            self.query_one("#plan-legend", Static).update(self.query_one(PlanGrid).legend())

    # One rank.

    def _show_rank(self, rank: int) -> None:
        """Pick a rank out; its reads come when they are known."""
        planned = self.planned
        if planned is None or rank >= planned.plan.world_size:
            return
        self._rank = rank
        self.query_one(PlanGrid).choose(rank)
        self._right.show_rank(rank)

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()
        if event.table is self._table and event.row >= 0:
            self._show_rank(event.row)

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        if event.table is self._table:
            self._open("reads")

    def on_plan_grid_chosen(self, event: PlanGrid.Chosen) -> None:
        event.stop()
        self._table.select_row(event.rank)
        self._show_rank(event.rank)

    # Keys.

    def action_size(self, part: str, steps: int) -> None:
        self.query_one(MeshPicker).step(part, steps)

    def action_mesh(self) -> None:
        self.query_one(MeshPicker).edit()

    def on_mesh_picker_picked(self, event: MeshPicker.Picked) -> None:
        event.stop()
        self._is_chosen = True
        self._ask()
        self._show_words()

    def choose(self, mesh: Mesh) -> None:
        self._is_chosen = True
        self._go_to(mesh)
        self._show_words()

    def on_mesh_picker_refused(self, event: MeshPicker.Refused) -> None:
        event.stop()
        self._show_words()

    def on_mesh_picker_done(self, event: MeshPicker.Done) -> None:
        event.stop()
        self._leave_field()

    def _leave_field(self) -> None:
        """Go to the ranks; without the focus, the field shows the mesh that was good last."""
        self._open("")
        picker = self.query_one(MeshPicker)
        picker.set_mesh(picker.mesh)
        self._show_words()

    def action_worst(self) -> None:
        if self.planned is None:
            return
        plan = self.planned.plan
        self._open("")
        self._table.select_row(plan.worst_rank)
        self._show_rank(plan.worst_rank)
        source = self._table.source
        if isinstance(source, PlanRankSource) and not source.is_uneven:
            self.notify("Every rank reads as much as every other.")

    def action_verify(self) -> None:
        """Verify under the mesh of the plan; elsewhere, if it does not run here."""
        why = too_many_ranks(self.mesh.world_size)
        if not why:
            self.post_message(self.VerifyAsked(str(self.mesh), self.filter_text))
            return
        intro = Text.assemble(
            (f"{self.mesh} does not run on this machine", "bold"),
            f": {why}. It runs where the ranks are, with these lines, one after the other:",
        )
        self.app.push_screen(CopyScreen(self.commands(), intro))

    def action_empty(self) -> None:
        if self.planned is None:
            return
        if not self.planned.plan.empty_tensors:
            self.notify("No tensor leaves a rank without an element.")
        elif self._right.empty.has_focus:
            self._open("")
        else:
            self._open("empty")

    def _open(self, pane: str) -> None:
        """Give the focus to a pane, and on a narrow screen the place."""
        self._pane = pane
        self._arrange()
        table = {"reads": self._right.reads, "empty": self._right.empty}.get(pane, self._table)
        self.screen.set_focus(table)

    def back(self) -> bool:
        if super().back():
            return True
        picker = self.query_one(MeshPicker)
        if not picker.is_editing and picker.error is None and not self._pane:
            return False
        self._leave_field()
        return True

    def on_resize(self) -> None:
        self._arrange()
        if self.loaded is not None:
            self._ask()
            self.call_after_refresh(self._show_legend)

    def _arrange(self) -> None:
        width, height = self.size.width, self.size.height
        roomy = height >= _ROOMY_LINES and width >= _WIDE_CELLS
        was_roomy = self.has_class("-roomy")
        self.set_class(width < _WIDE_CELLS, "-narrow")
        self.query_one(MeshPicker).set_class(width < _WIDE_CELLS, "-narrow")
        self.set_class(roomy, "-roomy")
        self.set_class(self._pane == "reads", "-reads")
        self.set_class(self._pane == "empty", "-empty")
        if height:
            rest = _ROOMY_REST if roomy else _SMALL_REST
            self.query_one(PlanGrid).max_lines = max(1, min(24, height - rest))
        if roomy != was_roomy:
            self._show_words()

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        """What is read, or left empty, under the cursor of the table with the keys."""
        return self._right.aim()

    # Taking something away.

    def commands(self) -> list[tuple[str, str]]:
        """The lines that verify the checkpoint under this mesh elsewhere, and where."""
        if self.loaded is None:
            return []
        lines = elsewhere(self.loaded.checkpoint.path, self.mesh)
        return [(where, printable(line)) for where, line in lines]

    def copy_choices(self) -> list[tuple[str, str]]:
        planned = self.planned
        if planned is None:
            return []
        choices = [("mesh", str(planned.plan.mesh)), ("in short", headline(planned.plan))]
        return [*choices, *self._right.copy_choices(), *self.commands()]
