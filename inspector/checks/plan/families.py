"""Numbered families of names: `model.layers.*.w` and the numbers that stand for its `*`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inspector.checkpoint.text import number_runs

__all__ = ["families", "family_of", "numbers_text"]

_MAX_RANGES = 4


def family_of(fqn: str) -> tuple[str, int]:
    """A name with its last number taken out, and that number; -1 if it has none."""
    parts = fqn.split(".")
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].isdecimal() and parts[i].isascii() and len(parts[i]) < 10:
            return ".".join((*parts[:i], "*", *parts[i + 1 :])), int(parts[i])
    return fqn, -1


def families(fqns: Iterable[str]) -> dict[str, set[int]]:
    """The numbers of every family among names."""
    found: dict[str, set[int]] = {}
    for fqn in fqns:
        family, number = family_of(fqn)
        if number >= 0:
            found.setdefault(family, set()).add(number)
    return found


def numbers_text(numbers: Sequence[int]) -> str:
    """`0 to 3, 5`; numbers in rising order."""
    runs = number_runs(numbers, " to ")
    return ", ".join(runs[:_MAX_RANGES]) + (" ..." if len(runs) > _MAX_RANGES else "")
