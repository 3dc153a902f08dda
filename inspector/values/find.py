"""Where a number is in a tensor: the first element equal to it, in C order.

The statistics know the least and the largest number but not where they are; a second reading, as
far as the first of them, tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload_array import read_box
from inspector.checkpoint.storage import Storage
from inspector.errors import Cancelled
from inspector.values.numbers import as_numbers

__all__ = ["boxes_in_order", "find_first"]

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
