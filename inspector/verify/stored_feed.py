"""A payload's bytes, brought to a region of a loaded shard in the region's order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload import Payload
from inspector.checkpoint.payload_tensor import StoredTensor
from inspector.checkpoint.torch_zip import Record
from inspector.verify.compare import Bytes, Region

__all__ = ["Feed"]


class Feed:
    """Brings a payload's bytes to a region in the region's order.

    Contiguous elements go straight through, block by block. Others (strided, big-endian,
    conjugated, negated) are put together first, which takes as much memory as the payload.
    """

    def __init__(
        self, payload: Payload, tensor: StoredTensor, region: Region, start: list[int]
    ) -> None:
        self._tensor = tensor
        self._region = region
        self._start = start
        self._size = itemsize(tensor.dtype) or 1
        self._is_big = payload.byteorder == "big" and self._size > 1
        row = math.prod(tensor.shape[1:])
        self._is_plain = (
            tensor.is_contiguous
            and not (self._is_big or tensor.is_conj or tensor.is_neg)
            # A loaded shard is cut along dim 0 only, so this holds for every sound chunk.
            and region.sizes[1:] == tensor.shape[1:]
        )
        if self._is_plain:
            first = tensor.first + (start[0] * row if start else 0)
            self._begin = first * self._size
            self._end = self._begin + region.num_bytes
        else:
            self._begin, self._end = 0, tensor.needed_bytes
            self._whole: Bytes = np.empty(tensor.needed_bytes, np.uint8)

    def range(self, record: Record) -> tuple[int, int]:
        """The bytes of the record that are needed."""
        return self._begin, min(self._end, record.num_bytes)

    def take_all(self, blocks: Iterator[memoryview], at: int) -> None:
        for block in blocks:
            self.take(block, at)
            at += len(block)
            if at >= self._end:
                return

    def take(self, block: memoryview, at: int) -> None:
        """The bytes that stand at `at` in the record."""
        first, last = max(self._begin - at, 0), min(self._end - at, len(block))
        if first >= last:
            return
        if self._is_plain:
            self._region.feed(block[first:last])
        else:
            self._whole[at + first : at + last] = np.frombuffer(block[first:last], np.uint8)

    def finish(self) -> None:
        """All bytes were given."""
        if not self._is_plain:
            self._region.feed(self._put_together())

    def _put_together(self) -> Any:
        tensor, size = self._tensor, self._size
        is_complex = tensor.dtype.startswith("complex")
        width = size // 2 if is_complex else size
        # Complex elements as pairs of their parts.
        words: npt.NDArray[Any] = np.frombuffer(
            self._whole, f"{'>' if self._is_big else '<'}u{width}"
        )
        parts = size // width
        strides = tuple(s * size for s in tensor.strides) + (width,)
        first = [
            tensor.first + sum(i * s for i, s in zip(self._start, tensor.strides, strict=True))
        ]
        # numpy checks that these strides stay inside the buffer.
        view: npt.NDArray[Any] = np.ndarray(
            (*self._region.sizes, parts), words.dtype, self._whole.data, first[0] * size, strides
        )
        result = view.astype(f"<u{width}", order="C")
        sign = np.array(1 << (8 * width - 1), result.dtype)
        if tensor.is_conj and is_complex:
            result[..., 1] ^= sign
        if tensor.is_neg:
            if tensor.dtype.startswith(("complex", "float", "bfloat")):
                result ^= sign
            else:
                result[...] = ~result + np.array(1, result.dtype)
        return result.reshape(-1).view(np.uint8)
