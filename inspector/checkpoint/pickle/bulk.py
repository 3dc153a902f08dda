"""A large metadata file -> the same columns as `extract.Extraction` makes, without the objects.

What `splice.py` left of the pickle is extracted as ever; the batches that it cut out are joined to
it by numpy: chunks to their tensors by where they stood, stored places to their chunks by name,
offset and the position that DCP's planner noted. Only a metadata file in which all of this agrees
is read so: whatever is odd, missing or left over raises `NotSplicedError`, and the file is read
the slow way, which says what is wrong with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.child.wire import StatePaths
from inspector.checkpoint.dtypes import ITEMSIZE
from inspector.checkpoint.pickle.entries import EveryPath, EveryTensor
from inspector.checkpoint.pickle.extract import Extraction
from inspector.checkpoint.pickle.fields import Ints, starts_of
from inspector.checkpoint.pickle.joining import join, refuse_absurd, refuse_duplicates
from inspector.checkpoint.pickle.records import BytesPlaces, LooseRows, place_of
from inspector.checkpoint.pickle.splice import (
    WINDOW_BYTES,
    EarlyRows,
    NotSplicedError,
    RecordRun,
    Spliced,
    read_spliced,
)
from inspector.checkpoint.pickle.stand_ins import Chunk, Index, Stored, TensorMeta
from inspector.checkpoint.pickle.values import is_path

__all__ = ["read_bulk"]

_BLOCK = 1 << 14
# Of a string that names nothing; less than any entry.
_NO_ENTRY = -(1 << 40)


def read_bulk(
    fd: int,
    num_bytes: int,
    tell: Callable[[int], None],
    digest: Any = None,
    window_bytes: int = WINDOW_BYTES,
    show: Callable[[EarlyRows], None] | None = None,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read one global metadata file.

    Args:
        fd: The open file, at its start.
        num_bytes: Its size.
        tell: Told how far it is, from 0 to `num_bytes`.
        digest: Of `hashlib`: what is read goes into it as well.
        window_bytes: How much of the file is held at a time.
        show: Given the first entries while the rest is read.

    Returns:
        The header and the columns, as `Extraction` makes them.

    Raises:
        Exception: Any; then the file has to be read by `Extraction`.
    """
    spliced = read_spliced(fd, num_bytes, tell, digest, window_bytes, show)
    extraction = _Bulk(spliced)
    extraction.add(spliced.pickled)
    columns = extraction.columns()
    header = extraction.header()
    header["protocol"] = spliced.protocol
    header["trailing_bytes"] = spliced.trailing_bytes
    header["digest"] = "" if digest is None else digest.hexdigest()
    return header, columns


class _Bulk(Extraction):
    """An `Extraction` to which batches of records are added as they are."""

    def __init__(self, spliced: Spliced) -> None:
        super().__init__()
        self._spliced = spliced
        self._rows = LooseRows()
        # Pieces of the chunk columns: (from `self.offsets`, or from the batches; first, last).
        self._pieces: list[tuple[bool, int, int]] = []
        self._slow_box = [0]
        # Dims and chunks of each tensor.
        self._dims = array("q")
        self._counts = array("q")
        # The strings that name the tensors; of one that was not in a run -1, and its name here.
        self._named = array("i")
        self._loose: dict[int, str] = {}
        # All entries as they came: tensors, and bytes entries as `~number`.
        self._entered = array("q")
        #: What the planner recorded, if much of it was in runs.
        self.planned: StatePaths | None = None
        self._stored = spliced.columns["stored"]
        self._row_used = np.zeros(len(self._stored["ndim"]), bool)
        # The strings that name the bytes entries of runs, and of all, likewise.
        self._bytes_names = spliced.columns["bytes_entries"]["name"]
        self._bytes_places = BytesPlaces(self._bytes_names, len(spliced.strings))
        self._bytes_named = array("i")

    # -- what must not be ---------------------------------------------------------------------

    def _complain(self, fqn: str, what: str, *, is_later: bool = False) -> NoReturn:
        raise NotSplicedError

    def _orphans(self, fqn: str, left: Any) -> None:
        if left:
            raise NotSplicedError

    # -- stored places ------------------------------------------------------------------------

    def _places(self, storage: Any) -> dict[str, Any]:
        if type(storage) is not dict:
            raise NotSplicedError
        places: dict[str, Any] = {}
        loose = self._rows
        for key, info in storage.items():
            if type(key) is RecordRun:
                self._take_stored(key, info, places)
                continue
            if type(key) is not Index or type(info) is not Stored:
                raise NotSplicedError
            fqn, index, offset = key.fqn, key.index, key.offset
            place = place_of(info, self.files)
            if type(fqn) is not str:
                raise NotSplicedError
            if offset is None:
                places[fqn] = {None: place}
                continue
            loose.add(fqn, index, offset, place)
        if len(self._bytes_names) and places:
            self._take_places(places)
        return places

    def _take_places(self, places: dict[str, Any]) -> None:
        """Take out the places that are in no run, of bytes entries that are in one."""
        names, where = [*places], np.asarray([place[None][:3] for place in places.values()])
        numbers = np.full(len(names), -1, np.int32)
        self._number_loose(numbers, dict(enumerate(names)))
        for row in np.flatnonzero(~self._bytes_places.take(numbers, [*where.T])).tolist():
            del places[names[row]]

    def _take(self, run: RecordRun, kind: str, refs: Any) -> slice:
        """The records of a run that was met where it belongs."""
        if run.kind != kind or run.used or refs != self._spliced.refs[kind]:
            raise NotSplicedError
        run.used = True
        return slice(run.first, run.last)

    def _take_stored(self, run: RecordRun, refs: Any, places: dict[str, Any]) -> None:
        """A run of stored places, met where the records stood."""
        stored, strings = self._stored, self._spliced.strings
        rows = self._take(run, "stored", refs)
        paths = stored["path"][rows]
        heads = np.ones(len(paths), bool)
        heads[1:] = paths[1:] != paths[:-1]
        # Files are numbered as they are first mentioned.
        found, first, which = np.unique(paths[heads], return_index=True, return_inverse=True)
        order = np.argsort(first)
        files = np.empty(len(found), np.int32)
        for place, name in zip(order.tolist(), strings.texts(found[order]), strict=True):
            if not name:
                raise NotSplicedError
            files[place] = self.files.setdefault(name, len(self.files))
        stored["path"][rows] = files[which[np.cumsum(heads) - 1]]
        self._row_used[rows] = True
        bare = np.flatnonzero(stored["ndim"][rows] < 0) + run.first
        if not len(bare):
            return
        self._row_used[bare] = False
        where = [stored[of][bare] for of in ("path", "byte_offset", "byte_length")]
        bare = bare[self._bytes_places.take(stored["name"][bare], where)]
        for name, *place in zip(
            strings.texts(stored["name"][bare]),
            *(stored[of][bare].tolist() for of in ("path", "byte_offset", "byte_length")),
            strict=True,
        ):
            places[name] = {None: (*place, ())}

    # -- tensors ------------------------------------------------------------------------------

    def _entry(
        self, key: Any, value: Any, places: dict[str, Any], ids: dict[str, int], rank: int | None
    ) -> None:
        if type(key) is RecordRun:
            take = self._take_bytes if key.kind == "bytes_entries" else self._take_tensors
            take(key, value)
            return
        count = len(ids)
        super()._entry(key, value, places, ids, rank)
        if len(ids) != count + 1:
            raise NotSplicedError
        self._entered.append(next(reversed(ids.values())))

    def _take_tensors(self, run: RecordRun, value: Any) -> None:
        """A run of tensors, met where the entries stood. There may be very many short ones."""
        if type(value) is not tuple:
            raise NotSplicedError
        num_refs = len(self._spliced.refs["tensors"])
        rows = self._take(run, "tensors", value[:num_refs])
        every = self._every_tensor
        known = [-1 if state is None else self._property(state) for state in value[num_refs:]]
        self.property_ids.extend([known[state] for state in every.states[rows]])
        first = len(self._named)
        self._named.extend(every.names[rows])
        self._entered.extend(range(first, len(self._named)))
        self.shapes.extend(every.shapes[every.box[run.first] : every.box[run.last]])
        self._dims.extend(every.dims[rows])
        self._counts.extend(every.counts[rows])
        # Of tensors that follow each other the chunks do so as well, but for what stands between.
        first, last = every.first[run.first], every.last[run.last - 1]
        if last - first == every.before[run.last] - every.before[run.first]:
            self._add_piece(True, first, last)
            return
        for number in range(run.first, run.last):
            if every.counts[number]:
                self._add_piece(True, every.first[number], every.last[number])

    def _take_bytes(self, run: RecordRun, refs: Any) -> None:
        """A run of bytes entries, met where they stood."""
        rows = self._take(run, "bytes_entries", refs)
        first, names = len(self.bytes_fqns), self._bytes_names[rows]
        self.bytes_fqns += self._spliced.strings.texts(names)
        self.bytes_places += [(*place, ()) for place in self._bytes_places.of(rows)]
        self.bytes_ranks += [None] * len(names)
        self._bytes_named.extend(names.tolist())
        self._entered.extend(range(~first, ~len(self.bytes_fqns), -1))

    def _bytes(self, fqn: str, places: dict[Any, Any], rank: int | None) -> int:
        self._bytes_named.append(-1)
        return super()._bytes(fqn, places, rank)

    @cached_property
    def _every_tensor(self) -> EveryTensor:
        return EveryTensor(self._spliced.columns["tensors"])

    def _property(self, state: Any) -> int:
        found = self._properties("", state)
        return self.properties.setdefault(found, len(self.properties))

    def _tensor(self, fqn: str, meta: TensorMeta, places: dict[Any, Any]) -> int:
        if places:
            raise NotSplicedError
        shape, props, chunks = self._head(fqn, meta)
        ndim, count = len(shape), 0
        slow: list[Any] = []
        for item in chunks:
            if type(item) is not tuple:
                slow.append(item)
                continue
            count += self._add_slow(fqn, slow, ndim)
            slow = []
            run = item[0]
            if type(run) is not RecordRun:
                raise NotSplicedError
            rows = self._take(run, "chunks", item[1:])
            if (self._spliced.columns["chunks"]["ndim"][rows] != ndim).any():
                raise NotSplicedError
            self._add_piece(True, run.first, run.last)
            count += run.last - run.first
        count += self._add_slow(fqn, slow, ndim)
        index = len(self._named)
        self._named.append(-1)
        self._loose[index] = fqn
        self.property_ids.append(self.properties.setdefault(props, len(self.properties)))
        self.shapes.extend(shape)
        self._dims.append(ndim)
        self._counts.append(count)
        return index

    def _add_slow(self, fqn: str, chunks: list[Any], ndim: int) -> int:
        """Take in chunks that are in no run; how many there are."""
        if not chunks:
            return 0
        if any(type(chunk) is not Chunk for chunk in chunks):
            raise NotSplicedError
        offsets, sizes = self._boxes(fqn, chunks, ndim)
        for offset, size in zip(offsets, sizes, strict=True):
            self.offsets.extend(offset)
            self.sizes.extend(size)
            self._slow_box.append(len(self.offsets))
        self._add_piece(False, len(self._slow_box) - 1 - len(offsets), len(self._slow_box) - 1)
        return len(offsets)

    def _add_piece(self, in_batch: bool, first: int, last: int) -> None:
        pieces = self._pieces
        if pieces and pieces[-1][0] == in_batch and pieces[-1][2] == first:
            pieces[-1] = (in_batch, pieces[-1][1], last)
        else:
            pieces.append((in_batch, first, last))

    # -- the order ----------------------------------------------------------------------------

    def _order(self, planner_data: Any, ids: dict[str, int]) -> None:
        self._name_entries(ids)
        entered = np.frombuffer(self._entered, np.int64)
        if type(planner_data) is not dict or not any(
            type(key) is RecordRun for key in planner_data
        ):
            numbers = np.concatenate([self._tensor_strings, self._bytes_strings[::-1]])[entered]
            texts = self._spliced.strings.texts(numbers)
            super()._order(planner_data, dict(zip(texts, entered.tolist(), strict=True)))
            return
        walked, cuts = array("i"), array("i")
        # What is in no run, by its place among all of them.
        loose: dict[int, str] = {}
        others: dict[int, Any] = {}
        for key, path in planner_data.items():
            if type(key) is RecordRun:
                rows = self._take(key, "paths", path)
                every = self._every_path
                for row in every.others.keys() & range(rows.start, rows.stop):
                    others[len(walked) + row - rows.start] = every.others[row]
                walked.extend(every.names[rows])
                cuts.extend(every.cuts[rows])
                continue
            if type(key) is not str or type(path) is not tuple or not is_path(path):
                raise NotSplicedError
            loose[len(walked)] = key
            others[len(walked)] = path
            walked.append(-1)
            cuts.append(-1)
        numbers = np.frombuffer(walked, np.int32)
        self._number_loose(numbers, loose)
        if _have_twins(numbers):
            raise NotSplicedError
        is_same = np.array_equal(numbers, self._tensor_strings)
        names = self._tensor_names if is_same else self._spliced.strings.names(numbers)
        self.planned = StatePaths(names, cuts, others)
        found = self._entry_of(numbers)
        found = found[found != _NO_ENTRY]
        is_walked = np.zeros(len(entered), bool)
        is_walked[found + len(self.bytes_fqns)] = True
        left = entered[~is_walked[entered + len(self.bytes_fqns)]]
        self.order.frombytes(np.concatenate([found, left]).astype(np.int32).tobytes())

    def _number_loose(self, numbers: npt.NDArray[np.int32], loose: dict[int, str]) -> None:
        """Fill in the numbers of strings that were not in a run."""
        texts = [text.encode("utf-8", "surrogatepass") for text in loose.values()]
        numbers[[*loose]] = self._spliced.strings.numbers_of(texts)

    def _name_entries(self, ids: dict[str, int]) -> None:
        """Know each entry by its name, of which no two have the same.

        Args:
            ids: The entries that were in no run, by name.
        """
        strings = self._spliced.strings
        self._tensor_strings = np.frombuffer(self._named, np.int32)
        self._number_loose(self._tensor_strings, self._loose)
        self._bytes_strings = np.frombuffer(self._bytes_named, np.int32)
        loose = np.flatnonzero(self._bytes_strings < 0).tolist()
        self._number_loose(self._bytes_strings, {row: self.bytes_fqns[row] for row in loose})
        if _have_twins(np.concatenate([self._tensor_strings, self._bytes_strings])):
            raise NotSplicedError
        self._entries = np.full(len(strings), _NO_ENTRY)
        self._entries[self._tensor_strings] = np.arange(len(self._tensor_strings))
        self._entries[self._bytes_strings] = ~np.arange(len(self._bytes_strings))

    def _entry_of(self, numbers: npt.NDArray[Any]) -> Ints:
        """The entries of strings; `_NO_ENTRY` where none is called so."""
        # A string that was met since is no entry's name.
        found = np.full(len(numbers), _NO_ENTRY)
        known = numbers < len(self._entries)
        found[known] = self._entries[numbers[known]]
        return found

    @cached_property
    def _tensor_names(self) -> Sequence[str]:
        return self._spliced.strings.names(self._tensor_strings)

    @cached_property
    def _every_path(self) -> EveryPath:
        return EveryPath(self._spliced.columns["paths"], self._spliced.strings)

    def header(self) -> dict[str, Any]:
        """As of any `Extraction`."""
        header = {**super().header(), "tensors": self._tensor_names}
        return header if self.planned is None else {**header, "state_paths": self.planned}

    # -- the result ---------------------------------------------------------------------------

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns, with every stored place at its chunk.

        Raises:
            NotSplicedError: Something is missing or left over.
        """
        if not all(run.used for run in self._spliced.runs):
            raise NotSplicedError
        columns: dict[str, npt.NDArray[Any]] = {
            name: np.frombuffer(column, np.int64 if column.typecode == "q" else np.int32)
            for name, column in self.arrays().items()
        }
        dims, counts = (np.frombuffer(of_each, np.int64) for of_each in (self._dims, self._counts))
        columns["dim_start"] = starts_of(dims)
        columns["chunk_start"] = starts_of(counts)
        columns["box_start"] = starts_of(counts * dims)
        itemsizes = [ITEMSIZE.get(dtype, 1) for dtype, *_ in self.properties]
        refuse_absurd(columns, np.asarray(itemsizes, np.float64))
        columns["offsets"], columns["sizes"] = self._boxes_of_all(columns)
        self._let_go()
        refuse_duplicates(columns)
        num_chunks = int(columns["chunk_start"][-1])
        columns["file"] = np.full(num_chunks, -1, np.int32)
        columns["byte_offset"] = np.full(num_chunks, -1, np.int64)
        columns["byte_length"] = np.full(num_chunks, -1, np.int64)
        names = np.full(len(self._rows.name), -1, np.int32)
        self._number_loose(names, dict(enumerate(self._rows.name)))
        join(columns, self._entry_of(names), *self._rows.columns())
        self._join_batches(columns)
        # As many places as chunks, and no chunk without one: each has its own.
        num_places = len(self._rows.name) + int(self._row_used.sum())
        if (columns["file"] < 0).any() or num_places != num_chunks:
            raise NotSplicedError
        return columns

    def _let_go(self) -> None:
        """What is in the columns now need not be kept twice."""
        self._spliced.boxes.clear()
        for kind in ("chunks", "tensors", "paths"):
            self._spliced.columns[kind].clear()
        self.offsets = self.sizes = array("q")

    def _boxes_of_all(self, columns: dict[str, npt.NDArray[Any]]) -> list[Ints]:
        """Offsets and sizes of all chunks, in the order of their tensors."""
        ndim, pieces = self._spliced.columns["chunks"]["ndim"], self._pieces
        box: tuple[Any, Any] = (self._slow_box, starts_of(ndim))
        slices = [
            (in_batch, slice(int(box[in_batch][first]), int(box[in_batch][last])))
            for in_batch, first, last in pieces
        ]
        # The first record is never in a batch; mostly all others are.
        is_one = len(pieces) == 2 and not pieces[0][0] and pieces[1] == (True, 0, len(ndim))
        found: list[Ints] = []
        for name in ("offsets", "sizes"):
            batch, slow = self._spliced.boxes[name], columns[name]
            if is_one:
                found.append(batch.behind(slow[slices[0][1]]))
                continue
            parts = [(slow, batch.filled())[in_batch][numbers] for in_batch, numbers in slices]
            found.append(np.concatenate([np.zeros(0, np.int64), *parts]))
        return found

    def _join_batches(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        stored = self._stored
        begin = 0
        for first in range(0, len(self._row_used), _BLOCK):
            rows: Any = slice(first, first + _BLOCK)
            ndim = stored["ndim"][rows]
            dims = np.maximum(ndim, 0)
            box = np.cumsum(dims, dtype=np.int64) - dims
            box += begin
            begin += int(dims.sum(dtype=np.int64))
            used = self._row_used[rows]
            if not used.all():
                rows = np.flatnonzero(used) + first
                ndim, box = ndim[used], box[used]
            join(
                columns,
                self._entries[stored["name"][rows]],
                stored["index"][rows],
                ndim,
                box,
                stored["offsets"],
                stored["path"][rows],
                stored["byte_offset"][rows],
                stored["byte_length"][rows],
            )


def _have_twins(numbers: npt.NDArray[np.int32]) -> bool:
    return bool(np.bincount(numbers).max(initial=0) > 1)
