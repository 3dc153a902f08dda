"""What the screen of a comparison reads of one tensor, as functions for a `Reader`.

No widget. Every function may raise `InspectError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inspector.checkpoint.text import printable
from inspector.diff.map import DifferenceCells, difference_map
from inspector.diff.model import Side, TensorDiff
from inspector.diff.structure import Pair, Structure
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Stop
from inspector.tui.diff.sources import Element
from inspector.values.slices import plane_of, value_text, window

__all__ = ["elements_of", "read_elements", "read_map"]

# As many as tell two neighbouring float32 apart.
_DIGITS = 9


def elements_of(item: TensorDiff) -> tuple[Element, ...]:
    """The elements worth a look, none twice; their values are still to be read."""
    found = {
        "first": item.first_index,
        "largest": item.max_abs_index,
        "not finite": item.first_non_finite,
    }
    names: dict[tuple[int, ...], str] = {}
    for what, index in found.items():
        if index is not None:
            names[index] = f"{names[index]}, {what}" if index in names else what
    return tuple(Element(what, index) for index, what in names.items())


def read_elements(
    structure: Structure, pair: Pair, elements: Sequence[Element], stop: Stop
) -> tuple[Element, ...]:
    """The same elements with the values of both sides."""
    found = []
    for element in elements:
        if stop():
            raise Cancelled("it was stopped")
        a, b = (_value(side, index, element.index) for side, index in structure.both(pair))
        found.append(replace(element, a=a, b=b))
    return tuple(found)


def _value(side: Side, index: int, at: tuple[int, ...]) -> str:
    tensor = side.checkpoint.columns.tensor(index)
    leading, row, column = plane_of(tensor.shape).cell(at)
    rows, columns = range(row, row + 1), range(column, column + 1)
    try:
        found = window(side.checkpoint, side.storage, tensor, leading, rows, columns)
    except Cancelled:
        raise
    except InspectError as error:
        return f"? ({printable(error.message, 120)})"
    return value_text(found.values[0, 0], _DIGITS)


def read_map(
    structure: Structure, pair: Pair, size: tuple[int, int], stop: Stop
) -> DifferenceCells:
    """Where a tensor differs, in at most `size` rows and columns of parts."""
    return difference_map(structure, pair, *size, progress=lambda progress: stop())
