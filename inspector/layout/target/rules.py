"""`TargetPlacements`: who decides how a tensor lies on the target, and how it then lies.

The rule this module keeps, the first that speaks:

1. a pattern of `--placements FILE` that matches the tensor's name; the last that matches;
2. what the checkpoint says: which dims an axis of the same kind cut when it was written;
3. FSDP's rule: `Shard(0)` over its axis, and experts' dim 0 over the expert axis first. Of axes of
   any other kind every rank holds a copy.

A 0-d tensor is held whole by every rank. `fsdp:S` and `hsdp:RxS` are rule 3 and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from inspector.checkpoint.text import plural, printable
from inspector.errors import UsageError
from inspector.layout.mesh import Mesh, kind_of
from inspector.layout.target.file import PlacementLine
from inspector.layout.target.placement import TargetMeshes, TargetPlacement

if TYPE_CHECKING:
    from inspector.layout.writer.axes import MeshAxis
    from inspector.layout.writer.written_by import WrittenBy

__all__ = ["SOURCES", "TargetPlacements", "placed_words"]

#: Who may decide, in words.
SOURCES = {
    "file": "as --placements says",
    "checkpoint": "as the checkpoint cuts them",
    "rule": "by FSDP's rule",
}
_EXPERT = re.compile(r"(?:^|[._])(?:experts?|grouped_mlp)(?:[._]|$)", re.IGNORECASE)
_SHARD = re.compile(r"_?(?:Strided)?Shard\((\d+)")
_Dims = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the file, made ready for one mesh."""

    line: PlacementLine
    matches: re.Pattern[str]


class TargetPlacements:
    """The placement of any tensor on a mesh.

    Args:
        mesh: The mesh.
        written_by: Who wrote the checkpoint; None leaves rule 2 out.
        lines: What `--placements` says.
        others: More meshes that the lines are for: an axis has to be of one of them.

    Raises:
        UsageError: No load can be planned under the mesh, or a line names an axis that it lacks.
    """

    def __init__(
        self,
        mesh: Mesh,
        written_by: WrittenBy | None = None,
        lines: Sequence[PlacementLine] = (),
        others: Sequence[Mesh] = (),
    ) -> None:
        self.mesh = mesh
        self._meshes = TargetMeshes(mesh)
        self._written_by = written_by
        self._lines = [_Line(line, line.regex) for line in lines]
        self._kept: dict[tuple[Mesh, tuple[int | None, ...]], TargetPlacement] = {}
        for line in lines:
            for axis in line.axes:
                known = [m for m in (*self._all(), *others) if m is not None]
                if all(self._axis(m, axis) is None for m in known):
                    raise UsageError(
                        f"--placements: {printable(line.pattern, 60)} names the axis "
                        f"{printable(axis, 40)}, which {mesh} does not have",
                        f"its axes are {', '.join(mesh.axes)}",
                    )

    def unmatched(self, fqns: Sequence[str]) -> tuple[str, ...]:
        """The patterns that match none of some names."""
        return tuple(
            x.line.pattern for x in self._lines if not any(x.matches.match(f) for f in fqns)
        )

    def _all(self) -> tuple[Mesh | None, ...]:
        return self._meshes.dense, self._meshes.experts

    def of(self, fqn: str, shape: Sequence[int], index: int) -> tuple[TargetPlacement, str]:
        """How a tensor lies, and who says so (a key of `SOURCES`).

        Raises:
            UsageError: The file cuts a dim that the tensor does not have.
        """
        mesh, is_expert = self._meshes.dense, False
        if self._meshes.experts is not None and len(shape) >= 3 and _EXPERT.search(fqn):
            mesh, is_expert = self._meshes.experts, True
        if not shape:
            return self._keep(mesh, (None,) * len(mesh.sizes)), "rule"
        line = next((x.line for x in reversed(self._lines) if x.matches.match(fqn)), None)
        if line is not None:
            return self._keep(mesh, self._by_line(mesh, line, fqn, shape, is_expert)), "file"
        rule = self._by_rule(mesh, is_expert)
        told = self._by_checkpoint(mesh, index, rule)
        if told is not None and told != rule:
            return self._keep(mesh, told), "checkpoint"
        return self._keep(mesh, rule), "rule"

    def by_rule(self, shape: Sequence[int]) -> TargetPlacement:
        """How a tensor lies that is no tensor of the checkpoint: by FSDP's rule."""
        mesh = self._meshes.dense
        dims = self._by_rule(mesh, False) if shape else (None,) * len(mesh.sizes)
        return self._keep(mesh, dims)

    @property
    def meshes(self) -> tuple[Mesh, ...]:
        """The meshes that tensors may lie on: most tensors', and the experts' if they have one."""
        found = (m for m in self._all() if m is not None)
        return tuple(dict.fromkeys(found))

    def _keep(self, mesh: Mesh, dims: tuple[int | None, ...]) -> TargetPlacement:
        key = mesh, dims
        if key not in self._kept:
            self._kept[key] = TargetPlacement(mesh, dims)
        return self._kept[key]

    @staticmethod
    def _by_rule(mesh: Mesh, is_expert: bool) -> tuple[int | None, ...]:
        cutting = ("shard", "expert") if is_expert else ("shard",)
        # The folded axis of dense tensors may still bear the name of the expert axis.
        return tuple(0 if kind in cutting else None for kind in mesh.kinds)

    @staticmethod
    def _axis(mesh: Mesh, name: str) -> int | None:
        """The axis of a name, or the only one of its kind."""
        if name in mesh.axes:
            return mesh.axes.index(name)
        kind = kind_of(name)
        found = [a for a, k in enumerate(mesh.kinds) if kind is not None and k == kind]
        return found[0] if len(found) == 1 else None

    def _by_line(
        self, mesh: Mesh, line: PlacementLine, fqn: str, shape: Sequence[int], is_expert: bool
    ) -> tuple[int | None, ...]:
        if line.is_whole:
            return (None,) * len(mesh.sizes)
        dims = list(self._by_rule(mesh, is_expert))
        for name, dim in line.dims:
            axis = self._axis(mesh, name)
            if axis is None:
                continue
            if dim is not None and not -len(shape) <= dim < len(shape):
                raise UsageError(
                    f"--placements: {printable(line.pattern, 60)} cuts dim {dim} of "
                    f"{printable(fqn, 80)}, which has {len(shape)}",
                    "dims are counted from 0",
                )
            dims[axis] = dim if dim is None or dim >= 0 else dim + len(shape)
        return tuple(dims)

    def _by_checkpoint(
        self, mesh: Mesh, index: int, rule: tuple[int | None, ...]
    ) -> tuple[int | None, ...] | None:
        """Axes of a kind cut what axes of that kind cut when it was written, in turn."""
        told = self._told(index)
        if not told:
            return None
        left = {kind: list(dims) for kind, dims in told.items()}
        dims = []
        for kind, by_rule in zip(mesh.kinds, rule, strict=True):
            mine = left.get(kind or "")
            found = mine.pop(0) if mine else None
            # FSDP cuts what it gets: a whole tensor was not its, or could not be told.
            dims.append(by_rule if found is None else found)
        return tuple(dims)

    def _told(self, index: int) -> _Dims | None:
        """The dims that the axes of each kind cut, in mesh order."""
        written = self._written_by
        if written is None:
            return None
        dims: Sequence[int | None]
        if written.mesh is not None and written.layout is not None:
            axes = written.layout.axes
            placements = written.placements(index).placements
            if placements is None:
                return None
            shards = map(_SHARD.match, placements)
            dims = [None if shard is None else int(shard[1]) for shard in shards]
        elif index in self._of_stages:
            axes, dims = self._of_stages[index]
        else:
            return None
        told: dict[str, list[int | None]] = {}
        for axis, dim in zip(axes, dims, strict=True):
            if axis.kind is not None:
                told.setdefault(axis.kind, []).append(dim)
        return told

    @cached_property
    def _of_stages(self) -> dict[int, tuple[tuple[MeshAxis, ...], tuple[int | None, ...]]]:
        """Of each tensor that groups of ranks hold alone: the axes of theirs, and what they cut."""
        groups = None if self._written_by is None else self._written_by.partition
        return {
            index: (stage.layout.axes, use.fit.pattern.dims)
            for stage in (() if groups is None else groups.stages)
            if stage.layout is not None
            for use in stage.uses
            if use.cut.touched and not use.fit.pattern.flat
            for index in use.tensors.tolist()
        }


def placed_words(
    mesh: Mesh, placements: Sequence[TargetPlacement], sources: Mapping[str, int]
) -> str:
    """Who says how tensors lie, and which axes cut none: nobody may take that for an answer."""
    told = [f"{plural(sources[s], 'tensor')} {SOURCES[s]}" for s in SOURCES if s in sources]
    cut = {
        axis
        for lies in placements
        for axis, dim in zip(lies.mesh.axes, lies.dims, strict=True)
        if dim is not None
    }
    idle = [
        name
        for name, kind, size in zip(mesh.axes, mesh.kinds, mesh.sizes, strict=True)
        if kind in ("tensor", None) and size > 1 and name not in cut
    ]
    text = ", ".join(told) or "there is no tensor"
    if idle:
        text += (
            f"; no tensor is cut by {' or '.join(idle)}, whose ranks hold copies (--placements "
            "FILE says what it cuts)"
        )
    return text
