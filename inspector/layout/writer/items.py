"""`Items`: what ranks have written, under one assignment, as columns, but for what is settled.

The rule this module keeps: an item is left out only if it lies right by every rule that DCP's
writer may have followed, and moves no other. Of ten million chunks that one rank each holds none is
then a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from inspector.layout.cuts import CutClass, is_one_row_seen
from inspector.layout.geometry import Ints
from inspector.layout.writer.replay import Partition
from inspector.layout.writer.survey import Bools

__all__ = ["ItemColumns", "Items", "items_of"]

#: Columns of some items, in the order of `Items`.
ItemColumns: TypeAlias = tuple[Ints, Ints, Ints, Ints, Ints, Bools]


@dataclass(frozen=True, slots=True)
class Items:
    """Items as columns, under one assignment.

    Attributes:
        tensor: Index of the tensor; from num_tensors on, of the bytes entry.
        chunk: Index of the chunk; -1 for a bytes entry, or for a chunk that is not stored.
        actual: Rank in the file's name; -1 if the item does not count.
        first: Rank in whose plan the item is seen first.
        group: Number of the group of ranks that offer it.
        inside: Whether `actual` is one of them.
        num_unexplained: Items that are left out because no placement explains them.
        num_settled: Items that are left out because one rank alone holds each and it lies there,
            behind all that several hold: by every rule they lie right, and move nothing.
    """

    tensor: Ints
    chunk: Ints
    actual: Ints
    first: Ints
    group: Ints
    inside: Bools
    num_unexplained: int
    num_settled: int = 0


def items_of(
    members: CutClass,
    ranks: Ints,
    rows: Bools | slice,
    holders: Ints,
    partition: Partition,
    alone: Bools,
    after: int,
) -> tuple[ItemColumns, int]:
    """The items of some tensors of a class, and how many are settled and left out.

    Args:
        members: The class.
        ranks: The rank in the file name of each of its chunks, -1 where it is not known.
        rows: Which of its tensors.
        holders: The cell that each rank holds of them.
        partition: The ranks by that cell.
        alone: By group of ranks, whether it is one rank.
        after: The last rank in whose plan an item is seen first that several hold; -1 if none is.
    """
    tensors, starts = members.tensors[rows], members.chunk_start[rows]
    cells = members.cells
    alike = is_one_row_seen(cells) and is_one_row_seen(ranks)
    cells, ranks = (cells[:1], ranks[:1]) if alike else (cells[rows], ranks[rows])
    where = _positions(partition.cells, cells.ravel())
    first, group = partition.first[where], partition.group[where]
    inside = (holders[ranks] == cells).ravel()
    settled = alone[group] & inside & (ranks.ravel() == first) & (first > after)
    left = np.flatnonzero(~settled)
    if alike:
        times = len(tensors)
        places, chunks = np.repeat(np.arange(times), len(left)), np.tile(left, times)
    else:
        times = 1
        places, chunks = np.divmod(left, cells.shape[1])
    actual, first, group = (np.tile(c[left], times) for c in (ranks.ravel(), first, group))
    inside = np.tile(inside[left], times)
    items = tensors[places], starts[places] + chunks, actual, first, group, inside
    return items, int(settled.sum()) * times


def _positions(known: Ints, values: Ints) -> Ints:
    """Where each value stands in the ascending known ones, or would stand.

    Found by a table where that is small.
    """
    most = int(known[-1]) if len(known) else 0
    if not len(values) or most >= len(values) or known[0] < 0 or values.min() < 0:
        return np.searchsorted(known, values)
    table = np.searchsorted(known, np.arange(most + 2))
    return table[np.minimum(values, most + 1)]
