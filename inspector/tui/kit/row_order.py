"""Row orders: permutations of rows as integer arrays, stable, in either direction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Ints", "SortKeys", "natural_keys", "ordered", "sort_order"]

Ints: TypeAlias = npt.NDArray[np.int64]
SortKeys: TypeAlias = "npt.NDArray[Any] | Sequence[Any]"

_DIGITS = re.compile(r"\d+", re.ASCII)


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


def natural_keys(names: Sequence[str]) -> list[str]:
    """Keys that sort names as people do: `layers.2` before `layers.10`.

    A run of digits is prefixed with its length, so that plain string order is number order.
    """
    seen: dict[str, str] = {}

    def key(match: re.Match[str]) -> str:
        run = match[0]
        if (known := seen.get(run)) is None:
            digits = run.lstrip("0") or "0"
            # One character per length: beyond the range of digits that any real name has,
            # the length saturates and the digits decide.
            known = seen[run] = chr(48 + min(len(digits), 200)) + digits
        return known

    joined = "\n".join(names)
    if joined.count("\n") == max(0, len(names) - 1):
        # One substitution over everything is half the cost of one per name.
        return _DIGITS.sub(key, joined).split("\n") if names else []
    return [_DIGITS.sub(key, name) for name in names]
