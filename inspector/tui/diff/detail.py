"""`DiffDetail`: one row of a comparison: what differs in words, both sides, and the map."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from inspector.tui.diff.comparison import Comparison, Item, indices_of
from inspector.tui.diff.map import DifferenceMap
from inspector.tui.diff.sources import Element, facts
from inspector.tui.kit.lines import Reader

__all__ = ["DiffDetail"]


class DiffDetail(Widget):
    """Words at the left, the map at the right."""

    DEFAULT_CSS = """
    DiffDetail { height: 1fr; }
    DiffDetail > Horizontal { height: 1fr; }
    DiffDetail #diff-facts {
        width: 1fr; min-width: 30; padding: 0 1; scrollbar-size-vertical: 1;
    }
    DiffDetail #diff-facts:focus { background: $boost; }
    DiffDetail #diff-facts Static { width: 1fr; height: auto; }
    DiffDetail DifferenceMap { width: 1fr; padding: 0 1; border-left: vkey $panel; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._shown: tuple[Comparison, Item] | None = None

    def compose(self) -> ComposeResult:
        with Horizontal():
            with Reader(id="diff-facts"):
                yield Static("", markup=False, id="diff-text")
            yield DifferenceMap()

    @property
    def map(self) -> DifferenceMap:
        return self.query_one(DifferenceMap)

    def show(
        self, comparison: Comparison, item: Item, elements: Sequence[Element], problem: str = ""
    ) -> None:
        """Show a row in words; see `diff_words.facts`."""
        is_other = self._shown is None or self._shown[1].fqn != item.fqn
        self._shown = comparison, item
        self.query_one("#diff-text", Static).update(facts(comparison, item, elements, problem))
        if is_other:
            self.query_one("#diff-facts", Reader).scroll_home(animate=False)

    def show_map(self, comparison: Comparison, item: Item, said: str) -> None:
        """Ask for the map of a row that both sides have; `said` stands there until it comes."""
        structure = comparison.structure
        a, b = indices_of(item)
        self.map.show(
            structure.a.checkpoint.columns.tensor(a), structure.b.checkpoint.columns.tensor(b), said
        )

    def show_nothing(self) -> None:
        self._shown = None
        self.query_one("#diff-text", Static).update("")
        self.map.show_nothing("")
