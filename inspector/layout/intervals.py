"""Figures over runs of shards: `[first, last]` of each item -> one number for each shard.

The rule this module keeps: a chunk is read by a run of neighbouring shards, so a sum over all pairs
of a shard and a chunk is a running sum over where runs begin and end; no pair is ever made.
"""

from __future__ import annotations

import numpy as np

from inspector.layout.geometry import Ints

__all__ = ["distinct", "maxima", "shares", "sums"]


def sums(first: Ints, last: Ints, value: Ints | int, num_shards: int) -> Ints:
    """For each shard the sum of `value` over the items whose run holds it.

    Args:
        first: First shard of each run, shape (num_items,).
        last: Last shard of each run; `first - 1` for a run of none (in `sums` alone).
        value: What each item adds; the total must fit in 64 bits.
        num_shards: How many shards there are.

    Returns:
        Shape (num_shards,), int64.
    """
    steps = np.zeros(num_shards + 1, dtype=np.int64)
    if np.ndim(value):
        np.add.at(steps, first, value)
        np.subtract.at(steps, last + 1, value)
    else:
        steps += np.bincount(first, minlength=num_shards + 1) * value
        steps -= np.bincount(last + 1, minlength=num_shards + 1) * value
    return np.cumsum(steps[:-1])


def shares(start: Ints, stop: Ints, full: Ints, row_bytes: Ints, num_shards: int) -> Ints:
    """For each shard the bytes of the rows that it shares with the items.

    Args:
        start: First row of each item, shape (num_items,).
        stop: The row after its last, more than `start`.
        full: Rows of a whole shard of its tensor.
        row_bytes: Bytes of one row.
        num_shards: How many shards there are.
    """
    first, last = start // full, (stop - 1) // full
    head = np.minimum(stop, (first + 1) * full) - start
    tail = np.where(last > first, stop - last * full, 0)
    result = sums(first, first, head * row_bytes, num_shards)
    result += sums(last, last, tail * row_bytes, num_shards)
    # Those between are shared whole.
    return result + sums(first + 1, np.maximum(last - 1, first), full * row_bytes, num_shards)


def maxima(first: Ints, last: Ints, value: Ints, num_shards: int) -> Ints:
    """For each shard the largest `value` over the items whose run holds it; 0 where none does.

    A run is the union of two runs of one power of two (the sparse table for range minima of Bender
    and Farach-Colton, "The LCA problem revisited", 2000); these are pushed down, level by level.
    """
    best = np.zeros(num_shards, dtype=np.int64)
    if not len(first):
        return best
    length = last - first + 1
    level = np.frexp(length.astype(np.float64))[1] - 1
    by_level = [best.copy() for _ in range(int(level.max()) + 1)]
    for k in np.unique(level).tolist():
        rows = np.flatnonzero(level == k)
        np.maximum.at(by_level[k], first[rows], value[rows])
        if k:
            np.maximum.at(by_level[k], last[rows] + 1 - (1 << k), value[rows])
    for k in range(len(by_level) - 1, 0, -1):
        half, here, below = 1 << (k - 1), by_level[k], by_level[k - 1]
        np.maximum(below, here, out=below)
        # A run of this level begins where it ends within the shards.
        np.maximum(below[half:], here[: num_shards - half], out=below[half:])
    result: Ints = by_level[0]
    return result


def distinct(first: Ints, last: Ints, label: Ints, num_shards: int) -> Ints:
    """For each shard how many different labels the items have whose run holds it.

    The runs of each label are made disjoint (sorted, each begins where those before it ended),
    and then counted.

    Args:
        first: As in `sums`.
        last: As in `sums`.
        label: At least 0 and less than 2 ** 31, shape (num_items,).
        num_shards: At most 2 ** 16.
    """
    if not len(first):
        return np.zeros(num_shards, dtype=np.int64)
    # One sortable number for each run; equal runs of one label count once.
    width = np.int64(num_shards)
    key = (label.astype(np.int64) * width + first) * width + last
    key.sort()
    key = key[np.append(True, key[1:] != key[:-1])]
    begin, end = key // width, key // (width * width) * width + key % width + 1
    covered = np.maximum.accumulate(end)
    begin[1:] = np.maximum(begin[1:], covered[:-1])
    rows = begin < end
    begin, end = begin[rows], end[rows]
    base = (end - 1) // width * width
    return sums(begin - base, end - 1 - base, 1, num_shards)
