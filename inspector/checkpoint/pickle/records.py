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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    Ints,
    PickleBytes,
    RecordPart,
    Texts,
    flat_dims,
)
from inspector.checkpoint.pickle.frames import NotSplicedError
from inspector.checkpoint.pickle.stand_ins import Stored
from inspector.checkpoint.pickle.values import ABSURD

__all__ = [
    "NO_CHUNKS",
    "BytesPlaces",
    "ChunkForm",
    "Chunks",
    "GrowingColumn",
    "LooseRows",
    "RecordRun",
    "StoredForm",
    "StoredRecords",
    "objects",
    "place_of",
    "stored_runs",
]

_SCAN_BYTES = 1 << 18
_LATE_BYTES = 1 << 16
# Numbers that a column has room for before its first.
_FRONT = 1 << 10

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


def objects(scan: PickleBytes, end: int, kinds: Sequence[tuple[bytes, int, int]]) -> list[Ints]:
    """Where objects of some kinds may begin before a place: a GET, and the begin of `NEW`.

    All are looked for in one pass over the bytes, while those are in the cache. Eight bytes are
    compared, which mostly is all of both; who reads the objects compares the rest.

    Args:
        scan: The pickle without frames, or a part of it.
        end: Where to stop.
        kinds: GET of each kind's class; and from where to where its objects are of interest.
    """
    data = scan.data
    found: list[list[Ints]] = [[] for _ in kinds]
    for first in range(0, end, _SCAN_BYTES):
        last = min(first + _SCAN_BYTES, end)
        at = np.flatnonzero(data[first:last] == NEW[1]) + first
        words: dict[int, tuple[Ints, npt.NDArray[np.uint64]]] = {}
        for (new, low, high), pieces in zip(kinds, found, strict=True):
            if last <= low or first >= high or not new:
                continue
            before = len(new) + 1
            if before not in words:
                starts = at[np.searchsorted(at, before) :] - before
                words[before] = starts, scan.words(starts)
            starts, here = words[before]
            value, bits = _word_of((new + NEW)[:8])
            same = (here & bits) == value
            if first < low + before or last > high:
                same &= (starts >= low) & (starts < high)
            pieces.append(starts.compress(same))
    return [np.concatenate(pieces) if pieces else np.zeros(0, np.int64) for pieces in found]


def _word_of(text: bytes) -> tuple[np.uint64, np.uint64]:
    """At most eight bytes as a little-endian number, and which of its bits they are."""
    return np.uint64(int.from_bytes(text, "little")), np.uint64((1 << 8 * len(text)) - 1)


class GrowingColumn:
    """A column that is filled piece by piece; memory is taken as it is filled.

    Args:
        kind: Of its numbers.
        count: How many there is room for at first; more may come.
    """

    def __init__(self, kind: Any, count: int = 1 << 16) -> None:
        self._data = np.empty(max(count, 1) + _FRONT, kind)
        self._end = _FRONT

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
        return self._data[_FRONT : self._end]

    def behind(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Some numbers, and what was added behind them; not copied if they are few."""
        if len(values) > _FRONT:
            return np.concatenate([values, self.filled()])
        begin = _FRONT - len(values)
        self._data[begin:_FRONT] = values
        return self._data[begin : self._end]


# Memo entries that a `torch.Size` of so many dims makes; none for -1, no size at all.
_MEMO_OF_DIMS = np.asarray([2] + [3] * 8 + [0], np.int8)


def _num_memo(ndim: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Memo entries that a `torch.Size` of so many dims makes."""
    return _MEMO_OF_DIMS.take(ndim)


def _kept(values: npt.NDArray[Any], ok: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    return values if ok.all() else values.compress(ok, 0)


@dataclass(slots=True)
class Chunks:
    """`ChunkStorageMetadata` records that follow the form.

    Attributes:
        start, length: Where each lies, and its bytes.
        num_memo: Memo entries that each makes.
        ndim: Dims of its box.
        offsets, sizes: The dims of all, one record after the other.
    """

    start: Ints
    length: Ints
    num_memo: npt.NDArray[np.int8]
    ndim: npt.NDArray[np.int8]
    offsets: Ints
    sizes: Ints

    def before(self, end: int) -> Chunks:
        """Those that begin before a place."""
        count = int(np.searchsorted(self.start, end))
        if count == len(self.start):
            return self
        num_dims = int(self.ndim[:count].sum(dtype=np.int64))
        rows, dims = slice(count), slice(num_dims)
        return Chunks(
            self.start[rows],
            self.length[rows],
            self.num_memo[rows],
            self.ndim[rows],
            self.offsets[dims],
            self.sizes[dims],
        )


_NONE, _NO_DIMS = np.zeros(0, np.int64), np.zeros(0, np.int8)
NO_CHUNKS = Chunks(_NONE, _NONE, _NO_DIMS, _NO_DIMS, _NONE, _NONE)


@dataclass(frozen=True)
class ChunkForm:
    """How a `ChunkStorageMetadata` is written: the memo references (GET opcodes) in it."""

    new: bytes
    offsets: bytes
    sizes: bytes
    size: bytes

    @classmethod
    def learn(cls, pickle: memoryview, begin: int, end: int) -> ChunkForm | None:
        """The form of the first record between two places, or None if there is none."""
        match = _CHUNK.search(pickle, begin, end)
        return match and cls(**match.groupdict())

    def late_in(self, pickle: memoryview) -> int:
        """Where a chunk seems to begin in the last bytes of a pickle's part; 0 if none does."""
        new = re.compile(re.escape(self.new + NEW))
        found = new.search(pickle, max(len(pickle) - _LATE_BYTES, 0))
        return found.start() if found else 0

    @property
    def refs(self) -> bytes:
        """GETs of the class, the two keys and `torch.Size`."""
        return self.new + self.offsets + self.sizes + self.size

    @cached_property
    def _parts(self) -> tuple[RecordPart, RecordPart]:
        begin = self.new + NEW + self.offsets + self.size
        first = RecordPart(begin, DIMS, SIZED + self.sizes + self.size)
        return first, RecordPart(DIMS, SIZED + _BUILT)

    def read(self, scan: PickleBytes, starts: Ints) -> Chunks:
        """Read the records that follow the form.

        Args:
            scan: The pickle without frames, or a part of it.
            starts: Where such a record may begin, from `objects`.
        """
        first, second = self._parts
        offset = first.read(scan, starts)
        size = second.read(scan, offset.end)
        ok = offset.ok & size.ok & (offset.ndim == size.ndim)
        dims = _kept(offset.ndim, ok)
        return Chunks(
            _kept(starts, ok),
            _kept(size.end - starts, ok),
            2 + 2 * _num_memo(dims),
            dims,
            flat_dims(_kept(offset.dims, ok), dims),
            flat_dims(_kept(size.dims, ok), dims),
        )


@dataclass(slots=True)
class StoredRecords:
    """Pairs of `MetadataIndex` and `_StorageInfo` that follow the form.

    Attributes:
        start, length: Where each lies, and its bytes.
        num_memo: Memo entries that each makes: the name is the third, if it is given here, and
            the path the last.
        name, path: The fqn, and the data file's path.
        index: Hint of the chunk's position in its tensor's list, or -1.
        ndim: Dims of the chunk offset; -1 if there is none (a bytes entry).
        offsets: The dims of all, one record after the other.
    """

    start: Ints
    length: Ints
    num_memo: npt.NDArray[np.int8]
    name: Texts
    path: Texts
    index: Ints
    ndim: npt.NDArray[np.int8]
    byte_offset: Ints
    byte_length: Ints
    offsets: Ints


@dataclass(frozen=True)
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
    def learn(cls, pickle: memoryview, begin: int, end: int) -> StoredForm | None:
        """The form of the first record between two places, or None if there is none."""
        match = _STORED.search(pickle, begin, end)
        return match and cls(**match.groupdict())

    @property
    def refs(self) -> bytes:
        """GETs of the classes, the keys and `torch.Size`, in the order of the attributes."""
        return (
            self.new + self.fqn + self.index + self.offset + self.size + self.info + self.path
        ) + (self.start + self.length)

    def read(self, scan: PickleBytes, starts: Ints) -> StoredRecords:
        """Read the records that follow the form; arguments as for chunks."""
        segments = self._segments
        begin = self.new + NEW + self.fqn
        ok = scan.begin_so(starts, begin)
        is_text, at, name = scan.texts(starts + len(begin))
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
        rows = slice(None) if ok.all() else ok
        return StoredRecords(
            starts[rows],
            numbers.end[rows] - starts[rows],
            num_memo[rows],
            name.of(rows),
            path.of(rows),
            index.ints[0][rows],
            ndim[rows],
            numbers.ints[0][rows],
            numbers.ints[1][rows],
            flat_dims(offset.dims[rows], ndim[rows]),
        )

    @cached_property
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


class BytesPlaces:
    """Where the entries of `BytesEntries` are stored.

    Args:
        names: The string that names each.
        num_strings: How many strings there are.
    """

    def __init__(self, names: npt.NDArray[np.int32], num_strings: int) -> None:
        self._row = np.full(num_strings, -1, np.int32)
        self._row[names] = np.arange(len(names), dtype=np.int32)
        self._places = np.full((len(names), 3), -1, np.int64)

    def take(
        self, names: npt.NDArray[np.int32], places: list[npt.NDArray[Any]]
    ) -> npt.NDArray[np.bool_]:
        """Keep the places that are of these entries; which are not.

        Args:
            names: The string that names what is stored at each.
            places: The file, the byte offset and the length of each.

        Raises:
            NotSplicedError: An entry has two.
        """
        row = np.full(len(names), -1, np.int32)
        known = names < len(self._row)
        row[known] = self._row[names[known]]
        is_mine = row >= 0
        row = row[is_mine]
        if (self._places[row] >= 0).any() or len(np.unique(row)) < len(row):
            raise NotSplicedError
        self._places[row] = np.stack(places, 1)[is_mine]
        return ~is_mine

    def of(self, rows: slice) -> list[tuple[int, int, int]]:
        """File, byte offset and length of some; of one that has no place, -1 for the file."""
        return [*map(tuple, self._places[rows].tolist())]


class RecordRun:
    """Stands for the records `first` to `last` (not included) of a kind.

    Attributes:
        kind: `chunks`, `stored`, `tensors`, `bytes_entries` or `paths`.
        start, end: Where they lie in their window.
        num_memo: Memo entries that they would have made.
        memo: The number of the first of those.
        used: Set once it was found where it belongs.
    """

    __slots__ = ("end", "first", "kind", "last", "memo", "num_memo", "start", "used")

    def __init__(
        self, kind: str, first: int, last: int, start: int, end: int, num_memo: int
    ) -> None:
        self.kind = kind
        self.first = first
        self.last = last
        self.start = start
        self.end = end
        self.num_memo = num_memo
        self.memo = 0
        self.used = False


def stored_runs(scan: PickleBytes, stored: StoredRecords, base: int) -> Iterator[RecordRun]:
    """Stored places that stand one behind the other, or in the next thousand of the dict."""
    count = len(stored.start)
    if not count:
        return
    stop = stored.start + stored.length
    gap = stored.start[1:] - stop[:-1]
    behind = stop[:-1]
    next_part = (gap == 2) & (scan.data[behind] == ord("u")) & (scan.data[behind + 1] == ord("("))
    firsts = np.append(0, np.flatnonzero((gap != 0) & ~next_part) + 1)
    memo = np.add.reduceat(stored.num_memo, firsts, dtype=np.int64).tolist()
    lasts = np.append(firsts[1:], count)
    for first, last, num_memo in zip(firsts.tolist(), lasts.tolist(), memo, strict=True):
        start, end = int(stored.start[first]), int(stop[last - 1])
        yield RecordRun("stored", base + first, base + last, start, end, num_memo)


class LooseRows:
    """Stored places of chunks that were in no run."""

    def __init__(self) -> None:
        self.name: list[str] = []
        self._rows: list[tuple[int, ...]] = []
        self._dims: list[int] = []

    def add(self, fqn: str, index: Any, offset: Any, place: tuple[Any, ...]) -> None:
        """One more: its name, the position in its tensor's list, its offset and `place_of` it.

        Raises:
            NotSplicedError: One of them is not what it should be.
        """
        if type(offset) is not tuple or type(index) is not int or not _are_counts(offset):
            raise NotSplicedError
        self.name.append(fqn)
        self._rows.append((index, len(offset), len(self._dims), *place[:3]))
        self._dims += offset

    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """What `joining.join` takes of them, from `index` on."""
        rows = np.asarray(self._rows, np.int64).reshape(-1, 6).T
        index, ndim, box, file, byte_offset, byte_length = rows
        dims = np.asarray(self._dims, np.int64)
        return index, ndim, box, dims, file.astype(np.int32), byte_offset, byte_length


def place_of(info: Stored, files: dict[str, int]) -> tuple[int, int, int, tuple[str, ...]]:
    """The file, which is numbered in `files`, the byte offset, the length, and no transforms.

    Raises:
        NotSplicedError: It has transforms, or one of the others is not what it should be.
    """
    path, start, length = info.relative_path, info.offset, info.length
    if type(path) is not str or not path or info.get("transform_descriptors"):
        raise NotSplicedError
    if not _are_counts((start, length)):
        raise NotSplicedError
    return files.setdefault(path, len(files)), start, length, ()


def _are_counts(numbers: tuple[Any, ...]) -> bool:
    return all(type(n) is int and 0 <= n < ABSURD for n in numbers)
