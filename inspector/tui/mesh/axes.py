"""`FoldedMesh`: the axes of a mesh as the screen shows them; a folded one is one place for all.

The rule this module keeps: no terminal, only numbers and words. An axis has one letter and one name
wherever the screen tells of it.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inspector.checkpoint.model import Tensor
from inspector.layout.geometry import Ints
from inspector.layout.mesh import Mesh, kind_of
from inspector.layout.writer.axes import AxisRoles
from inspector.layout.writer.written_by import WrittenBy

__all__ = [
    "FoldedMesh",
    "GridAxis",
    "axis_places",
    "coordinate_words",
    "grid_axes",
    "legend_parts",
    "letters_of",
]

_LETTERS = {"replicate": "R", "shard": "S", "tensor": "T", "expert": "E", "stage": "P"}
_USES = {
    "replicate": "copies",
    "shard": "FSDP",
    "tensor": "tensor parallel",
    "expert": "expert parallel",
    "stage": "pipeline",
}


@dataclass(frozen=True, slots=True)
class GridAxis:
    """One axis.

    Attributes:
        letter: What stands before a coordinate: `S3`.
        name: Its name, `dp_shard`.
        size: Ranks along it.
        stride: From a rank to the next one along it.
        use: What an axis of this name is for, in a word or two; empty for a name that tells not.
    """

    letter: str
    name: str
    size: int
    stride: int
    use: str


def letters_of(names: Sequence[str]) -> tuple[str, ...]:
    """A letter for each axis name, no two alike."""
    found: list[str] = []
    for name in names:
        usual = "C" if name.lower() == "cp" else _LETTERS.get(kind_of(name) or "", "")
        wanted = [usual, *name.upper(), *string.ascii_uppercase]
        found.append(next(c for c in wanted if c.isalpha() and c not in found))
    return tuple(found)


def grid_axes(mesh: Mesh) -> tuple[GridAxis, ...]:
    """The axes of a mesh, in mesh order; not those of the experts' mesh."""
    strides = [math.prod(mesh.sizes[axis + 1 :]) for axis in range(len(mesh.sizes))]
    names = mesh.axes
    return tuple(
        GridAxis(letter, name, size, stride, _USES.get(kind_of(name) or "", ""))
        for letter, name, size, stride in zip(
            letters_of(names), names, mesh.sizes, strides, strict=True
        )
    )


def coordinate_words(mesh: Mesh, rank: int) -> str:
    """Where a rank stands: `R1 S63`, as the grid names its rows and columns.

    Then where it stands on the experts' mesh, if there is one: `S3 + R0 E3`.
    """
    pairs = zip(letters_of(mesh.axes), mesh.coordinate(rank), strict=True)
    words = " ".join(f"{letter}{place}" for letter, place in pairs)
    return words if mesh.experts is None else f"{words} + {coordinate_words(mesh.experts, rank)}"


@dataclass(frozen=True)
class FoldedMesh:
    """A mesh of which some axes are folded: all ranks along them share one place.

    Places are numbered as ranks are, row-major, over the axes that are open.

    Attributes:
        mesh: The mesh.
        folded: Numbers of the folded axes.
    """

    mesh: Mesh
    folded: frozenset[int] = frozenset()

    @cached_property
    def axes(self) -> tuple[GridAxis, ...]:
        return grid_axes(self.mesh)

    @cached_property
    def open_axes(self) -> tuple[GridAxis, ...]:
        """The axes that are not folded, in mesh order."""
        return tuple(a for number, a in enumerate(self.axes) if number not in self.folded)

    @cached_property
    def num_places(self) -> int:
        return math.prod(axis.size for axis in self.open_axes)

    @property
    def ranks_each(self) -> int:
        """Ranks that share a place."""
        return self.mesh.world_size // self.num_places

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        """From the first rank of a place to each of its ranks, in rising order."""
        along = [
            range(0, a.size * a.stride, a.stride)
            for number, a in enumerate(self.axes)
            if number in self.folded
        ]
        return tuple(sum(steps) for steps in itertools.product(*along))

    def ranks_at(self, place: int) -> tuple[int, ...]:
        """The ranks of a place, in rising order."""
        first = 0
        for axis in reversed(self.open_axes):
            place, at = divmod(place, axis.size)
            first += at * axis.stride
        return tuple(first + step for step in self._steps)

    def place_of(self, rank: int) -> int:
        """The place of a rank; the inverse of `ranks_at`."""
        place = 0
        for axis in self.open_axes:
            place = place * axis.size + rank // axis.stride % axis.size
        return place

    def turned(self, axis: int) -> FoldedMesh:
        """The same with an axis folded, or opened again."""
        return FoldedMesh(self.mesh, self.folded ^ {axis})

    def on(self, mesh: Mesh) -> FoldedMesh:
        """Another mesh, with the same axes folded if it has the same ones."""
        is_alike = mesh.axes == self.mesh.axes
        return FoldedMesh(mesh, self.folded if is_alike else frozenset())


def legend_parts(mesh: FoldedMesh, width: int, chosen: int | None, *said: str) -> list[str]:
    """The axes in words, one text for each, and one more; as much as `width` characters hold.

    Each axis begins and ends with a blank, or with brackets if it is the chosen one. The last text
    is the first of `said` for which there is room if less is told of the axes, or empty.
    """
    tries = [(words, level) for words in (*said, "") for level in (4, 3, 2, 1)]
    tries += [(words, 0) for words in (*said, "")]
    for words, level in tries:
        parts = [_legend_part(mesh, n, level, is_chosen=n == chosen) for n in range(len(mesh.axes))]
        if sum(map(len, parts)) + len(words) <= width:
            break
    return [*parts, words]


def _legend_part(mesh: FoldedMesh, number: int, level: int, *, is_chosen: bool) -> str:
    axis, is_folded = mesh.axes[number], number in mesh.folded
    text = f"{axis.letter} {axis.name}:{axis.size}" if level else f"{axis.letter}{axis.size}"
    if is_folded:
        text = f"{text} folded" if level >= 2 else f"({text})"
    elif level >= 3:
        text += f" stride {axis.stride}"
    if level >= 4 and axis.use:
        text += f", {axis.use}"
    return f"[{text}]" if is_chosen else f" {text} "


@dataclass(frozen=True, slots=True, eq=False)
class AxisPlaces:
    """Where the ranks that hold each chunk of a tensor stand on one axis of the mesh.

    A chunk has a place only if all ranks that hold it stand at that place; what lies along the
    whole axis has none.

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
