"""The repeated records of a metadata pickle, found and read all at once.

A large metadata file is one small thing said a million times: a chunk's box, and where a chunk is
stored. Pickle writes each time the same opcodes around a few numbers and names. Here the opcodes
are learned from the first such record (`ChunkForm`, `StoredForm`), and every other place of the
file that has exactly them is read by numpy, field by field for all records together.

Nothing is decided here: whether a record really is one, and not the inside of a string, is for
`splice.py` to prove. Numbers come out within bounds: not negative, below 2 ** 62.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.fields import (
    DIMS,
    GET,
    INT,
    INT_OR_NONE,
    INTEGER,
    NEW,
    SIZE,
    SIZED,
    Bytes,
    Ints,
    PickleBytes,
    RecordPart,
    Texts,
    flat_dims,
    starts_of,
    words_of,
)

__all__ = [
    "ChunkForm",
    "Chunks",
    "StoredForm",
    "StoredRecords",
    "objects",
]

# Records read together: enough to be quick, few enough that what they need stays in the cache.
_BLOCK = 1 << 15
_SCAN_BYTES = 1 << 18

_BUILT = b"ub"  # SETITEMS BUILD
_TEXT = rb"(?:%b|\x8c.{1,300}?\x94)" % GET

_CHUNK = re.compile(
    rb"(?P<new>%(get)b)\)\x81\x94}\x94\("
    rb"(?P<offsets>%(get)b)(?P<size>%(get)b)%(tuple)b"
    rb"(?P<sizes>%(get)b)(?P=size)%(tuple)bub" % {b"get": GET, b"tuple": SIZE},
    re.DOTALL,
)
_STORED = re.compile(
    rb"(?P<new>%(get)b)\)\x81\x94}\x94\("
    rb"(?P<fqn>%(get)b)%(text)b(?P<index>%(get)b)(?:N|%(int)b)"
    rb"(?P<offset>%(get)b)(?P<size>%(get)b)%(tuple)bub"
    rb"(?P<info>%(get)b)\)\x81\x94}\x94\("
    rb"(?P<path>%(get)b)%(text)b(?P<start>%(get)b)(?:%(int)b)(?P<length>%(get)b)(?:%(int)b)ub"
    % {b"get": GET, b"tuple": SIZE, b"text": _TEXT, b"int": INTEGER},
    re.DOTALL,
)


def objects(
    data: Bytes, end: int, kinds: Sequence[tuple[bytes, int, int]], tell: Callable[[int], None]
) -> list[Ints]:
    """Where objects of some kinds may begin in `data[:end]`: a GET, and `NEW`.

    All are looked for in one pass over the bytes, while those are in the cache.

    Args:
        data: With `PAD` bytes after the end.
        end: Where to stop.
        kinds: GET of each kind's class; and from where to where its objects are of interest.
        tell: Told the bytes that were looked through.
    """
    words = words_of(data)
    wanted, mask = _word_of(NEW[1:])
    found = [GrowingColumn(np.int64) for _ in kinds]
    for first in range(0, end, _SCAN_BYTES):
        last = min(first + _SCAN_BYTES, end)
        at = np.flatnonzero(data[first:last] == NEW[1]) + first
        at = at[(words[at] & mask) == wanted]
        for (new, low, high), column in zip(kinds, found, strict=True):
            if last <= low or first >= high or not new:
                continue
            starts = at - (len(new) + 1)
            if first < low + len(new) + 1 or last > high:
                starts = starts[(starts >= max(low, 0)) & (starts < high)]
            value, bits = _word_of(new + NEW[:1])
            column.add(starts[(words[starts] & bits) == value])
        tell(first)
    return [column.filled() for column in found]


def _word_of(text: bytes) -> tuple[np.uint64, np.uint64]:
    """At most eight bytes as a little-endian number, and which of its bits they are."""
    return np.uint64(int.from_bytes(text, "little")), np.uint64((1 << 8 * len(text)) - 1)


class GrowingColumn:
    """A column that is filled block by block; memory is taken as it is filled.

    Args:
        kind: Of its numbers.
        count: How many are expected.
    """

    def __init__(self, kind: Any, count: int = 1 << 16) -> None:
        self._data = np.empty(max(count, 1), kind)
        self._end = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Some more, as numbers of the column's kind."""
        end = self._end + len(values)
        if end > len(self._data):
            more = np.empty(max(end, 2 * len(self._data)), self._data.dtype)
            more[: self._end] = self._data[: self._end]
            self._data = more
        self._data[self._end : end] = values
        self._end = end

    def filled(self) -> npt.NDArray[Any]:
        """What was added."""
        return self._data[: self._end]


def _num_memo(ndim: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
    """Memo entries that a `torch.Size` of so many dims makes (none for -1, no size at all)."""
    return np.where(ndim > 0, 3, np.where(ndim == 0, 2, 0))


def _kept(values: npt.NDArray[Any], ok: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    return values if ok.all() else values[ok]


def _filled(
    starts: Ints,
    kinds: Sequence[Any],
    read: Callable[[Ints], Sequence[npt.NDArray[Any]]],
    tell: Callable[[int], None],
) -> list[Any]:
    """The columns that a function makes of places, a block after the other."""
    columns = [GrowingColumn(kind, len(starts)) for kind in kinds]
    for first in range(0, len(starts), _BLOCK):
        block = starts[first : first + _BLOCK]
        for column, values in zip(columns, read(block), strict=True):
            column.add(values)
        tell(int(block[-1]))
    return [column.filled() for column in columns]


@dataclass(slots=True)
class Chunks:
    """`ChunkStorageMetadata` records that follow the form.

    Attributes:
        start, length: Where each lies, and its bytes.
        num_memo: Memo entries that each makes.
        ndim: Dims of its box.
        box: Place of each record's dims in `offsets` and `sizes`, with one more at the end.
    """

    start: Ints
    length: npt.NDArray[np.int16]
    num_memo: npt.NDArray[np.int8]
    ndim: npt.NDArray[np.int8]
    box: Ints
    offsets: Ints
    sizes: Ints


@dataclass(frozen=True, slots=True)
class ChunkForm:
    """How a `ChunkStorageMetadata` is written: the memo references (GET opcodes) in it."""

    new: bytes
    offsets: bytes
    sizes: bytes
    size: bytes

    @classmethod
    def learn(cls, pickle: memoryview, begin: int) -> ChunkForm | None:
        """The form of the first record after `begin`, or None if there is none soon."""
        match = _CHUNK.search(pickle, begin, begin + (1 << 20))
        return match and cls(**match.groupdict())

    @property
    def refs(self) -> bytes:
        """GETs of the class, the two keys and `torch.Size`."""
        return self.new + self.offsets + self.sizes + self.size

    def read(self, scan: PickleBytes, starts: Ints, tell: Callable[[int], None]) -> Chunks:
        """Read the records that follow the form.

        Args:
            scan: The pickle without frames.
            starts: Where such a record may begin, from `objects`.
            tell: Told the bytes that were looked through.
        """
        begin = self.new + NEW + self.offsets + self.size
        first = RecordPart(begin, DIMS, SIZED + self.sizes + self.size)
        second = RecordPart(DIMS, SIZED + _BUILT)

        def read(block: Ints) -> tuple[npt.NDArray[Any], ...]:
            offset = first.read(scan, block)
            size = second.read(scan, offset.end)
            ok = offset.ok & size.ok & (offset.ndim == size.ndim)
            dims = _kept(offset.ndim, ok)
            return (
                _kept(block, ok),
                _kept(size.end - block, ok),
                2 + 2 * _num_memo(dims),
                dims,
                flat_dims(_kept(offset.dims, ok), dims),
                flat_dims(_kept(size.dims, ok), dims),
            )

        kinds = (np.int64, np.int16, np.int8, np.int8, np.int64, np.int64)
        start, length, num_memo, ndim, offsets, sizes = _filled(starts, kinds, read, tell)
        return Chunks(start, length, num_memo, ndim, starts_of(np.maximum(ndim, 0)), offsets, sizes)


@dataclass(slots=True)
class StoredRecords:
    """Pairs of `MetadataIndex` and `_StorageInfo` that follow the form.

    Attributes:
        start, length: Where each lies, and its bytes.
        num_memo: Memo entries that each makes: the name is the third, if it is given here, and
            the path the last.
        name_length, name_ref: Bytes of the fqn, or else its memo number (not -1).
        path_at, path_length, path_ref: The data file's path, likewise, and its place after `start`.
        index: Hint of the chunk's position in its tensor's list, or -1.
        ndim: Dims of the chunk offset; -1 if there is none (a bytes entry).
        box: Place of each record's dims in `offsets`, with one more at the end.
        name_at: Place of the fqn after `start`.
    """

    start: Ints
    length: npt.NDArray[np.int16]
    num_memo: npt.NDArray[np.int8]
    name_length: npt.NDArray[np.int16]
    name_ref: npt.NDArray[np.int32]
    path_at: npt.NDArray[np.int16]
    path_length: npt.NDArray[np.int16]
    path_ref: npt.NDArray[np.int32]
    index: npt.NDArray[np.int32]
    ndim: npt.NDArray[np.int8]
    byte_offset: Ints
    byte_length: Ints
    offsets: Ints
    box: Ints
    name_at: int

    def text(self, which: str, rows: slice) -> Texts:
        """The `name` or the `path` of some records."""
        if which == "name":
            at = self.start[rows] + self.name_at
            length, ref = self.name_length[rows], self.name_ref[rows]
        else:
            at = self.start[rows] + self.path_at[rows]
            length, ref = self.path_length[rows], self.path_ref[rows]
        return Texts(at, length.astype(np.int64), ref.astype(np.int64))


#: Of the first columns of `StoredRecords`, up to its offsets.
_STORED_KINDS = (
    *(np.int64, np.int16, np.int8, np.int16, np.int32, np.int16),
    *(np.int16, np.int32, np.int32, np.int8, np.int64, np.int64, np.int64),
)


@dataclass(frozen=True, slots=True)
class StoredForm:
    """How a `MetadataIndex` and its `_StorageInfo` are written: the memo references in them."""

    new: bytes
    fqn: bytes
    index: bytes
    offset: bytes
    size: bytes
    info: bytes
    path: bytes
    start: bytes
    length: bytes

    @classmethod
    def learn(cls, pickle: memoryview, begin: int) -> StoredForm | None:
        """The form of the first record after `begin`, or None if there is none soon."""
        match = _STORED.search(pickle, begin, begin + (1 << 20))
        return match and cls(**match.groupdict())

    @property
    def refs(self) -> bytes:
        """GETs of the classes, the keys and `torch.Size`, in the order of the attributes."""
        return (
            self.new + self.fqn + self.index + self.offset + self.size + self.info + self.path
        ) + (self.start + self.length)

    def read(self, scan: PickleBytes, starts: Ints, tell: Callable[[int], None]) -> StoredRecords:
        """Read the records that follow the form; arguments as for chunks."""
        segments = self._segments()
        begin = self.new + NEW + self.fqn
        columns = _filled(starts, _STORED_KINDS, lambda at: self._rows(scan, segments, at), tell)
        columns += [starts_of(np.maximum(columns[9], 0)), len(begin) + 2]
        return StoredRecords(*columns)

    def _segments(self) -> tuple[RecordPart, ...]:
        """Index; offset, where there is one; byte offset and length."""
        return (
            RecordPart(self.index, INT_OR_NONE),
            RecordPart(self.offset + self.size, DIMS, SIZED + self._middle),
            RecordPart(self.start, INT, self.length, INT, _BUILT),
        )

    @property
    def _middle(self) -> bytes:
        return _BUILT + self.info + NEW + self.path

    def _rows(
        self, scan: PickleBytes, segments: tuple[RecordPart, ...], start: Ints
    ) -> tuple[Any, ...]:
        begin = self.new + NEW + self.fqn
        ok = scan.begin_so(start, begin)
        is_text, at, name = scan.texts(start + len(begin))
        index = segments[0].read(scan, at)
        offset = segments[1].read(scan, index.end)
        at, ndim = offset.end, offset.ndim
        bare = np.flatnonzero(~offset.ok)
        if len(bare):
            # Those of bytes entries have no offset.
            ndim[bare] = -1
            at[bare] = index.end[bare] + len(self._middle)
            ok[bare] &= scan.begin_so(index.end[bare], self._middle)
        is_path, at, path = scan.texts(at)
        numbers = segments[2].read(scan, at)
        ok &= is_text & index.ok & is_path & numbers.ok & (index.ints[0] < 1 << 31)
        num_memo = 4 + _num_memo(ndim) + (name.ref < 0) + (path.ref < 0)
        columns: list[Any] = [start, numbers.end - start, num_memo, name.length, name.ref]
        columns += [path.at - start, path.length, path.ref, index.ints[0], ndim, *numbers.ints]
        kept = (_kept(column, ok) for column in columns)
        return (*kept, flat_dims(_kept(offset.dims, ok), _kept(ndim, ok)))
