"""`AxisPlaces`: where the ranks that hold each chunk stand on one axis of the mesh.

The rule this module keeps: a chunk has a place on an axis only if all ranks that hold it stand at
that place; what lies along the whole axis has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.model import Tensor
from inspector.layout.geometry import Ints
from inspector.layout.writer.axes import AxisRoles
from inspector.layout.writer.written_by import WrittenBy
from inspector.tui.mesh.axes import letters_of

__all__ = ["AxisPlaces", "axis_places"]


@dataclass(frozen=True, slots=True, eq=False)
class AxisPlaces:
    """One axis of the mesh, as the chunks of one tensor lie on it.

    Attributes:
        letter: What stands before a place: `T1`, as in the grids of ranks.
        name: What the axis looks like (`tp`); None if nothing tells.
        size: Ranks along it.
        places: Place of each chunk, shape (n,); -1 for what lies along the whole axis.
        number: Its place among the axes, from 1, and how many there are.
    """

    letter: str
    name: str | None
    size: int
    places: Ints
    number: tuple[int, int]

    @property
    def words(self) -> str:
        """What the signs on the chunks stand for: `T = axis 2 of 2, like tp`."""
        at, of = self.number
        like = f", like {self.name}" if self.name else ""
        if (self.places < 0).all():
            return f"* = all of axis {at}{like}"
        some = "; * = all of it" if (self.places < 0).any() else ""
        return f"{self.letter} = axis {at} of {of}{like}{some}"


def axis_places(written_by: WrittenBy | None, tensor: Tensor) -> list[AxisPlaces]:
    """All axes of the mesh that wrote a tensor, in mesh order; none if no mesh is known.

    In pipeline stages the first is the stage, the others are those of the mesh inside.
    """
    if written_by is None:
        return []
    stages = () if written_by.partition is None else written_by.partition.stages
    layout: AxisRoles | None = written_by.layout
    block: dict[int, tuple[int, int]] = {}
    if stages:
        layout = next((s.layout for s in stages if s.layout is not None), None)
        for number, stage in enumerate(stages):
            block |= {rank: (number, place) for place, rank in enumerate(stage.ranks)}
    if layout is None and not stages:
        return []
    axes: list[tuple[str | None, int]] = []
    if layout is not None:
        axes = [(axis.name, axis.size) for axis in layout.axes]
    if stages:
        axes.insert(0, ("pp", len(stages)))
    inner = None if layout is None else layout.mesh

    def coordinate(rank: int) -> tuple[int, ...]:
        if not stages:
            return () if inner is None else inner.coordinate(rank)
        stage, place = block[rank]
        return (stage, *(() if inner is None else inner.coordinate(place)))

    holders = written_by.holders(tensor.index)
    places = np.full((len(axes), tensor.num_chunks), -1, dtype=np.int64)
    for chunk, ranks in enumerate(holders or ()):
        for axis, values in enumerate(zip(*(coordinate(rank) for rank in ranks), strict=True)):
            if len(set(values)) == 1:
                places[axis, chunk] = values[0]
    letters = letters_of([name or "axis" for name, _ in axes])
    return [
        AxisPlaces(letter, name, size, places[n], (n + 1, len(axes)))
        for n, (letter, (name, size)) in enumerate(zip(letters, axes, strict=True))
    ]
