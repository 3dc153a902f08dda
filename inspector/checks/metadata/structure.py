"""What is wrong with the chunks and byte ranges, from the metadata alone.

The rule this module keeps: one finding for each tensor (or file) and kind, with exact counts and
all of them; only the boxes that a message names are few. What `dcp.load` does was run with torch
2.13 for every code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints, Orphan, Tensor
from inspector.checkpoint.text import format_box, format_bytes, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.entries import Entries, total
from inspector.checks.metadata.tiling import unproven
from inspector.layout.geometry import unique

if TYPE_CHECKING:
    from inspector.checks.metadata.cover import Box, Cover

__all__ = ["check_structure", "has_odd_lengths", "longer_rows", "short_rows"]

_MAX_NAME = 120
_MAX_SHOWN = 3

# torch.save's zip takes 699 bytes more than the elements in torch 1.13 and 1,513 in 2.13, at
# least (measured on the golden checkpoints of 11 versions); its format of before 1.6, 329.
_MIN_CONTAINER = 256
# Of a payload as short as torch's container the length tells nothing of its elements' size.
_MIN_BYTES = 8 << 10

_FROM_ANOTHER = "load an earlier checkpoint, or save this one again from the running job"


def name(text: str) -> str:
    """A tensor's or file's name as a message shows it."""
    return printable(text, _MAX_NAME)


def check_structure(checkpoint: Checkpoint, entries: Entries) -> list[Finding]:
    """All findings about chunks, storage entries and byte ranges."""
    return [
        *_covers(checkpoint, entries),
        *_unstored(entries),
        *_orphans(checkpoint.orphans),
        *_byte_ranges(entries),
        *_lengths(entries),
    ]


# -- chunks ------------------------------------------------------------------------------------


def _covers(checkpoint: Checkpoint, entries: Entries) -> Iterator[Finding]:
    per_rank = checkpoint.per_rank_metadata
    doubtful = unproven(checkpoint.columns, by_file=per_rank).tolist()
    if not doubtful:
        return
    # lazy: the chunks of most checkpoints tile their tensors plainly
    from inspector.checks.metadata.cover import MAX_WORK, analyse

    work = MAX_WORK
    # Of these a chunk was left out, which torch does not do.
    malformed = {part.fqn for part in checkpoint.malformed}
    for index in doubtful:
        tensor = checkpoint.columns.tensor(index)
        # With metadata of its own, every rank stores what it holds: the same box once a rank.
        owner = tensor.file if per_rank else None
        cover = analyse(tensor.offsets, tensor.sizes, tensor.shape, owner, max_work=work)
        # What is hostile enough to be given up takes the time of all that follow, not its own.
        work = max(work - cover.work, 0)
        first = int(checkpoint.columns.chunk_start[index])
        volumes = entries.volume[first : first + tensor.num_chunks]
        yield from _cover_findings(tensor, cover, volumes, has_more=tensor.fqn in malformed)


def _cover_findings(
    tensor: Tensor, cover: Cover, volumes: Ints, *, has_more: bool
) -> Iterator[Finding]:
    shown, size = name(tensor.fqn), tensor.num_elements
    about = "" if cover.complete else "at least "
    if cover.num_gap:
        num = cover.num_gap
        where = _boxes(cover.gaps)
        none = "no chunk at all: " if not tensor.num_chunks else ""
        yield Finding(
            "chunk-gap",
            f"{shown}: {none}{about}{num:,} of {plural(size, 'element')} lie in no chunk, "
            f"at {where}",
            "depends on what it makes of the chunk that was left out here: loads those elements, "
            "leaves them uninitialised, or raises an error"
            if has_more
            else f"loads silently, {num} elements left uninitialised",
            "their values are not in this checkpoint: " + _FROM_ANOTHER + _if_smaller(tensor),
            fqn=tensor.fqn,
            offsets=cover.gaps[0].offsets,
            sizes=cover.gaps[0].sizes,
            num_elements=num,
        )
    if cover.num_overlap:
        overlap = cover.overlaps[0]
        a, b = (format_box(tensor.offsets[i], tensor.sizes[i]) for i in overlap.chunks)
        yield Finding(
            "chunk-overlap",
            f"{shown}: {about}{plural(cover.num_overlap, 'element')} in two or more different "
            f"chunks, at {_boxes([o.box for o in cover.overlaps])} (chunks {a} and {b})",
            f"loads silently, {cover.num_overlap} elements take the value of the chunk read last",
            "the chunks are of different shardings: " + _FROM_ANOTHER,
            fqn=tensor.fqn,
            offsets=overlap.box.offsets,
            sizes=overlap.box.sizes,
            num_elements=cover.num_overlap,
        )
    if cover.duplicates:
        chunk = cover.duplicates[0]
        num = total(volumes[list(cover.duplicates)])
        offsets, sizes = tensor.box(chunk)
        box = format_box(offsets, sizes)
        yield Finding(
            "chunk-duplicate",
            f"{shown}: {plural(len(cover.duplicates), 'chunk')} listed more than once, "
            f"with {plural(num, 'element')}; the first is {box}",
            "loads silently, reading the same bytes twice",
            "the values can be right, but the metadata was not written by one undisturbed save: "
            "compare the tensor with another checkpoint",
            fqn=tensor.fqn,
            offsets=offsets,
            sizes=sizes,
            num_elements=num,
        )
    if cover.outside:
        chunk = cover.outside[0]
        offsets, sizes = tensor.box(chunk)
        box = format_box(offsets, sizes)
        yield Finding(
            "chunk-out-of-bounds",
            f"{shown}: {plural(len(cover.outside), 'chunk')} reaching outside the tensor of size "
            f"{list(tensor.shape)}, by {plural(cover.num_outside, 'element')}; the first is {box}",
            "loads silently, with values in the wrong place or left uninitialised",
            "the tensor's size or the chunk's offset is wrong: " + _FROM_ANOTHER,
            fqn=tensor.fqn,
            offsets=offsets,
            sizes=sizes,
            num_elements=cover.num_outside,
        )
    if not (cover.complete or cover.num_gap or cover.num_overlap):
        yield Finding(
            "chunk-overlap",
            f"{shown}: its {tensor.num_chunks:,} chunks could not be shown to tile it; they cross "
            "one another so often that the search was given up",
            "loads silently, with elements left uninitialised or overwritten",
            _FROM_ANOTHER,
            fqn=tensor.fqn,
        )


def _if_smaller(tensor: Tensor) -> str:
    """What else can be wrong: the size in the metadata, not the set of chunks."""
    if not tensor.num_chunks or not tensor.shape:
        return ""
    reach = tuple((tensor.offsets + tensor.sizes).max(axis=0).tolist())
    if reach == tensor.shape or any(a > b for a, b in zip(reach, tensor.shape, strict=True)):
        return ""
    return (
        f"; if the model's tensor is {list(reach)}, the size in the metadata is what is wrong, and "
        "torch raises ValueError: Size mismatch"
    )


def _boxes(boxes: Sequence[Box]) -> str:
    shown = ", ".join(format_box(box.offsets, box.sizes) for box in boxes[:_MAX_SHOWN])
    return shown + (" and more" if len(boxes) > _MAX_SHOWN else "")


# -- storage entries ---------------------------------------------------------------------------


def _unstored(entries: Entries) -> Iterator[Finding]:
    is_bytes = np.arange(len(entries.file)) >= entries.num_chunks
    # An empty chunk holds nothing that could be missed, and torch does not look for it.
    rows = np.flatnonzero((entries.file < 0) & (is_bytes | (entries.volume > 0)))
    for _, members in entries.by_entry(rows):
        row = int(members[0])
        fqn = entries.fqn(row)
        offsets, sizes = entries.box(row)
        num = total(entries.volume[members])
        what = f"{plural(len(members), 'chunk')} ({plural(num, 'element')})"
        yield Finding(
            "chunk-unstored",
            f"{name(fqn)}: "
            + ("the bytes entry" if offsets is None else what)
            + " of the metadata has no storage entry, so nothing tells where it lies",
            "raises KeyError: MetadataIndex(...)",
            "the metadata was cut or edited: take .metadata from the original, or " + _FROM_ANOTHER,
            fqn=fqn,
            offsets=offsets,
            sizes=sizes,
            num_elements=None if offsets is None else num,
        )


def _orphans(orphans: Iterable[Orphan]) -> Iterator[Finding]:
    groups: dict[str, list[Orphan]] = {}
    for orphan in orphans:
        groups.setdefault(orphan.fqn, []).append(orphan)
    for fqn, members in groups.items():
        first = members[0]
        yield Finding(
            "storage-orphan",
            f"{name(fqn)}: {plural(len(members), 'storage entry', 'storage entries')} for no chunk "
            f"of the metadata; the first lies in {name(first.file)} at byte {first.byte_offset:,}",
            "ignores it",
            "a tensor or a chunk was taken out of the metadata: find out which, if it is needed",
            fqn=fqn,
            file=first.file,
            offsets=first.offsets,
        )


# -- byte ranges -------------------------------------------------------------------------------


def _raw_rows(entries: Entries) -> Ints:
    """Rows whose payload is as long as its elements, so there is no torch.save container."""
    if entries.checkpoint.format != "dcp":
        return np.zeros(0, dtype=np.int64)
    needed = entries.needed
    return np.flatnonzero((needed > 0) & (entries.length == needed) & (entries.file >= 0))


def _byte_ranges(entries: Entries) -> Iterator[Finding]:
    sweep, files = entries.sweep, entries.checkpoint.files
    raw = set(unique(entries.file[_raw_rows(entries)]).tolist())
    partner = dict(zip(sweep.overlapping.tolist(), sweep.partner.tolist(), strict=True))
    for number, rows in entries.by_file(sweep.overlapping):
        file = files[number].path
        if number in raw:
            continue  # `_lengths` says what such a file is.
        for _, members in entries.by_entry(rows):
            row = int(members[0])
            other = partner[row]
            fqn, (offsets, sizes) = entries.fqn(row), entries.box(row)
            start, end = int(entries.start[row]), int(entries.start[row] + entries.length[row])
            same = (start, end - start) == (int(entries.start[other]), int(entries.length[other]))
            yield Finding(
                "byte-range-overlap",
                f"{name(fqn)}: {plural(len(members), 'payload')} in {name(file)} overlapping "
                f"another; the first takes bytes {start:,} to {end:,}, of which "
                f"{name(entries.fqn(other))} owns some",
                "raises SafetensorError: invalid offset for tensor"
                if entries.checkpoint.format != "dcp"
                else "loads silently, with the other's values in one of them"
                if same
                else "raises RuntimeError or UnpicklingError: one of the payloads cannot be there"
                + entries.or_packed,
                "the metadata does not belong to this file, or was edited: " + _FROM_ANOTHER,
                fqn=fqn,
                file=file,
                offsets=offsets,
                sizes=sizes,
                num_elements=total(entries.volume[members]) if offsets is not None else None,
            )


def longer_rows(entries: Entries) -> Ints:
    """Rows that take the bytes of elements twice as large as the metadata says, or more."""
    if entries.checkpoint.format != "dcp":
        return np.zeros(0, dtype=np.int64)
    needed = entries.needed
    return np.flatnonzero(
        (needed > _MIN_BYTES) & (entries.length >= 2 * needed) & (entries.file >= 0)
    )


def has_odd_lengths(entries: Entries) -> bool:
    """Whether some payload is so short or so long that its elements must be of another size."""
    if len(short_rows(entries)):
        return True
    return bool(len(longer_rows(entries)))


def short_rows(entries: Entries) -> Ints:
    """Rows that take fewer bytes than the elements and torch's container need."""
    needed = entries.needed
    container = _MIN_CONTAINER if entries.checkpoint.format == "dcp" else 0
    return np.flatnonzero(
        (needed > 0) & (entries.file >= 0) & (entries.length - container < needed)
    )


def _lengths(entries: Entries) -> Iterator[Finding]:
    files = entries.checkpoint.files
    raw = _raw_rows(entries)
    for number, rows in entries.by_file(raw):
        yield _safetensors(entries, files[number].path, rows)
    in_raw_file = np.isin(entries.file, unique(entries.file[raw]))
    needed = entries.needed
    container = _MIN_CONTAINER if entries.checkpoint.format == "dcp" else 0
    short = short_rows(entries)
    for _, rows in entries.by_entry(short[~in_raw_file[short]]):
        row = int(rows[0])
        fqn, (offsets, sizes) = entries.fqn(row), entries.box(row)
        num = total(entries.volume[rows])
        yield Finding(
            "range-too-short",
            f"{name(fqn)}: {plural(len(rows), 'chunk')} ({plural(num, 'element')}) with fewer "
            f"bytes stored than the elements need; the first has {int(entries.length[row]):,} for "
            f"{int(needed[row]):,}" + (" and torch's container" if container else ""),
            "raises RuntimeError (no zip archive) or AssertionError (mismatch sizes)",
            "the metadata's sizes are not those of the data: " + _FROM_ANOTHER,
            fqn=fqn,
            file=files[int(entries.file[row])].path,
            offsets=offsets,
            sizes=sizes,
            num_elements=num,
        )


def _safetensors(entries: Entries, file: str, rows: Ints) -> Finding:
    """One finding for a file that `SerializationFormat.SAFETENSORS` wrote.

    Such a writer stores all tensors of a rank as one safetensors blob and gives every one of them
    the blob's offset (`FileSystemWriter`, torch 2.8 and later); `FileSystemReader` cannot read it.
    """
    row = int(rows[0])
    one = len(rows) == 1 or len(unique(entries.start[rows])) > 1
    size = format_bytes(total(entries.length[rows]))
    how = "their elements alone" if one else "one and the same offset"
    return Finding(
        "range-too-short" if one else "byte-range-overlap",
        f"{name(file)}: {plural(len(rows), 'payload')} of {size} with {how} and no room for "
        "torch's container: written with SerializationFormat.SAFETENSORS, which torch saves and "
        "cannot load",
        "raises UnpicklingError: Weights only load failed",
        "read the safetensors blob in the file with the safetensors package; save again with the "
        "default format",
        fqn=entries.fqn(row),
        file=file,
        num_elements=total(entries.volume[rows]),
    )
