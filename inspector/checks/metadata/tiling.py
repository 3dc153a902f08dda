"""Which tensors of a checkpoint are tiled exactly by their chunks? All of them at once.

The rule this module keeps: a proof, for any tiling, and never a loop over tensors or chunks.

The proof: boxes tile a tensor, each element once, if and only if their signed corners cancel out
to those of the tensor itself (see `cover.py`). Every corner becomes one integer, so that is two
sorts and a comparison for the whole checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Ints, TensorColumns
from inspector.layout.geometry import unique
from inspector.layout.tilings import tilings_of

__all__ = ["chunk_volumes", "unproven"]

Bools = npt.NDArray[np.bool_]

# Sums of integers below this stay in 64 bits.
_SAFE = 1 << 62
# Corners that are held at once, where there are more than eight to a box.
_MAX_CORNERS = 1 << 23
_FEW_DIMS = 3
# Chunks that are looked at together, but for those of one tensor: sorted while in the cache.
_MAX_CHUNKS = 1 << 17
# Sets of dims along which the tensors of a checkpoint are cut.
_MAX_CODES = 64


@dataclass(frozen=True, slots=True)
class _Group:
    """Some tensors of one number of dims: their rows in the columns, and their chunks' boxes."""

    tensors: Ints  # index of each tensor
    shapes: Ints  # (num_tensors, ndim)
    chunks: Ints  # index of each chunk
    owner: Ints  # row in `tensors` of each chunk, rising
    offsets: Ints  # (num_chunks, ndim)
    sizes: Ints


def _groups(columns: TensorColumns) -> Iterator[_Group]:
    """All tensors, of some hundred thousand chunks at a time."""
    starts, first = columns.chunk_start, 0
    while first < columns.num_tensors:
        last = int(np.searchsorted(starts, starts[first] + _MAX_CHUNKS, "right")) - 1
        last = min(max(last, first + 1), columns.num_tensors)
        yield from _groups_of(columns, first, last)
        first = last


def _groups_of(columns: TensorColumns, first: int, last: int) -> Iterator[_Group]:
    """The tensors from `first` to `last`, which is not one of them."""
    ndims = np.diff(columns.dim_start[first : last + 1])
    counts = columns.num_chunks_of[first:last]
    row_of = np.repeat(np.arange(last - first, dtype=np.int64), counts)
    chunk_ndims = ndims[row_of]
    present = unique(ndims)
    box = int(columns.box_start[first])
    boxes = slice(box, box + int(chunk_ndims.sum()))
    box_ndims = np.repeat(chunk_ndims, chunk_ndims) if len(present) > 1 else chunk_ndims
    dim_ndims = np.repeat(ndims, ndims)
    shapes = columns.shapes[columns.dim_start[first] : columns.dim_start[last]]
    offsets, sizes = columns.offsets[boxes], columns.sizes[boxes]
    for ndim in present.tolist():
        tensors = np.flatnonzero(ndims == ndim)
        chunks = np.flatnonzero(chunk_ndims == ndim)
        mine: Bools | slice = slice(None) if len(present) == 1 else box_ndims == ndim
        row = np.zeros(last - first, dtype=np.int64)
        row[tensors] = np.arange(len(tensors))
        yield _Group(
            tensors=tensors + first,
            shapes=shapes[dim_ndims == ndim].reshape(len(tensors), ndim),
            chunks=chunks + columns.chunk_start[first],
            owner=row[row_of[chunks]],
            offsets=offsets[mine].reshape(len(chunks), ndim),
            sizes=sizes[mine].reshape(len(chunks), ndim),
        )


def chunk_volumes(columns: TensorColumns) -> Ints:
    """Elements of each chunk, shape (num_chunks,); 2**62 where it is that or more."""
    tilings = tilings_of(columns)
    volumes = np.zeros(tilings.columns.num_chunks, dtype=np.int64)
    for group in _groups(tilings.columns):
        volumes[group.chunks] = _volumes(group.sizes)
    return tilings.spread(volumes, columns.num_chunks_of)


def _volumes(sizes: Ints) -> Ints:
    exact = np.prod(sizes, axis=1, dtype=np.int64)
    rough = np.prod(sizes, axis=1, dtype=np.float64)
    return np.where(rough < _SAFE, exact, _SAFE)


def unproven(columns: TensorColumns, *, by_file: bool = False) -> Ints:
    """The tensors that are not proven to be tiled exactly by their chunks, by index.

    Empty chunks are passed over. Takes about 0.15 s for a million chunks of tensors of which
    no two are tiled alike, once: it is kept as long as the columns are.

    Args:
        columns: All tensors and chunks.
        by_file: True if each file may have a chunk of the same box (per-rank metadata).
    """
    known = _known.setdefault(columns, {})
    if by_file not in known:
        known[by_file] = _all_unproven(columns, by_file=True) if by_file else _of_tilings(columns)
    return known[by_file]


_known: WeakKeyDictionary[TensorColumns, dict[bool, Ints]] = WeakKeyDictionary()


def _of_tilings(columns: TensorColumns) -> Ints:
    tilings = tilings_of(columns)
    is_bad = np.zeros(len(tilings.first), dtype=bool)
    is_bad[_all_unproven(tilings.columns, by_file=False)] = True
    return np.flatnonzero(is_bad[tilings.of])


def _all_unproven(columns: TensorColumns, *, by_file: bool) -> Ints:
    suspects = [np.zeros(0, dtype=np.int64)]
    for group in _groups(columns):
        live: Bools = np.all(group.sizes > 0, axis=1)
        repeated = np.zeros(0, dtype=np.int64)
        if by_file:
            repeated = group.owner[_drop_copies(group, columns.file[group.chunks], live)]
        bad = _unproven(group, live)
        bad[repeated] = True
        suspects.append(group.tensors[bad])
    return np.sort(np.concatenate(suspects))


def _drop_copies(group: _Group, file: npt.NDArray[np.int32], live: Bools) -> Ints:
    """Takes all but the first chunk of each box out of `live`; returns repeats within a file."""
    rows = np.column_stack([group.owner, group.offsets, group.sizes, file])
    order = np.lexsort(rows.T[::-1])
    order = order[live[order]]
    rows = rows[order]
    same_box = (rows[1:, :-1] == rows[:-1, :-1]).all(axis=1)
    live[order[1:][same_box]] = False
    repeats: Ints = order[1:][same_box & (rows[1:, -1] == rows[:-1, -1])]
    return repeats


def _unproven(group: _Group, live: Bools) -> Bools:
    """Which tensors of a group are not proven, shape (num_tensors,)."""
    num, ndim = group.shapes.shape
    holds_elements = (group.shapes > 0).all(axis=1)
    owner, low = group.owner, group.offsets
    high = low + group.sizes
    if not live.all():
        owner, low, high = owner[live], low[live], high[live]
    counts = np.bincount(owner, minlength=num)
    bad: Bools = (counts == 0) & holds_elements
    if not len(owner):
        return bad
    limits = group.shapes[owner]
    bad[owner[(high > limits).any(axis=1)]] = True
    if ndim > 20:
        bad |= counts > 0
        return bad
    # Dims along which every chunk is as long as its tensor say nothing, and are left out.
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts > 0]
    code = np.zeros(num, dtype=np.int64)
    for dim in range(ndim):
        partial = (low[:, dim] > 0) | (high[:, dim] < limits[:, dim])
        code[counts > 0] |= np.logical_or.reduceat(partial, starts).astype(np.int64) << dim
    codes = unique(code[counts > 0])
    if len(codes) > _MAX_CODES:
        # So many ways to cut are none that torch writes; a pass for each would take too long.
        bad |= np.isin(code, codes[_MAX_CODES:]) & (counts > 0)
    for value in codes[:_MAX_CODES].tolist():
        of_code = (code == value) & (counts > 0) & ~bad
        dims = [dim for dim in range(ndim) if value >> dim & 1]
        if not dims:
            bad |= of_code & (counts != 1)
            continue
        members = np.flatnonzero(of_code)
        chunks = slice(None) if of_code.all() else of_code[owner]
        row = np.zeros(num, dtype=np.int64)
        row[members] = np.arange(len(members))
        failed = _corners_differ(
            row[owner[chunks]],
            low[chunks][:, dims],
            high[chunks][:, dims],
            group.shapes[members][:, dims],
        )
        bad[members[failed]] = True
    return bad


def _corners_differ(owner: Ints, low: Ints, high: Ints, shapes: Ints) -> Bools:
    """Whose boxes' signed corners are not those of the tensor, shape (num_tensors,).

    Every corner becomes one integer, so that the tensor comes first in the order. A tensor has as
    many positive as negative corners, so each sorted half has the tensors in the same places.
    """
    num, ndim = shapes.shape
    spans = np.prod(shapes + 1, axis=1, dtype=np.float64)
    # What cannot be numbered so, or has too many corners, is left to `analyse`.
    failed: Bools = spans >= _SAFE / max(num, 1) / 2
    if ndim > _FEW_DIMS and len(owner) << ndim > _MAX_CORNERS:
        failed[:] = True
    if failed.any():
        keep = ~failed
        if keep.any():
            row = np.cumsum(keep) - 1
            of_kept = keep[owner]
            failed[keep] = _corners_differ(
                row[owner[of_kept]], low[of_kept], high[of_kept], shapes[keep]
            )
        return failed
    strides = np.ones_like(shapes)
    for dim in range(ndim - 2, -1, -1):
        strides[:, dim] = strides[:, dim + 1] * (shapes[:, dim + 1] + 1)
    base = np.concatenate([[0], np.cumsum(strides[:, 0] * (shapes[:, 0] + 1))])
    steps = strides[owner]
    plus, minus = _corner_keys(base[owner], low * steps, high * steps)
    minus_all, plus_all = _corner_keys(base[:-1], np.zeros_like(shapes), shapes * strides)
    left = np.sort(np.concatenate([*plus, *plus_all]))
    right = np.sort(np.concatenate([*minus, *minus_all]))
    different = left != right
    if different.any():
        keys = np.concatenate([left[different], right[different]])
        failed[np.searchsorted(base, keys, side="right") - 1] = True
    return failed


def _corner_keys(base: Ints, low: Ints, high: Ints) -> tuple[list[Ints], list[Ints]]:
    """The corners of boxes with sign + and -, as `base` plus one term for each dim."""
    plus, minus = [base], list[Ints]()
    for dim in range(low.shape[1]):
        a, b = low[:, dim], high[:, dim]
        plus, minus = (
            [k + a for k in plus] + [k + b for k in minus],
            [k + b for k in plus] + [k + a for k in minus],
        )
    return plus, minus
