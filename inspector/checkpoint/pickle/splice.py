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
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.entries import (
    BytesForm,
    TensorForm,
    Tensors,
    chunk_runs,
    linked_runs,
    read_paths,
)
from inspector.checkpoint.pickle.fields import (
    PAD,
    Ints,
    PickleBytes,
    flat_dims,
)
from inspector.checkpoint.pickle.frames import NotSplicedError, Opcodes
from inspector.checkpoint.pickle.gate import Gate, Pickled, load
from inspector.checkpoint.pickle.joining import Strings
from inspector.checkpoint.pickle.records import (
    NO_CHUNKS,
    ChunkForm,
    GrowingColumn,
    RecordRun,
    StoredForm,
    objects,
    stored_runs,
)
from inspector.checkpoint.pickle.stand_ins import BytesMeta, Index, Properties, TensorMeta
from inspector.checkpoint.pickle.stand_ins import Chunk as ChunkRecord
from inspector.checkpoint.pickle.stand_ins import Stored as Info
from inspector.checkpoint.pickle.walk import OpcodeWalk, PickleWindow, op_end

__all__ = ["WINDOW_BYTES", "EarlyRows", "NotSplicedError", "RecordRun", "Spliced", "read_spliced"]

#: How much of a file is held at a time: little enough to stay in the processor's cache.
WINDOW_BYTES = 4 << 20
# Bytes that are walked in any case. Beyond a third of the file the slow way is as quick.
_MAX_WALK = 4 << 20
# Python writes fewer bytes than this without a frame (Lib/pickle.py, _FRAME_SIZE_MIN). Of a pickle
# that goes on behind its last frame, its C reader makes another thing from a file than from bytes.
_MIN_FRAME = 4
_PLANNER = re.compile(rb"planner_data")
_FIRST_KEY = re.compile(rb"state_dict_metadata\x94}\x94\(\x8c(.)", re.DOTALL)
# Entries that are told before all is read, and the bytes of their names: not more than a pipe
# holds that nobody reads yet.
_MAX_EARLY, _MAX_EARLY_BYTES = 200, 16 << 10
# The class whose first mention a form is looked for behind, and in how many bytes.
_LEARNED = {
    "tensors": (re.compile(rb"TensorStorageMetadata"), 8 << 20),
    "chunks": (re.compile(rb"ChunkStorageMetadata"), 1 << 20),
    "bytes_entries": (re.compile(rb"BytesStorageMetadata"), 1 << 20),
    "stored": (re.compile(rb"MetadataIndex"), 1 << 20),
}
# Kinds of which there may be one in a few dozen bytes of the file.
_MANY = ("chunks", "stored")


@dataclass(slots=True)
class Spliced:
    """A metadata pickle with its runs of records apart.

    Attributes:
        pickled: The rest, through the gate. A run of chunks is a tuple in the list, the run first,
            then `refs`; another is a dict's key, with a tuple of `refs` as its value, which for
            tensors has the properties of each state behind them.
        boxes: Offsets and sizes of chunks, one chunk's after the other's.
        columns: Of all records of each kind: see `_COLUMNS`. Names and paths are `strings` by
            number, a tensor's state is one of those that its run has.
        strings: Those of the records.
        runs: All of them, in the order of the file.
        refs: What the forms' GETs must have given, by kind of run.
        trailing_bytes: Bytes after the pickle's end.
    """

    protocol: int
    pickled: Pickled
    boxes: dict[str, GrowingColumn]
    columns: dict[str, dict[str, npt.NDArray[Any]]]
    strings: Strings
    runs: list[RecordRun]
    refs: dict[str, tuple[Any, ...]]
    trailing_bytes: int


#: What is kept of the records of each kind; dims and sizes lie one record's after the other's.
_COLUMNS: dict[str, dict[str, Any]] = {
    "chunks": {"ndim": np.int8, "offsets": np.int64, "sizes": np.int64},
    "tensors": {"name": np.int32, "state": np.int8, "ndim": np.int8, "sizes": np.int64}
    | {"first": np.int64, "last": np.int64},
    "bytes_entries": {"name": np.int32},
    "paths": {"name": np.int32, "first": np.int32, "second": np.int32},
    "stored": {"name": np.int32, "path": np.int32, "index": np.int32, "ndim": np.int8}
    | {"byte_offset": np.int64, "byte_length": np.int64, "offsets": np.int64},
}


#: Name, shape and chunks of entries of which not more is known yet.
EarlyRows = list[tuple[str, list[int] | None, int | None]]


class FirstEntries:
    """Tells of the first entries while the rest is read: few, as nobody may be listening yet.

    Args:
        show: Given them, window by window.
    """

    def __init__(self, show: Callable[[EarlyRows], None]) -> None:
        self._show = show
        self._left = _MAX_EARLY
        self._room = _MAX_EARLY_BYTES
        self._is_first = True

    def take(
        self, scan: PickleBytes, tensors: Tensors, strings: Strings, names: npt.NDArray[np.int32]
    ) -> None:
        """Tell of a window's tensors.

        Args:
            scan: The window.
            tensors: Those that were read of it.
            strings: What their names are numbers of.
            names: These numbers.
        """
        rows: EarlyRows = []
        # The form is learned from the first entry, which is read as any pickle at the end.
        first = _FIRST_KEY.search(scan.data.data) if self._is_first else None
        if first is not None:
            key = scan.data[first.end() :][: first[1][0]].tobytes()
            rows.append((key.decode("utf-8", "surrogatepass"), None, None))
        self._is_first = False
        some = slice(self._left)
        self._left -= len(names[some])
        num_chunks = (tensors.last - tensors.first)[some].tolist()
        sizes = zip(tensors.sizes[some].tolist(), tensors.ndim[some].tolist(), strict=True)
        for name, (size, ndim), count in zip(
            strings.texts(names[some]), sizes, num_chunks, strict=True
        ):
            self._room -= len(name)
            if self._room < 0:
                self._left = 0
                break
            rows.append((name, size[:ndim], count))
        if rows:
            self._show(rows)


def read_spliced(
    fd: int,
    num_bytes: int,
    tell: Callable[[int], None],
    digest: Any = None,
    window_bytes: int = WINDOW_BYTES,
    show: Callable[[EarlyRows], None] | None = None,
) -> Spliced:
    """Read one metadata pickle.

    Args:
        fd: The open file, at its start.
        num_bytes: Its size.
        tell: Told how far it is, from 0 to `num_bytes`.
        digest: Of `hashlib`: what is read goes into it as well.
        window_bytes: How much of it is held at a time; more where an opcode takes more.
        show: Given the first entries, as far as they are known, while the rest is read.

    Raises:
        NotSplicedError: It has to be read as any other pickle; nothing is said of what it holds.
    """
    splicing = _Splicing(Opcodes(fd, num_bytes, digest), num_bytes, window_bytes)
    splicing.read(tell, show)
    return splicing.result()


class _Splicing:
    """The reading of one pickle, a window after the other."""

    def __init__(self, opcodes: Opcodes, num_bytes: int, window_bytes: int) -> None:
        self._opcodes = opcodes
        self._num_bytes = num_bytes
        self._scan = PickleBytes(np.zeros(window_bytes + PAD, np.uint8))
        self._strings = Strings()
        self._walk = OpcodeWalk(opcodes.protocol, self._strings)
        self._forms: dict[str, Any] = {}
        self._seen: dict[str, int] = {}
        self._is_behind = False
        self._runs: list[RecordRun] = []
        self._bases = dict.fromkeys(_COLUMNS, 0)
        # Room that is not used takes no memory.
        self._columns = {
            kind: {
                name: GrowingColumn(of, num_bytes // (32 if kind in _MANY else 1 << 9))
                for name, of in names.items()
            }
            for kind, names in _COLUMNS.items()
        }
        self._trailing_bytes = 0

    def read(
        self, tell: Callable[[int], None], show: Callable[[EarlyRows], None] | None = None
    ) -> None:
        """Go through all of it.

        Args:
            tell: Told how far it is.
            show: Given the first entries.
        """
        opcodes, walk = self._opcodes, self._walk
        first = None if show is None else FirstEntries(show)
        begin = held = 0  # Where the window begins, and how much of it is there.
        while not walk.is_over:
            data = self._scan.data
            held += opcodes.read_into(data.data[held : len(data) - PAD])
            data[held : held + PAD] = 0
            cuts = [cut - begin for cut in opcodes.cuts]
            window = self._window(held, cuts, begin)
            self._check_walked(window, begin)
            done = walk.go(window, self._refs())
            names = window.strings.get(("tensors", "name"))
            if first is not None and window.tensors is not None and names is not None:
                first.take(window.scan, window.tensors, self._strings, names)
            self._keep(window)
            if walk.is_over:
                self._trailing_bytes = held - done
            elif not done:
                data = np.zeros(2 * len(data), np.uint8)
                data[:held] = self._scan.data[:held]
                self._scan = PickleBytes(data)
            data[: held - done] = data[done:held].copy()
            held, begin = held - done, begin + done
            opcodes.cuts = [cut for cut in opcodes.cuts if cut >= begin]
            tell(begin * 9 // 10)
        if opcodes.num_unframed - self._trailing_bytes >= _MIN_FRAME:
            raise NotSplicedError
        if not self._runs or "chunks" not in self._forms:
            raise NotSplicedError

    def _check_walked(self, window: PickleWindow, begin: int) -> None:
        """Refuse what is mostly no records: the slow way is as quick."""
        rest = window.end - sum(run.end - run.start for run in window.runs)
        if not window.is_last and window.stop is not None:
            rest -= window.end - window.stop
        walked = self._walk.num_walked + rest
        seen = begin + window.end
        if walked > max(_MAX_WALK, min(self._num_bytes // 3, seen * 2 // 3)):
            raise NotSplicedError

    def _window(self, end: int, cuts: list[int], begin: int) -> PickleWindow:
        """What is read of a window, and where it ends."""
        scan = self._scan
        pickle = scan.data.data[:end]
        is_last = self._opcodes.is_over
        behind = 0
        if not self._is_behind:
            # It is behind all chunks: most windows need not be searched for it.
            chunk_form = self._forms.get("chunks")
            planner = _PLANNER.search(pickle, chunk_form.late_in(pickle) if chunk_form else 0)
            self._is_behind = planner is not None
            behind = planner.end() if planner else end
        self._learn("tensors", TensorForm, pickle[:behind] if behind else b"", begin)
        self._learn("chunks", ChunkForm, pickle, begin)
        self._learn("bytes_entries", BytesForm, pickle[:behind] if behind else b"", begin)
        if self._is_behind:
            self._learn("stored", StoredForm, pickle[behind:], begin + behind)
        # Entries come before places: each is looked for on its own side only.
        tensor_form, chunk_form, stored_form = map(self._forms.get, ("tensors", "chunks", "stored"))
        of_chunks, of_tensors, of_places = objects(
            scan,
            end,
            [
                (chunk_form.new if chunk_form else b"", 0, behind),
                (tensor_form.new if tensor_form else b"", 0, behind),
                (stored_form.new if stored_form else b"", behind, end),
            ],
        )
        chunks = chunk_form.read(scan, of_chunks) if chunk_form else NO_CHUNKS
        stored = stored_form.read(scan, of_places) if stored_form else None
        tensors = None
        if tensor_form and chunk_form:
            tensors = tensor_form.read(scan, of_tensors, chunks)
        bytes_form = self._forms.get("bytes_entries")
        bytes_entries = bytes_form.read(scan, behind) if bytes_form and behind else None
        paths = None
        if self._is_behind and not self._bases["stored"]:
            storage = int(stored.start[0]) if stored and len(stored.start) else end
            paths = read_paths(scan, behind, storage)
        ends = [int(r.end[-1]) for r in (tensors, bytes_entries, paths) if r and len(r.start)]
        ends += [int(r.start[-1] + r.length[-1]) for r in (stored,) if r and len(r.start)]
        if not ends and len(chunks.start):
            ends = [int(chunks.start[-1] + chunks.length[-1])]
        stop = None if is_last or not ends else max(ends)
        if stop is not None:
            # A tensor of which not all is there is read with the next window.
            chunks = chunks.before(stop)
        window = PickleWindow(
            *(scan, end, stop, is_last, cuts, {**self._bases}, chunks, stored),
            *(tensors, bytes_entries, paths, []),
        )
        window.runs = sorted(_runs(window), key=lambda run: run.start)
        _check_borders(window)
        return window

    def _refs(self) -> dict[str, bytes]:
        """GETs of what every record of a kind refers to."""
        refs = {kind: form.refs for kind, form in self._forms.items()}
        if "tensors" in refs:
            refs["tensors"] += refs.get("chunks", b"")
        return {**refs, "paths": b""}

    def _learn(self, kind: str, form: Any, pickle: memoryview | bytes, begin: int) -> None:
        """Learn the form of a kind of record from the first that has it, if there is one soon."""
        if kind in self._forms:
            return
        name, num_bytes = _LEARNED[kind]
        at = 0
        if kind not in self._seen:
            found = name.search(pickle)
            if found is None:
                return
            at = found.start()
            self._seen[kind] = begin + at
        last = self._seen[kind] + num_bytes - begin
        if last > at:
            found = form.learn(pickle, at, last)
            if found is not None:
                self._forms[kind] = found

    def _keep(self, window: PickleWindow) -> None:
        """Take what will be needed of a window's records."""
        for kind, columns in self._columns.items():
            records: Any = getattr(window, kind)
            if records is None or not len(records.start):
                continue
            for name, column in columns.items():
                values: Any = window.strings.get((kind, name))
                if values is None:
                    values = getattr(records, name)
                if kind == "tensors" and name in ("first", "last"):
                    values = values + self._bases["chunks"]
                elif kind == "tensors" and name == "sizes":
                    values = flat_dims(values, records.ndim)
                column.add(values)
        for kind in self._bases:
            records = getattr(window, kind)
            self._bases[kind] += 0 if records is None else len(records.start)
        self._runs += window.runs

    def result(self) -> Spliced:
        """What was read, once all is."""
        walk, runs = self._walk, self._runs
        gate = _SplicedGate(io.BufferedReader(io.BytesIO(walk.out)), walk.token, runs)
        pickled = load(gate.file, gate)
        if gate.num_taken != len(runs):
            raise NotSplicedError
        size = gate.find_class("torch", "Size")
        of_chunk = (ChunkRecord, "offsets", "sizes", size)
        boxes = {name: self._columns["chunks"].pop(name) for name in ("offsets", "sizes")}
        columns = {
            kind: {name: column.filled() for name, column in of_kind.items()}
            for kind, of_kind in self._columns.items()
        }
        refs = {
            "chunks": of_chunk,
            "stored": (Index, "fqn", "index", "offset", size, Info)
            + ("relative_path", "offset", "length"),
            "tensors": (TensorMeta, "properties", Properties, "size", size, "chunks", *of_chunk),
            "bytes_entries": (BytesMeta,),
            "paths": (),
        }
        return Spliced(
            self._opcodes.protocol,
            pickled,
            boxes,
            columns,
            self._strings,
            runs,
            refs,
            self._trailing_bytes,
        )


def _runs(window: PickleWindow) -> Iterator[RecordRun]:
    """Records that stand one behind the other."""
    yield from chunk_runs(window.chunks, window.tensors, window.bases["chunks"])
    if window.stored is not None:
        yield from stored_runs(window.scan, window.stored, window.bases["stored"])
    for kind in ("tensors", "bytes_entries", "paths"):
        records = getattr(window, kind)
        if records is not None and len(records.start):
            yield from linked_runs(kind, records, window.bases[kind])


def _check_borders(window: PickleWindow) -> None:
    """Refuse frames that begin within a record's opcode.

    Between the chunks of an entry stand opcodes of one byte.
    """
    cuts, pickle = np.asarray(window.cuts, np.int64), window.scan.data.data
    chunks, tensors = window.chunks, window.tensors
    spans: list[tuple[Ints, Ints]] = [(chunks.start, chunks.start + chunks.length)]
    if window.stored is not None:
        spans.append((window.stored.start, window.stored.start + window.stored.length))
    if tensors is not None:
        ends = tensors.end.copy()
        full = tensors.last > tensors.first
        ends[full] = chunks.start[tensors.first[full]]
        spans.append((tensors.start, ends))
    others = [each for each in (window.bytes_entries, window.paths) if each is not None]
    spans += [(each.start, each.end) for each in others]
    for starts, ends in spans:
        if not len(starts):
            continue
        rows = np.searchsorted(starts, cuts, "right") - 1
        inside = (rows >= 0) & (cuts < ends[rows])
        for cut, at in zip(cuts[inside].tolist(), starts[rows[inside]].tolist(), strict=True):
            while at < cut:
                at = op_end(pickle, at)
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
