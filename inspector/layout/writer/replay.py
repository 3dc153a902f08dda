"""Replays who writes what: DCP's deduplication of save plans.

The rule this module keeps: it does what `dedup_save_plans` does
(torch/distributed/checkpoint/_dedup_save_plans.py, torch 2.3 and later), ties included. An item
is one chunk or one bytes entry. Items come in the order in which they are first seen when the
ranks' plans are read one after the other; each goes to the offering rank with the fewest bytes
so far. The weight is the bytes of the FULL tensor, or 1 where that is nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from inspector.layout.geometry import Ints

__all__ = ["GroupTable", "Partition", "balance", "set_order"]

_HEAP_FROM = 24


def set_order(ranks: Iterable[int]) -> tuple[int, ...]:
    """Ranks in the order in which torch walks them on a tie.

    torch takes `min()` over a `set` that the ranks were added to one by one, so the first in
    the set's own order wins, which is not always the lowest: {3, 11} gives 11 first. The same
    set of small integers has the same order in every CPython since 3.7.
    """
    members: set[int] = set()
    for rank in ranks:
        members.add(rank)
    return tuple(members)


@dataclass(frozen=True, slots=True)
class Partition:
    """Which ranks hold the same box of one tensor.

    Attributes:
        cells: Distinct cells in rising order.
        first: Lowest rank that holds each cell: where the item is first seen.
        group: Number of the group of ranks in the `GroupTable`, per cell.
    """

    cells: Ints
    first: Ints
    group: Ints


class GroupTable:
    """Groups of ranks, each kept once, for a world size."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.members: list[tuple[int, ...]] = []
        self._numbers: dict[bytes, int] = {}
        self._partitions: dict[bytes, Partition] = {}
        everyone = np.zeros(world_size, dtype=np.int64)
        self.everyone = int(self.partition(everyone).group[0])

    def partition(self, cells: Ints) -> Partition:
        """The partition of the ranks by the cell each one holds, shape (world_size,).

        A rank with a negative cell holds nothing, and offers nothing.
        """
        key = cells.tobytes()
        found = self._partitions.get(key)
        if found is None:
            found = self._partitions[key] = self._make(cells)
        return found

    def alone(self, rank: int) -> int:
        """Number of the group of one rank."""
        return self._number(np.asarray([rank], dtype=np.int64))

    def _make(self, cells: Ints) -> Partition:
        ranks = np.flatnonzero(cells >= 0)
        unique, first, inverse = np.unique(cells[ranks], return_index=True, return_inverse=True)
        by_cell = ranks[np.argsort(inverse, kind="stable")]
        counts = np.bincount(inverse, minlength=len(unique))
        group = [self._number(members) for members in np.split(by_cell, np.cumsum(counts)[:-1])]
        return Partition(unique, ranks[first], np.asarray(group, dtype=np.int64))

    def _number(self, ranks: Ints) -> int:
        key = ranks.tobytes()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.members)
            self.members.append(set_order(ranks.tolist()))
        return number


def balance(
    groups: Sequence[int],
    weights: Sequence[int],
    members: Sequence[tuple[int, ...]],
    world_size: int,
    written: Sequence[int] | None = None,
) -> list[int]:
    """Gives each item to the offering rank with the fewest bytes so far.

    Args:
        groups: Group number of each item, in the order of the walk.
        weights: Bytes of each item's full tensor; 0 counts as 1.
        members: Ranks of each group, in `set_order`.
        world_size: Number of ranks.
        written: The rank that really wrote each item (-1: not known), whose bytes count then
            for that rank whatever is predicted.

    Returns:
        The rank that writes each item.
    """
    load = [0] * world_size
    heaps: dict[int, list[tuple[int, int, int]]] = {}
    result = []
    for item, (group, weight) in enumerate(zip(groups, weights, strict=True)):
        ranks = members[group]
        if len(ranks) == 1:
            rank = ranks[0]
        elif len(ranks) == 2:
            rank, other = ranks
            if load[other] < load[rank]:
                rank = other
        elif len(ranks) < _HEAP_FROM:
            rank = min(ranks, key=load.__getitem__)
        else:
            heap = heaps.get(group)
            if heap is None:
                heap = heaps[group] = [(load[r], place, r) for place, r in enumerate(ranks)]
                heapq.heapify(heap)
            # Loads only grow: an entry that is out of date is put back where it belongs.
            bytes_then, place, rank = heap[0]
            while bytes_then != load[rank]:
                heapq.heapreplace(heap, (load[rank], place, rank))
                bytes_then, place, rank = heap[0]
        result.append(rank)
        if written is not None and written[item] >= 0:
            rank = written[item]
        load[rank] += weight or 1
    return result
