"""`Tilings`: each way in which tensors are tiled, once, down to the order of the chunks.

The rule this module keeps: tensors are alike only if every number of their shapes and boxes was
compared. A model's layers repeat, so what is asked of shapes and boxes alone is asked of some
dozen tensors where a checkpoint has thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import TensorColumns
from inspector.layout.geometry import Ints

__all__ = ["Tilings", "tilings_of"]

_T = TypeVar("_T", bound=np.generic)

# Of fewer chunks, to compare two tensors takes longer than what it saves.
_MIN_CHUNKS = 128
# Tilings of one shape and number of chunks that a tensor is compared with.
_MAX_RIVALS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Tilings:
    """The tensors of a checkpoint by their tilings.

    Attributes:
        columns: The first tensor of each tiling, as columns of their own; those of the checkpoint,
            if hardly any are alike. Where the chunks lie is that tensor's alone.
        first: Its index in the checkpoint, shape (num_tilings,).
        of: The tiling of each tensor of the checkpoint, shape (num_tensors,).
    """

    columns: TensorColumns
    first: Ints
    of: Ints

    def spread(self, values: Ints, counts: Ints) -> Ints:
        """A column of the chunks of `columns`, as one of all chunks of the checkpoint.

        Args:
            values: A number for each chunk of `columns`.
            counts: Chunks of each tensor of the checkpoint, shape (num_tensors,).
        """
        if len(self.first) == len(self.of):
            return values
        return _joined(values, self.columns.chunk_start[self.of], counts)


# None where hardly any are alike: a value that held the columns would keep them for ever.
_known: WeakKeyDictionary[TensorColumns, Tilings | None] = WeakKeyDictionary()


def tilings_of(columns: TensorColumns) -> Tilings:
    """The tilings of a checkpoint's tensors; kept as long as the columns are."""
    if columns not in _known:
        _known[columns] = _tilings(columns)
    found = _known[columns]
    if found is None:
        each = np.arange(columns.num_tensors)
        return Tilings(columns, each, each)
    return found


def _tilings(columns: TensorColumns) -> Tilings | None:
    first = _first_alike(columns)
    kept = np.flatnonzero(first == np.arange(columns.num_tensors))
    # Copying those that are left must be worth it.
    num_left = int(columns.num_chunks_of[kept].sum())
    if len(kept) == len(first) or 2 * num_left > columns.num_chunks:
        return None
    return Tilings(_only(columns, kept), kept, np.searchsorted(kept, first))


def _first_alike(columns: TensorColumns) -> Ints:
    """For each tensor the first that is tiled as it is: that may be itself."""
    result = np.arange(columns.num_tensors)
    many = np.flatnonzero(columns.num_chunks_of >= _MIN_CHUNKS)
    rivals: dict[tuple[int, bytes], list[tuple[int, Ints, Ints]]] = {}
    counts = columns.num_chunks_of[many]
    places = zip(
        many.tolist(),
        counts.tolist(),
        columns.dim_start[many].tolist(),
        columns.dim_start[many + 1].tolist(),
        columns.box_start[many].tolist(),
        strict=True,
    )
    for index, num, dim, end, box in places:
        boxes = slice(box, box + num * (end - dim))
        offsets, sizes = columns.offsets[boxes], columns.sizes[boxes]
        others = rivals.setdefault((num, columns.shapes[dim:end].tobytes()), [])
        for other, their_offsets, their_sizes in others:
            if (offsets == their_offsets).all() and (sizes == their_sizes).all():
                result[index] = other
                break
        else:
            if len(others) < _MAX_RIVALS:
                others.append((index, offsets, sizes))
    return result


def _only(columns: TensorColumns, tensors: Ints) -> TensorColumns:
    """Some tensors as columns of their own."""
    ndims = np.diff(columns.dim_start)[tensors]
    counts = columns.num_chunks_of[tensors]
    dims = columns.dim_start[tensors], ndims
    boxes = columns.box_start[tensors], counts * ndims
    chunks = columns.chunk_start[tensors], counts
    return TensorColumns(
        fqns=[columns.fqns[i] for i in tensors.tolist()],
        properties=columns.properties,
        property_id=columns.property_id[tensors],
        shapes=_joined(columns.shapes, *dims),
        dim_start=_starts(ndims),
        chunk_start=_starts(counts),
        box_start=_starts(counts * ndims),
        offsets=_joined(columns.offsets, *boxes),
        sizes=_joined(columns.sizes, *boxes),
        file=_joined(columns.file, *chunks),
        byte_offset=_joined(columns.byte_offset, *chunks),
        byte_length=_joined(columns.byte_length, *chunks),
    )


def _starts(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)])


def _joined(column: npt.NDArray[_T], first: Ints, lengths: Ints) -> npt.NDArray[_T]:
    """Some pieces of a column, one after the other."""
    places = zip(first.tolist(), (first + lengths).tolist(), strict=True)
    return np.concatenate([column[:0], *(column[a:b] for a, b in places)])
