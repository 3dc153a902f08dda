"""`Placer`: the placements of any one tensor, found when they are asked for and kept."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.cuts import Cut, analyse, cell_ids
from inspector.layout.geometry import num_pieces
from inspector.layout.mesh import Mesh
from inspector.layout.placements import ORDINALS, Fit, TensorPlacement, fits, to_strings
from inspector.layout.writer.survey import Assignment
from inspector.layout.writer.walk import Walk

__all__ = ["Placer"]

_EITHER = "one chunk holds all of it: a plain tensor or Replicate(), which cannot be told apart"
_NO_ELEMENT = "it holds no element, in one empty chunk: every placement looks so"
_MAX_CUTS_SHOWN = 5


class Placer:
    """Placements by tensor.

    Args:
        checkpoint: The checkpoint.
        walk: Its items, where a mesh was inferred.
        assignment: The mesh and the placements on it; None if no mesh was inferred. Then
            placements are along one axis.
    """

    def __init__(
        self, checkpoint: Checkpoint, walk: Walk | None, assignment: Assignment | None
    ) -> None:
        self._checkpoint = checkpoint
        self._assignment = assignment
        self._kept: dict[Hashable, TensorPlacement] = {}
        self._walk = walk if assignment is not None else None
        num = checkpoint.num_tensors
        self._class = np.full(num if self._walk else 0, -1, dtype=np.int64)
        self._choice = np.zeros(len(self._class), dtype=np.int64)
        if self._walk is not None and assignment is not None:
            for number, members in enumerate(self._walk.classes):
                self._class[members.tensors] = number
                self._choice[members.tensors] = assignment.choice[number]

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint whose tensors it places."""
        return self._checkpoint

    def placements(self, index: int) -> TensorPlacement:
        """The placements of the tensor at `index`, and why."""
        number = int(self._class[index]) if len(self._class) else -1
        key = (number, int(self._choice[index])) if number >= 0 else self._looks(index)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._find(index, number)
        return found

    def holders(self, index: int) -> list[tuple[int, ...]] | None:
        """The ranks that hold each chunk of a tensor, the one that wrote it among them.

        Returns:
            Ranks by chunk, ascending; None without a mesh, if nothing explains the chunks, and
            for a tensor in one piece, which one rank alone may have had.
        """
        if self._assignment is None:
            return None
        number = int(self._class[index])
        cut = self._walk.classes[number].cut if number >= 0 and self._walk else self._cut(index)
        known = self._assignment.fits[number] if number >= 0 else []
        if number >= 0:
            fit = known[int(self._choice[index])] if known else None
        else:
            fit = self._best_fit(index, cut, self._assignment.mesh)
        if fit is None or not cut.touched:
            return None
        tensor = self._checkpoint.columns.tensor(index)
        cells = cell_ids(cut, tensor.offsets, tensor.sizes)
        return [tuple(np.flatnonzero(fit.cells == cell).tolist()) for cell in cells.tolist()]

    def _looks(self, index: int) -> Hashable:
        """What decides the placements of a tensor that the walk did not reach.

        Most tensors of a checkpoint look like many others, so that 100,000 of them are few cases.
        """
        tensor = self._checkpoint.columns.tensor(index)
        boxes = tensor.shape, tensor.offsets.tobytes(), tensor.sizes.tobytes()
        return boxes if self._assignment is None else (*boxes, tensor.file.tobytes())

    def _find(self, index: int, number: int) -> TensorPlacement:
        if self._assignment is None:
            return self._along_one_axis(index)
        mesh = self._assignment.mesh
        if number >= 0 and self._walk is not None:
            cut = self._walk.classes[number].cut
            known = self._assignment.fits[number]
            fit = known[int(self._choice[index])] if known else None
            return _explain(cut, fit, mesh)
        cut = self._cut(index)
        return _explain(cut, self._best_fit(index, cut, mesh), mesh)

    def _cut(self, index: int) -> Cut:
        tensor = self._checkpoint.columns.tensor(index)
        repeated = self._checkpoint.per_rank_metadata
        return analyse(tensor.offsets, tensor.sizes, tensor.shape, repeated=repeated)

    def _best_fit(self, index: int, cut: Cut, mesh: Mesh) -> Fit | None:
        """For a tensor that the walk did not reach: the fit whose ranks are the files' ranks."""
        found = fits(cut, mesh.sizes, tuple(axis != "replicate" for axis in mesh.axes))
        if not found:
            return None
        tensor = self._checkpoint.columns.tensor(index)
        ranks = self._checkpoint.chunk_ranks(tensor.file)
        cells = cell_ids(cut, tensor.offsets, tensor.sizes)
        return max(found, key=lambda f: int(((f.cells[ranks] == cells) & (ranks >= 0)).sum()))

    def _along_one_axis(self, index: int) -> TensorPlacement:
        """Placements without a mesh: over as many shards as there are chunks."""
        cut = self._cut(index)
        if cut.starts is None:
            return TensorPlacement(None, (cut.problem,))
        if not cut.touched:
            return TensorPlacement(("Replicate()",), (_whole(cut),))
        if len(cut.touched) > 1:
            dims = " and ".join(map(str, cut.touched))
            return TensorPlacement(None, (f"cut along dims {dims}: no one axis does that",))
        dim = cut.touched[0]
        shards = self._num_shards(cut, dim)
        found = fits(cut, (shards,), (True,))
        if not found:
            return TensorPlacement(None, (f"{_cuts(cut, dim)}: not torch.chunk's rule",))
        why = f"{_cuts(cut, dim)}, as torch.chunk does for {shards} shards"
        return TensorPlacement((f"Shard({dim})",), (why,))

    def _num_shards(self, cut: Cut, dim: int) -> int:
        pieces = len((cut.starts or ())[dim])
        world_size = self._checkpoint.world_size or 0
        if cut.has_empty and 0 < world_size <= 1 << 16:
            if num_pieces(cut.shape[dim], (world_size,)) == pieces:
                return world_size
            return pieces + 1
        return pieces


def _explain(cut: Cut, fit: Fit | None, mesh: Mesh) -> TensorPlacement:
    if cut.starts is None:
        return TensorPlacement(None, (cut.problem,))
    if fit is None:
        cuts = "; ".join(_cuts(cut, d) for d in cut.touched)
        return TensorPlacement(None, (f"{cuts}: no placement on {mesh} does that",))
    if fit.pattern.flat:
        dim = cut.touched[0]
        ranks = math.prod(mesh.sizes[a] for a in fit.pattern.axes_of(dim))
        why = (
            f"as torch.chunk does over {ranks} ranks as one axis: Shard({dim}) on a flattened mesh"
        )
        return TensorPlacement(None, (f"{_cuts(cut, dim)}, {why}",))
    placements = to_strings(fit.pattern, mesh.sizes)
    if not cut.touched:
        return TensorPlacement(placements, (_whole(cut),))
    evidence = []
    for dim in cut.touched:
        axes = fit.pattern.axes_of(dim)
        over = ", then ".join(f"{mesh.sizes[a]} ranks of {_axis(mesh, a)}" for a in axes)
        evidence.append(f"{_cuts(cut, dim)}, as torch.chunk does over {over}")
    if cut.has_empty:
        evidence.append("an empty chunk stands for the ranks that hold nothing (DTensor)")
    elif fit.empties_missing:
        evidence.append("no empty chunk for the ranks that hold nothing (ShardedTensor)")
    return TensorPlacement(placements, tuple(evidence))


def _axis(mesh: Mesh, axis: int) -> str:
    """An axis by its name where that is what it does, by its place where it is a guess."""
    plain = mesh.family in ("fsdp", "hsdp")
    return mesh.axes[axis] if plain else f"the {ORDINALS[axis]} axis"


def _whole(cut: Cut) -> str:
    return _NO_ELEMENT if 0 in cut.shape else _EITHER


def _cuts(cut: Cut, dim: int) -> str:
    """`dim 0 is cut at 3, 6, 9`."""
    inner = (cut.starts or ())[dim][1:].tolist()
    if not inner:
        return f"dim {dim} is in one piece, with an empty one after it"
    shown = ", ".join(map(str, inner[:_MAX_CUTS_SHOWN]))
    if len(inner) > _MAX_CUTS_SHOWN:
        shown += f", ... ({len(inner)} places)"
    return f"dim {dim} is cut at {shown}"
