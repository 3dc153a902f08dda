"""Bars: a fraction as a row of block characters.

The rule this module keeps: a bar is exactly as wide as was asked, whatever number it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["bar", "stacked_bar"]

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(fraction: float, width: int, *, ascii_only: bool = False) -> str:
    """A horizontal bar, filled from the left in eighths of a cell.

    Args:
        fraction: Part to fill; below 0, NaN and infinity count as 0, above 1 as 1. Anything
            more than nothing shows at least one eighth.
        width: Cells.
        ascii_only: Draw with `#`, in whole cells.
    """
    if width <= 0:
        return ""
    part = min(1.0, max(0.0, fraction)) if math.isfinite(fraction) else 0.0
    if ascii_only:
        filled = max(1, round(part * width)) if part > 0 else 0
        return "#" * filled + " " * (width - filled)
    eighths = max(1, round(part * width * 8)) if part > 0 else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def stacked_bar(parts: Sequence[float], width: int) -> list[int]:
    """Cells of each part of a stacked bar; they sum up to `width` if any part is above 0.

    Every part above 0 gets a cell while there are enough; the rest is shared by size, the
    largest remainders first. The caller draws each run in the colour of its part.
    """
    clean = [part if math.isfinite(part) and part > 0 else 0.0 for part in parts]
    total = sum(clean)
    present = [i for i, part in enumerate(clean) if part > 0]
    cells = [0] * len(clean)
    if width <= 0 or not present:
        return cells
    if not math.isfinite(total):  # a sum past the float range: shares are all that matters
        clean = [part / len(clean) for part in clean]
        total = sum(clean)
    if len(present) >= width:
        for i in sorted(present, key=lambda i: -clean[i])[:width]:
            cells[i] = 1
        return cells
    room = width - len(present)
    exact = {i: room * (clean[i] / total) for i in present}
    for i in present:
        cells[i] = 1 + int(exact[i])
    by_remainder = sorted(present, key=lambda i: int(exact[i]) - exact[i])
    for i in by_remainder[: width - sum(cells)]:
        cells[i] += 1
    return cells
