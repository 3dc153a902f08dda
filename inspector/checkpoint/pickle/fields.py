"""Fields of many records read at once: integers, lists of them and strings between fixed opcodes.

The records of a metadata file say the same opcodes around other numbers. Where a number begins
hangs on the bytes that the numbers before it take, so each record is walked by its opcodes alone
first. Those that take the same bytes everywhere are then held, eight bytes at a time, against what
all their other bytes have to be, and the numbers are cut out of the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "DIMS",
    "GET",
    "INT",
    "INTEGER",
    "INT_OR_NONE",
    "MAX_DIMS",
    "NEW",
    "PAD",
    "SIZE",
    "SIZED",
    "Bytes",
    "Fields",
    "Ints",
    "PickleBytes",
    "RecordPart",
    "Texts",
    "Words",
    "flat_dims",
    "starts_of",
]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

#: Zero bytes that must follow the pickle, so that no field is read past the end.
PAD = 2048
#: Dims of a list of integers that is understood.
MAX_DIMS = 8
#: Parts of a segment, beside its fixed bytes: an integer; one, or None; a `torch.Size`'s tuple.
INT, INT_OR_NONE, DIMS = "int", "int or none", "dims"

# What records are learned by, as regular expressions of opcodes: a reference to the memo, an
# integer that is not negative, and `torch.Size` of a tuple of such.
GET = rb"h.|j.{4}"
INTEGER = rb"K.|M..|J.{4}|\x8a(?:\x03.{3}|\x04.{4}|\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8})"
SIZE = rb"(?:\)|(?:\((?:%b){1,8}t|(?:%b){1,3}[\x85-\x87])\x94)\x85\x94R\x94" % (INTEGER, INTEGER)
#: EMPTY_TUPLE NEWOBJ MEMOIZE EMPTY_DICT MEMOIZE MARK: an object, and its dict begun.
NEW = b")\x81\x94}\x94("
#: TUPLE1 MEMOIZE REDUCE MEMOIZE: `torch.Size` of the tuple before it.
SIZED = b"\x85\x94R\x94"

# Kinds of opcodes, four bits each: 1 to 3 for BININT1, BININT2 and BININT, 3 + n for LONG1 of n
# bytes, then None, MARK and the opcodes that end a tuple (of as many as stood before it).
_LONG1, _TEXT8, _MEMO = 0x8A, 0x8C, 0x94
_NONE, _MARK, _END = 12, 13, 14
_OPCODES = {1: b"K", 2: b"M", 3: b"J", _NONE: b"N", _MARK: b"("}
_WIDTH = {1: 1, 2: 2, 3: 4, **{3 + n: n for n in range(1, 9)}}
# Of records read together; torch writes ten or so. Those of others are read the slow way.
_MAX_LAYOUTS = 256
# Records that the first walk goes through, where there are many.
_SAMPLE = 1 << 10


def _table(values: dict[int, int]) -> npt.NDArray[np.int8]:
    table = np.zeros(256, np.int8)
    for opcode, value in values.items():
        table[opcode] = value
    return table


_KIND = _table({ord("K"): 1, ord("M"): 2, ord("J"): 3, _LONG1: 4, ord("N"): _NONE})
_DIM_KIND = _table(
    {ord("K"): 1, ord("M"): 2, ord("J"): 3, _LONG1: 4, ord("("): _MARK}
    | dict.fromkeys(b")t\x85\x86\x87", _END)
)
# Of what a string is written as: its bytes but for the text, and the bits of a GET's number.
_TEXT_BYTES = _table({ord("h"): 2, ord("j"): 5, _TEXT8: 2})
_GET_BITS = np.zeros(256, np.uint64)
_GET_BITS[[*b"hj"]] = 0xFF, 0xFFFFFFFF
# Bytes of an opcode with its operand, by kind; the end of a tuple is where the walk stops.
_SIZE = np.asarray([0, 2, 3, 5, *range(3, 11), 1, 1, 0, 0], np.int64)


def starts_of(counts: npt.NDArray[Any]) -> Ints:
    """Where each begins if they lie one after another; and where the last ends."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def flat_dims(values: Ints, ndim: npt.NDArray[Any]) -> Ints:
    """The dims of all records one after another; a record with -1 has none.

    Args:
        values: Shape (records, most dims).
        ndim: Of each record.
    """
    if len(ndim) and (ndim == ndim[0]).all():
        return values[:, : max(int(ndim[0]), 0)].ravel()
    # Column by column: a comparison of both at once runs along the few dims of each record.
    has = np.empty(values.shape, bool)
    for dim in range(values.shape[1]):
        np.greater(ndim, dim, out=has[:, dim])
    return values.ravel().compress(has.ravel())


class Texts(NamedTuple):
    """Strings: their bytes' place and number, or else their number in the memo (not -1)."""

    at: Ints
    length: Ints
    ref: Ints

    def of(self, rows: Any) -> Texts:
        """Some of them, by a slice or by numbers."""
        return Texts(self.at[rows], self.length[rows], self.ref[rows])


class Fields(NamedTuple):
    """What a segment's records hold; of one that is not `ok` nothing else is meant.

    Attributes:
        ok: Which follow the segment.
        end: Where each ends.
        ints: One array for each integer of the segment, -1 for None.
        ndim: Dims of its list.
        dims: Shape (records, most dims).
    """

    ok: npt.NDArray[np.bool_]
    end: Ints
    ints: list[Ints]
    ndim: npt.NDArray[np.int8]
    dims: Ints


@dataclass(frozen=True, slots=True)
class _Layout:
    """Records that take the same bytes: what is fixed in each eight of them, and the numbers."""

    num_bytes: int
    words: list[tuple[np.uint64, np.uint64]]
    numbers: list[tuple[int, int]]


class PickleBytes:
    """A pickle in memory, followed by `PAD` zero bytes."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self._pieces: dict[int, npt.NDArray[np.void]] = {}

    def pieces(self, at: Ints, num_bytes: int) -> Words:
        """So many bytes from each place on, in words, shape (places, words).

        To copy them out takes a quarter of the time of one word after another.
        """
        num_words = -(-num_bytes // 8)
        if num_words not in self._pieces:
            size = 8 * num_words
            shape, kind = (len(self.data) - size + 1,), np.dtype((np.void, size))
            self._pieces[num_words] = np.ndarray(shape, kind, self.data.data, 0, (1,))
        found: Words = self._pieces[num_words][at].view(np.dtype("<u8"))
        return found.reshape(len(at), num_words)

    def words(self, at: Ints) -> Words:
        """Eight bytes from each place on, as one little-endian number."""
        return self.pieces(at, 8)[:, 0]

    def begin_so(self, at: Ints, constant: bytes) -> npt.NDArray[np.bool_]:
        """At which places these bytes stand."""
        ok = np.ones(len(at), bool)
        pieces = self.pieces(at, len(constant))
        for place, (mask, value) in enumerate(_words(constant, b"\xff" * len(constant))):
            ok &= (pieces[:, place] & mask) == value
        return ok

    def texts(self, at: Ints) -> tuple[npt.NDArray[np.bool_], Ints, Texts]:
        """Strings that begin there, inline (and memoized) or from the memo: ok, end, which."""
        words = self.words(at)
        opcode = words.astype(np.uint8)  # The first byte.
        words >>= np.uint64(8)
        inline = opcode == _TEXT8
        length = (words & np.uint64(0xFF)).view(np.int64)
        if inline.all():
            end = at + length
            end += 2
            return self.data[end] == _MEMO, end + 1, Texts(at + 2, length, np.full(len(at), -1))
        num_bytes = _TEXT_BYTES.take(opcode)
        words &= _GET_BITS.take(opcode)
        ref = words.view(np.int64)
        ok = (num_bytes > 0) & (ref < 1 << 31)
        end = at + num_bytes
        if inline.any():
            ref[inline] = -1
            length *= inline
            end += length
            ok &= ~inline | (self.data[end] == _MEMO)
            end += inline
        else:
            length = np.zeros(len(at), np.int64)
        return ok, end, Texts(at + 2, length, ref)


class RecordPart:
    """Fixed bytes with integers and lists of integers between them.

    Args:
        parts: Bytes, `INT`, `INT_OR_NONE`, or once, as the last of the three, `DIMS`.
    """

    def __init__(self, *parts: bytes | str) -> None:
        self._parts = parts
        self._layouts: dict[tuple[int, int], _Layout | None] = {}
        self._num_ints = sum(part in (INT, INT_OR_NONE) for part in parts)
        # Those that most records had last time, which are tried before any is walked.
        self._usual: list[_Layout] = []

    def read(self, scan: PickleBytes, at: Ints) -> Fields:
        """Read the records that begin at these places."""
        if not self._usual and len(at) > 2 * _SAMPLE:
            self.read(scan, at[:_SAMPLE])  # What is usual for them is so for most.
        taken: list[_Taken] = []
        rows: Ints | None = None
        for layout in self._usual:
            rows = self._take(scan, at, rows, layout, taken)
            if 8 * len(rows) <= len(at):
                break
        if rows is None or len(rows):
            self._take_walked(scan, at, rows, taken)
        self._usual = [
            layout
            for layout, _, begin, _ in sorted(taken, key=lambda one: -len(one[2]))
            if 8 * len(begin) >= len(at)
        ]
        return self._fields(at, taken)

    def _fields(self, at: Ints, taken: list[_Taken]) -> Fields:
        """What was taken, put together."""
        first = self._num_ints
        width = max((len(numbers) - first for *_, numbers in taken), default=0)
        count = len(at)
        ints = [np.zeros(count, np.int64) for _ in range(first)]
        dims = np.zeros((count, width), np.int64)
        ok, ndim, end = np.zeros(count, bool), np.zeros(count, np.int8), at.copy()
        for layout, rows, begin, numbers in taken:
            where = slice(None) if rows is None else rows
            ok[where] = True
            end[where] = begin + layout.num_bytes
            ndim[where] = len(numbers) - first
            for number, values in enumerate(numbers):
                if number < first:
                    ints[number][where] = values
                else:
                    dims[:, number - first][where] = values
        return Fields(ok, end, ints, ndim, dims)

    @staticmethod
    def _take(
        scan: PickleBytes, at: Ints, rows: Ints | None, layout: _Layout, taken: list[_Taken]
    ) -> Ints:
        """Take the records that are laid out so, of some or all; which are not."""
        begin = at if rows is None else at.take(rows)
        pieces = scan.pieces(begin, layout.num_bytes)
        same = _are_so(pieces, layout)
        if same.all():
            taken.append((layout, rows, begin, _numbers(pieces, layout)))
            return _NO_ROWS
        mine, others = np.flatnonzero(same), np.flatnonzero(~same)
        if len(mine):
            found = mine if rows is None else rows.take(mine)
            taken.append((layout, found, begin.take(mine), _numbers(pieces.take(mine, 0), layout)))
        return others if rows is None else rows.take(others)

    def _take_walked(
        self, scan: PickleBytes, at: Ints, rows: Ints | None, taken: list[_Taken]
    ) -> None:
        """Take records, some or all, by what their opcodes say that they are."""
        code, steps, over = self._walk(scan.data, at if rows is None else at[rows])
        for key, members in _groups(code, None if over is None else np.flatnonzero(~over)):
            layout = self._layout(key, steps)
            if layout is None:
                continue
            if rows is not None:
                members = rows if members is None else rows[members]
            self._take(scan, at, members, layout, taken)

    def _walk(self, data: Bytes, at: Ints) -> tuple[Words, int, npt.NDArray[np.bool_] | None]:
        """The kinds of each record's opcodes, as one number, and how many of them are a list's.

        Last, which records cannot be walked; None if all can.
        """
        code = np.zeros(len(at), np.uint64)
        over: npt.NDArray[np.bool_] | None = None
        at = at.copy()
        steps = skip = 0
        for part in self._parts:
            if isinstance(part, bytes):
                skip += len(part)
                continue
            at += skip
            skip = 0
            if part != DIMS:
                kind = self._kinds(data, at, _KIND)
                code = (code << np.uint64(4)) | kind.view(np.uint8)
                at += _SIZE[kind]
                continue
            for _ in range(MAX_DIMS + 2):
                kind = self._kinds(data, at, _DIM_KIND)
                code = (code << np.uint64(4)) | kind.view(np.uint8)
                steps += 1
                ends = kind == _END
                if ends.all():
                    break
                at += _SIZE[kind]
            else:
                over = ~ends
            skip = 1
        return code, steps, over

    @staticmethod
    def _kinds(data: Bytes, at: Ints, table: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        kind: npt.NDArray[np.int8] = table.take(data[at])
        long = np.flatnonzero(kind == 4)
        if len(long):
            number = data[at[long] + 1]
            kind[long] = np.where((number > 0) & (number <= 8), 3 + number, 0)
        return kind

    def _layout(self, code: int, steps: int) -> _Layout | None:
        # Lists that end before the longest of those walked with them say so again and again.
        while steps > 1 and code & 0xFF == _END << 4 | _END:
            code, steps = code >> 4, steps - 1
        if (code, steps) not in self._layouts:
            self._layouts[code, steps] = self._made(code, steps)
        return self._layouts[code, steps]

    def _made(self, code: int, steps: int) -> _Layout | None:
        """The layout of records whose opcodes are of these kinds; None if there is none such."""
        before = [part for part in self._parts if part in (INT, INT_OR_NONE)]
        num_kinds = len(before) + steps
        kinds = [code >> 4 * (num_kinds - 1 - n) & 15 for n in range(num_kinds)]
        constant, mask = bytearray(), bytearray()
        numbers: list[tuple[int, int]] = []

        def fixed(text: bytes) -> None:
            constant.extend(text)
            mask.extend(b"\xff" * len(text))

        def number(kind: int) -> None:
            width = _WIDTH[kind]
            fixed(_OPCODES[kind] if kind <= 3 else bytes([_LONG1, width]))
            numbers.append((len(constant), width))
            constant.extend(bytes(width))
            # Those with a sign must not be negative, and none may reach 2 ** 62.
            top = 0 if kind <= 2 else 0xC0 if width == 8 else 0x80
            mask.extend(bytes(width - 1) + bytes([top]))

        for part in self._parts:
            if isinstance(part, bytes):
                fixed(part)
            elif part != DIMS:
                kind = kinds.pop(0)
                if kind == _NONE and part == INT_OR_NONE:
                    fixed(b"N")
                    numbers.append((0, 0))
                elif kind in _WIDTH:
                    number(kind)
                else:
                    return None
            else:
                while kinds and kinds[-1] == _END:
                    kinds.pop()
                marked = kinds[:1] == [_MARK]
                kinds = kinds[marked:]
                if any(kind not in _WIDTH for kind in kinds) or len(kinds) > MAX_DIMS:
                    return None
                if marked:
                    fixed(b"(")
                for kind in kinds:
                    number(kind)
                # TUPLE takes what stands after its MARK; the empty tuple is not memoized.
                if marked and kinds:
                    fixed(b"t\x94")
                elif not marked and len(kinds) < 4:
                    fixed((b")", b"\x85\x94", b"\x86\x94", b"\x87\x94")[len(kinds)])
                else:
                    return None
        return _Layout(len(constant), _words(bytes(constant), bytes(mask)), numbers)


def _words(constant: bytes, mask: bytes) -> list[tuple[np.uint64, np.uint64]]:
    """What is fixed in each eight bytes: which bits, and what they are."""
    return [
        (
            np.uint64(int.from_bytes(mask[first : first + 8], "little")),
            np.uint64(int.from_bytes(constant[first : first + 8], "little")),
        )
        for first in range(0, len(constant), 8)
    ]


def _groups(code: Words, rows: Ints | None) -> Sequence[tuple[int, Ints | None]]:
    """(number, records that have it); None for all of them. Not more than `_MAX_LAYOUTS`."""
    if not len(code):
        return []
    if rows is None and (code == code[0]).all():
        return [(int(code[0]), None)]
    rows = np.arange(len(code)) if rows is None else rows
    found: list[tuple[int, Ints | None]] = []
    while len(rows) and len(found) < _MAX_LAYOUTS:
        first = code[rows[0]]
        same = code[rows] == first
        found.append((int(first), rows[same]))
        rows = rows[~same]
    return found


def _are_so(pieces: Words, layout: _Layout) -> npt.NDArray[np.bool_]:
    """Which records are laid out so."""
    ok = np.ones(len(pieces), bool)
    for place, (mask, value) in enumerate(layout.words):
        ok &= (pieces[:, place] & mask) == value
    return ok


def _numbers(pieces: Words, layout: _Layout) -> list[Ints]:
    """The numbers of records that are laid out so."""
    found: list[Ints] = []
    for begin, width in layout.numbers:
        if not width:
            found.append(np.full(len(pieces), -1, np.int64))
            continue
        place, bits = begin // 8, begin % 8 * 8
        number = pieces[:, place] >> np.uint64(bits)
        if bits + 8 * width > 64:
            number |= pieces[:, place + 1] << np.uint64(64 - bits)
        if width < 8:
            number &= np.uint64((1 << 8 * width) - 1)
        found.append(number.view(np.int64))
    return found


_NO_ROWS = np.zeros(0, np.int64)
# A layout, the records that have it (None: all), where those begin, and their numbers.
_Taken = tuple[_Layout, Ints | None, Ints, list[Ints]]
