"""What is left of a metadata pickle when its records are cut out, opcode by opcode.

The walk reads opcodes as the pickle machine does: how many bytes each takes, what it puts on the
stack and takes from it, and which object it gives a number in the memo. Records are put together
to runs; each is replaced by opcodes that leave a `RecordRun` where the records were. As its records
make no objects then, the numbers of all later ones are lower: references are written anew.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.entries import Paths, Tensors, state_parts
from inspector.checkpoint.pickle.fields import Ints, PickleBytes, Texts
from inspector.checkpoint.pickle.records import Chunks, StoredRecords

__all__ = ["NotSplicedError", "OpcodeWalk", "RecordRun", "op_end"]


class NotSplicedError(Exception):
    """The file is not one that can be read so, for whatever reason."""


class RecordRun:
    """Stands for the records `first` to `last` (not included) of a kind.

    Attributes:
        kind: `chunks`, `stored`, `tensors` or `paths`.
        start, end: Where they lie.
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
# The strings in records, by kind, in the order in which they are looked through.
_PARTS = ("name", "first", "second")
_STRINGS = {"stored": ("path", "name"), "tensors": ("name",), "paths": _PARTS}


def op_end(data: memoryview, at: int) -> int:
    """Where the opcode at a place ends.

    Raises:
        NotSplicedError: It is none that torch writes.
    """
    opcode = data[at]
    if opcode in _OPS:
        return at + _OPS[opcode][0]
    if opcode in _SIZED:
        width = _SIZED[opcode]
        return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    if opcode == _SHORT_GET:
        return at + 2
    if opcode == _LONG_GET:
        return at + 5
    if opcode in _COLLECTING or opcode in (_MEMO, _MARK, _STOP, _DUP):
        return at + 1
    raise NotSplicedError


def _refuse() -> NoReturn:
    raise NotSplicedError


class OpcodeWalk:
    """The way through one pickle.

    Args:
        scan: It, without frames.
        end: Where it ends.
        cuts: Where frames began, which opcodes must not reach over.
        runs: What is cut out, in order; each is told its place in the memo.
        refs: GETs of what every record of a kind refers to.
        records: Chunks, stored places, tensors and paths.

    Attributes:
        token: The name of a module that the opcodes put in say, which no file can know.
        stop: Where the pickle ended.
    """

    def __init__(
        self,
        scan: PickleBytes,
        end: int,
        cuts: Sequence[int],
        runs: list[RecordRun],
        refs: dict[str, bytes],
        records: tuple[Chunks, StoredRecords | None, Tensors | None, Paths | None],
    ) -> None:
        self.token = os.urandom(16).hex()
        self.stop = 0
        self._data = scan.data.data
        self._end = end
        self._cuts = [*cuts, end + 1]
        self._runs = runs
        self._refs = refs
        _, self._stored, self._tensors, self._paths = records
        self._strings: dict[int, tuple[int, int]] = {}
        self._begins: list[int] = []
        self._removed: list[int] = [0]
        self._texts: dict[tuple[int, str], tuple[Ints, Ints, Ints]] = {}
        self._memo = 0
        self._out = bytearray()
        self._call = f"c{self.token}\nrun\n".encode()
        self._same: dict[bytes, bytes] = {}
        self._states = self._tensors.state.tolist() if self._tensors is not None else []

    def text(self, protocol: int) -> bytes:
        """The pickle with runs in place of records.

        Raises:
            NotSplicedError: It does not go on as it should, somewhere.
        """
        self._out = bytearray(b"\x80%c" % protocol)
        # On the stack since the last MARK; how many of them must stay; those of MARKs before.
        depth = floor = at = cut = 0
        below: list[tuple[int, int]] = []
        single: tuple[int, int, bytes] | None = None
        for run in [*self._runs, None]:
            until = run.start if run is not None else self._end
            at, cut, depth, floor, single = self._rest(
                at, until, cut, depth, floor, below, single, is_last=run is None
            )
            if run is None:
                break
            run.memo = self._memo
            self._put(run)
            self._begins.append(self._memo)
            self._memo += run.num_memo
            self._removed.append(self._removed[-1] + run.num_memo)
            depth += 1 if run.kind == "chunks" else 2
            alone = run.last - run.first == 1
            closing = b"a" if run.kind == "chunks" else b"s"
            single = (depth, floor, closing) if alone else None
            floor = depth
            at = run.end
            while self._cuts[cut] < at:
                cut += 1
        return bytes(self._out)

    def _rest(
        self,
        at: int,
        until: int,
        cut: int,
        depth: int,
        floor: int,
        below: list[tuple[int, int]],
        single: tuple[int, int, bytes] | None,
        *,
        is_last: bool,
    ) -> tuple[int, int, int, int, tuple[int, int, bytes] | None]:
        """Go from one run to the next, or to the end."""
        data, out, cuts = self._data, self._out, self._cuts
        ops, sized, collecting = _OPS, _SIZED, _COLLECTING
        memo, copied = self._memo, at
        string: tuple[int, int] | None = None
        while at < until:
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
                    self._strings[memo] = string
                memo += 1
                at += 1
            elif opcode in sized:
                width = sized[opcode]
                length = int.from_bytes(data[at + 1 : at + 1 + width], "little")
                begin = at + 1 + width
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
            elif opcode == _STOP and is_last:
                if depth <= floor or below:
                    _refuse()
                at += 1
                self.stop = at
                if cuts[cut] <= self._end:
                    _refuse()
                break
            else:
                _refuse()
        if at != until and not self.stop:
            _refuse()
        if is_last and not self.stop:
            _refuse()
        out += data[copied:at]
        self._memo = memo
        return at, cut, depth, floor, single

    def _reference(self, number: int) -> bytes:
        """Opcodes that give what the memo has under this number."""
        place = bisect.bisect_right(self._begins, number) - 1
        if place >= 0 and number < self._begins[place] + self._runs[place].num_memo:
            at, length = self._string_of(self._runs[place], np.asarray([number]))
            first, count = int(at[0]), int(length[0])
            text = self._data[first : first + count].tobytes()
            return b"X%b%b" % (count.to_bytes(4, "little"), text)
        number -= self._removed[place + 1]
        return b"h%c" % number if number < 256 else b"j" + number.to_bytes(4, "little")

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
            self._out += b"(%b%bt" % (call, refs)
            return
        values = b""
        if run.kind == "tensors" and self._tensors is not None:
            kind = self._references(self._kind_of_properties(self._refs["tensors"]))
            used = {*self._states[run.first : run.last]}
            for number, state in enumerate(self._tensors.states):
                if number in used:
                    values += kind + b")\x81" + self._state(state) + b"b"
                else:
                    values += b"N"
        self._out += b"%b(%b%bt" % (call, refs, values)

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

    def check_order(self) -> None:
        """Refuse records that refer to what the memo did not have when they were read."""
        if self._stored is not None:
            memo = self._memo_before("stored", self._stored.num_memo)
            for which in _STRINGS["stored"]:
                if (self._stored.text(which, slice(None)).ref >= memo).any():
                    _refuse()
        if self._tensors is not None:
            memo = self._memo_before("tensors", self._tensors.num_memo)
            if (self._tensors.name.ref >= memo).any():
                _refuse()
        if self._paths is not None:
            memo = self._memo_before("paths", self._paths.num_memo)
            for part in _PARTS:
                text: Texts = getattr(self._paths, part)
                if (text.ref >= memo).any():
                    _refuse()
                memo = memo + (text.ref < 0)

    def _memo_before(self, kind: str, num_memo: npt.NDArray[Any]) -> Ints:
        """How many entries the memo had before each record of a kind."""
        runs = [run for run in self._runs if run.kind == kind]
        firsts = np.asarray([run.first for run in runs], np.int64)
        counts = np.asarray([run.last - run.first for run in runs], np.int64)
        before = np.cumsum(num_memo, dtype=np.int64) - num_memo
        memo = np.asarray([run.memo for run in runs], np.int64)
        found: Ints = before + np.repeat(memo - before[firsts], counts)
        return found

    def located(self, text: Texts) -> tuple[Ints, Ints]:
        """Where strings lie, and their bytes; those of the memo too, once the walk is done."""
        refs = text.ref
        if not (refs >= 0).any():
            return text.at, text.length.astype(np.int64)
        changes = np.ones(len(refs), bool)
        changes[1:] = refs[1:] != refs[:-1]
        numbers, inverse = np.unique(refs[changes], return_inverse=True)
        at, length = self._locate(numbers)
        which = inverse[np.cumsum(changes) - 1]
        inline = refs < 0
        return (
            np.where(inline, text.at, at[which]),
            np.where(inline, text.length, length[which]),
        )

    def _locate(self, numbers: npt.NDArray[Any]) -> tuple[Ints, Ints]:
        at, length = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
        begins = np.asarray(self._begins, np.int64)
        ends = begins + np.asarray([run.num_memo for run in self._runs], np.int64)
        run_of = np.searchsorted(begins, numbers, "right") - 1
        in_run = (run_of >= 0) & (numbers < ends[np.maximum(run_of, 0)])
        for place in np.unique(run_of[in_run]).tolist():
            rows = np.flatnonzero(in_run & (run_of == place))
            at[rows], length[rows] = self._string_of(self._runs[place], numbers[rows])
        for row in np.flatnonzero(~in_run & (numbers >= 0)).tolist():
            found = self._strings.get(int(numbers[row]))
            if found is None:
                _refuse()
            at[row], length[row] = found
        return at, length

    def _string_of(self, run: RecordRun, numbers: npt.NDArray[Any]) -> tuple[Ints, Ints]:
        """Where the strings lie that a run's records put in the memo under these numbers."""
        at, length = np.full(len(numbers), -1, np.int64), np.zeros(len(numbers), np.int64)
        for which in _STRINGS.get(run.kind, ()):
            left = np.flatnonzero(at < 0)
            if not len(left):
                break
            memo, places, lengths = self._strings_in(run, which)
            if not len(memo):
                continue
            row = np.minimum(np.searchsorted(memo, numbers[left]), len(memo) - 1)
            same = memo[row] == numbers[left]
            at[left[same]], length[left[same]] = places[row[same]], lengths[row[same]]
        if (at < 0).any():
            _refuse()
        return at, length

    def _strings_in(self, run: RecordRun, which: str) -> tuple[Ints, Ints, Ints]:
        """The memo numbers, places and bytes of the strings of a run's records."""
        key = (run.start, which)
        if key in self._texts:
            return self._texts[key]
        rows = slice(run.first, run.last)
        if run.kind == "stored" and self._stored is not None:
            text, counts = self._stored.text(which, rows), self._stored.num_memo[rows]
        else:
            records: Any = self._tensors if run.kind == "tensors" else self._paths
            whole: Texts = getattr(records, which)
            text = whole.of(rows)
            counts = records.num_memo[rows]
        after = np.cumsum(counts, dtype=np.int64) + run.memo
        # The path is the last; a stored place's name the third; another's the first.
        before = 2 if run.kind == "stored" else 0
        memo = after - 1 if which == "path" else after - counts + before
        for earlier in _PARTS[: _PARTS.index(which)] if run.kind == "paths" else ():
            memo = memo + (getattr(self._paths, earlier).ref[rows] < 0)
        inline = text.ref < 0
        found = memo[inline], text.at[inline], text.length[inline].astype(np.int64)
        self._texts[key] = found
        return found
