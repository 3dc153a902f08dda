"""Placements: how a tensor lies on a mesh, and which placements explain a `Cut`.

The rule this module keeps: a placement explains a cut only if the boxes it gives all ranks,
empty ones included, are exactly the boxes that are stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from inspector.layout.cuts import Cut
from inspector.layout.geometry import Ints, nested_chunk_bounds, num_pieces, unique

__all__ = [
    "ORDINALS",
    "Fit",
    "Pattern",
    "TensorPlacement",
    "apply",
    "fit_of",
    "fits",
    "patterns",
    "to_strings",
]

ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A dim (or None) for every mesh axis, and which axes cut a dim in reversed order.

    Attributes:
        dims: Tensor dim that each axis shards; None is `Replicate()`.
        strided: True if two axes shard one dim and the later one cuts first, which is what
            FSDP2 over tensor parallelism does (`_StridedShard`).
        flat: True if the axes that shard a dim cut it as one axis would: the tensor lies on a
            flattened mesh, as dense ones do beside experts. It differs from the nested cut where
            sizes do not divide.
    """

    dims: tuple[int | None, ...]
    strided: bool = False
    flat: bool = False

    def axes_of(self, dim: int) -> tuple[int, ...]:
        """The axes that shard a dim, the one that cuts first in front."""
        axes = tuple(a for a, d in enumerate(self.dims) if d == dim)
        return axes[::-1] if self.strided else axes


@dataclass(frozen=True, slots=True)
class Fit:
    """Placements that explain a cut on a mesh.

    Attributes:
        pattern: The placements.
        cells: The cell that each rank holds, shape (world_size,).
        empties_missing: The cut lacks the empty boxes that DTensor would record; ShardedTensor
            writers record none.
    """

    pattern: Pattern
    cells: Ints
    empties_missing: bool = False


@dataclass(frozen=True, slots=True)
class TensorPlacement:
    """How one tensor lies on the mesh of its checkpoint.

    Attributes:
        placements: As torch writes them, one per mesh axis; None if nothing explains the chunks.
        evidence: Sentences that a person can check.
    """

    placements: tuple[str, ...] | None
    evidence: tuple[str, ...] = ()


def to_strings(pattern: Pattern, sizes: Sequence[int]) -> tuple[str, ...]:
    """`("Replicate()", "Shard(0)")`: one for each axis."""
    result = []
    for axis, dim in enumerate(pattern.dims):
        if dim is None:
            result.append("Replicate()")
            continue
        later = [a for a in range(axis + 1, len(sizes)) if pattern.dims[a] == dim]
        if pattern.strided and later:
            factor = math.prod(sizes[a] for a in later)
            result.append(f"_StridedShard({dim}, sf={factor})")
        else:
            result.append(f"Shard({dim})")
    return tuple(result)


def patterns(touched: Sequence[int], can_shard: Sequence[bool]) -> Iterator[Pattern]:
    """All ways in which axes may share out the touched dims, the usual ones first.

    Args:
        touched: Dims that are cut.
        can_shard: For each axis whether it may shard.
    """
    axes = _may(can_shard)
    if len(touched) > len(axes):
        return
    choices = [*touched, None]
    found = []
    for dims in itertools.product(choices, repeat=len(axes)):
        if not set(touched) <= set(dims):
            continue
        whole: list[int | None] = [None] * len(can_shard)
        for axis, dim in zip(axes, dims, strict=True):
            whole[axis] = dim
        if any(dims.count(d) > 1 for d in touched):
            found.append(Pattern(tuple(whole), strided=True))
        found.append(Pattern(tuple(whole)))
    # Every axis at work is the usual case where it fits; FSDP shards the first dim.
    yield from sorted(found, key=lambda p: (p.dims.count(None), [d is None for d in p.dims]))


def _may(can_shard: Sequence[bool]) -> list[int]:
    return [a for a, may in enumerate(can_shard) if may]


@lru_cache(maxsize=256)
def _coordinates(sizes: tuple[int, ...]) -> tuple[Ints, ...]:
    ranks = np.arange(math.prod(sizes), dtype=np.int64)
    return tuple(c.astype(np.int64) for c in np.unravel_index(ranks, sizes))


def _piece_of_rank(pattern: Pattern, dim: int, sizes: tuple[int, ...]) -> Ints:
    """Number of the piece of `dim` that each rank holds, in the order of cutting."""
    piece = np.zeros(math.prod(sizes), dtype=np.int64)
    coordinates = _coordinates(sizes)
    for axis in pattern.axes_of(dim):
        piece = piece * sizes[axis] + coordinates[axis]
    return piece


def fits(cut: Cut, sizes: tuple[int, ...], can_shard: Sequence[bool]) -> list[Fit]:
    """All placements that explain a cut on a mesh.

    Args:
        cut: Must be a grid.
        sizes: Size of each mesh axis.
        can_shard: For each axis whether it may shard.
    """
    if cut.starts is None:
        return []
    if not cut.touched:
        return [_everywhere(sizes)]
    result = []
    for pattern in patterns(cut.touched, can_shard):
        fit = fit_of(cut, sizes, pattern)
        if fit is not None:
            result.append(fit)
    axes = _may(can_shard)
    if len(axes) > 1 and len(cut.touched) == 1:
        # Beside a strided cut of the same boxes, too: the ranks then hold others of them.
        dims = tuple(cut.touched[0] if a in axes else None for a in range(len(sizes)))
        flat = fit_of(cut, sizes, Pattern(dims, flat=True))
        if flat is not None and not flat.empties_missing:
            exact = [fit for fit in result if not fit.empties_missing]
            if not any(np.array_equal(flat.cells, fit.cells) for fit in exact):
                return [*exact, flat]
    # ShardedTensor shards along one axis, and nobody mixes it with DTensor in one tensor.
    exact = [fit for fit in result if not fit.empties_missing]
    return exact or (result if sum(can_shard) == 1 else [])


def _shards(pattern: Pattern, dim: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """In how many pieces a dim is cut by one axis after the other."""
    shards = tuple(sizes[a] for a in pattern.axes_of(dim))
    return (math.prod(shards),) if pattern.flat else shards


@lru_cache(maxsize=64)
def _everywhere(sizes: tuple[int, ...]) -> Fit:
    return Fit(Pattern((None,) * len(sizes)), np.zeros(math.prod(sizes), dtype=np.int64))


def fit_of(cut: Cut, sizes: tuple[int, ...], pattern: Pattern) -> Fit | None:
    """These placements on a mesh, if they explain a cut; None if they do not."""
    starts = cut.starts or ()
    split = {d: _shards(pattern, d, sizes) for d in cut.touched}
    for dim, shards in split.items():
        if num_pieces(cut.shape[dim], shards) != len(starts[dim]):
            return None
    cells = np.zeros(math.prod(sizes), dtype=np.int64)
    multipliers = cut.multipliers()
    for dim, shards in split.items():
        lower, lengths = nested_chunk_bounds(cut.shape[dim], shards)
        full = lengths > 0
        if not np.array_equal(lower[full], starts[dim]):
            return None
        place = np.where(full, np.cumsum(full) - 1, len(starts[dim]))
        cells += place[_piece_of_rank(pattern, dim, sizes)] * multipliers[dim]
    expected = unique(cells)
    if np.array_equal(expected, cut.cells):
        return Fit(pattern, cells)
    if not cut.has_empty and len(cut.cells) == cut.num_pieces < len(expected):
        return Fit(pattern, cells, empties_missing=True)
    return None


def apply(pattern: Pattern, shape: Sequence[int], sizes: tuple[int, ...]) -> Ints:
    """The cell of each rank if a tensor of this shape were placed so, shape (world_size,).

    Numbers cells as it likes; ranks with the same number hold the same box. For tensors whose
    stored boxes are damaged.
    """
    cells = np.zeros(math.prod(sizes), dtype=np.int64)
    for dim in sorted({d for d in pattern.dims if d is not None}):
        if dim >= len(shape):
            return np.zeros_like(cells)
        shards = _shards(pattern, dim, sizes)
        lower, _ = nested_chunk_bounds(shape[dim], shards)
        _, place = np.unique(lower, return_inverse=True)
        cells = cells * (len(place) + 1) + place[_piece_of_rank(pattern, dim, sizes)]
    return cells
