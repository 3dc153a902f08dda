"""Bars: a fraction as a row of block characters.

The rule this module keeps: a bar is exactly as wide as was asked, whatever number it is given.
"""

from __future__ import annotations

import math

__all__ = ["bar"]

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
