"""Unpickle a metadata file without its repeated records, and prove that nothing else changed.

`records.py` finds what looks like records. Here every whole batch of them (`( record record ... e`
in a list, `( ... u` in a dict) is cut out of the pickle, and one `Batch` object is put in its
place, which goes into the same list or dict. What is left is small, and goes through the gate.

Why the result can be trusted: the opcodes put in have an effect that is seen only if they are run
as opcodes, in their order, each exactly once: they name a global by a random token. If all were
run, the pickle machine stood at the begin of every batch with nothing half read; and as the bytes
that were cut out are complete records, it would have stood at its end so as well. The memo, which
counts objects, is filled with as many entries as the records would have made: strings that others
may refer to, and else the `Batch` itself, of which no more references may be left over at the end
than were put there. The memo entries that the records refer to are looked up at the batch's end;
that would differ only in a pickle that numbers its memo entries itself, among others that count.

In every other case `NotSplicedError` is raised, and the file is read the slow way.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.fields import PAD
from inspector.checkpoint.pickle.gate import Gate, Pickled, load
from inspector.checkpoint.pickle.records import (
    ChunkForm,
    Chunks,
    StoredForm,
    StoredRecords,
    anchors,
)
from inspector.checkpoint.pickle.stand_ins import Chunk as ChunkRecord
from inspector.checkpoint.pickle.stand_ins import Index
from inspector.checkpoint.pickle.stand_ins import Stored as Info

__all__ = ["Batch", "NotSplicedError", "Spliced", "read_spliced"]

_MAX_REST = 4096
# Python writes fewer bytes than this without a frame (Lib/pickle.py, _FRAME_SIZE_MIN). Of a pickle
# that goes on behind its last frame, its C reader makes another thing from a file than from bytes.
_MIN_FRAME = 4
_MEMO = b"\x94"
# Opcodes of a record, by the bytes that they take.
_OP_SIZES = {
    **dict.fromkeys(b"()}NRbtu\x81\x85\x86\x87\x94", 1),
    **dict.fromkeys(b"Kh", 2),
    **dict.fromkeys(b"M", 3),
    **dict.fromkeys(b"Jj", 5),
}


class NotSplicedError(Exception):
    """The file is not one that can be read so, for whatever reason."""


class Batch:
    """Stands for the records `first` to `last` (not included) of chunks, or of stored places.

    Attributes:
        is_stored: Which of the two.
        path_refs, name_refs: Memo numbers of the strings that the records refer to, as they are
            resolved in the dict's value (paths first).
        num_memo: Memo entries that stand for objects of the records.
        used: Set once it was found where it belongs.
    """

    __slots__ = ("first", "is_stored", "last", "name_refs", "num_memo", "path_refs", "used")

    def __init__(self, first: int, last: int, is_stored: bool) -> None:
        self.first = first
        self.last = last
        self.is_stored = is_stored
        self.path_refs: Sequence[int] = ()
        self.name_refs: Sequence[int] = ()
        self.num_memo = 0
        self.used = False


@dataclass(slots=True)
class Spliced:
    """A metadata pickle with its batches apart.

    Attributes:
        data: The pickle without frames, and `PAD` zero bytes.
        pickled: The rest, through the gate. A batch of chunks is a tuple in the list, the batch
            first, then `chunk_refs`; a batch of stored places is a dict's key, the batch first,
            then `stored_refs`, whose value is a tuple of strings.
        chunk_refs, stored_refs: What the forms' GETs must have given.
        trailing_bytes: Bytes after the pickle's end.
        digest: SHA-256 of the file's bytes, in hexadecimal.
    """

    data: npt.NDArray[np.uint8]
    protocol: int
    pickled: Pickled
    chunks: Chunks | None
    stored: StoredRecords | None
    batches: list[Batch]
    chunk_refs: tuple[Any, ...]
    stored_refs: tuple[Any, ...]
    trailing_bytes: int
    digest: str


@dataclass(slots=True)
class _Unframed:
    data: npt.NDArray[np.uint8]
    end: int
    protocol: int
    cuts: list[int] = field(default_factory=list)
    digest: str = ""
    num_unframed: int = 0

    def bytes(self, first: int, last: int) -> memoryview:
        return self.data.data[first:last]


def read_spliced(fd: int, num_bytes: int, tell: Callable[[int], None]) -> Spliced:
    """Read one metadata pickle.

    Args:
        fd: The open file, at its start.
        num_bytes: Its size.
        tell: Told how far it is, from 0 to `num_bytes`.

    Raises:
        NotSplicedError: It has to be read as any other pickle; nothing is said of what it holds.
    """
    raw = _unframed(fd, num_bytes)
    end = raw.end
    at = anchors(raw.data, end, lambda n: tell(n // 5))
    pickle = raw.data.data
    chunk_form: ChunkForm | None = _learn(ChunkForm, pickle[:end], b"ChunkStorageMetadata")
    stored_form: StoredForm | None = _learn(StoredForm, pickle[:end], b"MetadataIndex")
    chunks = stored = None
    if chunk_form is not None:
        chunks = chunk_form.read(raw.data, at, lambda n: tell((end + 2 * n) // 5))
    if stored_form is not None:
        stored = stored_form.read(raw.data, at, lambda n: tell((3 * end + n) // 5))
    del at
    editor = _Editor(raw)
    if chunks is not None and chunk_form is not None:
        editor.add_chunks(chunks, chunk_form)
    if stored is not None and stored_form is not None:
        editor.add_stored(stored, stored_form)
    file = io.BufferedReader(io.BytesIO(editor.pickle()))
    if not editor.batches:
        raise NotSplicedError
    gate = _SplicedGate(file, editor)
    pickled = load(file, gate)
    trailing = len(file.read())
    if raw.num_unframed - trailing >= _MIN_FRAME:
        raise NotSplicedError
    gate.finish()
    size = gate.size
    tell(num_bytes * 9 // 10)
    return Spliced(
        raw.data,
        raw.protocol,
        pickled,
        chunks,
        stored,
        editor.batches,
        (ChunkRecord, "offsets", "sizes", size),
        (Index, "fqn", "index", "offset", size, Info, "relative_path", "offset", "length"),
        trailing,
        raw.digest,
    )


def _learn(form: Any, pickle: memoryview, name: bytes) -> Any:
    found = re.search(name, pickle)
    return found and form.learn(pickle, found.start())


def _unframed(fd: int, num_bytes: int) -> _Unframed:
    """The pickle without the FRAME opcodes, which say only how much to read ahead."""
    data = np.empty(num_bytes + PAD, np.uint8)
    view = data.data
    start = os.read(fd, 2)
    if len(start) < 2 or start[:1] != b"\x80" or start[1] not in (4, 5):
        raise NotSplicedError
    raw = _Unframed(data, 0, start[1])
    digest = hashlib.sha256(start)
    header = os.read(fd, 9)
    while len(header) == 9 and header[:1] == b"\x95":
        raw.cuts.append(raw.end)
        first, last = raw.end, raw.end + int.from_bytes(header[1:], "little")
        if last > num_bytes:
            raise NotSplicedError
        while raw.end < last:
            taken = os.readv(fd, [view[raw.end : last]])
            if not taken:
                raise NotSplicedError
            raw.end += taken
        digest.update(header)
        digest.update(view[first:last])
        header = os.read(fd, 9)
    # A few last bytes may stand without a frame; then what follows the pickle, if anything does.
    rest = header + os.read(fd, _MAX_REST)
    if len(rest) >= _MAX_REST:
        raise NotSplicedError
    digest.update(rest)
    raw.digest = digest.hexdigest()
    raw.num_unframed = len(rest)
    view[raw.end : raw.end + len(rest)] = rest
    raw.end += len(rest)
    raw.data = data[: raw.end + PAD]
    raw.data[raw.end :] = 0
    return raw


def _num_refs(batches: list[Batch]) -> list[int]:
    return [sys.getrefcount(batch) for batch in batches]


def _distinct(refs: npt.NDArray[np.int32]) -> list[int]:
    """The memo numbers among `refs` (-1 is none)."""
    return sorted({*refs.tolist()} - {-1})


def _get(ref: int) -> bytes:
    return b"h%c" % ref if ref < 256 else b"j" + ref.to_bytes(4, "little")


class _Editor:
    """Writes the pickle with batches in place of records."""

    def __init__(self, raw: _Unframed) -> None:
        self.raw = raw
        self.token = os.urandom(16).hex()
        self.batches: list[Batch] = []
        self.num_cuts = 0
        self._edits: list[tuple[int, int, bytes, Batch]] = []
        self._bad_cuts: set[int] = set()
        self._call = f"c{self.token}\nbatch\n".encode()

    def add_chunks(self, chunks: Chunks, form: ChunkForm) -> None:
        memo = [0, *np.cumsum(chunks.num_memo, dtype=np.int64).tolist()]
        for start, end, batch in self._batches(chunks, ord("e"), is_stored=False):
            # ( batch ... class "offsets" "sizes" Size ) appended to the list
            batch.num_memo = memo[batch.last] - memo[batch.first]
            text = b"(%b%b%bta" % (self._call, _MEMO * batch.num_memo, form.refs)
            self._edits.append((start, end, text, batch))

    def add_stored(self, stored: StoredRecords, form: StoredForm) -> None:
        # Names that are said once are rarely said by reference; if they are, all are kept.
        keep_names = bool((stored.name_ref >= 0).any())
        for start, end, batch in self._batches(stored, ord("u"), is_stored=True):
            rows = slice(batch.first, batch.last)
            batch.path_refs = _distinct(stored.path_ref[rows])
            batch.name_refs = _distinct(stored.name_ref[rows])
            memo = self._stored_memo(stored, batch, keep_names=keep_names)
            gets = b"".join(map(_get, (*batch.path_refs, *batch.name_refs)))
            # ( batch ... class "fqn" ... ) as a key, ( path ... name ... ) as its value
            text = b"(%b%b%bt(%bts" % (self._call, memo, form.refs, gets)
            self._edits.append((start, end, text, batch))

    def _stored_memo(self, stored: StoredRecords, batch: Batch, *, keep_names: bool) -> bytes:
        """MEMOIZE as often as the records do, of the strings themselves where they matter."""
        rows = slice(batch.first, batch.last)
        counts = stored.num_memo[rows].astype(np.int64)
        after = np.cumsum(counts)
        begin = stored.start[rows]
        strings: list[tuple[int, int, int]] = []
        inline = np.flatnonzero(stored.path_ref[rows] < 0)
        strings += zip(
            (after - 1)[inline].tolist(),
            (begin + stored.path_at[rows])[inline].tolist(),
            stored.path_length[rows][inline].tolist(),
            strict=True,
        )
        if keep_names:
            inline = np.flatnonzero(stored.name_ref[rows] < 0)
            strings += zip(
                (after - counts + 2)[inline].tolist(),
                (begin + stored.name_at)[inline].tolist(),
                stored.name_length[rows][inline].tolist(),
                strict=True,
            )
        total = int(after[-1])
        batch.num_memo = total - len(strings)
        pieces, done = [], 0
        for memo, at, length in sorted(strings):
            text = bytes(self.raw.bytes(at, at + length))
            pieces.append(_MEMO * (memo - done) + b"\x8c%c%b\x940" % (length, text))
            done = memo + 1
        return b"".join(pieces) + _MEMO * (total - done)

    def _batches(
        self, records: Chunks | StoredRecords, closing: int, *, is_stored: bool
    ) -> Iterator[tuple[int, int, Batch]]:
        """(begin, end, batch) of the records that follow each other from MARK to `closing`."""
        data, count = self.raw.data, len(records.start)
        if not count:
            return
        self._check_borders(records)
        stop = records.start + records.length
        gaps = np.flatnonzero(records.start[1:] != stop[:-1]) + 1
        firsts = np.concatenate([np.zeros(1, np.int64), gaps])
        lasts = np.concatenate([gaps, np.full(1, count, np.int64)])
        starts, ends = records.start[firsts] - 1, stop[lasts - 1]
        whole = (starts >= 0) & (data[starts] == ord("(")) & (data[ends] == closing)
        for start, end, first, last in zip(
            starts[whole].tolist(),
            (ends[whole] + 1).tolist(),
            firsts[whole].tolist(),
            lasts[whole].tolist(),
            strict=True,
        ):
            yield start, end, Batch(first, last, is_stored)

    def pickle(self) -> bytes:
        """The edited pickle. Frame borders become calls as well, so that they are seen to be."""
        border = f"c{self.token}\nborder\n0".encode()
        self._edits.sort(key=lambda edit: edit[0])
        pieces: list[bytes | memoryview] = [b"\x80%c" % self.raw.protocol]
        cuts = iter([*self.raw.cuts, self.raw.end + 1])
        cut, done = next(cuts), 0
        for start, end, text, batch in [*self._edits, (self.raw.end, self.raw.end, b"", None)]:
            if start < done:
                raise NotSplicedError  # Two kinds of records in one place.
            while cut <= start:
                pieces += self.raw.bytes(done, cut), border
                self.num_cuts += 1
                cut, done = next(cuts), cut
            pieces.append(self.raw.bytes(done, start))
            while cut < end:
                if cut in self._bad_cuts:
                    raise NotSplicedError
                cut = next(cuts)
            pieces.append(text)
            done = end
            if batch is not None:
                self.batches.append(batch)
        self._edits = []
        return b"".join(pieces)

    def _check_borders(self, records: Chunks | StoredRecords) -> None:
        """Note the frames that end within a record, and there within an opcode."""
        cuts = np.asarray(self.raw.cuts, np.int64)
        rows = np.searchsorted(records.start, cuts, "right") - 1
        inside = (rows >= 0) & (cuts < records.start[rows] + records.length[rows])
        for cut, at in zip(
            cuts[inside].tolist(), records.start[rows[inside]].tolist(), strict=True
        ):
            while at < cut:
                at += _op_size(self.raw.data, at)
            if at != cut:
                self._bad_cuts.add(cut)


def _op_size(data: npt.NDArray[np.uint8], at: int) -> int:
    """Bytes of the opcode of a record at this place."""
    opcode = int(data[at])
    return 2 + int(data[at + 1]) if opcode in (0x8A, 0x8C) else _OP_SIZES[opcode]


class _SplicedGate(Gate):
    """The gate, which also hands out the batches in their order."""

    def __init__(self, file: Any, editor: _Editor) -> None:
        super().__init__(file)
        self._token = editor.token
        self._batches = editor.batches
        self._num_cuts = editor.num_cuts
        self._num_taken = 0
        self._num_borders = 0
        self._strict: dict[Any, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """As the plain gate's; for the token, the next batch or None."""
        if module != self._token:
            return self._checked(super().find_class(module, name))
        if name == "border":
            self._num_borders += 1
            return None
        self._num_taken += 1
        return self._batches[self._num_taken - 1]

    def _checked(self, found: Any) -> Any:
        """A callable may look at its arguments, and would find a batch where an object was."""
        if not isinstance(found, (types.FunctionType, types.MethodType)):
            return found
        if found not in self._strict:

            def call(*args: Any) -> Any:
                for arg in args:
                    if type(arg) is Batch:
                        raise NotSplicedError
                return found(*args)

            self._strict[found] = call
        return self._strict[found]

    def finish(self) -> None:
        """Make sure that everything put in was run, and left no trace elsewhere."""
        if self._num_borders != self._num_cuts or self._num_taken != len(self._batches):
            raise NotSplicedError
        # What a list alone makes differs between versions of Python.
        (in_list,) = _num_refs([Batch(0, 0, False)])
        for batch, count in zip(self._batches, _num_refs(self._batches), strict=True):
            # And the tuple in the rest.
            if count != in_list + 1 + batch.num_memo:
                raise NotSplicedError

    @property
    def size(self) -> Any:
        """What stands for `torch.Size`."""
        return self.find_class("torch", "Size")
