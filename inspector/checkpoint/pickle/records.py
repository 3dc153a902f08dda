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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "PAD",
    "ChunkForm",
    "Chunks",
    "Ints",
    "StoredForm",
    "StoredRecords",
    "anchors",
    "words_of",
]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

#: Zero bytes that must follow the pickle, so that no field is read past the end.
PAD = 2048

# Records read together: enough to be quick, few enough that what they need stays in the cache.
_BLOCK = 1 << 16
_SCAN_BYTES = 1 << 18
_MAX_DIMS = 8
_ABSURD = np.uint64(1 << 62)

_NEW = b")\x81\x94}\x94("  # EMPTY_TUPLE NEWOBJ MEMOIZE EMPTY_DICT MEMOIZE MARK
_BUILT = b"ub"  # SETITEMS BUILD
_GET = rb"h.|j.{4}"
_INT = rb"K.|M..|J.{4}|\x8a(?:\x03.{3}|\x04.{4}|\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8})"
_TUPLE = rb"(?:\)|(?:\((?:%b){1,8}t|(?:%b){1,3}[\x85-\x87])\x94)\x85\x94R\x94" % (_INT, _INT)
_TEXT = rb"(?:%b|\x8c.{1,300}?\x94)" % _GET

_CHUNK = re.compile(
    rb"(?P<new>%(get)b)\)\x81\x94}\x94\("
    rb"(?P<offsets>%(get)b)(?P<size>%(get)b)%(tuple)b"
    rb"(?P<sizes>%(get)b)(?P=size)%(tuple)bub" % {b"get": _GET, b"tuple": _TUPLE},
    re.DOTALL,
)
_STORED = re.compile(
    rb"(?P<new>%(get)b)\)\x81\x94}\x94\("
    rb"(?P<fqn>%(get)b)%(text)b(?P<index>%(get)b)(?:N|%(int)b)"
    rb"(?P<offset>%(get)b)(?P<size>%(get)b)%(tuple)bub"
    rb"(?P<info>%(get)b)\)\x81\x94}\x94\("
    rb"(?P<path>%(get)b)%(text)b(?P<start>%(get)b)(?:%(int)b)(?P<length>%(get)b)(?:%(int)b)ub"
    % {b"get": _GET, b"tuple": _TUPLE, b"text": _TEXT, b"int": _INT},
    re.DOTALL,
)


def words_of(data: Bytes) -> Words:
    """The eight bytes from every position on, as one little-endian number; a view."""
    view: Words = np.ndarray((len(data) - 7,), np.dtype("<u8"), data.data, 0, (1,))
    return view


def anchors(data: Bytes, end: int, tell: Callable[[int], None]) -> Ints:
    """Positions of NEWOBJ in `data[:end]`, with an empty dict begun after it.

    `tell` is told the bytes that were looked through.
    """
    words = words_of(data)
    wanted = int.from_bytes(_NEW[1:], "little")
    found = []
    for first in range(0, end, _SCAN_BYTES):
        at = np.flatnonzero(data[first : min(first + _SCAN_BYTES, end)] == _NEW[1]) + first
        found.append(at[(words[at] & np.uint64((1 << 40) - 1)) == np.uint64(wanted)])
        tell(first)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _by_opcode(values: dict[bytes, int]) -> Any:
    table = np.zeros(256, np.uint64)
    for opcode, value in values.items():
        table[opcode[0]] = value
    return table


# Bytes that an integer's opcode takes with its operand, and the operand's bits.
_INT_SIZE = _by_opcode({b"K": 2, b"M": 3, b"J": 5})
_INT_MASK = _by_opcode({b"K": 0xFF, b"M": 0xFFFF, b"J": 0xFFFFFFFF})
_GET_SIZE = _by_opcode({b"h": 2, b"j": 5})
_GET_MASK = _by_opcode({b"h": 0xFF, b"j": 0xFFFFFFFF})
_LONG1, _TEXT8, _MEMO, _NONE, _MARK = 0x8A, 0x8C, 0x94, ord("N"), ord("(")


class _Text(NamedTuple):
    """Strings: their bytes' place and number, or else their number in the memo (not -1)."""

    at: Ints
    length: Ints
    ref: Ints


class _Cursor:
    """Reads one field after another of many records; `ok` are those that had them all so far."""

    __slots__ = ("at", "data", "ok", "words")

    def __init__(self, data: Bytes, words: Words, at: Ints) -> None:
        self.data = data
        self.words = words
        self.at = at.copy()
        self.ok = np.ones(len(at), bool)

    def expect(self, constant: bytes) -> None:
        for first in range(0, len(constant), 8):
            part = constant[first : first + 8]
            mask = np.uint64((1 << (8 * len(part))) - 1)
            value = np.uint64(int.from_bytes(part, "little"))
            self.ok &= (self.words[self.at] & mask) == value
            self.at += len(part)

    def integer(self, *, or_none: bool = False) -> Ints:
        """Integers that are not negative; -1 for None, where that may be."""
        word = self.words[self.at]
        opcode = (word & np.uint64(0xFF)).astype(np.intp)
        value = (word >> np.uint64(8)) & _INT_MASK[opcode]
        size = _INT_SIZE[opcode]
        self.ok &= value < np.uint64(1 << 31)  # BININT has a sign.
        long = np.flatnonzero(opcode == _LONG1)
        if len(long):
            number = (word[long] >> np.uint64(8)) & np.uint64(0xFF)
            size[long] = number + np.uint64(2)
            self.ok[long] &= (number > 0) & (number <= 8)
            unused = np.uint64(64) - np.uint64(8) * np.clip(number, 1, 8).astype(np.uint64)
            bits = (self.words[self.at[long] + 2] << unused) >> unused
            # The highest bit that is there is the sign.
            sign = (bits >> (np.uint64(63) - unused)) & np.uint64(1)
            self.ok[long] &= (sign == 0) & (bits < _ABSURD)
            value[long] = bits
        result: Ints = value.astype(np.int64)
        if or_none:
            none = opcode == _NONE
            size[none] = 1
            result[none] = -1
        self.ok &= size > 0
        self.at += size.astype(np.int64)
        return result

    def text(self) -> _Text:
        word = self.words[self.at]
        opcode = (word & np.uint64(0xFF)).astype(np.intp)
        inline = opcode == _TEXT8
        operand = (word >> np.uint64(8)).astype(np.uint64)
        length = np.where(inline, operand & np.uint64(0xFF), 0).astype(np.int64)
        ref = np.where(inline, -1, (operand & _GET_MASK[opcode]).astype(np.int64))
        at = self.at + 2
        self.at += np.where(inline, length + 2, _GET_SIZE[opcode].astype(np.int64))
        self.ok &= inline | (_GET_SIZE[opcode] > 0)
        self.ok &= ref < 1 << 31
        self.ok &= ~inline | (self.data[self.at] == _MEMO)
        self.at += inline
        return _Text(at, length, ref)

    def size(self, size: bytes) -> tuple[Ints, Ints]:
        """`torch.Size` objects: number of dims, and the dims, shape (records, most dims)."""
        self.expect(size)
        count = len(self.at)
        ndim = np.full(count, -1, np.int64)
        marked = self.data[self.at] == _MARK
        self.at += marked
        columns: list[Ints] = []
        open_rows = np.arange(count)
        for dim in range(_MAX_DIMS + 1):
            opcode = self.data[self.at[open_rows]]
            # EMPTY_TUPLE, TUPLE1 to TUPLE3; TUPLE takes what stands after its MARK.
            plain = (ord(")"), 0x85, 0x86, 0x87)[dim] if dim < 4 else -1
            ends = opcode == np.where(marked[open_rows], ord("t") if dim else -1, plain)
            ndim[open_rows[ends]] = dim
            open_rows = open_rows[~ends]
            if not len(open_rows) or dim == _MAX_DIMS:
                break
            part = _Cursor(self.data, self.words, self.at[open_rows])
            values = np.zeros(count, np.int64)
            values[open_rows] = part.integer()
            self.ok[open_rows] &= part.ok
            self.at[open_rows] = part.at
            columns.append(values)
            open_rows = open_rows[part.ok]
        self.ok &= ndim >= 0
        self.at += 1
        # The empty tuple alone is not memoized.
        self.ok &= (ndim == 0) | (self.data[self.at] == _MEMO)
        self.at += ndim > 0
        self.expect(b"\x85\x94R\x94")
        return ndim, np.stack(columns, 1) if columns else np.zeros((count, 0), np.int64)


def _beginning(data: Bytes, words: Words, at: Ints, constant: bytes) -> Ints:
    """Those places where the bytes begin so."""
    for first in range(0, len(constant), 8):
        cursor = _Cursor(data, words, at + first)
        cursor.expect(constant[first : first + 8])
        at = at[cursor.ok]
    return at


def _num_memo(ndim: Ints) -> Ints:
    """Memo entries that a `torch.Size` of so many dims makes (none for -1, no size at all)."""
    return np.where(ndim > 0, 3, np.where(ndim == 0, 2, 0))


def _flat(ndim: Ints, values: Ints) -> Ints:
    """The dims of all records one after another."""
    if len(ndim) and (ndim == ndim[0]).all():
        return values[:, : max(int(ndim[0]), 0)].ravel()
    flat: Ints = values[np.arange(values.shape[1]) < ndim[:, None]]
    return flat


def _boxes(ndim: npt.NDArray[np.int8]) -> Ints:
    """Where the dims of each record begin, if they lie one after another; and where they end."""
    box = np.zeros(len(ndim) + 1, np.int64)
    np.cumsum(np.maximum(ndim, 0), out=box[1:])
    return box


def _blocks(starts: Ints) -> Iterator[Ints]:
    for first in range(0, max(len(starts), 1), _BLOCK):
        yield starts[first : first + _BLOCK]


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

    def read(self, data: Bytes, at: Ints, tell: Callable[[int], None]) -> Chunks:
        """Read the records at those anchors that follow the form.

        Args:
            data: The pickle without frames, and `PAD` zero bytes.
            at: From `anchors`.
            tell: Told the bytes that were looked through.
        """
        words = words_of(data)
        starts = at - (len(self.new) + 1)
        parts: list[tuple[Any, ...]] = []
        for block in _blocks(starts[starts >= 0]):
            block = _beginning(data, words, block, self.new + _NEW + self.offsets)
            cursor = _Cursor(data, words, block + len(self.new + _NEW + self.offsets))
            ndim, offsets = cursor.size(self.size)
            cursor.expect(self.sizes)
            ndim_of_sizes, sizes = cursor.size(self.size)
            cursor.expect(_BUILT)
            ok = cursor.ok & (ndim == ndim_of_sizes)
            length = cursor.at - block
            ndim, offsets, sizes = ndim[ok], offsets[ok], sizes[ok]
            parts.append(
                (
                    block[ok],
                    length[ok].astype(np.int16),
                    (2 + 2 * _num_memo(ndim)).astype(np.int8),
                    ndim.astype(np.int8),
                    _flat(ndim, offsets),
                    _flat(ndim, sizes),
                )
            )
            if len(block):
                tell(int(block[-1]))
        start, size, num_memo, dims, flat, flat_sizes = map(
            np.concatenate, zip(*parts, strict=True)
        )
        return Chunks(start, size, num_memo, dims, _boxes(dims), flat, flat_sizes)


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

    def read(self, data: Bytes, at: Ints, tell: Callable[[int], None]) -> StoredRecords:
        """Read the records at those anchors that follow the form; arguments as for chunks."""
        words = words_of(data)
        starts = at - (len(self.new) + 1)
        parts = []
        for block in _blocks(starts[starts >= 0]):
            block = _beginning(data, words, block, self.new + _NEW + self.fqn)
            parts.append(self._rows(data, words, block, block + len(self.new + _NEW + self.fqn)))
            if len(block):
                tell(int(block[-1]))
        columns: Any = [np.concatenate(column) for column in zip(*parts, strict=True)]
        name_at = len(self.new + _NEW + self.fqn) + 2
        columns += [_boxes(columns[9]), name_at]
        return StoredRecords(*columns)

    def _rows(self, data: Bytes, words: Words, start: Ints, at: Ints) -> tuple[Any, ...]:
        cursor = _Cursor(data, words, at)
        name = cursor.text()
        cursor.expect(self.index)
        index = cursor.integer(or_none=True)
        ndim = np.full(len(start), -1, np.int64)
        offsets = np.zeros((len(start), 0), np.int64)
        placed = _Cursor(data, words, cursor.at)
        placed.expect(self.offset)
        rows = np.flatnonzero(placed.ok)
        if len(rows):
            part = _Cursor(data, words, placed.at[rows])
            ndim[rows], values = part.size(self.size)
            cursor.ok[rows] &= part.ok
            cursor.at[rows] = part.at
            offsets = np.zeros((len(start), values.shape[1]), np.int64)
            offsets[rows] = values
        cursor.expect(_BUILT + self.info + _NEW + self.path)
        path = cursor.text()
        cursor.expect(self.start)
        byte_offset = cursor.integer()
        cursor.expect(self.length)
        byte_length = cursor.integer()
        cursor.expect(_BUILT)
        cursor.ok &= index < 1 << 31
        num_memo = 4 + _num_memo(ndim) + (name.ref < 0) + (path.ref < 0)
        ok = cursor.ok
        columns = (
            (start, np.int64),
            (cursor.at - start, np.int16),
            (num_memo, np.int8),
            (name.length, np.int16),
            (name.ref, np.int32),
            (path.at - start, np.int16),
            (path.length, np.int16),
            (path.ref, np.int32),
            (index, np.int32),
            (ndim, np.int8),
            (byte_offset, np.int64),
            (byte_length, np.int64),
        )
        kept = tuple(column[ok].astype(kind, copy=False) for column, kind in columns)
        return (*kept, _flat(ndim[ok], offsets[ok]))
