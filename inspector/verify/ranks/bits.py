"""Loaded bytes against stored bytes, bit for bit: one rank's part of one entry.

The rule this module keeps: elements are compared as bit patterns, never as numbers, so that NaN,
-0.0 and every element type are equal exactly if their bits are; and what was not compared is
counted, not passed over.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DIFFERENT", "POISON", "Local", "Region", "RegionTally", "bits_of"]

#: What every byte of a target is filled with before it is loaded.
POISON = 0xA5

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
_COMPARED, DIFFERENT = 1, 2
_PIECE_BYTES = 1 << 20


def _find_memcmp() -> Callable[[int, int, int], int] | None:
    try:
        found = ctypes.CDLL(None).memcmp
    except (OSError, AttributeError, TypeError):  # Windows
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    found.restype = ctypes.c_int
    return found


_memcmp = _find_memcmp()


def _same(a: Bytes, b: Bytes) -> bool:
    if _memcmp is not None:
        return _memcmp(a.ctypes.data, b.ctypes.data, len(a)) == 0
    return bool(np.array_equal(a, b))


def bits_of(element: bytes, byteorder: str = "little") -> str:
    """The bit pattern of one element in hex: `0x3f800000`."""
    if byteorder == "little":
        element = element[::-1]
    return "0x" + element.hex()


def index_in(number: int, sizes: Sequence[int], offsets: Sequence[int]) -> tuple[int, ...]:
    """The index in a tensor of an element of a box, by its place in C order there."""
    inside = np.unravel_index(number, tuple(sizes)) if sizes else ()
    return tuple(int(i) + o for i, o in zip(inside, offsets, strict=True))


@dataclass(slots=True)
class Local:
    """What one rank holds of an entry: a box of it, as bytes in C order.

    Attributes:
        data: Its bytes.
        offsets: Where the box lies in the whole tensor.
        sizes: Its extent.
        itemsize: Bytes of one element.
    """

    data: Bytes
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    itemsize: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.sizes)

    def head(self, num_bytes: int) -> Local:
        """Its first rows, of not more bytes than these (but one row, at least)."""
        if not self.sizes or len(self.data) <= num_bytes:
            return self
        row = math.prod(self.sizes[1:]) * self.itemsize
        rows = max(num_bytes // row, 1)
        return replace(self, data=self.data[: rows * row], sizes=(rows, *self.sizes[1:]))

    def part(self, offsets: Sequence[int], sizes: Sequence[int]) -> Bytes:
        """The bytes of a box (in the tensor's indices) in C order: a view if they lie together."""
        where = tuple(
            slice(o - mine, o - mine + n)
            for o, mine, n in zip(offsets, self.offsets, sizes, strict=True)
        )
        if all(n == m for n, m in zip(sizes[1:], self.sizes[1:], strict=True)):
            row = math.prod(self.sizes[1:]) * self.itemsize
            first, last = (where[0].start, where[0].stop) if where else (0, 1)
            return self.data[first * row : last * row]
        grid = self.data.reshape(*self.sizes, self.itemsize)
        return np.ascontiguousarray(grid[where]).reshape(-1)


@dataclass(slots=True)
class RegionTally:
    """What one rank found out about one entry.

    Attributes:
        fqn: Its raw name.
        num_elements: Elements the rank holds (bytes, for a bytes entry).
        num_compared: Of those, compared with a stored payload.
        num_different: Of those, different; `is_partial` if there may be more.
        num_unwritten: Of those, still as they were before loading.
        num_uncovered: Elements that no stored chunk holds.
        first_index: Least index, in the whole tensor, of an element that is wrong.
        expected, found: Its bit patterns, as stored and as loaded.
        file: Raw path of the data file concerned.
        problems: (verdict, text) of whatever else is wrong.
        bytes_read: Bytes the independent reader took from storage for it.
        entry: Its position in the checkpoint, bytes entries after the tensors; -1 if not known.
        marks: Of each element of the rank's part, whether it was compared (1), and was different
            (2), shape (num_elements,). Only where chunks overlap: an element counts once.
    """

    fqn: str
    num_elements: int
    num_compared: int = 0
    num_different: int = 0
    num_unwritten: int = 0
    num_uncovered: int = 0
    first_index: tuple[int, ...] | None = None
    expected: str | None = None
    found: str | None = None
    file: str | None = None
    is_partial: bool = False
    bytes_read: int = 0
    entry: int = -1
    marks: Bytes | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)

    def differ(
        self, index: tuple[int, ...], expected: str | None, found: str | None, file: str | None
    ) -> None:
        """Note one wrong element; the one with the least index is kept."""
        if self.first_index is None or index < self.first_index:
            self.first_index, self.expected, self.found = index, expected, found
            self.file = file

    def problem(self, verdict: str, text: str, file: str | None = None) -> None:
        """Note what is wrong besides differing elements; a text only once."""
        if (verdict, text) not in self.problems:
            self.problems.append((verdict, text))
        self.file = self.file or file

    def add(self, part: RegionTally) -> None:
        """Take in what was found out about more of the entry."""
        self.num_elements += part.num_elements
        self.num_compared += part.num_compared
        self.num_different += part.num_different
        self.num_unwritten += part.num_unwritten
        self.num_uncovered += part.num_uncovered
        self.bytes_read += part.bytes_read
        self.is_partial |= part.is_partial
        self.entry = part.entry
        if part.first_index is not None:
            self.differ(part.first_index, part.expected, part.found, part.file)
        self.file = self.file or part.file
        for verdict, text in part.problems:
            self.problem(verdict, text)

    @property
    def verdict(self) -> str:
        """The worst of what was found; EXACT only if every element was compared and is equal."""
        found = {verdict for verdict, _ in self.problems}
        for verdict in ("SHAPE", "DTYPE"):
            if verdict in found:
                return verdict
        if self.num_uncovered or "MISSING" in found:
            return "MISSING"
        if "FAILED" in found:
            return "FAILED"
        if self.num_different or self.is_partial or "DIFFER" in found:
            return "DIFFER"
        if self.num_compared < self.num_elements - self.num_uncovered:
            return "FAILED"
        return "EXACT" if self.num_elements else "EMPTY"

    @property
    def detail(self) -> str:
        """What is wrong in words; empty if nothing is."""
        parts = [text for _, text in self.problems]
        if self.num_uncovered:
            parts.append(f"no stored chunk holds {self.num_uncovered:,} of its elements here")
        if self.num_unwritten:
            parts.append(f"{self.num_unwritten:,} elements were never written by the load")
        if not parts and self.num_compared < self.num_elements:
            missed = self.num_elements - self.num_compared
            parts.append(f"{missed:,} elements could not be compared")
        return "; ".join(parts)


class Region:
    """The part of a local shard that one chunk covers; is fed the stored bytes in C order.

    Args:
        local: The shard.
        offsets, sizes: The common box, in the tensor's indices.
        tally: Where differences go.
        file: Raw path of the chunk's file.
    """

    def __init__(
        self,
        local: Local,
        offsets: tuple[int, ...],
        sizes: tuple[int, ...],
        tally: RegionTally,
        file: str,
    ) -> None:
        self.offsets = offsets
        self.sizes = sizes
        self._itemsize = local.itemsize
        self._local = local
        self._tally = tally
        self._file = file
        self._data = local.part(offsets, sizes)
        self._at = 0

    @property
    def num_bytes(self) -> int:
        return math.prod(self.sizes) * self._itemsize

    def feed(self, stored: Any) -> None:
        """Compare the next bytes; whole elements."""
        block = np.frombuffer(stored, np.uint8)
        mine = self._data[self._at : self._at + len(block)]
        if not _same(block, mine):
            for begin in range(0, len(block), _PIECE_BYTES):
                end = begin + _PIECE_BYTES
                self._count(block[begin:end], mine[begin:end], self._at + begin)
        count = len(block) // self._itemsize
        if self._tally.marks is not None:
            first = self._at // self._itemsize
            count = len(self._newly(_COMPARED, np.arange(first, first + count)))
        self._at += len(block)
        self._tally.num_compared += count

    def _count(self, stored: Bytes, mine: Bytes, at: int) -> None:
        size = self._itemsize
        wrong = (stored != mine).reshape(-1, size).any(axis=1)
        where = np.flatnonzero(wrong)
        if not len(where):
            return
        fresh = where
        if self._tally.marks is not None:
            fresh = self._newly(DIFFERENT, at // size + where) - at // size
        self._tally.num_different += len(fresh)
        rows = mine.reshape(-1, size)[fresh]
        self._tally.num_unwritten += int((rows == POISON).all(axis=1).sum())
        first = int(where[0])
        index = index_in(at // size + first, self.sizes, self.offsets)
        begin = first * size
        self._tally.differ(
            index,
            bits_of(stored[begin : begin + size].tobytes()),
            bits_of(mine[begin : begin + size].tobytes()),
            self._file,
        )

    def _newly(self, mark: int, numbers: Ints) -> Ints:
        """Those of the region's elements, counted in C order, that had no such mark yet."""
        marks = self._tally.marks
        places = np.zeros(len(numbers), np.int64)
        if self.sizes:
            inside = np.unravel_index(numbers, self.sizes)
            shifts = zip(inside, self.offsets, self._local.offsets, strict=True)
            moved = tuple(i + (offset - mine) for i, offset, mine in shifts)
            places = np.ravel_multi_index(moved, self._local.sizes)
        assert marks is not None  # noqa: S101 - looked at before
        fresh: Ints = numbers[(marks[places] & mark) == 0]
        marks[places] |= mark
        return fresh
