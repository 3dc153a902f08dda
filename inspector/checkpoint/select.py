"""A filter's text -> the names it selects. The same words mean the same in CLI and TUI."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["matching"]


def matching(names: Sequence[str], text: str) -> list[int]:
    """Indices of the names that a filter selects, in order.

    Every word of `text` must occur in the name, whatever its case; a word after `!` must not.
    An empty filter selects everything.
    """
    words = text.casefold().split()
    wanted = [word for word in words if not word.startswith("!")]
    unwanted = [word[1:] for word in words if word.startswith("!") and len(word) > 1]
    selected: Sequence[int] = range(len(names))
    folded = [name.casefold() for name in names] if wanted or unwanted else []
    for word in wanted:
        selected = [i for i in selected if word in folded[i]]
    for word in unwanted:
        selected = [i for i in selected if word not in folded[i]]
    return list(selected)
