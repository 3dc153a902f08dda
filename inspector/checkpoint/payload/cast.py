"""Floating point elements in another type: rounded once, to the nearest, ties to even.

What torch and ml_dtypes make of float64 in bfloat16 is rounded twice, by way of float32, and may
be a neighbour of the nearest. NaN stays NaN (its payload need not); what lies beyond the range
becomes an infinity, and is counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.payload.array import numpy_dtype

__all__ = ["CAST_DTYPES", "cast", "is_cast"]

#: torch's dtype name by what the command line takes.
CAST_DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_FLOATS = ("float", "bfloat")
_SLICE = 1 << 18

Array = npt.NDArray[Any]


def is_cast(dtype: str, target: str | None) -> bool:
    """Whether elements of a dtype change: floating point ones, float8 among them.

    Integers, bool and complex numbers never do, nor does what holds two values in an element.
    """
    is_float = dtype.startswith(_FLOATS) and not dtype.startswith("float4")
    return target is not None and is_float and dtype != target


def cast(source: Array, out: Array) -> int:
    """Fill `out` with the elements of `source`, in its type.

    Args:
        source: Floating point elements in numpy's or ml_dtypes' type, shape (n,).
        out: Likewise, of float32, float16 or bfloat16.

    Returns:
        How many finite elements became infinite.
    """
    num_lost = 0
    for start in range(0, len(source), _SLICE):
        piece, into = source[start : start + _SLICE], out[start : start + _SLICE]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            is_twice = piece.dtype == np.float64 and out.dtype == numpy_dtype("bfloat16")
            into[...] = (_to_odd(piece) if is_twice else piece).astype(out.dtype)
            lost = np.isinf(into)
            if lost.any():
                num_lost += int((lost & np.isfinite(piece)).sum())
    return num_lost


def _to_odd(values: Array) -> Array:
    """float64 as float32, the last bit set where something was cut off.

    Then rounding once more, to fewer bits, is as if it had been rounded once (Boldo, Melquiond:
    "When double rounding is odd", 2005).
    """
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    # Away from zero by rounding: one step back towards it.
    beyond = np.abs(back) > np.abs(values)
    bits = near.view(np.uint32)
    bits -= beyond.astype(np.uint32)
    bits |= ((back != values) & ~np.isnan(values)).astype(np.uint32)
    return near
