"""The entries of a metadata pickle, found and read all at once: of all kinds, and their paths.

As `records.py` reads chunks and stored places: the form is learned from the first entry that has
it, and every other that is written so is read by numpy. A tensor's entry holds its chunks, which
were read before. Nothing is decided here either: that is for `splice.py`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.fields import (
    DIMS,
    GET,
    NEW,
    SIZE,
    SIZED,
    Ints,
    PickleBytes,
    RecordPart,
    Texts,
    starts_of,
)
from inspector.checkpoint.pickle.joining import Strings, same_texts
from inspector.checkpoint.pickle.records import Chunks, RecordRun

__all__ = [
    "BytesEntries",
    "BytesForm",
    "EveryPath",
    "EveryTensor",
    "Paths",
    "TensorForm",
    "Tensors",
    "chunk_runs",
    "linked_runs",
    "read_paths",
    "state_parts",
]

# What `TensorProperties.__getstate__` gives: references, and what is made anew of them and numbers.
_STATE = rb"\((?:%b|K.|[\x88\x89N]|\x85\x94|R\x94){5,60}?t\x94" % GET
_TENSOR = re.compile(
    rb"(?P<new>%(get)b)\)\x81\x94}\x94\((?P<properties>%(get)b)(?P<kind>%(get)b)\)\x81\x94"
    rb"%(state)bb(?P<sized>%(get)b)(?P<size>%(get)b)%(tuple)b(?P<chunks>%(get)b)\]\x94"
    % {b"get": GET, b"state": _STATE, b"tuple": SIZE},
    re.DOTALL,
)
_BYTES = re.compile(rb"(?P<new>%b)\)\x81\x94(?![}(])" % GET, re.DOTALL)
_STATES = re.compile(_STATE, re.DOTALL)
_STATE_PART = re.compile(rb"%b|K.|[\x88\x89N(t]|\x85\x94|R\x94|\x94" % GET, re.DOTALL)
_MAX_STATES = 32
_INLINE = 0x8C
_TEXT_BLOCK = 512


@dataclass(slots=True)
class Tensors:
    """Entries of tensors that follow the form, each with the name before it.

    Attributes:
        start, end: Where each lies, its name with it.
        linked: Whether it stands right behind the one before.
        name: Its fqn.
        state: Which of `states` its properties have.
        states: What the pickle says of properties, as opcodes.
        ndim: Dims of its size.
        sizes: Shape (tensors, most dims).
        first, last: Its chunks, the last not included.
        num_memo: Memo entries that each makes; the name is the first, if it is given here.
    """

    start: Ints
    end: Ints
    linked: npt.NDArray[np.bool_]
    name: Texts
    state: npt.NDArray[np.int32]
    states: list[bytes]
    ndim: npt.NDArray[np.int8]
    sizes: Ints
    first: Ints
    last: Ints
    num_memo: Ints


@dataclass(frozen=True, slots=True)
class TensorForm:
    """How a `TensorStorageMetadata` is written: the memo references (GET opcodes) in it."""

    new: bytes
    properties: bytes
    kind: bytes
    sized: bytes
    size: bytes
    chunks: bytes

    @classmethod
    def learn(cls, pickle: memoryview, begin: int, end: int) -> TensorForm | None:
        """The form of the first entry between two places, or None if there is none."""
        match = _TENSOR.search(pickle, begin, end)
        return match and cls(**match.groupdict())

    @property
    def refs(self) -> bytes:
        """GETs of the classes, the keys and `torch.Size`, in the order of the attributes."""
        return self.new + self.properties + self.kind + self.sized + self.size + self.chunks

    def read(self, scan: PickleBytes, calls: Ints, chunks: Chunks) -> Tensors | None:
        """Read the entries that follow the form, of those that may begin there; None: none does."""
        begin = self.new + NEW + self.properties + self.kind + b")\x81\x94"
        calls = calls[scan.begin_so(calls, begin)]
        state, states, at = self._states(scan, calls, calls + len(begin))
        segment = RecordPart(b"b" + self.sized + self.size, DIMS, SIZED + self.chunks + b"]\x94")
        size = segment.read(scan, at)
        first, last, end = _chunks_at(scan, size.end, chunks)
        ok = (state >= 0) & size.ok & (last >= first) & _same_ndim(chunks, first, last, size.ndim)
        calls, state, end, first, last = calls[ok], state[ok], end[ok], first[ok], last[ok]
        ndim, sizes = size.ndim[ok], size.dims[ok]
        if not len(calls):
            return None
        start, linked, name = _names_before(scan, calls, end)
        memo = starts_of(chunks.num_memo)
        of_state = np.asarray([_num_memo(text) for text in states], np.int64)
        # The object, its dict, the properties, their state, the size, the list; and the chunks.
        num_memo = (name.ref < 0) + 4 + of_state[state] + np.where(ndim > 0, 3, 2)
        num_memo = num_memo + memo[last] - memo[first]
        ok = start >= 0
        linked &= np.concatenate([np.zeros(1, bool), ok[:-1]])
        return Tensors(
            start[ok],
            end[ok],
            linked[ok],
            name.of(ok),
            state[ok],
            states,
            ndim[ok],
            sizes[ok],
            first[ok],
            last[ok],
            num_memo[ok],
        )

    @staticmethod
    def _states(
        scan: PickleBytes, calls: Ints, at: Ints
    ) -> tuple[npt.NDArray[np.int32], list[bytes], Ints]:
        """Which of the states each has, or -1; the states; and where each ends."""
        state = np.full(len(calls), -1, np.int32)
        end = at.copy()
        states: list[bytes] = []
        left = np.arange(len(calls))
        while len(left) and len(states) < _MAX_STATES:
            match = _STATES.match(scan.data.data, int(at[left[0]]), int(at[left[0]]) + 200)
            if match is None:
                left = left[1:]
                continue
            text = match[0]
            same = scan.begin_so(at[left], text)
            state[left[same]] = len(states)
            end[left[same]] += len(text)
            states.append(text)
            left = left[~same]
        return state, states, end


def state_parts(state: bytes) -> list[bytes]:
    """A state's opcodes, one by one; what numbers an object is at the end of what makes it."""
    return [part[0] for part in _STATE_PART.finditer(state)]


def _num_memo(state: bytes) -> int:
    return sum(part[-1:] == b"\x94" and part[:1] not in b"hjK" for part in state_parts(state))


def _chunks_at(scan: PickleBytes, at: Ints, chunks: Chunks) -> tuple[Ints, Ints, Ints]:
    """(first, last, end of the entry) of lists of chunks and what ends an entry, SETITEMS BUILD.

    A list is filled by APPENDS after a MARK and up to a thousand items, again and again; a last
    item alone by APPEND. `last` is less than `first` where it is none such.
    """
    data, count = scan.data, len(chunks.start)
    stop = chunks.start + chunks.length
    gap = np.full(count, -1, np.int64)
    gap[:-1] = chunks.start[1:] - stop[:-1]
    after, second = data[stop], data[stop + 1]
    alone = np.zeros(count, bool)  # Appended by itself after others.
    alone[1:] = (gap[:-1] == 1) & (after[:-1] == ord("e")) & (after[1:] == ord("a"))
    goes_on = (gap == 0) | ((gap == 2) & (after == ord("e")) & (second == ord("(")))
    goes_on[:-1] |= alone[1:]
    lasts = np.flatnonzero(~goes_on)
    opened = data[at] == ord("(")
    found = np.searchsorted(chunks.start, at + opened)
    safe = np.minimum(found, max(count - 1, 0))
    if count:
        is_list = chunks.start[safe] == at + opened
        last = lasts[np.minimum(np.searchsorted(lasts, safe), len(lasts) - 1)]
        closing = np.where(opened & ~alone[last], ord("e"), ord("a"))
        is_list &= (after[last] == closing) & (opened | (last == safe))
        end = np.where(is_list, stop[last] + 1, at)
        first, last = np.where(is_list, safe, 0), np.where(is_list, last + 1, 0)
    else:
        end, first, last = at, np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    built = (data[end] == ord("u")) & (data[end + 1] == ord("b"))
    return first, np.where(built, last, first - 1), end + 2


def _same_ndim(
    chunks: Chunks, first: Ints, last: Ints, ndim: npt.NDArray[np.int8]
) -> npt.NDArray[np.bool_]:
    """Whether all chunks have as many dims as their tensor."""
    same = np.ones(len(first), bool)
    rows = np.flatnonzero(last > first)
    if len(rows):
        bounds = np.stack([first[rows], last[rows]], 1).ravel()
        dims = np.append(chunks.ndim, 0)
        least = np.minimum.reduceat(dims, bounds)[::2]
        most = np.maximum.reduceat(dims, bounds)[::2]
        same[rows] = (least == ndim[rows]) & (most == ndim[rows])
    return same


def _names_before(
    scan: PickleBytes, calls: Ints, end: Ints
) -> tuple[Ints, npt.NDArray[np.bool_], Texts]:
    """Where the name before each begins, or -1; whether that is right behind the one before.

    The first may stand at the begin of what is looked at.
    """
    data = scan.data
    start = np.zeros(len(calls), np.int64)
    start[1:] = end[:-1]
    # A dict is filled by a thousand at a time.
    start += 2 * ((data[start] == ord("u")) & (data[start + 1] == ord("(")))
    ok, after, name = scan.texts(start)
    named = ok & (after == calls)
    rows = np.flatnonzero(~named)
    if len(rows):
        start[rows] = _inline_before(scan, calls[rows])
        _, _, name = scan.texts(np.maximum(start, 0))
    named[:1] = False
    return start, named, name


def _inline_before(scan: PickleBytes, at: Ints) -> Ints:
    """Where the one string begins that can end before each place; -1 if there is no such one."""
    data, lengths = scan.data, np.arange(1, 256)
    found = np.full(len(at), -1, np.int64)
    for first in range(0, len(at), _TEXT_BLOCK):
        rows = slice(first, first + _TEXT_BLOCK)
        begin = at[rows, None] - 3 - lengths
        here = np.maximum(begin, 0)
        fits = (begin >= 0) & (data[here] == _INLINE) & (data[here + 1] == lengths)
        alone = (fits.sum(1) == 1) & (data[np.maximum(at[rows] - 1, 0)] == 0x94)
        found[rows] = np.where(alone, at[rows] - 3 - lengths[fits.argmax(1)], -1)
    return found


@dataclass(slots=True)
class BytesEntries:
    """Entries that are no tensors and follow the form, each with the name before it.

    Attributes:
        start, end: Where each lies, its name with it.
        linked: Whether it stands right behind the one before.
        name: Its fqn.
        num_memo: Memo entries that each makes; the name is the first, if it is given here.
    """

    start: Ints
    end: Ints
    linked: npt.NDArray[np.bool_]
    name: Texts
    num_memo: Ints


@dataclass(frozen=True, slots=True)
class BytesForm:
    """How a `BytesStorageMetadata` is written, which holds nothing: the GET of its class."""

    new: bytes

    @classmethod
    def learn(cls, pickle: memoryview, begin: int, end: int) -> BytesForm | None:
        """The form of the first entry between two places, or None if there is none."""
        match = _BYTES.search(pickle, begin, end)
        return match and cls(**match.groupdict())

    @property
    def refs(self) -> bytes:
        """The GET."""
        return self.new

    def read(self, scan: PickleBytes, end: int) -> BytesEntries | None:
        """Read the entries that follow the form and end before a place; None: none does."""
        text = self.new + b")\x81\x94"
        calls = np.flatnonzero(scan.data[:end] == 0x81) - len(self.new) - 1
        calls = calls[(calls >= 0) & (calls + len(text) <= end)]
        calls = calls[scan.begin_so(calls, text)]
        if not len(calls):
            return None
        ends = calls + len(text)
        start, linked, name = _names_before(scan, calls, ends)
        ok = start >= 0
        linked &= np.concatenate([np.zeros(1, bool), ok[:-1]])
        num_memo = 1 + (name.ref < 0).astype(np.int64)
        return BytesEntries(start[ok], ends[ok], linked[ok], name.of(ok), num_memo[ok])


@dataclass(slots=True)
class Paths:
    """Items of the planner's dict, name to a path of two parts that is the name, cut at a dot.

    Attributes:
        start, end: Where each lies.
        linked: Whether it stands right behind the one before.
        name: The key.
        first, second: The two parts.
        num_memo: Memo entries that each makes: those of its strings in this order, and the path.
    """

    start: Ints
    end: Ints
    linked: npt.NDArray[np.bool_]
    name: Texts
    first: Texts
    second: Texts
    num_memo: Ints


def read_paths(scan: PickleBytes, begin: int, end: int) -> Paths | None:
    """Read the items of the form between two places; the first may stand at the first of them.

    None if there is none.
    """
    data = scan.data
    # TUPLE2 MEMOIZE: where an item ends, and the next one begins.
    ends = np.flatnonzero((data[begin : end - 1] == 0x86) & (data[begin + 1 : end] == 0x94)) + begin
    if not len(ends):
        return None
    ends += 2
    start = np.concatenate([np.asarray([begin]), ends[:-1]])
    start += 2 * ((data[start] == ord("u")) & (data[start + 1] == ord("(")))
    ok, at, name = scan.texts(start)
    is_first, at, first = scan.texts(at)
    is_second, at, second = scan.texts(at)
    ok &= is_first & is_second & (at + 2 == ends)
    linked = np.concatenate([np.zeros(1, bool), ok[:-1]])
    num_memo: Ints = np.ones(len(start), np.int64)
    for text in (name, first, second):
        num_memo += text.ref < 0
    if not ok.any():
        return None
    return Paths(
        start[ok],
        ends[ok],
        linked[ok],
        name.of(ok),
        first.of(ok),
        second.of(ok),
        num_memo[ok],
    )


class EveryTensor:
    """What the runs of tensors are put together from: lists, of which each takes its part.

    Args:
        columns: Of the tensors, as `splice.py` has them.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        counts = columns["last"] - columns["first"]
        self.names = array("i", columns["name"].tobytes())
        self.states: list[int] = columns["state"].tolist()
        self.shapes = array("q", columns["sizes"].tobytes())
        self.box: list[int] = starts_of(columns["ndim"]).tolist()
        self.dims = array("q", columns["ndim"].astype(np.int64).tobytes())
        self.counts = array("q", counts.tobytes())
        self.before: list[int] = starts_of(counts).tolist()
        self.first: list[int] = columns["first"].tolist()
        self.last: list[int] = columns["last"].tolist()


class EveryPath:
    """What the runs of paths are put together from, likewise.

    Args:
        columns: Of the paths, as `splice.py` has them.
        strings: Those that their names and parts are numbers of.

    Attributes:
        names: The strings that they are the paths of.
        cuts: Of each, the characters of its first part, if its parts, joined by a dot, are its
            name; or else -1.
        others: The two parts of each of those, by number.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]], strings: Strings) -> None:
        scan = strings.scan
        at, length = strings.places(columns["name"])
        first, first_length = strings.places(columns["first"])
        second, second_length = strings.places(columns["second"])
        cut = at + first_length
        is_cut = length == first_length + 1 + second_length
        is_cut &= same_texts(scan, at, first_length, scan, first, first_length)
        is_cut &= scan.data[np.where(is_cut, cut, 0)] == ord(".")
        rows = np.flatnonzero(is_cut)
        is_cut[rows] = same_texts(
            *(scan, cut[rows] + 1, second_length[rows]),
            *(scan, second[rows], second_length[rows]),
        )
        # Characters are counted, not bytes: of ASCII they are the same.
        heads, which = np.unique(columns["first"], return_inverse=True)
        is_plain = [strings.bytes_of(head).isascii() for head in heads.tolist()]
        is_cut &= np.asarray(is_plain, bool)[which]
        others = np.flatnonzero(~is_cut)
        ends = (strings.texts(columns[part][others]) for part in ("first", "second"))
        cuts = np.where(is_cut, first_length, -1).astype(np.int32)
        self.names = array("i", columns["name"].tobytes())
        self.cuts = array("i", cuts.tobytes())
        self.others = dict(zip(others.tolist(), zip(*ends, strict=True), strict=True))


def chunk_runs(chunks: Chunks, tensors: Tensors | None, base: int) -> Iterator[RecordRun]:
    """Chunks that stand one behind the other and are of no tensor's entry that was read."""
    count = len(chunks.start)
    if not count:
        return
    alone = np.ones(count, bool)
    if tensors is not None:
        within = np.bincount(tensors.first, minlength=count + 1)
        within -= np.bincount(tensors.last, minlength=count + 1)
        alone = np.cumsum(within)[:-1] == 0
        if not alone.any():
            return
    stop = chunks.start + chunks.length
    begins = np.ones(count, bool)
    begins[1:] = chunks.start[1:] != stop[:-1]
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], count)
    keep = alone[firsts]
    memo = starts_of(chunks.num_memo)
    for first, last in zip(firsts[keep].tolist(), lasts[keep].tolist(), strict=True):
        start, end = int(chunks.start[first]), int(stop[last - 1])
        num_memo = int(memo[last] - memo[first])
        yield RecordRun("chunks", base + first, base + last, start, end, num_memo)


def linked_runs(kind: str, records: Any, base: int) -> Iterator[RecordRun]:
    """Entries of a kind that stand one behind the other."""
    firsts = np.flatnonzero(~records.linked)
    memo = np.add.reduceat(records.num_memo, firsts, dtype=np.int64).tolist()
    lasts = np.append(firsts[1:], len(records.start))
    for first, last, num_memo in zip(firsts.tolist(), lasts.tolist(), memo, strict=True):
        start, end = int(records.start[first]), int(records.end[last - 1])
        yield RecordRun(kind, base + first, base + last, start, end, num_memo)
