"""`Survey`: the chunks of a checkpoint by class, and the placements that explain them on a mesh.

The rule this module keeps: which one of several ranks wrote a chunk plays no part here, only
whether the rank in its file's name holds the chunk at all. That bounds what a replay can explain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint
from inspector.layout.cuts import (
    Cut,
    CutClass,
    blocks_of,
    cut_classes,
    is_one_row_seen,
    joined_rows,
)
from inspector.layout.geometry import Ints, unique
from inspector.layout.mesh import Mesh
from inspector.layout.placements import Fit, Pattern, fits

__all__ = ["Assignment", "Bools", "Survey", "count_known", "is_one_row", "ranks_in"]

Bools = npt.NDArray[np.bool_]
_FEW = 64  # tensors of a class that a cheap look takes in


@dataclass(slots=True)
class Assignment:
    """A mesh, and for every class of tensors the placements that explain it best.

    Attributes:
        mesh: The mesh.
        fits: Per class, the fits that are in use; empty if nothing explains the class.
        choice: Per class, the fit of each of its tensors, an index into `fits`.
        num_possible: Items whose file belongs to a rank that holds them: a bound for any replay.
        num_touched, num_touched_possible: The same, over tensors that are cut.
        signature: Equal for meshes that give every rank the same boxes.
    """

    mesh: Mesh
    fits: list[list[Fit]] = field(default_factory=list)
    choice: list[Ints] = field(default_factory=list)
    num_possible: int = 0
    num_touched: int = 0
    num_touched_possible: int = 0
    signature: int = 0

    def rows(self) -> Iterator[tuple[int, Fit, Bools | slice]]:
        """(class, fit, which of its tensors) for every fit in use."""
        for number, found in enumerate(self.fits):
            if len(found) == 1:
                yield number, found[0], slice(None)
            else:
                for place, fit in enumerate(found):
                    mask = self.choice[number] == place
                    if mask.any():
                        yield number, fit, mask

    def may_be_alone(self, survey: Survey) -> bool:
        """Whether ShardedTensors of one row may be among the whole tensors."""
        sharded = any(fit.empties_missing for found in self.fits for fit in found)
        return sharded and any(is_one_row(c.cut) for c in survey.classes)

    def votes(self, survey: Survey) -> list[tuple[Pattern, int, int]]:
        """(placements, ndim, number of tensors) of the cut tensors, the most used first."""
        votes: dict[tuple[Pattern, int], int] = {}
        for number, fit, rows in self.rows():
            members = survey.classes[number]
            if members.cut.touched:
                key = (fit.pattern, len(members.cut.shape))
                votes[key] = votes.get(key, 0) + len(members.tensors[rows])
        ranking = sorted(votes.items(), key=lambda vote: -vote[1])
        return [(pattern, ndim, count) for (pattern, ndim), count in ranking]


class Survey:
    """What a checkpoint's chunks and file names say, before any mesh is thought of.

    Args:
        checkpoint: Its `world_size` must be known.

    Attributes:
        position: Place of every tensor, then of every bytes entry, in the planner's walk.
        in_order: Tensor indices in that order.
        classes: Tensors that are cut alike, over the first `num_seen` of `in_order`.
        ranks: Per class, the rank in each chunk's file name; -1 where there is none.
        sound: Per class, whether its boxes are a grid.
        bytes_ranks: The rank in each bytes entry's file name.
        num_items: Items whose rank is known, damaged tensors left out.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        columns = checkpoint.columns
        num_tensors = columns.num_tensors
        self.checkpoint = checkpoint
        self.world_size = checkpoint.world_size or 0
        self.position = _positions(checkpoint)
        self.in_order = np.argsort(self.position[:num_tensors], kind="stable").astype(np.int64)
        self.classes, self.num_seen = cut_classes(
            columns, self.in_order, repeated=checkpoint.per_rank_metadata
        )
        self.ranks: list[Ints] = [_ranks(checkpoint, members) for members in self.classes]
        self.bytes_ranks = _bytes_ranks(checkpoint)
        self.sound = [c.cut.starts is not None for c in self.classes]
        self.num_items = sum(
            count_known(r) for r, sound in zip(self.ranks, self.sound, strict=True) if sound
        ) + int((self.bytes_ranks >= 0).sum())

    @property
    def partial(self) -> bool:
        """Whether only the first tensors were looked at."""
        return self.num_seen < self.checkpoint.num_tensors

    @property
    def touched(self) -> list[int]:
        """Numbers of the classes that are cut."""
        return [i for i, c in enumerate(self.classes) if c.cut.touched]

    def assign(self, mesh: Mesh, can_shard: tuple[bool, ...]) -> Assignment:
        """Chooses placements on a mesh for every tensor."""
        result = Assignment(mesh)
        result.num_possible = int((self.bytes_ranks >= 0).sum())
        parts: list[object] = []
        for number, members in enumerate(self.classes):
            found = fits(members.cut, mesh.sizes, can_shard) if self.sound[number] else []
            ranks = self.ranks[number]
            choice = np.zeros(len(members.tensors), dtype=np.int64)
            num_known = count_known(ranks)
            if members.cut.touched and self.sound[number]:
                result.num_touched += num_known
            if found and not members.cut.touched:
                result.num_possible += num_known
            elif found:
                hits = [_hits(fit, ranks, members.cells) for fit in found]
                if len(found) > 1:
                    # The class votes first; a tensor differs only where it must.
                    order = sorted(range(len(found)), key=lambda i: -int(hits[i].sum()))
                    choice = np.argmax(np.stack([hits[i] for i in order]), axis=0)
                    used, choice = np.unique(choice, return_inverse=True)
                    found = [found[order[i]] for i in used.tolist()]
                possible = int(np.stack(hits).max(axis=0).sum())
                result.num_possible += possible
                result.num_touched_possible += possible
                cells = tuple(f.cells.tobytes() for f in found)
                parts.append((number, cells, choice.tobytes()))
            result.fits.append(found)
            result.choice.append(choice)
        result.signature = hash(tuple(parts))
        return result

    def may_fit(self, numbers: Sequence[int], mesh: Mesh, can_shard: tuple[bool, ...]) -> bool:
        """A cheap look at some classes before `assign`: may the mesh explain one of them?

        Two sharding axes must both be at work, in a tensor whose files agree; cutting one dim
        by the first axis and then by the second is what one longer axis does.
        """
        for number in numbers:
            members, ranks = self.classes[number], self.ranks[number][:_FEW]
            for fit in fits(members.cut, mesh.sizes, can_shard):
                if sum(can_shard) == 1:
                    return True
                dims = [d for d in fit.pattern.dims if d is not None]
                # More pieces than either axis has ranks: else one axis and a tiny tensor will do.
                longest = max(n for n, may in zip(mesh.sizes, can_shard, strict=True) if may)
                both = len(dims) == sum(can_shard) and members.cut.num_pieces > longest
                if both and (fit.pattern.strided or len(set(dims)) == len(dims)):
                    hits = fit.cells[ranks] == members.cells[: len(ranks)]
                    if hits.mean() >= 0.5:
                        return True
        return False


def count_known(ranks: Ints) -> int:
    """How many of some tensors' ranks are known."""
    if is_one_row_seen(ranks):
        return len(ranks) * int((ranks[0] >= 0).sum())
    return int((ranks >= 0).sum())


def ranks_in(rows: Ints) -> Ints:
    """The ranks that some tensors' files name, each once, without those that are not known."""
    found = unique((rows[:1] if is_one_row_seen(rows) else rows).ravel())
    return found[found >= 0]


def _ranks(checkpoint: Checkpoint, members: CutClass) -> Ints:
    """The rank in each chunk's file name, shape (num_tensors, num_chunks)."""
    num = members.cells.shape[1]
    file = checkpoint.columns.file
    parts = (
        checkpoint.chunk_ranks(file[starts[:, None] + np.arange(num)]).astype(np.int64)
        for starts in blocks_of(members.chunk_start, num)
    )
    return joined_rows(parts, len(members.tensors))


def _hits(fit: Fit, ranks: Ints, cells: Ints) -> Ints:
    """Of each tensor, the chunks that lie with a rank that holds them."""
    if is_one_row_seen(ranks) and is_one_row_seen(cells):
        one = _hits_of(fit, ranks[:1], cells[:1])
        return np.broadcast_to(one, (len(ranks),))
    return _hits_of(fit, ranks, cells)


def _hits_of(fit: Fit, ranks: Ints, cells: Ints) -> Ints:
    found: Ints = ((fit.cells[ranks] == cells) & (ranks >= 0)).sum(axis=1)
    return found


def is_one_row(cut: Cut) -> bool:
    """Whether a whole tensor may be a ShardedTensor that only the first shard holds."""
    return not cut.touched and cut.starts is not None and cut.shape[:1] == (1,)


def _bytes_ranks(checkpoint: Checkpoint) -> Ints:
    """The rank of the file that each bytes entry lies in, -1 if it is not known.

    The metadata names a rank only where every rank wrote its own; elsewhere the file tells.
    """
    entries = checkpoint.bytes_entries
    named = np.asarray([-1 if e.rank is None else e.rank for e in entries], dtype=np.int64)
    files = np.asarray([e.file for e in entries], dtype=np.int32)
    found = checkpoint.chunk_ranks(files).astype(np.int64) if len(entries) else named
    return np.where(named >= 0, named, found)


def _positions(checkpoint: Checkpoint) -> Ints:
    """Place of every tensor, then of every bytes entry, in the planner's walk."""
    num = checkpoint.num_tensors + len(checkpoint.bytes_entries)
    position = np.full(num, num, dtype=np.int64)
    order = checkpoint.order
    position[order] = np.arange(len(order), dtype=np.int64)
    return position
