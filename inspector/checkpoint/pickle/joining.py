"""What the records of a pickle have in common: its strings, and the chunks that places belong to.

A string is kept once, however often the pickle says it; stored places are joined to the chunks
that they belong to by name, position and offset.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.child.names import Names
from inspector.checkpoint.pickle.fields import (
    PAD,
    Bytes,
    Ints,
    PickleBytes,
    Words,
    starts_of,
)
from inspector.checkpoint.pickle.frames import NotSplicedError
from inspector.checkpoint.pickle.records import GrowingColumn

__all__ = ["Strings", "join", "refuse_absurd", "refuse_duplicates", "same_texts"]

# Bytes of strings that there is room for at first.
_ROOM = 1 << 16
# Chunks that are looked at together.
_BLOCK = 1 << 14
_MAX_TRIES, _PROBE = 4, 256
# Bytes of strings that are compared many at a time.
_MAX_TOGETHER = 255
# Strings are copied together if the longest of them takes at most so many times the mean.
_MAX_SPREAD = 4
# Bytes of a tensor that are looked at one by one.
_MANY_BYTES = float(1 << 61)

# The lowest bytes of a word: none, one, up to all eight.
_FIRST_BYTES = np.asarray([(1 << 8 * count) - 1 for count in range(9)], np.uint64)


def join(
    columns: dict[str, npt.NDArray[Any]],
    tensor: Ints,
    index: npt.NDArray[Any],
    ndim: npt.NDArray[Any],
    box: Ints,
    offsets: Ints,
    file: npt.NDArray[np.int32],
    byte_offset: Ints,
    byte_length: Ints,
) -> None:
    """Write places to the chunks that they name.

    Raises:
        NotSplicedError: One of those chunks is not there, or elsewhere.
    """
    if not len(tensor):
        return
    starts, dim_start = columns["chunk_start"], columns["dim_start"]
    if (tensor < 0).any():
        raise NotSplicedError
    following = tensor + 1
    chunk = starts.take(tensor) + index
    dims = dim_start.take(following) - dim_start.take(tensor)
    if (ndim != dims).any() or (index < 0).any() or (chunk >= starts.take(following)).any():
        raise NotSplicedError
    chunk_box = columns["box_start"].take(tensor) + index * dims
    for dim in range(int(ndim.max())):
        if (ndim > dim).all():
            here, there = box + dim, chunk_box + dim
        else:
            rows = np.flatnonzero(ndim > dim)
            here, there = box.take(rows) + dim, chunk_box.take(rows) + dim
        if (offsets.take(here) != columns["offsets"].take(there)).any():
            raise NotSplicedError
    columns["file"][chunk] = file
    columns["byte_offset"][chunk] = byte_offset
    columns["byte_length"][chunk] = byte_length


def refuse_absurd(columns: dict[str, npt.NDArray[Any]], itemsizes: npt.NDArray[np.float64]) -> None:
    """What takes an absurd number of bytes is left to the slow way, which says so.

    Args:
        columns: Of the tensors.
        itemsizes: Bytes of an element, by the tensors' properties.

    Raises:
        NotSplicedError: There is such a tensor.
    """
    dims, shapes = np.diff(columns["dim_start"]), columns["shapes"].astype(np.float64)
    total = itemsizes[columns["property_id"]]
    for dim in range(int(dims.max(initial=0))):
        rows = np.flatnonzero(dims > dim)
        total[rows] *= shapes[columns["dim_start"][rows] + dim]
    if (total >= _MANY_BYTES).any():
        raise NotSplicedError


def refuse_duplicates(columns: dict[str, npt.NDArray[Any]]) -> None:
    """Two chunks of one tensor at one offset share their place: not here.

    Raises:
        NotSplicedError: There are such, or it looks so.
    """
    dims = np.diff(columns["dim_start"])
    counts = np.diff(columns["chunk_start"])
    offsets = columns["offsets"]
    ndim = np.repeat(dims.astype(np.int8), counts)
    if len(ndim) < 2:
        return
    # Mostly each lies behind the one before; of a tensor that is so, no two are the same.
    behind = np.zeros(len(ndim) + 1, bool)
    behind[columns["chunk_start"]] = True
    behind = behind[1:-1]
    begin = 0
    for first in range(0, len(behind), _BLOCK):
        mine = behind[first : first + _BLOCK]
        of_both = ndim[first : first + len(mine) + 1]
        box = np.cumsum(of_both, dtype=np.int64) - of_both + begin
        begin = int(box[-1])
        equal = ~mine
        for dim in range(int(of_both.max())):
            rows = np.flatnonzero(equal & (of_both[1:] > dim))
            if not len(rows):
                break
            step = offsets[box[rows + 1] + dim] - offsets[box[rows] + dim]
            mine[rows[step > 0]] = True
            equal[rows[step != 0]] = False
    if behind.all():
        return
    box = np.cumsum(ndim, dtype=np.int64) - ndim
    tensor = np.repeat(np.arange(len(dims)), counts)
    odd = np.zeros(len(dims), bool)
    odd[tensor[1:][~behind]] = True
    rows = np.flatnonzero(odd[tensor])
    mixed = _mix(np.uint64(1), tensor[rows].astype(np.uint64))
    for dim in range(int(dims.max(initial=0))):
        has = np.flatnonzero(ndim[rows] > dim)
        mixed[has] = _mix(mixed[has], offsets[box[rows[has]] + dim].astype(np.uint64))
    mixed.sort()
    # Sums that agree by chance do no harm: the file is read the slow way.
    if (mixed[1:] == mixed[:-1]).any():
        raise NotSplicedError


def _mix(state: Words | np.uint64, value: Words) -> Words:
    """One more number into 64-bit sums (the multipliers of splitmix64)."""
    state = (state + value) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = state ^ (state >> np.uint64(31))
    return mixed


class Strings:
    """Every string of the records once, by number, and which of them the memo has where."""

    def __init__(self) -> None:
        self._data: Bytes = np.zeros(_ROOM + PAD, np.uint8)
        self._scan = PickleBytes(self._data)
        self._end = 0
        self._at, self._length = GrowingColumn(np.int64), GrowingColumn(np.int64)
        self._sorted, self._order = np.zeros(0, np.uint64), np.zeros(0, np.int32)
        self._memo, self._strings = GrowingColumn(np.int32), GrowingColumn(np.int32)
        # Strings that came before in this order, and the place of each of them there, or -1.
        self._cycle, self._place = GrowingColumn(np.int32), GrowingColumn(np.int32)
        self._next = 0
        self._known: list[str] = []
        self._is_known = GrowingColumn(np.bool_)
        # Which are the end of another's, and may say what one says that has another number.
        self._is_end = GrowingColumn(np.bool_)

    def __len__(self) -> int:
        return len(self._at.filled())

    # -- by what they say ---------------------------------------------------------------------

    def numbers(
        self, scan: PickleBytes, at: Ints, length: Ints, *, is_cyclic: bool = False
    ) -> npt.NDArray[np.int32]:
        """The number of each string, which is given one if it is new.

        Args:
            scan: The bytes that they lie in.
            at: Where each begins.
            length: How many bytes each takes.
            is_cyclic: They mostly are the names of tensors, in their order.

        Raises:
            NotSplicedError: Two strings are not to be told apart by their sums.
        """
        found = np.full(len(at), -1, np.int32)
        left = np.arange(len(at))
        if is_cyclic:
            left = self._predicted(found, scan, at, length)
        if len(left):
            at, length = at[left], length[left]
            # Or all chunks of a tensor, one behind the other.
            again = np.zeros(len(left), bool)
            again[1:] = same_texts(scan, at[1:], length[1:], scan, at[:-1], length[:-1])
            heads = np.flatnonzero(~again)
            found[left] = self._looked_up(scan, at[heads], length[heads])[np.cumsum(~again) - 1]
        if is_cyclic and len(found):
            self.follow(found[left])
            self._next = int(self._place.filled()[found[-1]]) + 1
        return found

    def ends(
        self, scan: PickleBytes, at: Ints, length: Ints, of: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int32]:
        """The number of each string, which mostly is what another ends with, and not looked up.

        Args:
            scan: The bytes that they lie in.
            at: Where each begins.
            length: How many bytes each takes.
            of: The other of each.
        """
        there, found = self.places(of)[0], np.full(len(at), -1, np.int32)
        there = there + self.places(of)[1] - length
        is_end = there >= self.places(of)[0]
        is_end &= same_texts(scan, at, length, self._scan, np.where(is_end, there, 0), length)
        rows, count = np.flatnonzero(is_end), len(self)
        found[rows] = np.arange(count, count + len(rows))
        self._is_end.add(np.zeros(count - len(self._is_end.filled()), bool))
        self._is_end.add(np.ones(len(rows), bool))
        self._at.add(there[rows])
        self._length.add(length[rows])
        others = np.flatnonzero(~is_end)
        found[others] = self.numbers(scan, at[others], length[others])
        return found

    def follow(self, numbers: npt.NDArray[np.int32]) -> None:
        """Expect strings in this order; those that are expected already stay where they are."""
        self._place.add(np.full(len(self) - len(self._place.filled()), -1, np.int32))
        place, count = self._place.filled(), len(self._cycle.filled())
        new, first = np.unique(numbers[place[numbers] < 0], return_index=True)
        new = new[np.argsort(first)]
        place[new] = np.arange(count, count + len(new))
        self._cycle.add(new)

    def _predicted(
        self, found: npt.NDArray[np.int32], scan: PickleBytes, at: Ints, length: Ints
    ) -> Ints:
        """Fill in the strings that come in the order expected; which others there are."""
        begin = 0
        for _ in range(_MAX_TRIES if len(self._cycle.filled()) else 0):
            count = len(at) - begin
            wrong = self._expect(found, scan, at, length, slice(begin, begin + _PROBE))
            if 2 * len(wrong) <= min(count, _PROBE):
                wrong = self._expect(found, scan, at, length, slice(begin, None))
                if 4 * len(wrong) <= count:
                    break
            # Go on behind the first that was not expected: it is elsewhere in the order, or new.
            first = begin + int(wrong[0])
            one = slice(first, first + 1)
            found[one] = self._looked_up(scan, at[one], length[one])
            self.follow(found[one])
            self._next = int(self._place.filled()[found[first]]) + 1
            begin = first + 1
        return np.flatnonzero(found < 0)

    def _expect(
        self,
        found: npt.NDArray[np.int32],
        scan: PickleBytes,
        at: Ints,
        length: Ints,
        rows: slice,
    ) -> Ints:
        """Fill in those of some strings that come in the order expected; which of them do not."""
        cycle = self._cycle.filled()
        at, length = at[rows], length[rows]
        expected = cycle[(self._next + np.arange(len(at))) % len(cycle)]
        same = self._are(expected, scan, at, length)
        found[rows] = np.where(same, expected, -1)
        return np.flatnonzero(~same)

    def number_of(self, text: bytes, *, is_new: bool = True) -> int:
        """The number of one string; it is given one if it may be new, or else -1."""
        scan = PickleBytes(np.frombuffer(text + bytes(PAD), np.uint8))
        at, length = np.zeros(1, np.int64), np.asarray([len(text)])
        if not is_new and _sums(scan, at, length)[0] not in self._sorted:
            return -1
        return int(self._looked_up(scan, at, length)[0])

    def numbers_of(self, texts: list[bytes]) -> npt.NDArray[np.int32]:
        """The number of each of some strings, which is given one if it is new."""
        length = np.asarray([len(text) for text in texts], np.int64)
        if length.max(initial=0) > _MAX_TOGETHER:
            return np.asarray([self.number_of(text) for text in texts], np.int32)
        scan = PickleBytes(np.frombuffer(b"".join(texts) + bytes(PAD), np.uint8))
        return self.numbers(scan, np.cumsum(length) - length, length)

    def _looked_up(self, scan: PickleBytes, at: Ints, length: Ints) -> npt.NDArray[np.int32]:
        sums = _sums(scan, at, length)
        place = np.searchsorted(self._sorted, sums)
        known = np.flatnonzero(place < len(self._sorted))
        known = known[self._sorted[place[known]] == sums[known]]
        found = np.full(len(at), -1, np.int32)
        found[known] = self._order[place[known]]
        new = np.flatnonzero(found < 0)
        if len(new):
            found[new] = self._add(scan, at[new], length[new], sums[new])
        if not self._are(found, scan, at, length).all():
            raise NotSplicedError
        return found

    def _add(self, scan: PickleBytes, at: Ints, length: Ints, sums: Words) -> npt.NDArray[np.int32]:
        """Strings that are new, numbered in the order in which each stands first."""
        found, first, which = np.unique(sums, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(self), len(self) + len(order), dtype=np.int32)
        firsts = first[order]
        at, length = at[firsts], length[firsts]
        # A line each, so that many are taken as lines at once.
        text = _lines(scan, at, length)
        begins = self._end + starts_of(length + 1)[:-1]
        self._make_room(len(text))
        self._data[self._end : self._end + len(text)] = text
        self._end += len(text)
        self._at.add(begins)
        self._length.add(length)
        place = np.searchsorted(self._sorted, found)
        self._sorted = np.insert(self._sorted, place, found)
        self._order = np.insert(self._order, place, number)
        return number[which]

    def _make_room(self, num_bytes: int) -> None:
        if self._end + num_bytes + PAD > len(self._data):
            more = np.zeros(2 * (self._end + num_bytes) + PAD, np.uint8)
            more[: self._end] = self._data[: self._end]
            self._data, self._scan = more, PickleBytes(more)

    def _are(
        self, numbers: npt.NDArray[np.int32], scan: PickleBytes, at: Ints, length: Ints
    ) -> npt.NDArray[np.bool_]:
        """Whether strings are those of these numbers, byte by byte."""
        mine, my_length = self.places(numbers)
        return same_texts(scan, at, length, self._scan, mine, my_length)

    # -- by their number ----------------------------------------------------------------------

    def places(self, numbers: npt.NDArray[Any]) -> tuple[Ints, Ints]:
        """Where strings lie in `scan`, and their bytes."""
        return self._at.filled()[numbers], self._length.filled()[numbers]

    @property
    def scan(self) -> PickleBytes:
        """All of them."""
        return self._scan

    def bytes_of(self, number: int) -> bytes:
        """What one says."""
        at, length = int(self._at.filled()[number]), int(self._length.filled()[number])
        return self._data[at : at + length].tobytes()

    def lines(self, numbers: npt.NDArray[Any]) -> tuple[bytes, Ints]:
        """What they say, with a line end between each two; and where each begins, and would."""
        at, length = self.places(numbers)
        if not len(numbers):
            return b"", np.zeros(1, np.int64)
        end = at + length
        heads = np.flatnonzero(at[1:] != end[:-1] + 1) + 1
        firsts, lasts = at[np.append(0, heads)], end[np.append(heads, len(at)) - 1]
        data = self._data.data
        pieces = [data[b:e] for b, e in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        return b"\n".join(pieces), starts_of(length + 1)

    def names(self, numbers: npt.NDArray[Any]) -> Sequence[str]:
        """What they say, each made a `str` when it is asked for.

        Raises:
            UnicodeDecodeError: One is none.
        """
        lines, starts = self.lines(numbers)
        if lines.count(b"\n") != len(numbers) - 1:
            return self.texts(numbers)
        if not lines.isascii():
            lines.decode("utf-8", "surrogatepass")
        return Names(lines, array("q", starts.tobytes()))

    def texts(self, numbers: npt.NDArray[Any]) -> list[str]:
        """What they say; of each one object, however often it is asked for."""
        known, wanted = self._known, numbers.tolist()
        known += [""] * (len(self) - len(known))
        self._is_known.add(np.zeros(len(self) - len(self._is_known.filled()), bool))
        new = numbers[~self._is_known.filled()[numbers]]
        self._is_known.filled()[new] = True
        at, length = self.places(new)
        data = self._data.data
        for number, first, last in zip(
            new.tolist(), at.tolist(), (at + length).tolist(), strict=True
        ):
            known[number] = str(data[first:last], "utf-8", "surrogatepass")
        return [known[number] for number in wanted]

    # -- by their place in the memo -----------------------------------------------------------

    def memorize(self, memo: Ints, numbers: npt.NDArray[np.int32]) -> None:
        """Which strings the memo has at some places, which all are behind those known so far."""
        order = np.argsort(memo, kind="stable")
        self._memo.add(memo[order])
        self._strings.add(numbers[order])

    def at_memo(self, memo: Ints) -> npt.NDArray[np.int32]:
        """The strings at places of the memo; -1 where there is none of the records."""
        known = self._memo.filled()
        found = np.full(len(memo), -1, np.int32)
        if len(known):
            wanted = memo.astype(np.int32)
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            same = known[place] == wanted
            found[same] = self._strings.filled()[place[same]]
            rows = np.flatnonzero(found >= 0)
            is_end = self._is_end.filled()
            rows = rows[found[rows] < len(is_end)]
            rows = rows[is_end[found[rows]]]
            if len(rows):
                found[rows] = self.numbers(self._scan, *self.places(found[rows]))
        return found

    def text_at_memo(self, memo: int) -> bytes | None:
        """What the string at one place of the memo says; None if there is none of the records."""
        known = self._memo.filled()
        # A number of another kind would have all of them converted.
        place = int(known.searchsorted(np.int32(memo)))
        if place == len(known) or known[place] != memo:
            return None
        return self.bytes_of(int(self._strings.filled()[place]))


def _lines(scan: PickleBytes, at: Ints, length: Ints) -> Bytes:
    """Strings, each with a line end behind it."""
    most = int(length.max(initial=0)) + 1
    if most * len(at) > _MAX_SPREAD * int((length + 1).sum()):
        data = scan.data.data
        pieces = [data[b:e] for b, e in zip(at.tolist(), (at + length).tolist(), strict=True)]
        return np.frombuffer(b"\n".join([*pieces, b""]), np.uint8)
    spread = scan.pieces(at, most).view(np.uint8)
    spread[np.arange(len(at)), length] = ord("\n")
    found: Bytes = spread[np.arange(spread.shape[1]) <= length[:, None]]
    return found


def _sums(scan: PickleBytes, at: Ints, length: Ints) -> Words:
    """A 64-bit sum of each string's bytes."""
    state = _mix(np.uint64(1), length.astype(np.uint64))
    most = max(int(length.max(initial=0)), 1)
    pieces = scan.pieces(at, most)
    for word in range(-(-most // 8)):
        mixed = _mix(state, pieces[:, word] & _mask(length, word))
        state = np.where(length > 8 * word, mixed, state)
    return state


def _mask(length: Ints, word: int) -> Words:
    """Which bits of a word of strings of some lengths are theirs."""
    mask: Words = _FIRST_BYTES[np.clip(length - 8 * word, 0, 8)]
    return mask


def same_texts(
    scan: PickleBytes, at: Ints, length: Ints, others: PickleBytes, other_at: Ints, other: Ints
) -> npt.NDArray[np.bool_]:
    """Whether strings are the same as others, byte by byte.

    Args:
        scan: What the strings lie in.
        at: Where each begins.
        length: The bytes of each.
        others: What the others lie in.
        other_at: Where each of those begins.
        other: The bytes of each of those.
    """
    same: npt.NDArray[np.bool_] = length == other
    if not same.any():
        return same
    least, most = int(length.min()), max(int(length.max()), 1)
    mine, theirs = scan.pieces(at, most), others.pieces(other_at, most)
    for word in range(-(-most // 8)):
        differing = mine[:, word] ^ theirs[:, word]
        if least < 8 * word + 8:
            differing &= _mask(length, word)
        same &= differing == 0
    return same
