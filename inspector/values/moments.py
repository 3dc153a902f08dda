"""Count, least, largest, mean and spread of numbers: one pass, and any two parts add up.

Mean and sum of squared deviations of two parts are joined by the formula of Chan, Golub and LeVeque
("Updating formulae and a pairwise algorithm for computing sample variances", 1979). A block's own
deviations are taken from its own mean, so nothing cancels where the mean is large. All sums
are in float64; numpy adds up pairwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Moments"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of some finite numbers.

    Attributes:
        count: How many there are.
        mean: Their mean; 0 if there are none.
        m2: Sum of the squared deviations from it.
        low, high: The least and the largest; integers for integer elements, and then exact. Both
            are 0 if there are none.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    low: float | int = 0
    high: float | int = 0

    def __add__(self, other: Moments) -> Moments:
        """Both parts together."""
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * self.count * share,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def negated(self) -> Moments:
        """Of the same numbers, each with the other sign."""
        return Moments(self.count, -self.mean, self.m2, -self.high, -self.low)

    @property
    def std(self) -> float:
        """Standard deviation with Bessel's correction, as `torch.std`; NaN of fewer than two."""
        return math.sqrt(self.m2 / (self.count - 1)) if self.count > 1 else math.nan

    @property
    def l2(self) -> float:
        """Root of the sum of squares."""
        # Both terms are positive, so nothing cancels here either.
        return math.hypot(math.sqrt(self.m2), self.mean * math.sqrt(self.count))

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.hypot(math.sqrt(self.m2 / self.count), self.mean) if self.count else math.nan
