"""`ValueFigures`: the figures of a tensor, as many as there are lines for."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from inspector.tui.widgets.value_facts import figures_text
from inspector.values.ranking import Ranked
from inspector.values.stats import TensorStats

__all__ = ["ValueFigures"]


class ValueFigures(Static):
    """Give it statistics by `show`."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id)
        self._stats: TensorStats | None = None
        self._ranked: Ranked | None = None
        self._instead = ""

    def show(
        self, stats: TensorStats | None, ranked: Ranked | None = None, *, instead: str = ""
    ) -> None:
        """Show the figures of a tensor; `instead`, printable, while there are none."""
        self._stats, self._ranked, self._instead = stats, ranked, instead
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._stats is None:
            self.update(Text(self._instead, "dim"))
        else:
            self.update(figures_text(self._stats, self._ranked, *self.size))
