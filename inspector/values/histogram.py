"""A histogram that is counted in one pass, in blocks, and drawn over any range afterwards.

A number's bin is its sign, its exponent and the first four bits of its mantissa as float64 has
them: the upper 16 bits of its pattern. So bins are 1/16 of a power of two wide, for every element
type alike; no range is needed beforehand; and histograms of blocks add up exactly, in any order.
Bars over a range are drawn from the bins, each bin spread evenly over its width, and rounded so
that every element is in one bar. (The idea is that
of HdrHistogram and DDSketch: relative, not absolute, resolution.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Bars", "Histogram", "keys_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SIGN = 0x8000
_LARGEST = float(np.finfo(np.float64).max)


def keys_of(numbers: Floats) -> npt.NDArray[np.uint16]:
    """The bin of each number: the upper 16 bits of its float64 pattern."""
    patterns = np.ascontiguousarray(numbers).view(np.uint64)
    result: npt.NDArray[np.uint16] = (patterns >> np.uint64(48)).astype(np.uint16)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """What is drawn.

    Attributes:
        edges: Borders of the bars, rising, shape (n + 1,). For the scale `log`, of |value|.
        counts: Elements in each bar, shape (n,); whole numbers that add up to all of them. Where a
            bin straddles a border, how many are on which side is estimated.
        num_zero: Zeros that are in no bar: a scale of powers of two has no place for them.
        scale: `linear`: bars of one width over the values; `log`: over |value|, bars of a
            constant ratio.
    """

    edges: Floats
    counts: Floats
    num_zero: int
    scale: Literal["linear", "log"]


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of the finite numbers by bin, without the bins that are empty.

    Attributes:
        keys: The bins, rising, shape (n,) uint16: see `keys_of`.
        counts: How many numbers are in each, shape (n,).
        num_zero: Zeros of either sign; they are in no bin.
    """

    keys: npt.NDArray[np.uint16]
    counts: Ints
    num_zero: int = 0

    @classmethod
    def empty(cls) -> Histogram:
        return cls(np.zeros(0, np.uint16), np.zeros(0, np.int64))

    @classmethod
    def of(cls, numbers: Floats, counts: Ints, num_zero: int) -> Histogram:
        """From numbers, none of them 0, and how often each occurs; both of shape (n,)."""
        keys, where = np.unique(keys_of(numbers), return_inverse=True)
        sums = np.zeros(len(keys), np.int64)
        np.add.at(sums, where, counts)
        return cls(keys, sums, num_zero)

    def repeated(self, times: int) -> Histogram:
        """Every number counted so many times."""
        return Histogram(self.keys, self.counts * times, self.num_zero * times)

    def negated(self) -> Histogram:
        """Of the same numbers, each with the other sign."""
        keys = self.keys ^ np.uint16(_SIGN)
        order = np.argsort(keys)
        return Histogram(keys[order], self.counts[order], self.num_zero)

    @property
    def num_elements(self) -> int:
        return int(self.counts.sum()) + self.num_zero

    def __add__(self, other: Histogram) -> Histogram:
        """Both together."""
        if not len(other.keys):
            return Histogram(self.keys, self.counts, self.num_zero + other.num_zero)
        keys, where = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        return Histogram(keys, counts, self.num_zero + other.num_zero)

    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper border of each bin, as values, each of shape (n,)."""
        magnitude = (self.keys & (_SIGN - 1)).astype(np.uint64)
        near = (magnitude << np.uint64(48)).view(np.float64)
        far = ((magnitude + 1) << np.uint64(48)).view(np.float64)
        is_negative = self.keys >= _SIGN
        return np.where(is_negative, -far, near), np.where(is_negative, -near, far)

    def linear(self, num_bars: int, low: float, high: float) -> Bars:
        """Bars of one width from `low` to `high`, the least and the largest number in it.

        Args:
            num_bars: How many.
            low: Where the first begins.
            high: Where the last ends.
        """
        is_range, only = high > low, low
        if not is_range:
            pad = abs(low) * 0.5 or 0.5
            low, high = max(low - pad, -_LARGEST), min(low + pad, _LARGEST)
        # Halves, for the difference of two float64 may not fit into one.
        step = np.linspace(0.0, 1.0, num_bars + 1)
        edges = low * (1 - step) + high * step
        lower, upper = self.bounds()
        # No number lies outside of [low, high], so neither does the part of a bin that has any.
        counts = _spread(np.clip(lower, low, high), np.clip(upper, low, high), self.counts, edges)
        if not is_range and only:
            # All are one number, which is in one bar.
            counts = np.zeros(num_bars)
            at = int(np.searchsorted(edges, only, side="right")) - 1
            counts[min(max(at, 0), num_bars - 1)] = float(self.counts.sum())
        elif is_range:
            # The least and the largest are in the first bar and the last, whatever the estimate.
            for at, end in ((0, low), (-1, high)):
                if end and not counts[at]:
                    counts[np.flatnonzero(counts)[at]] -= 1
                    counts[at] = 1
        if self.num_zero:
            at = int(np.clip(np.searchsorted(edges, 0.0, side="right") - 1, 0, num_bars - 1))
            counts[at] += self.num_zero
        return Bars(edges, counts, 0, "linear")

    def log(self, num_bars: int) -> Bars:
        """Bars of a constant ratio over |value|, from the smallest number that is not 0."""
        keys = self.keys & (_SIGN - 1)
        if not len(keys):
            return Bars(np.array([0.0, 1.0]), np.zeros(1), self.num_zero, "log")
        bins = np.bincount(keys, self.counts, minlength=1)
        used = np.flatnonzero(bins).astype(np.uint64)
        near = np.maximum((used << np.uint64(48)).view(np.float64), 5e-324)
        far = ((used + np.uint64(1)) << np.uint64(48)).view(np.float64)
        far = np.where(np.isfinite(far), far, _LARGEST)
        low, high = np.log2(near), np.log2(far)
        edges = np.linspace(low[0], high[-1], num_bars + 1)
        counts = _spread(low, high, bins[used.astype(np.int64)], edges)
        with np.errstate(over="ignore"):
            edges = np.minimum(np.exp2(edges), _LARGEST)
        return Bars(edges, counts, self.num_zero, "log")


def _spread(lower: Floats, upper: Floats, counts: npt.NDArray[Any], edges: Floats) -> Floats:
    """Counts of bins shared out among bars in proportion to the overlap, as whole numbers."""
    if not len(lower):
        return np.zeros(len(edges) - 1)
    order = np.argsort(lower, kind="stable")
    lower, upper, counts = lower[order], upper[order], counts[order]
    # The numbers below each border: bins wholly below it, and a share of the one around it.
    below = np.zeros(len(edges))
    sums = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    at = np.searchsorted(lower, edges, side="right") - 1
    inside = at >= 0
    bins = at[inside]
    width = upper[bins] - lower[bins]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share = np.where(width > 0, (edges[inside] - lower[bins]) / width, 1.0)
    below[inside] = sums[bins] + counts[bins] * np.clip(np.nan_to_num(share), 0.0, 1.0)
    below[0], below[-1] = 0.0, sums[-1]
    # Rounded before the difference, so that what is left of one bar is in the next.
    return np.maximum(np.diff(np.rint(below)), 0.0)
