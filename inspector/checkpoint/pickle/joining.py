"""Runs of records put together to columns.

Tensors as lists, of which each run takes its part; stored places joined to the chunks that they
belong to: by name, position and offset.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.pickle.entries import Tensors
from inspector.checkpoint.pickle.fields import PAD, Ints, Words, flat_dims, starts_of, words_of
from inspector.checkpoint.pickle.walk import NotSplicedError

__all__ = ["EveryTensor", "Names", "distinct_texts", "join", "refuse_duplicates", "same_texts"]

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
    first = starts[tensor]
    chunk = first + index
    dims = dim_start[tensor + 1] - dim_start[tensor]
    if (ndim != dims).any() or (index < 0).any() or (chunk >= starts[tensor + 1]).any():
        raise NotSplicedError
    chunk_box = columns["box_start"][tensor] + index * dims
    for dim in range(int(ndim.max())):
        if (ndim > dim).all():
            here, there = box + dim, chunk_box + dim
        else:
            rows = np.flatnonzero(ndim > dim)
            here, there = box[rows] + dim, chunk_box[rows] + dim
        if (offsets[here] != columns["offsets"][there]).any():
            raise NotSplicedError
    columns["file"][chunk] = file
    columns["byte_offset"][chunk] = byte_offset
    columns["byte_length"][chunk] = byte_length


def refuse_duplicates(columns: dict[str, npt.NDArray[Any]]) -> None:
    """Two chunks of one tensor at one offset share their place: not here.

    Raises:
        NotSplicedError: There are such, or it looks so.
    """
    dims = np.diff(columns["dim_start"])
    counts = np.diff(columns["chunk_start"])
    offsets = columns["offsets"]
    ndim = np.repeat(dims.astype(np.int8), counts)
    box = np.cumsum(ndim, dtype=np.int64) - ndim
    if len(ndim) < 2:
        return
    # Mostly each lies behind the one before; of a tensor that is so, no two are the same.
    behind = np.zeros(len(ndim) - 1, bool)
    is_first = np.zeros(len(ndim) + 1, bool)
    is_first[columns["chunk_start"]] = True
    behind |= is_first[1:-1]
    equal = ~behind
    for dim in range(int(dims.max(initial=0))):
        rows = np.flatnonzero(equal & (ndim[1:] > dim))
        if not len(rows):
            break
        step = offsets[box[rows + 1] + dim] - offsets[box[rows] + dim]
        behind[rows[step > 0]] = True
        equal[rows[step != 0]] = False
    if behind.all():
        return
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


class Names:
    """Finds many strings, given as bytes in the file, in a list of names."""

    def __init__(self, names: list[str]) -> None:
        texts = [name.encode("utf-8", "surrogatepass") for name in names]
        self._lengths = np.asarray([len(text) for text in texts], np.int64)
        starts = np.cumsum(self._lengths) - self._lengths
        data = np.frombuffer(b"".join(texts) + bytes(PAD), np.uint8)
        self._words, self._starts = words_of(data), starts
        sums = _sums(self._words, starts, self._lengths)
        self._order = np.argsort(sums)
        self._sorted = sums[self._order]
        self._next = 0

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
            # Or all chunks of a tensor, one behind the other.
            again = np.zeros(len(others), bool)
            again[1:] = same_texts(words, at[1:], length[1:], words, at[:-1], length[:-1])
            heads = np.flatnonzero(~again)
            at, length = at[heads], length[heads]
            place = np.searchsorted(self._sorted, _sums(words, at, length))
            names = self._order[np.minimum(place, count - 1)]
            if not self._are(names, words, at, length).all():
                raise NotSplicedError
            found[others] = names[np.cumsum(~again) - 1]
        self._next = int(found[-1]) + 1
        return found

    def _are(self, names: Ints, words: Words, at: Ints, length: Ints) -> npt.NDArray[np.bool_]:
        """Whether strings are these names, byte by byte."""
        starts, lengths = self._starts[names], self._lengths[names]
        return same_texts(words, at, length, self._words, starts, lengths)


def distinct_texts(words: Words, at: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Where each of some strings stands first, in that order, and which of those each one is.

    Raises:
        NotSplicedError: Two have one sum by chance, and are not the same.
    """
    _, first, which = np.unique(_sums(words, at, length), return_index=True, return_inverse=True)
    there = first[which]
    if not same_texts(words, at, length, words, at[there], length[there]).all():
        raise NotSplicedError
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return first[order], number[which]


def _sums(words: Words, at: Ints, length: Ints) -> Words:
    """A 64-bit sum of each string's bytes."""
    state = _mix(np.uint64(1), length.astype(np.uint64))
    for word in range(-(-int(length.max(initial=0)) // 8)):
        mixed = _mix(state, _word(words, at, length, word))
        state = np.where(length > 8 * word, mixed, state)
    return state


def same_texts(
    words: Words, at: Ints, length: Ints, others: Words, other_at: Ints, other_length: Ints
) -> npt.NDArray[np.bool_]:
    """Whether strings are the same as others, byte by byte."""
    same: npt.NDArray[np.bool_] = length == other_length
    if not same.any():
        return same
    least = int(length.min())
    for word in range(-(-int(length.max()) // 8)):
        mine, theirs = words[at + 8 * word], others[other_at + 8 * word]
        mine ^= theirs
        if least < 8 * word + 8:
            mine &= _FIRST_BYTES[np.clip(length - 8 * word, 0, 8)]
        same &= mine == 0
    return same


def _word(words: Words, at: Ints, length: Ints, word: int) -> Words:
    """Bytes `8 * word` to `8 * word + 8` of strings, zeros after their ends."""
    return words[at + 8 * word] & _FIRST_BYTES[np.clip(length - 8 * word, 0, 8)]


class EveryTensor:
    """What the runs of tensors are put together from: lists, of which each takes its part."""

    def __init__(self, tensors: Tensors, names: list[str]) -> None:
        ndim = tensors.ndim.astype(np.int64)
        counts = tensors.last - tensors.first
        self.names = names
        self.states: list[int] = tensors.state.tolist()
        self.shapes = array("q", flat_dims(tensors.sizes, ndim).tobytes())
        self.box: list[int] = starts_of(ndim).tolist()
        self.dims = array("q", ndim.tobytes())
        self.counts = array("q", counts.tobytes())
        self.before: list[int] = starts_of(counts).tolist()
        self.first: list[int] = tensors.first.tolist()
        self.last: list[int] = tensors.last.tolist()
