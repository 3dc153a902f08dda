"""One chunk's bytes, block after block -> `Summary`: its moments, histogram, NaN and infinities.

Types of up to 16 bits are counted by pattern, so that what is summed up in the end are at most
65,536 numbers, each times how often it occurs. Wider ones are converted to float64 in pieces that
stay in the processor's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload.array import numpy_dtype
from inspector.values.histogram import Histogram
from inspector.values.moments import Moments, as_numbers
from inspector.values.nonfinite import NonFinite, ValueScan, has_non_finite
from inspector.values.places import Places

__all__ = ["ChunkTally", "Summary"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_PIECE = 1 << 16
# From so many elements on, a table of 65,536 patterns costs less than converting each element.
_MANY = 1 << 14
# A float32 pattern without its lower bits: sign, exponent, four bits of mantissa.
_SHIFT32, _KEYS32 = 19, 1 << 13
# Numbers whose squares, and sums of any number of those, are well within float64.
_LEAST_SQUARED, _MOST_SQUARED = 1e-100, 1e140


@dataclass(frozen=True, slots=True)
class Summary:
    """What some elements are. Summaries of parts add up.

    Attributes:
        num_read: All elements, finite or not.
        moments: Of the finite ones.
        histogram: Of the finite ones, zeros included.
        non_finite: NaN and infinities.
    """

    num_read: int
    moments: Moments
    histogram: Histogram
    non_finite: NonFinite

    @classmethod
    def empty(cls) -> Summary:
        return cls(0, Moments(), Histogram.empty(), NonFinite())

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.num_read + other.num_read,
            self.moments + other.moments,
            self.histogram + other.histogram,
            self.non_finite + other.non_finite,
        )


class ChunkTally:
    """Sums up a storage's bytes as they come, from its start; each block holds whole elements.

    Args:
        places: Where the tensor's elements are in the storage.
        byteorder: `little` or `big`.

    Raises:
        PayloadError: numpy has no such element type.
        MissingPackageError: It takes ml_dtypes.
    """

    def __init__(self, places: Places, byteorder: str = "little") -> None:
        tensor = places.tensor
        size = itemsize(tensor.dtype) or 0
        numpy_dtype(tensor.dtype)
        self._places = places
        self._order = ">" if byteorder == "big" else "<"
        self._scan = ValueScan(places, byteorder) if has_non_finite(tensor.dtype) else None
        self._num_bytes = size
        self._at = self._num_read = 0
        self._sums: _Patterns | _Numbers
        if size <= 2 and (size == 1 or tensor.num_elements >= _MANY):
            self._sums = _Patterns(tensor.dtype)
        else:
            self._sums = _Numbers(tensor.dtype)

    def feed(self, block: memoryview) -> None:
        """Add the next bytes of the storage."""
        count = len(block) // self._num_bytes
        if not count:
            return
        chosen = self._places.select(self._at, count)
        self._at += count
        stored = np.dtype(self._order + self._sums.unit)
        # Complex elements are two units each.
        raw = np.frombuffer(block, stored, len(block) // stored.itemsize)
        raw = raw.reshape(count, -1)[chosen].reshape(-1)
        self._num_read += len(raw) * stored.itemsize // self._num_bytes
        if not stored.isnative:
            raw = raw.astype(stored.newbyteorder("="))
        with np.errstate(over="ignore", invalid="ignore"):
            seen = self._sums.add(raw)
        if self._scan is None:
            return
        if seen:
            self._scan.feed(block)
        else:
            self._scan.skip(len(block))

    def result(self) -> Summary:
        """The sum of what was fed, in the chunk's own indices."""
        with np.errstate(over="ignore", invalid="ignore"):
            moments, histogram = self._sums.result()
        times = self._places.repeats
        if times > 1:
            moments = replace(moments, count=moments.count * times)
            histogram = histogram.repeated(times)
        if self._places.tensor.is_neg and self._sums.is_signed:
            moments, histogram = moments.negated(), histogram.negated()
        found = NonFinite() if self._scan is None else self._scan.found
        return Summary(self._num_read * times, moments, histogram, found)


@lru_cache(maxsize=32)
def _table(dtype: str) -> Floats:
    """The number of each pattern of a type of one or two bytes."""
    bits = 8 * (itemsize(dtype) or 1)
    patterns = np.arange(1 << bits, dtype=np.uint8 if bits == 8 else np.uint16)
    # Any byte but 0 is True, as for torch.
    patterns = (patterns != 0).view(np.uint8) if dtype == "bool" else patterns
    with np.errstate(invalid="ignore"):
        return as_numbers(patterns.view(numpy_dtype(dtype)))


def _exact(number: np.generic, is_integer: bool) -> float | int:
    return int(number) if is_integer else float(number)


class _Patterns:
    """Counts the patterns of a type of one or two bytes."""

    def __init__(self, dtype: str) -> None:
        self._table = _table(dtype)
        self._counts = np.zeros(len(self._table), np.int64)
        self._bad = np.flatnonzero(~np.isfinite(self._table))
        self._is_integer = numpy_dtype(dtype).kind in "iub"
        self.is_signed = True
        self.unit = "u1" if len(self._table) == 256 else "u2"

    def add(self, patterns: Array) -> bool:
        """Add elements by their patterns; True if there is a NaN or infinity among them."""
        # As the integers that bincount wants; it would make them itself, of all at once.
        scratch = np.empty(min(len(patterns), 4 * _PIECE), np.intp)
        seen = np.zeros(len(self._table), np.int64)
        for at in range(0, len(patterns), 4 * _PIECE):
            part = patterns[at : at + 4 * _PIECE]
            keys = scratch[: len(part)]
            keys[...] = part
            seen += np.bincount(keys, minlength=len(self._table))
        self._counts += seen
        return bool(seen[self._bad].any())

    def result(self) -> tuple[Moments, Histogram]:
        used = np.flatnonzero(self._counts)
        numbers, counts = self._table[used], self._counts[used]
        finite = np.isfinite(numbers)
        numbers, counts = numbers[finite], counts[finite]
        if not len(numbers):
            return Moments(), Histogram.empty()
        count = int(counts.sum())
        mean = float((numbers * counts).sum()) / count
        deviation = math.sqrt(float(((numbers - mean) ** 2 * counts).sum()) / count)
        low, high = (_exact(n, self._is_integer) for n in (numbers.min(), numbers.max()))
        is_zero = numbers == 0
        histogram = Histogram.of(numbers[~is_zero], counts[~is_zero], int(counts[is_zero].sum()))
        return Moments(count, mean, deviation, low, high), histogram


class _Numbers:
    """Sums up elements of any type as float64 numbers."""

    def __init__(self, dtype: str) -> None:
        kind = numpy_dtype(dtype)
        self._is_float32 = kind == np.float32
        self._is_integer = kind.kind in "iub"
        self._moments = Moments()
        self._counts = np.zeros(_KEYS32 if self._is_float32 else 1 << 16, np.int64)
        #: Zeros, and negative ones.
        self._num_zero = self._num_negative_zero = 0
        self._scratch = np.empty(0, np.float64)
        self._keys = np.empty(0, np.intp)
        self._bits = np.empty(0, np.uint32)
        self._table: Floats | None = None
        self._parts = 1
        self.is_signed = kind.kind != "c"
        self.unit = kind.str[1:]
        if dtype == "complex32":
            self.unit, self._parts = "f2", 2
        elif kind.kind == "c":
            self.unit, self._parts = f"f{kind.itemsize // 2}", 2
        elif kind.itemsize == 2:
            self._table, self.unit = _table(dtype), "u2"

    def add(self, raw: Array) -> bool:
        """Add elements; True if there is a NaN or infinity among them."""
        seen = False
        step = _PIECE * self._parts * (2 if self.unit in ("f8", "i8", "u8") else 1)
        room = min(step, len(raw)) // self._parts
        if len(self._scratch) < room:
            self._scratch = np.empty(room, np.float64)
            self._keys = np.empty(room, np.intp)
            self._bits = np.empty(room if self._is_float32 else 0, np.uint32)
        for at in range(0, len(raw), step):
            seen |= self._add_piece(raw[at : at + step])
        return seen

    def _add_piece(self, part: Array) -> bool:
        if self._parts == 2:
            values = numbers = _absolute(part.reshape(-1, 2))
        else:
            values = part if self._table is None else self._table[part]
            numbers = self._scratch[: len(values)]
            numbers[...] = values
        keys = self._keys[: len(numbers)]
        if self._is_float32:
            bits = np.right_shift(part.view(np.uint32), _SHIFT32, out=self._bits[: len(part)])
            keys[...] = bits
        else:
            keys[...] = np.right_shift(numbers.view(np.uint64), np.uint64(48))
        counts = np.bincount(keys, minlength=len(self._counts))
        self._counts += counts
        half = len(counts) // 2
        top = half - 16
        seen = not self._is_integer and bool(counts[top:half].any() or counts[top + half :].any())
        if counts[0] or counts[half]:
            num_zero = len(values) - int(np.count_nonzero(values))
            self._num_zero += num_zero
            if counts[half]:
                self._num_negative_zero += (
                    int(np.signbit(values[values == 0]).sum()) if counts[0] else num_zero
                )
        if seen:
            finite = np.isfinite(values)
            values, numbers = values[finite], numbers[finite]
        if len(values):
            low, high = (_exact(n, self._is_integer) for n in (values.min(), values.max()))
            self._moments += _moments(numbers, low, high)
        return seen

    def result(self) -> tuple[Moments, Histogram]:
        counts = self._counts.copy()
        half = len(counts) // 2
        if not self._is_integer:
            counts[half - 16 : half] = counts[-16:] = 0
        # Zeros were counted with what is almost zero, and is of their sign.
        counts[0] -= self._num_zero - self._num_negative_zero
        counts[half] -= self._num_negative_zero
        used = np.flatnonzero(counts)
        if self._is_float32:
            edges = (used.astype(np.uint32) << np.uint32(_SHIFT32)).view(np.float32)
            numbers = edges.astype(np.float64)
            least = float(np.finfo(np.float32).smallest_subnormal)
            numbers = np.where(numbers == 0, np.copysign(least, numbers), numbers)
        else:
            numbers = (used.astype(np.uint64) << np.uint64(48)).view(np.float64)
        return self._moments, Histogram.of(numbers, counts[used], self._num_zero)


def _absolute(pairs: Array) -> Floats:
    """Absolute values of complex numbers, from their parts, shape (n, 2)."""
    if pairs.dtype == np.float64:
        # Squares would leave float64's range. As in C99, hypot(inf, nan) is inf: not finite anyhow.
        return np.hypot(pairs[:, 0], pairs[:, 1])
    wide = pairs.astype(np.float64)
    np.multiply(wide, wide, out=wide)
    squares: Floats = wide[:, 0] + wide[:, 1]
    return np.sqrt(squares, out=squares)


def _moments(numbers: Floats, low: float | int, high: float | int) -> Moments:
    """The moments of numbers, which are overwritten."""
    count = len(numbers)
    largest = max(abs(float(low)), abs(float(high)))
    scale = 1.0
    if largest and not _LEAST_SQUARED < largest < _MOST_SQUARED:
        # Sums or squares would leave float64's range. By a power of two, so nothing is rounded.
        scale = 2.0 ** (math.frexp(largest)[1] - 1)
        np.divide(numbers, scale, out=numbers)
    mean = float(numbers.sum()) / count
    numbers -= mean
    numbers *= numbers
    deviation = math.sqrt(float(numbers.sum()) / count)
    return Moments(count, mean * scale, deviation * scale, low, high)
