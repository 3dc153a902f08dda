"""A large metadata file -> the same columns as `extract.Extraction` makes, without the objects.

What `splice.py` left of the pickle is extracted as ever; the batches that it cut out are joined to
it by numpy: chunks to their tensors by where they stood, stored places to their chunks by name,
offset and the position that DCP's planner noted. Only a metadata file in which all of this agrees
is read so: whatever is odd, missing or left over raises `NotSplicedError`, and the file is read
the slow way, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle import records
from inspector.checkpoint.pickle.extract import Extraction
from inspector.checkpoint.pickle.fields import PAD, Ints, Words, words_of
from inspector.checkpoint.pickle.splice import Batch, NotSplicedError, Spliced, read_spliced
from inspector.checkpoint.pickle.stand_ins import Chunk, Index, Stored, TensorMeta

__all__ = ["read_bulk"]

_ABSURD = 1 << 62
_BLOCK = 1 << 16
# The lowest bytes of a word: none, one, up to all eight.
_FIRST_BYTES = np.asarray([(1 << 8 * count) - 1 for count in range(9)], np.uint64)


def read_bulk(
    fd: int, num_bytes: int, tell: Callable[[int], None]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read one global metadata file.

    Args:
        fd: The open file, at its start.
        num_bytes: Its size.
        tell: Told how far it is, from 0 to `num_bytes`.

    Returns:
        The header and the columns, as `Extraction` makes them.

    Raises:
        Exception: Any; then the file has to be read by `Extraction`.
    """
    spliced = read_spliced(fd, num_bytes, tell)
    extraction = _Bulk(spliced)
    extraction.add(spliced.pickled)
    columns = extraction.columns()
    header = extraction.header()
    header["protocol"] = spliced.protocol
    header["trailing_bytes"] = spliced.trailing_bytes
    header["digest"] = spliced.digest
    return header, columns


class _Rows:
    """Stored places that were not in a batch."""

    def __init__(self) -> None:
        self.name: list[str] = []
        self.index: list[int] = []
        self.offset: list[tuple[int, ...]] = []
        self.file: list[int] = []
        self.byte_offset: list[int] = []
        self.byte_length: list[int] = []


class _Bulk(Extraction):
    """An `Extraction` to which batches of records are added as they are."""

    def __init__(self, spliced: Spliced) -> None:
        super().__init__()
        self._spliced = spliced
        self._rows = _Rows()
        # Pieces of the chunk columns: (from `self.offsets`, or from the batches; first, last).
        self._pieces: list[tuple[bool, int, int]] = []
        self._slow_box = [0]
        self._num_chunks = 0
        self._num_numbers = 0
        self._ids: dict[str, int] = {}
        stored, chunks = spliced.stored, spliced.chunks
        num_stored = len(stored.start) if stored is not None else 0
        self._row_file = np.full(num_stored, -1, np.int32)
        self._row_name = np.full(num_stored, -1, np.int64)
        self._row_used = np.zeros(num_stored, bool)
        self._row_names: list[tuple[Batch, tuple[str, ...]]] = []
        self._ndim: dict[int, tuple[int, int]] = {}
        batches = [b for b in spliced.batches if not b.is_stored]
        if chunks is not None and batches:
            bounds = np.asarray([(b.first, b.last) for b in batches]).ravel()
            ndim = np.append(chunks.ndim, 0)
            least = np.minimum.reduceat(ndim, bounds)[::2].tolist()
            most = np.maximum.reduceat(ndim, bounds)[::2].tolist()
            firsts = bounds[::2].tolist()
            self._ndim = dict(zip(firsts, zip(least, most, strict=True), strict=True))

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
            if type(key) is tuple:
                self._take_stored(key, info, places)
                continue
            if type(key) is not Index or type(info) is not Stored:
                raise NotSplicedError
            fqn, index, offset = key.fqn, key.index, key.offset
            place = _place(info, self.files)
            if type(fqn) is not str:
                raise NotSplicedError
            if offset is None:
                _add_place(places, fqn, place)
                continue
            if type(offset) is not tuple or type(index) is not int or not _sound(offset):
                raise NotSplicedError
            loose.name.append(fqn)
            loose.index.append(index)
            loose.offset.append(offset)
            loose.file.append(place[0])
            loose.byte_offset.append(place[1])
            loose.byte_length.append(place[2])
        return places

    def _take_stored(self, key: tuple[Any, ...], strings: Any, places: dict[str, Any]) -> None:
        """A batch of stored places, met where the records stood."""
        spliced, batch = self._spliced, key[0]
        stored = spliced.stored
        if type(batch) is not Batch or not batch.is_stored or batch.used or stored is None:
            raise NotSplicedError
        if key[1:] != spliced.stored_refs or any(type(text) is not str for text in strings):
            raise NotSplicedError
        batch.used = True
        rows = slice(batch.first, batch.last)
        num_paths = len(batch.path_refs)
        names: tuple[str, ...] = strings[num_paths:]
        # Files are numbered as they are first mentioned.
        paths = dict(zip(batch.path_refs, strings[:num_paths], strict=True))
        refs = stored.path_ref[rows]
        # Where the path is another one than before, or given in full.
        changes = (refs != np.roll(refs, 1)) | (refs < 0)
        changes[0] = True
        firsts = np.flatnonzero(changes)
        numbers = []
        for first, ref in zip(firsts.tolist(), refs[firsts].tolist(), strict=True):
            path = paths[ref] if ref >= 0 else self._path(stored, batch.first + first)
            if not path:
                raise NotSplicedError
            numbers.append(self.files.setdefault(path, len(self.files)))
        self._row_file[rows] = np.repeat(numbers, np.diff(firsts, append=len(refs)))
        self._row_used[rows] = True
        if names:
            self._row_names.append((batch, names))
        by_ref = dict(zip(batch.name_refs, names, strict=True))
        for row in (np.flatnonzero(stored.ndim[rows] < 0) + batch.first).tolist():
            ref = int(stored.name_ref[row])
            fqn = (
                by_ref[ref]
                if ref >= 0
                else self._text(
                    int(stored.start[row]) + stored.name_at, int(stored.name_length[row])
                )
            )
            offset, length = int(stored.byte_offset[row]), int(stored.byte_length[row])
            _add_place(places, fqn, (int(self._row_file[row]), offset, length, ()))
            self._row_used[row] = False

    def _path(self, stored: records.StoredRecords, row: int) -> str:
        at = int(stored.start[row]) + int(stored.path_at[row])
        return self._text(at, int(stored.path_length[row]))

    def _text(self, at: int, length: int) -> str:
        return self._spliced.data[at : at + length].tobytes().decode("utf-8", "surrogatepass")

    # -- tensors ------------------------------------------------------------------------------

    def _tensor(self, fqn: str, meta: TensorMeta, places: dict[Any, Any]) -> int:
        if places:
            raise NotSplicedError
        shape, props, chunks = self._head(fqn, meta)
        ndim, expected = len(shape), self._spliced.chunk_refs
        slow: list[Any] = []
        for item in chunks:
            if type(item) is not tuple:
                slow.append(item)
                continue
            if slow:
                self._add_slow(fqn, slow, ndim)
                slow = []
            batch = item[0]
            if type(batch) is not Batch or batch.is_stored or batch.used or item[1:] != expected:
                raise NotSplicedError
            batch.used = True
            if self._ndim[batch.first] != (ndim, ndim):
                raise NotSplicedError
            self._add_piece(True, batch.first, batch.last, ndim)
        if slow:
            self._add_slow(fqn, slow, ndim)
        index = len(self.tensor_fqns)
        if self._ids.setdefault(fqn, index) != index:
            raise NotSplicedError
        self.tensor_fqns.append(fqn)
        self.property_ids.append(self.properties.setdefault(props, len(self.properties)))
        self.shapes.extend(shape)
        self.dim_start.append(len(self.shapes))
        self.chunk_start.append(self._num_chunks)
        self.box_start.append(self._num_numbers)
        return index

    def _add_slow(self, fqn: str, chunks: list[Any], ndim: int) -> None:
        if any(type(chunk) is not Chunk for chunk in chunks):
            raise NotSplicedError
        offsets, sizes = self._boxes(fqn, chunks, ndim)
        for offset, size in zip(offsets, sizes, strict=True):
            self.offsets.extend(offset)
            self.sizes.extend(size)
            self._slow_box.append(len(self.offsets))
        self._add_piece(
            False, len(self._slow_box) - 1 - len(offsets), len(self._slow_box) - 1, ndim
        )

    def _add_piece(self, in_batch: bool, first: int, last: int, ndim: int) -> None:
        self._num_chunks += last - first
        self._num_numbers += (last - first) * ndim
        pieces = self._pieces
        if pieces and pieces[-1][0] == in_batch and pieces[-1][2] == first:
            pieces[-1] = (in_batch, pieces[-1][1], last)
        else:
            pieces.append((in_batch, first, last))

    # -- the result ---------------------------------------------------------------------------

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns, with every stored place at its chunk.

        Raises:
            NotSplicedError: Something is missing or left over.
        """
        if not all(batch.used for batch in self._spliced.batches):
            raise NotSplicedError
        columns: dict[str, npt.NDArray[Any]] = {
            name: np.frombuffer(column, np.int64 if column.typecode == "q" else np.int32)
            for name, column in self.arrays().items()
        }
        columns["offsets"], columns["sizes"] = self._boxes_of_all(columns)
        _refuse_duplicates(columns)
        columns["file"] = np.full(self._num_chunks, -1, np.int32)
        columns["byte_offset"] = np.full(self._num_chunks, -1, np.int64)
        columns["byte_length"] = np.full(self._num_chunks, -1, np.int64)
        self._join_rows(columns)
        self._join_batches(columns)
        # As many places as chunks, and no chunk without one: each has its own.
        num_places = len(self._rows.name) + int(self._row_used.sum())
        if (columns["file"] < 0).any() or num_places != self._num_chunks:
            raise NotSplicedError
        return columns

    def _boxes_of_all(self, columns: dict[str, npt.NDArray[Any]]) -> tuple[Ints, Ints]:
        chunks = self._spliced.chunks
        offsets, sizes = [], []
        for in_batch, first, last in self._pieces:
            if in_batch and chunks is not None:
                numbers = slice(int(chunks.box[first]), int(chunks.box[last]))
                offsets.append(chunks.offsets[numbers])
                sizes.append(chunks.sizes[numbers])
            else:
                numbers = slice(self._slow_box[first], self._slow_box[last])
                offsets.append(columns["offsets"][numbers])
                sizes.append(columns["sizes"][numbers])
        if not offsets:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(offsets), np.concatenate(sizes)

    def _join_rows(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        rows = self._rows
        tensors = np.asarray([self._ids.get(name, -1) for name in rows.name], np.int64)
        ndim = np.asarray([len(offset) for offset in rows.offset], np.int64)
        _join(
            columns,
            tensors,
            np.asarray(rows.index, np.int64),
            ndim,
            np.cumsum(ndim) - ndim,
            np.asarray([n for offset in rows.offset for n in offset], np.int64),
            np.asarray(rows.file, np.int32),
            np.asarray(rows.byte_offset, np.int64),
            np.asarray(rows.byte_length, np.int64),
        )

    def _join_batches(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        stored = self._spliced.stored
        if stored is None:
            return
        for batch, names in self._row_names:
            rows: Any = slice(batch.first, batch.last)
            ids = np.asarray([self._ids.get(name, -1) for name in names], np.int64)
            ref = stored.name_ref[rows]
            place = np.searchsorted(np.asarray(batch.name_refs, np.int64), ref)
            self._row_name[rows] = np.where(ref >= 0, ids[np.minimum(place, len(ids) - 1)], -1)
        words = words_of(self._spliced.data)
        table = _Names(self.tensor_fqns)
        used = np.flatnonzero(self._row_used)
        for first in range(0, len(used), _BLOCK):
            rows = used[first : first + _BLOCK]
            inline = rows[stored.name_ref[rows] < 0]
            self._row_name[inline] = table.find(
                words, stored.start[inline] + stored.name_at, stored.name_length[inline]
            )
            _join(
                columns,
                self._row_name[rows],
                stored.index[rows],
                stored.ndim[rows],
                stored.box[rows],
                stored.offsets,
                self._row_file[rows],
                stored.byte_offset[rows],
                stored.byte_length[rows],
            )


def _sound(offset: tuple[Any, ...]) -> bool:
    return all(type(n) is int and 0 <= n < _ABSURD for n in offset)


def _place(info: Stored, files: dict[str, int]) -> tuple[int, int, int, tuple[str, ...]]:
    path, start, length = info.relative_path, info.offset, info.length
    if type(path) is not str or not path or info.get("transform_descriptors"):
        raise NotSplicedError
    if not _sound((start, length)):
        raise NotSplicedError
    return files.setdefault(path, len(files)), start, length, ()


def _add_place(places: dict[str, Any], fqn: str, place: Any) -> None:
    places.setdefault(fqn, {})[None] = place


def _join(
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
    """Write places to the chunks that they name, which must be there."""
    if not len(tensor):
        return
    starts = columns["chunk_start"]
    if (tensor < 0).any():
        raise NotSplicedError
    dims = np.diff(columns["dim_start"])[tensor]
    if (ndim != dims).any() or (index < 0).any() or (index >= np.diff(starts)[tensor]).any():
        raise NotSplicedError
    chunk = starts[tensor] + index
    chunk_box = columns["box_start"][tensor] + index * dims
    for dim in range(int(ndim.max())):
        rows = np.flatnonzero(ndim > dim)
        if (offsets[box[rows] + dim] != columns["offsets"][chunk_box[rows] + dim]).any():
            raise NotSplicedError
    columns["file"][chunk] = file
    columns["byte_offset"][chunk] = byte_offset
    columns["byte_length"][chunk] = byte_length


def _refuse_duplicates(columns: dict[str, npt.NDArray[Any]]) -> None:
    """Two chunks of one tensor at one offset share their place: not here."""
    dims = np.diff(columns["dim_start"])
    counts = np.diff(columns["chunk_start"])
    ndim = np.repeat(dims, counts)
    box = np.cumsum(ndim) - ndim
    tensor = np.repeat(np.arange(len(dims)), counts)
    mixed = _mix(np.uint64(1), tensor.astype(np.uint64))
    for dim in range(int(dims.max(initial=0))):
        rows = slice(None) if (dims > dim).all() else np.flatnonzero(ndim > dim)
        mixed[rows] = _mix(mixed[rows], columns["offsets"][box[rows] + dim].astype(np.uint64))
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


class _Names:
    """Finds many strings, given as bytes in the file, in a list of names."""

    def __init__(self, names: list[str]) -> None:
        texts = [name.encode("utf-8", "surrogatepass") for name in names]
        self._lengths = np.asarray([len(text) for text in texts], np.int64)
        starts = np.cumsum(self._lengths) - self._lengths
        data = np.frombuffer(b"".join(texts) + bytes(PAD), np.uint8)
        self._words, self._starts = words_of(data), starts
        sums = self._sums(self._words, starts, self._lengths)
        self._order = np.argsort(sums)
        self._sorted = sums[self._order]
        self._next = 0

    @staticmethod
    def _sums(words: Words, at: Ints, length: Ints) -> Words:
        state = _mix(np.uint64(1), length.astype(np.uint64))
        for word in range(-(-int(length.max(initial=0)) // 8)):
            mixed = _mix(state, _word(words, at, length, word))
            state = np.where(length > 8 * word, mixed, state)
        return state

    def find(self, words: Words, at: Ints, length: Ints) -> Ints:
        """Index of each string among the names.

        Raises:
            NotSplicedError: One is not among them.
        """
        count = len(self._order)
        if not len(at):
            return np.zeros(0, np.int64)
        if not count:
            raise NotSplicedError
        # A rank names the tensors mostly in the order in which the metadata does.
        found: Ints = (self._next + np.arange(len(at))) % count
        others = np.flatnonzero(~self._are(found, words, at, length))
        if len(others):
            at, length = at[others], length[others]
            place = np.searchsorted(self._sorted, self._sums(words, at, length))
            found[others] = self._order[np.minimum(place, count - 1)]
            if not self._are(found[others], words, at, length).all():
                raise NotSplicedError
        self._next = int(found[-1]) + 1
        return found

    def _are(self, names: Ints, words: Words, at: Ints, length: Ints) -> npt.NDArray[np.bool_]:
        """Whether strings are these names, byte by byte."""
        same: npt.NDArray[np.bool_] = self._lengths[names] == length
        if not same.any():
            return same
        for word in range(-(-int(length.max()) // 8)):
            theirs = _word(self._words, self._starts[names], length, word)
            same &= theirs == _word(words, at, length, word)
        return same


def _word(words: Words, at: Ints, length: Ints, word: int) -> Words:
    """Bytes `8 * word` to `8 * word + 8` of strings, zeros after their ends."""
    value: Words = words[at + 8 * word] & _FIRST_BYTES[np.clip(length - 8 * word, 0, 8)]
    return value
