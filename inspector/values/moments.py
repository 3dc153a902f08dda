"""Count, least, largest, mean and spread of numbers: one pass, and any two parts add up.

Mean and deviation of two parts are joined by the formula of Chan, Golub and LeVeque
("Updating formulae and a pairwise algorithm for computing sample variances", 1979). A block's own
deviations are taken from its own mean, so nothing cancels where the mean is large. All sums
are in float64; numpy adds up pairwise. What is kept is a root, as the squares of float64 numbers
need not be ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Moments", "as_numbers"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of some finite numbers.

    Attributes:
        count: How many there are.
        mean: Their mean; 0 if there are none.
        deviation: Root of the mean of the squared deviations from it (without Bessel's correction).
        low, high: The least and the largest; integers for integer elements, and then exact. Both
            are 0 if there are none.
    """

    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    low: float | int = 0
    high: float | int = 0

    def __add__(self, other: Moments) -> Moments:
        """Both parts together."""
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        mine, its = self.count / count, other.count / count
        # Halves, for the difference of two float64 may not fit into one.
        apart = (other.mean / 2 - self.mean / 2) * (2 * math.sqrt(mine * its))
        return Moments(
            count,
            self.mean * mine + other.mean * its,
            math.hypot(self.deviation * math.sqrt(mine), other.deviation * math.sqrt(its), apart),
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def negated(self) -> Moments:
        """Of the same numbers, each with the other sign."""
        return Moments(self.count, -self.mean, self.deviation, -self.high, -self.low)

    @property
    def std(self) -> float:
        """Standard deviation with Bessel's correction, as `torch.std`; NaN of fewer than two."""
        if self.count < 2:
            return math.nan
        return self.deviation * math.sqrt(self.count / (self.count - 1))

    @property
    def l2(self) -> float:
        """Root of the sum of squares."""
        # Both terms are positive, so nothing cancels here either.
        return math.sqrt(self.count) * math.hypot(self.deviation, self.mean)

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.hypot(self.deviation, self.mean) if self.count else math.nan


def as_numbers(values: npt.NDArray[Any]) -> Floats:
    """An array of any type as float64, of the same shape; of complex numbers, the absolute values.

    The absolute value is taken in float64 (numpy's hypot), so it neither over- nor underflows for
    complex64. One of the parts NaN gives NaN, unless the other is infinite (as C99's hypot); see
    `nonfinite` for what counts as NaN.
    """
    if values.dtype.kind == "c":
        return np.hypot(
            values.real.astype(np.float64, copy=False), values.imag.astype(np.float64, copy=False)
        )
    if values.dtype == np.float64:
        return values
    return values.astype(np.float64)
