"""`keep_units`: no line of the screen ends between a number and its unit.

Rich breaks lines at every blank, a no-break space included, and Textual breaks them as Rich does.
Whatever the size of the window, `1.5` at the end of a line and `GiB` on the next is read wrong.
"""

from __future__ import annotations

import re

from rich import _wrap

__all__ = ["keep_units"]

_UNITS = r"(?:(?:[KMGTPE]i?)?B(?:/s)?|ms|s|min|h|d)\b|%"
_WORD = re.compile(rf"\s*(?:(?<=[0-9]) (?={_UNITS})|\S)+\s*")


def keep_units() -> None:
    """Have number and unit count as one word wherever Rich or Textual break lines."""
    _wrap.re_word = _WORD
