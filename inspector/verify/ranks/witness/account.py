"""What metadata says of one entry, and whether a second reading of it says the same.

The rule this module keeps: the second reading shares nothing with the first but the value that both
come to. Ours (`Ours`) comes from the checkpoint's columns; who reads beside it says what it found
in the same words, entry by entry, place by place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import printable

__all__ = ["EntryAccount", "Ours", "Place", "differences"]

Ints = tuple[int, ...]

#: Where a payload lies: path, first byte, number of bytes, transforms.
Place = tuple[str, int, int, tuple[str, ...]]
_MAX_NAMED = 5


class EntryAccount(NamedTuple):
    """One entry of the metadata.

    Attributes:
        shape: Of the tensor; None for a bytes entry.
        dtype: Its element type; empty for a bytes entry, and where whoever reads cannot say.
        chunks: Offsets, sizes and place (None: nowhere) of each; of a bytes entry its one place.
    """

    shape: Ints | None
    dtype: str
    chunks: tuple[tuple[Ints, Ints, Place | None], ...]


class Ours:
    """The entries of a checkpoint by name. Per-rank metadata is asked for a rank at a time.

    What several ranks' metadata say of one tensor was merged, so a rank is known by its files: by
    those that its own metadata names.

    Args:
        checkpoint: The checkpoint.
        has_bytes: False gives of each place the file alone, all that torch keeps of safetensors.
    """

    def __init__(self, checkpoint: Checkpoint, *, has_bytes: bool = True) -> None:
        self._checkpoint = checkpoint
        self._has_bytes = has_bytes
        self._tensors = {fqn: i for i, fqn in enumerate(checkpoint.columns.fqns)}
        self._entries: dict[str, list[int]] = {}
        for i, entry in enumerate(checkpoint.bytes_entries):
            self._entries.setdefault(entry.fqn, []).append(i)
        self.malformed = {bad.fqn for bad in checkpoint.malformed}

    @property
    def names(self) -> set[str]:
        """All of them, those that are malformed left out."""
        return {*self._tensors, *self._entries} - self.malformed

    def entry(self, fqn: str, rank: int | None = None) -> EntryAccount | None:
        """What the metadata says of a name; None if nothing."""
        index = self._tensors.get(fqn)
        if index is not None:
            return self._tensor(index)
        found = [self._checkpoint.bytes_entries[i] for i in self._entries.get(fqn, ())]
        found = [entry for entry in found if rank is None or entry.rank == rank]
        if not found:
            return None
        entry = found[0]
        place = (
            self._place(entry.file, entry.byte_offset, entry.byte_length, entry.transforms)
            if entry.file >= 0
            else None
        )
        return EntryAccount(None, "", (((), (), place),))

    def _tensor(self, index: int) -> EntryAccount:
        tensor = self._checkpoint.columns.tensor(index)
        chunks = tuple(
            (
                tuple(offsets),
                tuple(sizes),
                self._place(file, begin, length, tensor.transforms) if file >= 0 else None,
            )
            for offsets, sizes, file, begin, length in tensor.chunks()
        )
        if self._checkpoint.format == "safetensors":
            # The order of the files is the file system's, not the checkpoint's.
            chunks = tuple(sorted(chunks))
        return EntryAccount(tensor.shape, tensor.dtype, chunks)

    def _place(self, file: int, begin: int, length: int, transforms: tuple[str, ...]) -> Place:
        if not self._has_bytes:
            begin = length = -1
        return self._checkpoint.files[file].path, begin, length, transforms


def differences(
    ours: Ours,
    theirs: Iterable[str],
    entry_of: Callable[[str], EntryAccount],
    *,
    rank: int | None = None,
) -> Iterator[str]:
    """What a second reading says otherwise, in words; nothing if it says the same.

    Args:
        ours: The first reading.
        theirs: The names that the second found.
        entry_of: What it says of a name.
        rank: The rank whose metadata it read; None for metadata of all.
    """
    found = set(theirs) - ours.malformed
    if rank is None:
        if more := found - ours.names:
            yield f"it has {_named(more)}, which we did not read"
        if fewer := ours.names - found:
            yield f"we read {_named(fewer)}, which it does not have"
    for fqn in sorted(found & ours.names):
        mine, other = ours.entry(fqn, rank), entry_of(fqn)
        if mine is None:
            yield f"{printable(fqn, 120)}: only it has an entry of this name"
            continue
        if rank is not None and mine.shape is not None:
            # Of a tensor each rank's metadata holds what that rank wrote.
            missing = Counter(other.chunks) - Counter(mine.chunks)
            mine = mine._replace(chunks=other.chunks if not missing else mine.chunks)
        if not other.dtype:
            mine = mine._replace(dtype="")
        if mine != other:
            yield f"{printable(fqn, 120)}: {_what(mine, other)}"


def _named(names: set[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in sorted(names)[:_MAX_NAMED])
    return f"{shown} and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else shown


def _what(mine: EntryAccount, other: EntryAccount) -> str:
    if (mine.shape is None) != (other.shape is None):
        words = {True: "bytes", False: "a tensor"}
        return f"we read {words[mine.shape is None]}, it {words[other.shape is None]}"
    if mine.shape != other.shape:
        return f"we read the shape {mine.shape}, it {other.shape}"
    if mine.dtype != other.dtype:
        return f"we read {printable(mine.dtype, 40)}, it {printable(other.dtype, 40)}"
    if len(mine.chunks) != len(other.chunks):
        return f"we read {len(mine.chunks):,} chunks, it {len(other.chunks):,}"
    for a, b in zip(mine.chunks, other.chunks, strict=True):
        if a[:2] != b[:2]:
            return f"we read a chunk at {a[0]} of {a[1]}, it one at {b[0]} of {b[1]}"
        if a[2] != b[2]:
            return f"the chunk at {a[0]} is at {_at(a[2])} for us, at {_at(b[2])} for it"
    return "it is not the same"


def _at(place: Place | None) -> str:
    if place is None:
        return "no place"
    path, begin, length, transforms = place
    packed = f" ({', '.join(transforms)})" if transforms else ""
    return f"{length:,} bytes from {begin:,} of {printable(path, 80)}{packed}"
