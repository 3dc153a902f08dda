"""Two blocks of the same elements -> a `Tally` of how they differ; tallies add up.

The rule this module keeps: equal blocks cost one comparison of their bytes, and what is computed
of different ones is taken a few elements at a time, so that memory stays small whatever differs.

Differences of floats are taken in float64, which holds every narrower type exactly (complex
numbers: in complex128); those of integers exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload.source import PayloadError
from inspector.checkpoint.text import plural, printable
from inspector.diff.model import TensorDiff, Tolerance, Verdict
from inspector.diff.numbers import (
    UINTS,
    both_nan,
    distance,
    float_gaps,
    magnitude,
    reader_of,
    steps,
)

__all__ = ["Comparer", "Tally", "index_of", "judged", "may_be_reordered", "mixed_sums", "reordered"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

# Arrays of so many numbers come from the heap: larger ones are mapped anew each time.
_STEP = 1 << 16
_WORD = (1 << 64) - 1
#: Every place of a part.
_ALL = np.arange(_STEP)
# Odd numbers without a pattern: multiplying by one, and folding the upper half in, mixes all bits.
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True, slots=True)
class Tally:
    """What comparing some elements gave; positions are in row-major order over the tensor.

    The attributes are those of `TensorDiff`, with positions for indices; and `imbalance`: the sum
    (mod 2**64) of the bits of A's different elements, less that of B's. Over a whole tensor it is
    0 if A and B hold the same elements in another order, and seldom else.
    """

    num_compared: int = 0
    num_different: int = 0
    first: int | None = None
    max_abs: float | int | None = None
    max_abs_at: int | None = None
    max_rel: float | None = None
    max_ulps: int | None = None
    num_not_close: int = 0
    num_non_finite: int = 0
    first_non_finite: int | None = None
    num_nan_both: int = 0
    imbalance: int = 0

    def __add__(self, other: Tally) -> Tally:
        largest = max(
            ((t.max_abs, -(t.max_abs_at or 0)) for t in (self, other) if t.max_abs is not None),
            default=(None, 0),
        )
        return Tally(
            self.num_compared + other.num_compared,
            self.num_different + other.num_different,
            _least(self.first, other.first),
            largest[0],
            None if largest[0] is None else -largest[1],
            _most(self.max_rel, other.max_rel),
            _most(self.max_ulps, other.max_ulps),
            self.num_not_close + other.num_not_close,
            self.num_non_finite + other.num_non_finite,
            _least(self.first_non_finite, other.first_non_finite),
            self.num_nan_both + other.num_nan_both,
            (self.imbalance + other.imbalance) & _WORD,
        )


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _most(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else max(a, b)


class Comparer:
    """Compares blocks of elements of two dtypes.

    Args:
        dtype_a, dtype_b: torch's names. If they are the same, elements are compared bit by bit,
            otherwise as numbers.
        tolerance: What counts as close.

    Raises:
        PayloadError: The dtypes differ, and one cannot be read as numbers.
        MissingPackageError: A package is needed for that.
    """

    def __init__(self, dtype_a: str, dtype_b: str, tolerance: Tolerance | None = None) -> None:
        tolerance = tolerance or Tolerance()
        self.is_same_dtype = dtype_a == dtype_b
        self._sizes = itemsize(dtype_a) or 1, itemsize(dtype_b) or 1
        self._read = reader_of(dtype_a), reader_of(dtype_b)
        if not self.is_same_dtype and None in self._read:
            raise PayloadError(f"{dtype_a} and {dtype_b} cannot be compared as numbers")
        self._rtol = max(tolerance.rtol_of(dtype_a), tolerance.rtol_of(dtype_b))
        self._atol = tolerance.atol
        self._neighbours_are_close = tolerance.rtol is None
        self._dtype = dtype_a
        self._float = dtype_a if dtype_a.startswith(("float", "bfloat")) else _COMPLEX.get(dtype_a)

    def compare(self, a: Bytes, b: Bytes, start: int) -> Tally:
        """The tally of a block.

        Args:
            a: The bytes of A's elements, little-endian, contiguous.
            b: The bytes of B's, likewise.
            start: Position of the first one in the tensor.
        """
        size_a, size_b = self._sizes
        count = len(a) // size_a
        if self.is_same_dtype and _same_bytes(a, b):
            return Tally(count)
        found = Tally()
        # NaN and overflows are expected, and counted; signalling NaN "fail" when they are cast.
        with np.errstate(all="ignore"):
            for at in range(0, count, _STEP):
                part_a = a[at * size_a : (at + _STEP) * size_a]
                part_b = b[at * size_b : (at + _STEP) * size_b]
                found = found + self._part(part_a, part_b, start + at)
        return found

    def different(self, a: Bytes, b: Bytes) -> Bools:
        """Which elements of a block differ, shape (elements,)."""
        if self.is_same_dtype:
            return _different_bits(a, b, self._sizes[0])
        read_a, read_b = self._read
        assert read_a is not None and read_b is not None  # noqa: S101 - looked at before
        with np.errstate(all="ignore"):
            return _different_numbers(read_a(a), read_b(b))

    def _part(self, a: Bytes, b: Bytes, start: int) -> Tally:
        size_a, size_b = self._sizes
        count = len(a) // size_a
        at = _true(self.different(a, b))
        if not len(at):
            return Tally(count)
        first = start + int(at[0])
        read_a, read_b = self._read
        bits_a, bits_b = _chosen(a, at, size_a), _chosen(b, at, size_b)
        balance = 1  # Numbers of two dtypes are not counted out.
        if self.is_same_dtype:
            balance = (_sum(bits_a, size_a) - _sum(bits_b, size_b)) & _WORD
        if read_a is None or read_b is None:
            found = Tally(count, len(at), first, num_not_close=len(at))
            return replace(found, imbalance=balance)
        if self.is_same_dtype and self._float is not None:
            gaps = float_gaps(
                *(bits_a, bits_b, self._dtype, self._atol, self._rtol),
                neighbours=self._neighbours_are_close,
            )
            if gaps is not None:
                return Tally(
                    count,
                    len(at),
                    first,
                    gaps.max_abs,
                    start + int(at[gaps.at]),
                    gaps.max_rel,
                    gaps.max_ulps,
                    len(at) - gaps.num_close,
                    imbalance=balance,
                )
        ulps = None
        if self._float is not None and self.is_same_dtype:
            ulps = steps(bits_a, bits_b, self._float, len(at))
        found = self._measured(read_a(bits_a), read_b(bits_b), ulps, at + start, count)
        return replace(found, imbalance=balance)

    def _measured(self, x: Array, y: Array, ulps: Array | None, at: Array, count: int) -> Tally:
        """The tally of different elements.

        Args:
            x: Their values in A.
            y: Their values in B.
            ulps: The steps between them, or None.
            at: Their positions.
            count: Elements that were compared, the same ones included.
        """
        finite = np.isfinite(x) & np.isfinite(y)
        nan_both = both_nan(x, y)
        gap, scale = distance(x, y), np.maximum(magnitude(x), magnitude(y))
        rel = np.where(scale > 0, gap / np.where(scale > 0, scale, 1), 0.0)
        close = gap <= self._atol + self._rtol * scale
        over = np.flatnonzero(finite & ~(np.isfinite(gap) & np.isfinite(scale)))
        if len(over):
            # Finite, but their difference (or a complex number's size) is not: taken of quarters.
            p, q = x[over] / 4, y[over] / 4
            gap_4, scale_4 = distance(p, q), np.maximum(magnitude(p), magnitude(q))
            rel[over] = gap_4 / scale_4
            close[over] = gap_4 <= self._atol / 4 + self._rtol * scale_4
        if ulps is not None and self._neighbours_are_close:
            close |= ulps <= 1
        close = (close & finite) | nan_both
        bad = np.flatnonzero(~finite & ~nan_both)
        tally: dict[str, Any] = {}
        if finite.any():
            usable = np.flatnonzero(finite)
            best = usable[int(np.argmax(gap[usable]))]
            tally["max_abs"] = gap[best].item()
            tally["max_abs_at"] = int(at[best])
            tally["max_rel"] = float(rel[usable].max())
            if ulps is not None:
                tally["max_ulps"] = int(ulps[usable].max())
        return Tally(
            count,
            len(at),
            int(at[0]),
            num_not_close=int(len(at) - np.count_nonzero(close)),
            num_non_finite=len(bad),
            first_non_finite=int(at[bad[0]]) if len(bad) else None,
            num_nan_both=int(np.count_nonzero(nan_both)),
            **tally,
        )


def _true(chosen: Bools) -> Array:
    """The places of a part that are true."""
    if np.count_nonzero(chosen) == len(chosen):
        return _ALL[: len(chosen)]
    return np.flatnonzero(chosen)


def _sum(data: Bytes, size: int) -> int:
    """The sum of the elements' bits, as far as 64 bits hold it."""
    return int(data.view(UINTS.get(size, "<u8")).sum(dtype=np.uint64))


def mixed_sums(data: Bytes, size: int) -> tuple[int, int]:
    """Two sums over the elements' bits, mixed, that do not depend on their order.

    Of other elements both are the same by chance alone (2**-128).

    Args:
        data: Bytes of elements, little-endian, contiguous.
        size: Bytes of an element.
    """
    if size in UINTS:
        words = data.view(UINTS[size]).astype(np.uint64)
    else:
        parts = data.view("<u8").reshape(-1, size // 8)
        words = parts[:, 0].copy()
        for column in range(1, size // 8):
            words *= _MIX[2]
            words ^= (words >> np.uint64(31)) + parts[:, column]
    words += np.uint64(1)
    words *= _MIX[0]
    words ^= words >> np.uint64(32)
    words *= _MIX[1]
    words ^= words >> np.uint64(29)
    first = int(words.sum())
    words *= words | np.uint64(1)
    words ^= words >> np.uint64(32)
    return first, int(words.sum())


def _chosen(data: Bytes, at: Array, size: int) -> Bytes:
    """The bytes of the elements at these places, one after the other."""
    if len(at) * size == len(data):
        return data
    chosen: Bytes = data.view(f"V{size}")[at].view(np.uint8)
    return chosen


def _same_bytes(a: Bytes, b: Bytes) -> bool:
    whole = len(a) & ~7
    words = np.array_equal(a[:whole].view(np.uint64), b[:whole].view(np.uint64))
    return bool(words) and bool((a[whole:] == b[whole:]).all())


def _different_bits(a: Bytes, b: Bytes, size: int) -> Bools:
    if size in UINTS:
        result: Bools = a.view(UINTS[size]) != b.view(UINTS[size])
        return result
    differs: Bools = (a.view("<u8") != b.view("<u8")).reshape(-1, size // 8).any(axis=1)
    return differs


def _different_numbers(x: Array, y: Array) -> Bools:
    """Elements that are not the same number; NaN is the same as NaN."""
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        # numpy compares a signed and an unsigned integer exactly from 2.0 on, before in float64.
        negative = (x < 0) != (y < 0)
        result: Bools = negative | (x.astype(np.uint64) != y.astype(np.uint64))
        return result
    differs: Bools = (x != y) & ~both_nan(x, y)
    return differs


def index_of(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of an element from its position in row-major order."""
    index = []
    for size in reversed(shape):
        position, i = divmod(position, size)
        index.append(i)
    return tuple(reversed(index))


def judged(diff: TensorDiff, tally: Tally, error: str) -> TensorDiff:
    """What the metadata said of a tensor, with what its elements say."""
    shape = diff.shape_a or ()

    def index(position: int | None) -> tuple[int, ...] | None:
        return None if position is None else index_of(position, shape)

    is_whole = not error and tally.num_compared == diff.num_elements
    max_abs, max_rel = tally.max_abs, tally.max_rel
    if is_whole and not tally.num_different:
        max_abs, max_rel = 0, 0.0
    return replace(
        diff,
        verdict=_verdict(diff, tally, is_whole=is_whole),
        num_compared=tally.num_compared,
        num_different=tally.num_different,
        first_index=index(tally.first),
        max_abs=max_abs,
        max_abs_index=index(tally.max_abs_at),
        max_rel=max_rel,
        max_ulps=tally.max_ulps,
        num_not_close=tally.num_not_close,
        num_non_finite=tally.num_non_finite,
        first_non_finite=index(tally.first_non_finite),
        num_nan_both=tally.num_nan_both,
        detail=_detail(diff, tally, error, is_whole=is_whole),
    )


def may_be_reordered(diff: TensorDiff, tally: Tally) -> bool:
    """Whether a tensor may hold the same elements in another order, by a sum of their bits."""
    is_whole = tally.num_compared == diff.num_elements
    return diff.verdict != "DTYPE" and is_whole and tally.num_different > 1 and not tally.imbalance


def reordered(diff: TensorDiff) -> TensorDiff:
    """A tensor that was found to hold the same elements in another order."""
    parts = ["the same elements in another order", *([diff.detail] if diff.detail else [])]
    return replace(diff, is_reordered=True, detail="; ".join(parts))


def _verdict(diff: TensorDiff, tally: Tally, *, is_whole: bool) -> Verdict:
    if diff.verdict == "DTYPE":
        return "DTYPE"
    if tally.num_non_finite:
        return "NON_FINITE"
    if tally.num_not_close:
        return "DIFFER"
    if not is_whole or not tally.num_compared:
        # Close as far as it goes is different all the same.
        return "DIFFER" if tally.num_different else "NOT_COMPARED"
    return "CLOSE" if tally.num_different else "EXACT"


def _detail(diff: TensorDiff, tally: Tally, error: str, *, is_whole: bool) -> str:
    parts = []
    if diff.verdict == "DTYPE":
        parts.append(f"{diff.dtype_a} in A, {diff.dtype_b} in B")
        if is_whole and not tally.num_different:
            parts.append("every value is the same number")
    if tally.num_nan_both:
        parts.append(f"{plural(tally.num_nan_both, 'NaN')} with other payload bits")
    if not is_whole:
        left = diff.num_elements - tally.num_compared
        what = plural(left, "element") if tally.num_compared else "values"
        parts.append(f"{what} not compared: {printable(error, 400) or 'it was stopped'}")
    return "; ".join(parts)
