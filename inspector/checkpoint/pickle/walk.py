"""What is left of a metadata pickle when its records are cut out, opcode by opcode.

The walk reads opcodes as the pickle machine does: how many bytes each takes, what it puts on the
stack and takes from it, and which object it gives a number in the memo. Records are put together
to runs; each is replaced by opcodes that leave a `RecordRun` where the records were. As its records
make no objects then, the numbers of all later ones are lower: references are written anew.
"""

from __future__ import annotations

import bisect
import os
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.entries import BytesEntries, Paths, Tensors, state_parts
from inspector.checkpoint.pickle.fields import Ints, PickleBytes, Texts
from inspector.checkpoint.pickle.frames import NotSplicedError
from inspector.checkpoint.pickle.joining import Strings
from inspector.checkpoint.pickle.records import Chunks, RecordRun, StoredRecords

__all__ = ["NotSplicedError", "OpcodeWalk", "PickleWindow", "op_end"]


# Opcodes: (bytes, objects taken from the stack, objects put on it).
_OPS: dict[int, tuple[int, int, int]] = {
    **dict.fromkeys(b"N)]}\x88\x89\x8f", (1, 0, 1)),
    **dict.fromkeys(b"K", (2, 0, 1)),
    **dict.fromkeys(b"M", (3, 0, 1)),
    **dict.fromkeys(b"J", (5, 0, 1)),
    **dict.fromkeys(b"G", (9, 0, 1)),
    **dict.fromkeys(b"R\x81\x93b", (1, 2, 1)),
    **dict.fromkeys(b"\x85", (1, 1, 1)),
    **dict.fromkeys(b"\x86a", (1, 2, 1)),
    **dict.fromkeys(b"\x87\x92s", (1, 3, 1)),
    **dict.fromkeys(b"0", (1, 1, 0)),
}
# Those that take all since the last MARK: what they take below it, and put on the stack.
_COLLECTING = {
    **dict.fromkeys(b"tld\x91", (0, 1)),
    **dict.fromkeys(b"eu\x90", (1, 1)),
    **dict.fromkeys(b"1", (0, 0)),
}
# Opcodes with a length before their bytes: bytes of the length.
_SIZED = {0x8C: 1, ord("X"): 4, 0x8D: 8, ord("C"): 1, ord("B"): 4, 0x8E: 8, 0x96: 8}
_SIZED |= {0x8A: 1, 0x8B: 4}
_TEXTS = (0x8C, ord("X"), 0x8D)
_MEMO, _MARK, _STOP, _DUP = 0x94, ord("("), ord("."), ord("2")
_SHORT_GET, _LONG_GET = ord("h"), ord("j")
# Bytes of every opcode that always takes as many.
_NUM_BYTES = {opcode: num_bytes for opcode, (num_bytes, *_) in _OPS.items()}
_NUM_BYTES |= dict.fromkeys((*_COLLECTING, _MEMO, _MARK, _STOP, _DUP), 1)
_NUM_BYTES |= {_SHORT_GET: 2, _LONG_GET: 5}
# The strings in records, by kind, in the order in which they are numbered.
_STRINGS = {
    "tensors": ("name",),
    "bytes_entries": ("name",),
    "paths": ("name", "first", "second"),
    "stored": ("name", "path"),
}
# Bytes that no opcode without a length takes.
_MARGIN = 64
_MAX_MEMO = 1 << 31


def op_end(data: memoryview, at: int) -> int:
    """Where the opcode at a place ends.

    Raises:
        NotSplicedError: It is none that torch writes.
    """
    opcode = data[at]
    if opcode in _NUM_BYTES:
        return at + _NUM_BYTES[opcode]
    if opcode in _SIZED:
        width = _SIZED[opcode]
        return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    raise NotSplicedError


def _refuse() -> NoReturn:
    raise NotSplicedError


@dataclass(slots=True)
class PickleWindow:
    """A part of a pickle, and the records in it; places are counted from its begin.

    Attributes:
        scan: It, without frames.
        end: Where it ends.
        stop: Where the next one is to begin; None if an opcode's end is to be found for that.
        is_last: Whether the pickle ends in it.
        cuts: Where frames begin, which opcodes must not reach over.
        bases: How many records of each kind were in earlier ones.
        chunks, stored, tensors, bytes_entries, paths: What was read of it.
        runs: What is cut out of it, in order; each is told its place in the memo.
        strings: By kind of record and name of a field, the number of each record's string; filled
            in by the walk.
    """

    scan: PickleBytes
    end: int
    stop: int | None
    is_last: bool
    cuts: list[int]
    bases: dict[str, int]
    chunks: Chunks
    stored: StoredRecords | None
    tensors: Tensors | None
    bytes_entries: BytesEntries | None
    paths: Paths | None
    runs: list[RecordRun]
    strings: dict[tuple[str, str], npt.NDArray[np.int32]] = field(default_factory=dict)

    def rows(self, run: RecordRun) -> slice:
        """Which of the window's records a run has."""
        base = self.bases[run.kind]
        return slice(run.first - base, run.last - base)


class OpcodeWalk:
    """The way through one pickle, window by window.

    Args:
        protocol: Of the pickle.
        strings: The strings of records, which are added to it.

    Attributes:
        token: The name of a module that the opcodes put in say, which no file can know.
        out: The pickle with runs in place of records.
        num_walked: Bytes that were gone through.
        is_over: Whether the pickle's end was met.
    """

    def __init__(self, protocol: int, strings: Strings) -> None:
        self.token = os.urandom(16).hex()
        self.out = bytearray(b"\x80%c" % protocol)
        self.num_walked = 0
        self.is_over = False
        self._all = strings
        self._strings: dict[int, bytes] = {}
        # All runs so far: where each begins in the memo, how many entries it takes, and how many
        # all take up to there.
        self._begins: list[int] = []
        self._counts: list[int] = []
        self._removed: list[int] = [0]
        self._memo = 0
        self._call = f"c{self.token}\nrun\n".encode()
        self._same: dict[bytes, bytes] = {}
        # On the stack since the last MARK; how many of them must stay; those of MARKs before.
        self._depth = self._floor = 0
        self._below: list[tuple[int, int]] = []
        self._single: tuple[int, int, bytes] | None = None

    def go(self, window: PickleWindow, refs: dict[str, bytes]) -> int:
        """Go through a window; where it was left.

        Args:
            window: It begins where the last one was left.
            refs: GETs of what every record of a kind refers to.

        Raises:
            NotSplicedError: It does not go on as it should, somewhere.
        """
        self._window, self._refs = window, refs
        self._data, self._end = window.scan.data.data, window.end
        self._cuts, self._cut = [*window.cuts, window.end + 1], 0
        self._first_run = len(self._begins)
        at = 0
        for run in window.runs:
            at = self._rest(at, run.start)
            run.memo = self._memo
            self._put(run)
            self._begins.append(self._memo)
            self._counts.append(run.num_memo)
            self._memo += run.num_memo
            self._removed.append(self._removed[-1] + run.num_memo)
            self._depth += 1 if run.kind == "chunks" else 2
            alone = run.last - run.first == 1
            closing = b"a" if run.kind == "chunks" else b"s"
            self._single = (self._depth, self._floor, closing) if alone else None
            self._floor = self._depth
            at = run.end
            while self._cuts[self._cut] < at:
                self._cut += 1
        if window.is_last:
            at = self._rest(at, window.end, is_last=True)
        elif window.stop is not None:
            at = self._rest(at, window.stop)
        else:
            at = self._rest(at, max(window.end - _MARGIN, 0), is_soft=True)
        self._note_strings()
        return at

    def _rest(self, at: int, until: int, *, is_last: bool = False, is_soft: bool = False) -> int:
        """Go from one run to the next, or to the end; or to an opcode that is far enough."""
        data, out, cuts, cut = self._data, self.out, self._cuts, self._cut
        depth, floor, below, single = self._depth, self._floor, self._below, self._single
        ops, sized, collecting = _OPS, _SIZED, _COLLECTING
        memo, copied, begun = self._memo, at, at
        string: tuple[int, int] | None = None
        # What numbers a string is gone through with it.
        while at < until or (is_soft and string is not None):
            if at >= cuts[cut]:
                if at > cuts[cut]:
                    _refuse()
                cut += 1
                # Empty frames: two begin at one place.
                while cuts[cut] == at:
                    cut += 1
            opcode = data[at]
            found = ops.get(opcode)
            if found is not None:
                size, takes, gives = found
                if depth - takes < floor:
                    # A single record may go where records go, alone.
                    if single is None or depth != single[0] or opcode != single[2][0]:
                        _refuse()
                    floor, single = single[1], None
                    if depth - takes < floor:
                        _refuse()
                depth += gives - takes
                at += size
                string = None
            elif opcode == _MEMO:
                if depth <= floor:
                    _refuse()
                if string is not None:
                    self._strings[memo] = data[string[0] : string[0] + string[1]].tobytes()
                memo += 1
                at += 1
            elif opcode in sized:
                width = sized[opcode]
                length = int.from_bytes(data[at + 1 : at + 1 + width], "little")
                begin = at + 1 + width
                if is_soft and begin + length > self._end - _MARGIN:
                    break
                at = begin + length
                string = (begin, length) if opcode in _TEXTS else None
                depth += 1
            elif opcode in (_SHORT_GET, _LONG_GET):
                size = 2 if opcode == _SHORT_GET else 5
                number = int.from_bytes(data[at + 1 : at + size], "little")
                if number >= memo:
                    _refuse()
                out += data[copied:at]
                out += self._reference(number)
                at += size
                copied = at
                string = None
                depth += 1
            elif opcode == _MARK:
                below.append((depth, floor))
                depth = floor = 0
                single = None
                at += 1
                string = None
            elif opcode in collecting:
                takes, gives = collecting[opcode]
                if not below:
                    _refuse()
                depth, floor = below.pop()
                single = None
                if depth - takes < floor:
                    _refuse()
                depth += gives - takes
                at += 1
                string = None
            elif opcode == _DUP:
                if depth <= floor:
                    _refuse()
                depth += 1
                at += 1
                string = None
            elif opcode == _STOP and is_soft:
                break
            elif opcode == _STOP and is_last:
                if depth <= floor or below:
                    _refuse()
                at += 1
                self.is_over = True
                if cuts[cut] <= self._end:
                    _refuse()
                break
            else:
                _refuse()
        if is_last != self.is_over or not (is_last or is_soft or at == until):
            _refuse()
        if cuts[cut] < at:
            _refuse()
        out += data[copied:at]
        self.num_walked += at - begun
        self._memo, self._cut = memo, cut
        self._depth, self._floor, self._single = depth, floor, single
        return at

    def _reference(self, number: int) -> bytes:
        """Opcodes that give what the memo has under this number."""
        place = bisect.bisect_right(self._begins, number) - 1
        if place >= 0 and number < self._begins[place] + self._counts[place]:
            if place < self._first_run:
                text = self._all.text_at_memo(number) or _refuse()
            else:
                text = self._string_in(self._window.runs[place - self._first_run], number)
            return b"X%b%b" % (len(text).to_bytes(4, "little"), text)
        number -= self._removed[place + 1]
        return b"h%c" % number if number < 256 else b"j" + number.to_bytes(4, "little")

    def _known(self, numbers: Ints) -> npt.NDArray[np.int32]:
        """The strings that the memo has under numbers."""
        found = self._all.at_memo(numbers)
        rows = np.flatnonzero(found < 0)
        texts = [self._strings.get(number) for number in numbers[rows].tolist()]
        if None in texts:
            _refuse()
        found[rows] = self._all.numbers_of([text for text in texts if text is not None])
        return found

    def _references(self, gets: bytes) -> bytes:
        """GETs one after another, written anew."""
        if gets in self._same:
            return self._same[gets]
        out = b""
        at = 0
        first = self._begins[0] if self._begins else 0
        are_before = True
        while at < len(gets):
            end = at + (2 if gets[at] == _SHORT_GET else 5)
            number = int.from_bytes(gets[at + 1 : end], "little")
            if number >= self._memo:
                _refuse()
            are_before &= number < first
            out += self._reference(number)
            at = end
        if are_before:
            # What was numbered before the first run keeps its number.
            self._same[gets] = out
        return out

    def _put(self, run: RecordRun) -> None:
        """Write the opcodes that stand for a run."""
        refs = self._references(self._refs[run.kind])
        call = self._call
        if run.kind == "chunks":
            self.out += b"(%b%bt" % (call, refs)
            return
        values = b""
        tensors = self._window.tensors
        if run.kind == "tensors" and tensors is not None:
            kind = self._references(self._kind_of_properties(self._refs["tensors"]))
            used = {*tensors.state[self._window.rows(run)].tolist()}
            for number, state in enumerate(tensors.states):
                if number in used:
                    values += kind + b")\x81" + self._state(state) + b"b"
                else:
                    values += b"N"
        self.out += b"%b(%b%bt" % (call, refs, values)

    @staticmethod
    def _kind_of_properties(refs: bytes) -> bytes:
        """The third of the GETs."""
        at = 0
        for _ in range(2):
            at += 2 if refs[at] == _SHORT_GET else 5
        return refs[at : at + (2 if refs[at] == _SHORT_GET else 5)]

    def _state(self, state: bytes) -> bytes:
        """The opcodes of a properties' state, without what numbers objects."""
        out = b""
        for part in state_parts(state):
            if part[:1] in (b"h", b"j"):
                out += self._references(part)
            else:
                out += part.removesuffix(b"\x94") if part[:1] != b"K" else part
        return out

    # -- strings ------------------------------------------------------------------------------

    def _note_strings(self) -> None:
        """Number the strings of the window's records, which are left with those numbers.

        Raises:
            NotSplicedError: A record refers to what the memo did not have when it was read.
        """
        window, found = self._window, []
        if self._memo >= _MAX_MEMO:
            _refuse()
        for kind, names in _STRINGS.items():
            records: Any = getattr(window, kind)
            if records is None or not len(records.start):
                continue
            memo = self._memo_of(kind, records.num_memo)
            for name in names:
                text: Texts = getattr(records, name)
                if (text.ref >= memo).any():
                    _refuse()
                at = memo
                if kind == "stored":
                    at = memo + 2 if name == "name" else memo + records.num_memo - 1
                found.append((kind, name, text, at))
                if kind == "paths":
                    memo = memo + (text.ref < 0)
        self._number(found)

    def _number(self, found: list[tuple[str, str, Texts, Ints]]) -> None:
        """Number strings of records; those that are referred to once all others are known."""
        window, memos, numbers = self._window, [], []
        for kind, name, text, memo in found:
            strings = window.strings[kind, name] = np.full(len(memo), -1, np.int32)
            inline = text.ref < 0
            is_cyclic = kind in ("paths", "stored") and name == "name"
            if is_cyclic and kind == "stored" and window.stored is not None:
                # Those of bytes entries stand among the others, and not again and again.
                bare = np.flatnonzero(inline & (window.stored.ndim < 0))
                strings[bare] = self._all.numbers(window.scan, text.at[bare], text.length[bare])
                memos.append(memo[bare])
                numbers.append(strings[bare])
                inline[bare] = False
            rows: Any = slice(None) if inline.all() else np.flatnonzero(inline)
            at, length = text.at[rows], text.length[rows]
            names = window.strings[kind, "name"][rows]
            if name == "second" and (names >= 0).all():
                strings[rows] = self._all.ends(window.scan, at, length, names)
            else:
                strings[rows] = self._all.numbers(window.scan, at, length, is_cyclic=is_cyclic)
            memos.append(memo[rows])
            numbers.append(strings[rows])
            if kind == "tensors":
                # A rank mostly gives the names in the order in which the metadata does.
                self._all.follow(strings)
        if memos:
            self._all.memorize(np.concatenate(memos), np.concatenate(numbers))
        for kind, name, text, _ in found:
            rows = np.flatnonzero(text.ref >= 0)
            if len(rows):
                refs = text.ref[rows]
                heads = np.ones(len(rows), bool)
                heads[1:] = refs[1:] != refs[:-1]
                distinct, which = np.unique(refs[heads], return_inverse=True)
                window.strings[kind, name][rows] = self._known(distinct)[
                    which[np.cumsum(heads) - 1]
                ]

    def _memo_of(self, kind: str, num_memo: npt.NDArray[Any]) -> Ints:
        """How many entries the memo had before each record of a kind."""
        runs = [run for run in self._window.runs if run.kind == kind]
        rows = [self._window.rows(run) for run in runs]
        firsts = np.asarray([row.start for row in rows], np.int64)
        counts = np.asarray([row.stop - row.start for row in rows], np.int64)
        before = np.cumsum(num_memo, dtype=np.int64) - num_memo
        memo = np.asarray([run.memo for run in runs], np.int64)
        found: Ints = before + np.repeat(memo - before[firsts], counts)
        return found

    def _string_in(self, run: RecordRun, number: int) -> bytes:
        """The string that one of the window's records put in the memo under this number."""
        records: Any = getattr(self._window, run.kind)
        rows = self._window.rows(run)
        memo = np.cumsum(records.num_memo[rows], dtype=np.int64) + run.memo
        row = int(np.searchsorted(memo, number, "right")) + rows.start
        if run.kind not in _STRINGS:
            _refuse()
        # A stored place's name is the third, and its path the last; of others they come in order.
        at = number - int(memo[row - rows.start] - records.num_memo[row])
        for name in _STRINGS[run.kind]:
            text: Texts = getattr(records, name)
            if text.ref[row] >= 0:
                continue
            if run.kind == "stored":
                is_it = at == (2 if name == "name" else int(records.num_memo[row]) - 1)
            else:
                is_it = at == 0
                at -= 1
            if is_it:
                first = int(text.at[row])
                return bytes(self._data[first : first + int(text.length[row])])
        _refuse()
