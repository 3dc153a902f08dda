"""Elements of every type as float64 numbers, exactly.

Every float type of torch up to 64 bits fits into float64 without rounding; so do integers below
2**53 in size. Complex numbers become their absolute values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_numbers"]

Floats = npt.NDArray[np.float64]


def as_numbers(values: npt.NDArray[Any]) -> Floats:
    """An array of any type as float64, of the same shape; of complex numbers, the absolute values.

    The absolute value is taken in float64 (numpy's hypot), so it neither over- nor underflows for
    complex64. One of the parts NaN gives NaN, unless the other is infinite (as C99's hypot); see
    `nonfinite` for what counts as NaN.
    """
    if values.dtype.kind == "c":
        result: Floats = np.hypot(
            values.real.astype(np.float64, copy=False), values.imag.astype(np.float64, copy=False)
        )
        return result
    if values.dtype == np.float64:
        return values
    converted: Floats = values.astype(np.float64)
    return converted
