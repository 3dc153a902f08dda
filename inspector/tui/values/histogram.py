"""`HistogramBars`: a histogram as columns of block characters, over the values or their size."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from rich.segment import Segment
from textual.strip import Strip

from inspector.checkpoint.text import format_count, plural
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.part_map import Drawing
from inspector.values.histogram import Bars
from inspector.values.slices import value_text
from inspector.values.stats import TensorStats

__all__ = ["HistogramBars", "column_lines"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def column_lines(counts: npt.NDArray[np.float64], width: int, height: int) -> list[str]:
    """Columns on lines, the top line first.

    Args:
        counts: How high each is; anything more than nothing shows at least an eighth of a line.
        width: Cells of each column.
        height: Lines of the highest.
    """
    top = float(counts.max()) if counts.size else 0.0
    shares = counts / top if top > 0 else np.zeros(len(counts))
    eighths = np.where(counts > 0, np.maximum(np.rint(shares * height * 8), 1), 0).astype(int)
    return [
        "".join(_EIGHTHS[min(max(int(n) - 8 * line, 0), 8)] * width for n in eighths)
        for line in reversed(range(height))
    ]


class HistogramBars(Drawing):
    """A title, the columns, and the range below them. Give it values by `show`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"histogram--label", "histogram--bar"}

    DEFAULT_CSS = """
    HistogramBars {
        height: 1fr; background: $surface; color: $foreground;
        & > .histogram--label { color: $text-muted; }
        & > .histogram--bar { color: $primary; }
    }
    HistogramBars:ansi {
        & > .histogram--label { color: ansi_default; text-style: dim; }
        & > .histogram--bar { color: ansi_blue; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.scale: Literal["linear", "log"] = "linear"
        self._stats: TensorStats | None = None

    def show(self, stats: TensorStats | None) -> None:
        """Draw the histogram of a tensor, or nothing."""
        self._stats = stats
        self._redraw()

    def set_scale(self, scale: Literal["linear", "log"]) -> None:
        """Over the values, or over powers of two of |value|."""
        self.scale = scale
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def _draw(self) -> list[Strip]:
        width, height = self.size
        stats = self._stats
        if stats is None or not stats.num_finite or height < 3 or width < 8:
            return []
        bars, wide = self._bars(stats, width)
        label = self.get_component_rich_style("histogram--label")
        ink = self.get_component_rich_style("histogram--bar")
        end = len(bars.counts) * wide
        lines = column_lines(bars.counts, wide, height - 2)
        return [
            Strip([Segment(fit(self._title(bars, stats), width), label)]),
            *(Strip([Segment(line, ink)]) for line in lines),
            Strip([Segment(_range_text(bars, end), label)]),
        ]

    def _bars(self, stats: TensorStats, width: int) -> tuple[Bars, int]:
        """The bars, and how many cells wide each is."""
        if self.scale == "log":
            return stats.log(width), 1
        low, high = stats.low, stats.high
        if isinstance(low, int) and isinstance(high, int) and high - low < width:
            # So few integers that each has a column of its own.
            count = high - low + 1
            return stats.linear(count), max(width // count, 1)
        return stats.linear(width), 1

    def _title(self, bars: Bars, stats: TensorStats) -> str:
        most = format_count(round(float(bars.counts.max())))
        if bars.scale == "log":
            zeros = f", {plural(bars.num_zero, 'zero')}" if bars.num_zero else ""
            return f"|value|, log: bars to {most}{zeros}"
        return f"{'|value|' if stats.is_complex else 'value'}: bars to {most}"


def _range_text(bars: Bars, width: int) -> str:
    """The ends of the range, and where 0 is if it lies well inside."""
    low, high = (value_text(np.float64(end), 3) for end in (bars.edges[0], bars.edges[-1]))
    text = [" "] * max(width, len(low) + len(high) + 1)
    if bars.edges[0] < 0 < bars.edges[-1]:
        extent = bars.edges[-1] / 2 - bars.edges[0] / 2
        at = int(-bars.edges[0] / 2 / extent * width)
        if len(low) + 1 <= at <= len(text) - len(high) - 2:
            text[at] = "0"
    text[: len(low)] = low
    text[len(text) - len(high) :] = high
    return "".join(text)
