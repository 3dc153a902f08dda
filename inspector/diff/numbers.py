"""The bytes of elements as numbers: how far two are apart, in value and in ulps.

One *ulp* is the step from a number to its neighbour: read as sign and magnitude, the bits of the
numbers of an IEEE-like format are integers in the order of their values, so the number of steps
between two is the difference of those integers. A zero and a negative zero are no step apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload.array import numpy_dtype
from inspector.checkpoint.payload.source import PayloadError

__all__ = [
    "UINTS",
    "FloatGaps",
    "both_nan",
    "distance",
    "float_gaps",
    "magnitude",
    "reader_of",
    "steps",
]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

#: The unsigned integer of as many bytes, little-endian.
UINTS: dict[int, np.dtype[Any]] = {n: np.dtype(f"<u{n}") for n in (1, 2, 4, 8)}


def both_nan(x: Array, y: Array) -> Bools:
    """Where both are NaN; of complex numbers, where what is not NaN in both is the same."""
    result: Bools = np.isnan(x) & np.isnan(y)
    if x.dtype.kind == "c" and y.dtype.kind == "c":
        for p, q in ((x.real, y.real), (x.imag, y.imag)):
            result &= (p == q) | (np.isnan(p) & np.isnan(q))
    return result


def reader_of(dtype: str) -> Any:
    """What makes numbers of the bytes of elements: float64, complex128 or integers; or None."""
    if dtype == "complex32":
        return lambda data: data.view("<f2").astype(np.float64).view(np.complex128)
    if dtype in ("complex64", "complex128"):
        stored = np.dtype(dtype).newbyteorder("<")
        return lambda data: data.view(stored).astype(np.complex128)
    if dtype == "bool":
        return lambda data: data != 0
    try:
        found = numpy_dtype(dtype)
    except PayloadError:
        return None
    if found.kind in "iu":
        return lambda data: data.view(found.newbyteorder("<"))
    if dtype == "bfloat16":
        # The upper half of a float32; numpy's loops over these are quicker than its package's.
        return lambda data: _float32_of(data).astype(np.float64)
    if found.isbuiltin == 1:
        found = found.newbyteorder("<")
    return lambda data: data.view(found).astype(np.float64)


def _float32_of(data: Bytes) -> Array:
    wide = data.view("<u2").astype("<u4")
    wide <<= np.uint32(16)
    result: Array = wide.view("<f4")
    return result


class FloatGaps(NamedTuple):
    """How floats of one type differ, pair by pair.

    Attributes:
        max_abs: The largest difference, in float64.
        at: Which pair has it, the first of such.
        max_rel: The largest relative one, to the larger of the two.
        max_ulps: The most steps between two.
        num_close: How many pairs are close.
    """

    max_abs: float
    at: int
    max_rel: float
    max_ulps: int
    num_close: int


# Types whose bits are sign and magnitude, and that float64 holds.
_PLAIN_FLOATS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# Between these, neither a difference nor a product with a tolerance leaves the normal numbers.
_LEAST, _MOST = 1e-280, 1e280
# What divides and multiplies may round by this much; closer to the tolerance, it is worked out.
_ROUNDED = 1e-9
# The same of float32, whose unit is 6e-8, with room for a bound that is rounded to it.
_NARROW = 1e-6


def float_gaps(
    a: Bytes, b: Bytes, dtype: str, atol: float, rtol: float, *, neighbours: bool
) -> FloatGaps | None:
    """The differences of many elements, in as few passes as will do; None: it is not so simple.

    It is where all are finite, of one sign pair by pair, and no pair has the same bits.

    Args:
        a: The bytes of the ones.
        b: The bytes of the others.
        dtype: The type of both.
        atol: A pair is close that is no further apart than this and `rtol` times the larger one.
        rtol: At least 1e-16, or 0.
        neighbours: Whether those are close that are one step apart.
    """
    size = _PLAIN_FLOATS.get(dtype)
    if size is None or not (rtol == 0 or _ROUNDED**2 < rtol < 1):
        return None
    p, q = a.view(f"<i{size}"), b.view(f"<i{size}")
    steps = np.bitwise_xor(p, q)
    if int(steps.min()) < 0:
        return None
    np.subtract(p, q, out=steps)
    np.abs(steps, out=steps)
    if size < 8 and not atol:
        found = _narrow_gaps(_narrow(a, dtype), _narrow(b, dtype), steps, rtol, neighbours)
        if found is not None:
            return found
    read = reader_of(dtype)
    x, y = read(a), read(b)
    gap = np.subtract(x, y)
    np.abs(gap, out=gap)
    np.abs(x, out=x)
    np.abs(y, out=y)
    scale = np.maximum(x, y, out=x)
    at = int(gap.argmax())
    max_abs = float(gap[at])
    # NaN is in no order, so that one of either makes this false.
    if not (scale.min() > _LEAST and scale.max() < _MOST and max_abs < _MOST):
        return None
    rel = np.divide(gap, scale, out=y)
    least, most = float(rel.min()), float(rel.max())
    num_close = None
    if not atol and most < rtol * (1 - _ROUNDED):
        num_close = len(gap)
    elif not atol and least > rtol * (1 + _ROUNDED) and not (neighbours and steps.min() <= 1):
        num_close = 0
    if num_close is None:
        scale *= rtol
        scale += atol
        close = gap <= scale
        if neighbours:
            close |= steps <= 1
        num_close = int(np.count_nonzero(close))
    return FloatGaps(max_abs, at, most, int(steps.max()), num_close)


def _narrow(data: Bytes, dtype: str) -> Array:
    """Elements of at most 32 bits as float32, which holds them."""
    if dtype == "bfloat16":
        return _float32_of(data)
    if dtype == "float16":
        return data.view("<f2").astype("<f4")
    return data.view("<f4")


def _narrow_gaps(
    x: Array, y: Array, steps: Array, rtol: float, neighbours: bool
) -> FloatGaps | None:
    """As `float_gaps`, in float32, of pairs of which neither is half the other or less.

    The difference of two such is exact (Sterbenz's lemma: "Floating-Point Computation", 1974). A
    quotient is rounded once, so that it tells which few are to be divided again in float64.

    Args:
        x: The ones.
        y: The others, of the same signs.
        steps: The steps between them.
        rtol: As of `float_gaps`; pairs are close by it alone.
        neighbours: Likewise.
    """
    gap = np.subtract(x, y)
    np.abs(gap, out=gap)
    scale, rel = np.abs(x), np.abs(y)
    np.maximum(scale, rel, out=scale)
    np.divide(gap, scale, out=rel)
    rough = float(rel.max())
    # NaN is in no order; it is in the quotient, too, where a number is infinite.
    if not (rough < 0.5 and np.isfinite(scale.max())):
        return None

    def in_float64(chosen: Array) -> Array:
        result: Array = gap[chosen].astype(np.float64) / scale[chosen].astype(np.float64)
        return result

    most = float(in_float64(np.flatnonzero(rel >= rough * (1 - _NARROW))).max())
    at = int(gap.argmax())
    if most < rtol * (1 - _ROUNDED):
        num_close = len(gap)
    elif rel.min() > rtol * (1 + _NARROW) and not (neighbours and steps.min() <= 1):
        num_close = 0
    else:
        close = rel < rtol * (1 + _NARROW)
        unsure = np.flatnonzero(close & (rel > rtol * (1 - _NARROW)))
        close[unsure] = gap[unsure].astype(np.float64) <= scale[unsure].astype(np.float64) * rtol
        if neighbours:
            close |= steps <= 1
        num_close = int(np.count_nonzero(close))
    return FloatGaps(float(gap[at]), at, most, int(steps.max()), num_close)


def distance(x: Array, y: Array) -> Array:
    """|x - y|; exact, as uint64, for integers of one sign each."""
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    if y.dtype.kind == "b":
        y = y.astype(np.uint8)
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        if (x.dtype == np.uint64) == (y.dtype == np.uint64):
            # Modulo 2**64 the larger minus the smaller is right, whatever overflowed before.
            larger, smaller = np.maximum(x, y), np.minimum(x, y)
            result: Array = _wrapped(larger) - _wrapped(smaller)
            return result
        x, y = x.astype(np.float64), y.astype(np.float64)
    if "c" in (x.dtype.kind, y.dtype.kind):
        gap: Array = np.abs(x - y)
        return gap
    difference: Array = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return difference


def _wrapped(x: Array) -> Array:
    result: Array = x.astype(np.int64 if x.dtype.kind == "i" else np.uint64).view(np.uint64)
    return result


def magnitude(x: Array) -> Array:
    """|x| as float64."""
    if x.dtype.kind == "c":
        size: Array = np.abs(x)
        return size
    result: Array = np.abs(x.astype(np.float64))
    return result


def steps(a: Bytes, b: Bytes, dtype: str, count: int) -> Array:
    """Steps between the numbers of two blocks, uint64, shape (count,).

    Args:
        a: The bytes of the ones; of complex numbers, both parts.
        b: The bytes of the others.
        dtype: The float type of a part.
        count: How many there are; of two parts of a complex number the larger one counts.
    """
    size = itemsize(dtype) or 1
    x, y = _ranks(a.view(UINTS[size]), dtype), _ranks(b.view(UINTS[size]), dtype)
    # Ranks of 64-bit floats are up to 2**63 apart from zero: their difference needs uint64.
    steps = np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)
    result: Array = steps.reshape(count, -1).max(axis=1)
    return result


def _ranks(bits: Array, dtype: str) -> npt.NDArray[np.int64]:
    """The place of each number in the order of its format; 0 and -0 share one."""
    if dtype == "float8_e8m0fnu":
        # Exponents alone, without a sign.
        return bits.astype(np.int64)
    size = bits.dtype.itemsize
    signed = bits.view(f"<i{size}").astype(np.int64)
    magnitude = signed & np.int64((1 << (8 * size - 1)) - 1)
    result: npt.NDArray[np.int64] = np.where(signed < 0, -magnitude, magnitude)
    return result
