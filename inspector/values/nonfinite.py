"""Where a number is in a tensor: the first element equal to it, in C order.

The statistics know the least and the largest number but not where they are; a second reading, as
far as the first of them, tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import read_box
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.storage.base import Storage
from inspector.errors import Cancelled
from inspector.values.moments import as_numbers
from inspector.values.places import Places, places_of

__all__ = ["NonFinite", "ValueScan", "boxes_in_order", "find_first", "has_non_finite", "scan_of"]

_BOX_BYTES = 16 << 20


def find_first(
    checkpoint: Checkpoint,
    storage: Storage,
    tensor: Tensor,
    number: float | int,
    *,
    progress: Callable[[int, int], bool] | None = None,
) -> tuple[int, ...] | None:
    """The least index in C order of an element equal to a number; None if there is none.

    Args:
        checkpoint: Where it is.
        storage: Its folder.
        tensor: The tensor; of complex elements, absolute values are compared.
        number: A finite number, as `TensorStats` gives it.
        progress: Called between reads with the bytes of elements that were read, and of all;
            True stops.

    Raises:
        Cancelled: `progress` said so.
        PayloadError, MissingPackageError, StorageError: As `read_box`.
    """
    size = itemsize(tensor.dtype) or 1
    done = 0
    for low, sizes in boxes_in_order(tensor.shape, max(_BOX_BYTES // size, 1)):
        if progress is not None and progress(done * size, tensor.num_bytes):
            raise Cancelled("the search was stopped")
        box = tuple(slice(a, a + n) for a, n in zip(low, sizes, strict=True))
        values, held = read_box(checkpoint, storage, tensor, box)
        hits = np.flatnonzero(_equal(values, number) & held)
        if len(hits):
            inside = np.unravel_index(int(hits[0]), sizes) if sizes else ()
            return tuple(a + int(i) for a, i in zip(low, inside, strict=True))
        done += math.prod(sizes)
    return None


def _equal(values: npt.NDArray[Any], number: float | int) -> npt.NDArray[np.bool_]:
    if values.dtype.kind in "iub":
        # Not as float64: large integers that differ may be equal there.
        result: npt.NDArray[np.bool_] = values == int(number)
        return result
    found: npt.NDArray[np.bool_] = as_numbers(values) == number
    return found


def boxes_in_order(
    shape: Sequence[int], most: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Boxes of at most `most` elements that cover a shape, each after the other in C order.

    Yields:
        Lower corner and sizes.
    """
    if 0 in shape:
        return
    # The last dims that fit whole; the one before them is cut; the dims before that are stepped.
    whole = 1
    cut = len(shape)
    while cut and whole * shape[cut - 1] <= most:
        cut -= 1
        whole *= shape[cut]
    if not cut:
        yield (0,) * len(shape), tuple(shape)
        return
    length = max(most // whole, 1)
    tail = tuple(shape[cut:])
    for outer in np.ndindex(*shape[: cut - 1]):
        for start in range(0, shape[cut - 1], length):
            count = min(length, shape[cut - 1] - start)
            yield (*outer, start, *(0,) * len(tail)), (*(1,) * len(outer), count, *tail)


Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Format:
    """How a float format spells NaN and infinity: bits without the sign, compared.

    `inf` is the pattern of infinity, or None; patterns from `nan` on (or, for `exact`, only that
    one, sign included) are NaN.
    """

    unit: str
    magnitude: int
    nan: int
    inf: int | None
    exact: bool = False
    parts: int = 1


_IEEE = {
    "float64": _Format("u8", (1 << 63) - 1, 0x7FF0000000000001, 0x7FF0000000000000),
    "float32": _Format("u4", 0x7FFFFFFF, 0x7F800001, 0x7F800000),
    "float16": _Format("u2", 0x7FFF, 0x7C01, 0x7C00),
    "bfloat16": _Format("u2", 0x7FFF, 0x7F81, 0x7F80),
}

_FORMATS: dict[str, _Format] = {
    **_IEEE,
    "complex32": replace(_IEEE["float16"], parts=2),
    "bcomplex32": replace(_IEEE["bfloat16"], parts=2),
    "complex64": replace(_IEEE["float32"], parts=2),
    "complex128": replace(_IEEE["float64"], parts=2),
    "float8_e5m2": _Format("u1", 0x7F, 0x7D, 0x7C),
    "float8_e4m3fn": _Format("u1", 0x7F, 0x7F, None),
    "float8_e4m3fnuz": _Format("u1", 0xFF, 0x80, None, exact=True),
    "float8_e5m2fnuz": _Format("u1", 0xFF, 0x80, None, exact=True),
    "float8_e8m0fnu": _Format("u1", 0xFF, 0xFF, None, exact=True),
}


def has_non_finite(dtype: str) -> bool:
    """True if the dtype can hold NaN or infinities (integers, bool and float4 cannot)."""
    return dtype in _FORMATS


@dataclass(frozen=True, slots=True)
class NonFinite:
    """What was found: counts, and the least index in C order of each kind (None if none)."""

    num_nan: int = 0
    num_inf: int = 0
    first_nan: tuple[int, ...] | None = None
    first_inf: tuple[int, ...] | None = None

    def __add__(self, other: NonFinite) -> NonFinite:
        """Both together. Indices compare as tuples, which is C order."""
        return NonFinite(
            self.num_nan + other.num_nan,
            self.num_inf + other.num_inf,
            _least(self.first_nan, other.first_nan),
            _least(self.first_inf, other.first_inf),
        )

    def moved(self, offsets: Sequence[int]) -> NonFinite:
        """With indices counted from another corner: a chunk's own to the tensor's."""
        return replace(
            self,
            first_nan=_moved(self.first_nan, offsets),
            first_inf=_moved(self.first_inf, offsets),
        )


def _least(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if a is None or b is None:
        return a if b is None else b
    return min(a, b)


def _moved(index: tuple[int, ...] | None, offsets: Sequence[int]) -> tuple[int, ...] | None:
    return None if index is None else tuple(i + o for i, o in zip(index, offsets, strict=True))


def scan_of(tensor: StoredTensor, byteorder: str = "little") -> ValueScan | None:
    """A scan for this tensor's storage, or None if its strides give elements no place of their own.

    torch.save of a transposed tensor stores it as it lies in memory, with its strides.
    """
    places = places_of(tensor)
    return None if places is None else ValueScan(places, byteorder)


class ValueScan:
    """Looks at a storage's bytes as they come, block after block, from its start.

    Each block must hold whole elements. `found` sums up what was seen, in the chunk's own indices.
    """

    def __init__(self, places: Places, byteorder: str) -> None:
        self.found = NonFinite()
        self._places = places
        self._format = _FORMATS[places.tensor.dtype]
        order = ">" if byteorder == "big" else "<"
        self._dtype = np.dtype(order + self._format.unit)
        self._at = 0
        self._scratch: npt.NDArray[Any] = np.empty(0, self._dtype)

    def skip(self, num_bytes: int) -> None:
        """Pass over the next bytes of the storage: there is neither NaN nor infinity in them."""
        self._at += num_bytes // (self._dtype.itemsize * self._format.parts)

    def feed(self, block: memoryview) -> None:
        """Look at the next bytes of the storage."""
        form = self._format
        count = len(block) // self._dtype.itemsize
        bits = np.frombuffer(block, self._dtype, count)
        if len(self._scratch) < count:
            self._scratch = np.empty(count, self._dtype.newbyteorder("="))
        low = self._scratch[:count]
        np.bitwise_and(bits, bits.dtype.type(form.magnitude), out=low)
        at, self._at = self._at, self._at + count // form.parts
        lowest = form.nan if form.inf is None else form.inf
        if count == 0 or (not form.exact and int(low.max()) < lowest):
            return
        is_nan = low == form.nan if form.exact else low >= form.nan
        is_inf = low == form.inf if form.inf is not None else None
        num_nan, first_nan = self._count(is_nan, at)
        num_inf, first_inf = self._count(is_inf, at)
        self.found += NonFinite(num_nan, num_inf, first_nan, first_inf)

    def _count(self, mask: Mask | None, at: int) -> tuple[int, tuple[int, ...] | None]:
        """How many elements of the tensor the mask marks, and the least index of them."""
        if mask is None or not mask.any():
            return 0, None
        if self._format.parts == 2:
            pairs = mask[: len(mask) // 2 * 2].reshape(-1, 2)
            mask = pairs[:, 0] | pairs[:, 1]
        index, inside = self._places.index(np.flatnonzero(mask) + at)
        if not inside.any():
            return 0, None
        index = index[:, inside]
        # lexsort's last key is the first to sort by.
        least = np.lexsort(index[::-1])[0] if len(index) else 0
        first = tuple(index[:, least].tolist())
        return index.shape[1] * self._places.repeats, first
