"""Unpickle a metadata file without its repeated records, and prove that nothing else changed.

`records.py` and `entries.py` find what looks like records. Here every run of them that stand one
behind the other is cut out of the pickle, and one `RecordRun` object is put in its place, which
goes into the same list or dict. What is left is small (`walk.py` goes through it opcode by opcode),
and goes through the gate.

Why the result can be trusted: the walk reads each opcode as the pickle machine does, from the
first on, and comes to the begin of every run with nothing half read; as what is cut out are
complete records, the machine would stand at their end so as well. The walk knows how many objects
lie on the machine's stack, and what may be done to those of a run: to go into a list or a dict
together with all since the last MARK. Memo entries are counted; what refers to one of a record is
given the string that this is, and if it is no string, the file is not read so.

In every other case `NotSplicedError` is raised, and the file is read the slow way.
"""

from __future__ import annotations

import io
import os
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.entries import Paths, TensorForm, Tensors, read_paths
from inspector.checkpoint.pickle.fields import PAD, Ints, PickleBytes, starts_of
from inspector.checkpoint.pickle.gate import Gate, Pickled, load
from inspector.checkpoint.pickle.records import (
    ChunkForm,
    Chunks,
    StoredForm,
    StoredRecords,
    objects,
)
from inspector.checkpoint.pickle.stand_ins import Chunk as ChunkRecord
from inspector.checkpoint.pickle.stand_ins import Index, Properties, TensorMeta
from inspector.checkpoint.pickle.stand_ins import Stored as Info
from inspector.checkpoint.pickle.walk import NotSplicedError, OpcodeWalk, RecordRun, op_end

__all__ = ["NotSplicedError", "RecordRun", "Spliced", "read_spliced"]

_MAX_REST = 4096
# Bytes that are walked in any case. Beyond a third of the file the slow way is as quick.
_MAX_WALK = 4 << 20
# Python writes fewer bytes than this without a frame (Lib/pickle.py, _FRAME_SIZE_MIN). Of a pickle
# that goes on behind its last frame, its C reader makes another thing from a file than from bytes.
_MIN_FRAME = 4


@dataclass(slots=True)
class Spliced:
    """A metadata pickle with its runs of records apart.

    Attributes:
        scan: The pickle without frames, and `PAD` zero bytes.
        pickled: The rest, through the gate. A run of chunks is a tuple in the list, the run first,
            then `refs`; another is a dict's key, with a tuple of `refs` as its value, which for
            tensors has the properties of each state behind them.
        runs: All of them, in the order of the file.
        refs: What the forms' GETs must have given, by kind of run.
        trailing_bytes: Bytes after the pickle's end.
    """

    scan: PickleBytes
    protocol: int
    pickled: Pickled
    chunks: Chunks | None
    stored: StoredRecords | None
    tensors: Tensors | None
    paths: Paths | None
    runs: list[RecordRun]
    walk: OpcodeWalk
    refs: dict[str, tuple[Any, ...]]
    trailing_bytes: int


@dataclass(slots=True)
class Unframed:
    """A pickle's opcodes without frames; `cuts` are where those began."""

    data: npt.NDArray[np.uint8]
    end: int
    protocol: int
    cuts: list[int] = field(default_factory=list)
    num_unframed: int = 0


def read_spliced(
    fd: int, num_bytes: int, tell: Callable[[int], None], digest: Any = None
) -> Spliced:
    """Read one metadata pickle.

    Args:
        fd: The open file, at its start.
        num_bytes: Its size.
        tell: Told how far it is, from 0 to `num_bytes`.
        digest: Of `hashlib`: what is read goes into it as well.

    Raises:
        NotSplicedError: It has to be read as any other pickle; nothing is said of what it holds.
    """
    raw = _unframed(fd, num_bytes, digest)
    end = raw.end
    scan = PickleBytes(raw.data)
    pickle = raw.data.data[:end]
    tensor_form, chunk_form, stored_form, behind = _forms(pickle)
    if chunk_form is None:
        raise NotSplicedError
    # Entries come before places: each is looked for on its own side only.
    kinds = [
        (b"" if form is None else form.new, *side)
        for form, side in (
            (chunk_form, (0, behind or end)),
            (tensor_form, (0, behind or end)),
            (stored_form, (behind, end)),
        )
    ]
    of_chunks, of_tensors, of_places = objects(raw.data, end, kinds, lambda n: tell(n // 5))
    chunks: Chunks = chunk_form.read(scan, of_chunks, lambda n: tell((end + 2 * n) // 5))
    del of_chunks
    stored = stored_form and stored_form.read(scan, of_places, lambda n: tell((3 * end + n) // 5))
    del of_places
    tensors = tensor_form and tensor_form.read(scan, of_tensors, chunks)
    storage = stored.start[0] if stored and len(stored.start) else end
    paths = read_paths(scan, behind, int(storage)) if behind < storage else None
    runs = [*_chunk_runs(chunks, tensors)]
    refs = {"chunks": chunk_form.refs}
    if stored is not None:
        runs += _stored_runs(scan, stored)
        refs["stored"] = stored_form.refs
    if tensors is not None:
        runs += _linked_runs("tensors", tensors)
        refs["tensors"] = tensor_form.refs + chunk_form.refs
    if paths is not None:
        runs += _linked_runs("paths", paths)
        refs["paths"] = b""
    rest = end - sum(run.end - run.start for run in runs)
    if not runs or rest > max(_MAX_WALK, end // 3):
        raise NotSplicedError
    runs.sort(key=lambda run: run.start)
    _check_borders(raw, chunks, stored, tensors, paths)
    walk = OpcodeWalk(scan, raw.end, raw.cuts, runs, refs, (chunks, stored, tensors, paths))
    text = walk.text(raw.protocol)
    gate = _SplicedGate(io.BufferedReader(io.BytesIO(text)), walk.token, runs)
    pickled = load(gate.file, gate)
    trailing = raw.end - walk.stop
    if raw.num_unframed - trailing >= _MIN_FRAME or gate.num_taken != len(runs):
        raise NotSplicedError
    walk.check_order()
    size = gate.find_class("torch", "Size")
    of_chunk = (ChunkRecord, "offsets", "sizes", size)
    tell(num_bytes * 9 // 10)
    return Spliced(
        scan,
        raw.protocol,
        pickled,
        chunks,
        stored,
        tensors,
        paths,
        runs,
        walk,
        {
            "chunks": of_chunk,
            "stored": (Index, "fqn", "index", "offset", size, Info)
            + ("relative_path", "offset", "length"),
            "tensors": (TensorMeta, "properties", Properties, "size", size, "chunks", *of_chunk),
            "paths": (),
        },
        trailing,
    )


def _forms(pickle: memoryview) -> tuple[Any, Any, Any, int]:
    """The forms of tensors, chunks and stored places, and where the first two are over."""
    tensor_form: Any = _learn(TensorForm, pickle, b"TensorStorageMetadata", 0)
    chunk_form: Any = _learn(ChunkForm, pickle, b"ChunkStorageMetadata", 0)
    planner = re.compile(b"planner_data").search(pickle)
    behind = planner.end() if planner else 0
    stored_form: Any = _learn(StoredForm, pickle, b"MetadataIndex", behind)
    return tensor_form, chunk_form, stored_form, behind


def _learn(form: Any, pickle: memoryview, name: bytes, begin: int) -> Any:
    found = re.compile(name).search(pickle, begin)
    return found and form.learn(pickle, found.start())


def _unframed(fd: int, num_bytes: int, digest: Any) -> Unframed:
    """The pickle without the FRAME opcodes, which say only how much to read ahead."""
    data = np.empty(num_bytes + PAD, np.uint8)
    view = data.data
    start = os.read(fd, 2)
    if len(start) < 2 or start[:1] != b"\x80" or start[1] not in (4, 5):
        raise NotSplicedError
    raw = Unframed(data, 0, start[1])
    if digest is not None:
        digest.update(start)
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
        if digest is not None:
            digest.update(header)
            digest.update(view[first:last])
        header = os.read(fd, 9)
    # A few last bytes may stand without a frame; then what follows the pickle, if anything does.
    rest = header + os.read(fd, _MAX_REST)
    if len(rest) >= _MAX_REST:
        raise NotSplicedError
    if digest is not None:
        digest.update(rest)
    raw.num_unframed = len(rest)
    view[raw.end : raw.end + len(rest)] = rest
    raw.end += len(rest)
    raw.data = data[: raw.end + PAD]
    raw.data[raw.end :] = 0
    return raw


def _chunk_runs(chunks: Chunks, tensors: Tensors | None) -> Iterator[RecordRun]:
    """Chunks that stand one behind the other and are of no tensor's entry that was read."""
    count = len(chunks.start)
    if not count:
        return
    within = np.zeros(count + 1, np.int32)
    if tensors is not None:
        np.add.at(within, tensors.first, 1)
        np.add.at(within, tensors.last, -1)
    alone = np.cumsum(within)[:-1] == 0
    stop = chunks.start + chunks.length
    begins = np.ones(count, bool)
    begins[1:] = chunks.start[1:] != stop[:-1]
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], count)
    keep = alone[firsts]
    memo = starts_of(chunks.num_memo)
    for first, last in zip(firsts[keep].tolist(), lasts[keep].tolist(), strict=True):
        start, end = int(chunks.start[first]), int(stop[last - 1])
        yield RecordRun("chunks", first, last, start, end, int(memo[last] - memo[first]))


def _stored_runs(scan: PickleBytes, stored: StoredRecords) -> Iterator[RecordRun]:
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
        yield RecordRun(
            "stored", first, last, int(stored.start[first]), int(stop[last - 1]), num_memo
        )


def _linked_runs(kind: str, records: Tensors | Paths) -> Iterator[RecordRun]:
    firsts = np.flatnonzero(~records.linked)
    memo = np.add.reduceat(records.num_memo, firsts, dtype=np.int64).tolist()
    lasts = np.append(firsts[1:], len(records.start))
    for first, last, num_memo in zip(firsts.tolist(), lasts.tolist(), memo, strict=True):
        start, end = int(records.start[first]), int(records.end[last - 1])
        yield RecordRun(kind, first, last, start, end, num_memo)


def _check_borders(
    raw: Unframed,
    chunks: Chunks,
    stored: StoredRecords | None,
    tensors: Tensors | None,
    paths: Paths | None,
) -> None:
    """Refuse frames that begin within a record's opcode.

    Between the chunks of an entry stand opcodes of one byte.
    """
    cuts = np.asarray(raw.cuts, np.int64)
    spans: list[tuple[Ints, Ints]] = [(chunks.start, chunks.start + chunks.length)]
    if stored is not None:
        spans.append((stored.start, stored.start + stored.length))
    if tensors is not None:
        ends = tensors.end.copy()
        full = tensors.last > tensors.first
        ends[full] = chunks.start[tensors.first[full]]
        spans.append((tensors.start, ends))
    if paths is not None:
        spans.append((paths.start, paths.end))
    for starts, ends in spans:
        if not len(starts):
            continue
        rows = np.searchsorted(starts, cuts, "right") - 1
        inside = (rows >= 0) & (cuts < ends[rows])
        for cut, at in zip(cuts[inside].tolist(), starts[rows[inside]].tolist(), strict=True):
            while at < cut:
                at = op_end(raw.data.data, at)
            if at != cut:
                raise NotSplicedError


class _SplicedGate(Gate):
    """The gate, which also hands out the runs in their order."""

    def __init__(self, file: Any, token: str, runs: list[RecordRun]) -> None:
        super().__init__(file)
        self.file = file
        self.num_taken = 0
        self._token = token
        self._runs = runs
        self._strict: dict[Any, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """As the plain gate's; for the token, the next run."""
        if module != self._token:
            return self._checked(super().find_class(module, name))
        self.num_taken += 1
        return self._runs[self.num_taken - 1]

    def _checked(self, found: Any) -> Any:
        """A callable may look at its arguments, and would find a run where an object was."""
        if not isinstance(found, (types.FunctionType, types.MethodType)):
            return found
        if found not in self._strict:

            def call(*args: Any) -> Any:
                for arg in args:
                    if type(arg) is RecordRun or (type(arg) is tuple and _has_run(arg)):
                        raise NotSplicedError
                return found(*args)

            self._strict[found] = call
        return self._strict[found]


def _has_run(items: tuple[Any, ...]) -> bool:
    return any(type(item) is RecordRun for item in items)
