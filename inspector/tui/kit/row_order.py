"""Row orders: permutations of rows as integer arrays, stable, in either direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Ints", "SortKeys", "ordered", "sort_order"]

Ints: TypeAlias = npt.NDArray[np.int64]
SortKeys: TypeAlias = "npt.NDArray[Any] | Sequence[Any]"


def sort_order(keys: SortKeys, *, reverse: bool = False) -> Ints:
    """The permutation that sorts `keys`; rows with equal keys stay in their order.

    Args:
        keys: One key per row: an array (sorted by numpy) or any sequence of values that can be
            compared with each other.
        reverse: Largest first.
    """
    if isinstance(keys, np.ndarray):
        if not reverse:
            return np.argsort(keys, kind="stable").astype(np.int64, copy=False)
        # Sorting the reversed array and reversing the result keeps equal keys in order.
        last = len(keys) - 1
        backwards = np.argsort(keys[::-1], kind="stable")[::-1]
        return (last - backwards).astype(np.int64, copy=False)
    return np.asarray(
        sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse), dtype=np.int64
    )


def ordered(rows: Ints, permutation: Ints) -> Ints:
    """The rows of `rows`, in the order in which `permutation` has them."""
    wanted = np.zeros(len(permutation), dtype=np.bool_)
    wanted[rows] = True
    result: Ints = permutation[wanted[permutation]]
    return result
