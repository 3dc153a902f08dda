"""`Judgement`: what reading one payload found; `Subject`: what the metadata says of it.

`PayloadTally` is what reading many found: their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.cover import analyse

if TYPE_CHECKING:
    from inspector.values.nonfinite import NonFinite

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy.typing as npt

from inspector.checkpoint.model import BytesEntry
from inspector.checkpoint.payload.plan import PayloadPlan
from inspector.checkpoint.payload.tensor import PackedTensor
from inspector.checkpoint.text import format_box

if TYPE_CHECKING:
    from inspector.values.nonfinite import NonFinite

__all__ = [
    "STALE",
    "Judgement",
    "Note",
    "PayloadTally",
    "Subject",
    "file_at",
    "subject_of",
    "value_findings",
]

Mask = npt.NDArray[np.bool_]

#: What to do where a payload is not what the metadata says.
STALE = (
    "if others of this file are wrong too, the file and .metadata are of different saves: "
    "restore both from one; else take another checkpoint"
)


@dataclass(frozen=True)
class Subject:
    """An entry whose payload is looked at: a chunk of a tensor, or a bytes entry.

    Attributes:
        fqn: Raw name.
        file: Raw path of the data file.
        byte_offset: Where the payload begins in it.
        tensor: Index of the tensor, or -1.
        dtype: Element type by the metadata.
        offsets: Lower corner of the chunk, or None for a bytes entry.
        sizes: Its extent, likewise.
        transforms: Stream transforms of the payload.
    """

    fqn: str
    file: str
    byte_offset: int
    tensor: int = -1
    dtype: str = ""
    offsets: tuple[int, ...] | None = None
    sizes: tuple[int, ...] | None = None
    transforms: tuple[str, ...] = ()

    @property
    def is_tensor(self) -> bool:
        return self.sizes is not None

    @cached_property
    def shown(self) -> str:
        """The entry as a sentence's subject, printable."""
        name = printable(self.fqn, 200) or "''"
        if self.offsets is None or self.sizes is None:
            return f"the bytes entry {name}"
        return f"{name} {format_box(self.offsets, self.sizes)}" if self.sizes else name


def subject_of(checkpoint: Checkpoint, owner: int) -> Subject:
    """The entry with this number in a `PayloadPlan`."""
    columns = checkpoint.columns
    if owner >= columns.num_chunks:
        entry: BytesEntry = checkpoint.bytes_entries[owner - columns.num_chunks]
        path = checkpoint.files[entry.file].path
        return Subject(entry.fqn, path, entry.byte_offset, transforms=entry.transforms)
    index = int(columns.chunk_start.searchsorted(owner, "right")) - 1
    ndim = int(columns.dim_start[index + 1] - columns.dim_start[index])
    box = int(columns.box_start[index]) + (owner - int(columns.chunk_start[index])) * ndim
    return Subject(
        columns.fqns[index],
        checkpoint.files[int(columns.file[owner])].path,
        int(columns.byte_offset[owner]),
        index,
        columns.dtype(index),
        tuple(columns.offsets[box : box + ndim].tolist()),
        tuple(columns.sizes[box : box + ndim].tolist()),
        columns.transforms.get(index, ()),
    )


@dataclass(frozen=True, slots=True)
class Note:
    """An oddity that many payloads share; told once, with how many."""

    code: str
    what: str
    torch_does: str
    hint: str = ""


@dataclass(slots=True)
class Judgement:
    """What came out of one payload.

    Attributes:
        findings: Errors, for every entry that owns the payload.
        notes: Oddities to be told once.
        values: NaN and infinities in it, in the chunk's own indices, or None if none.
        not_checked: Why (a part of) it was not looked at, or an empty string.
        is_read: False if it was not read at all.
        is_blob: True if it is part of a safetensors blob inside a DCP file.
        shape: The tensor's own shape, where it is not the one in the metadata.
        crc32: Of the tensor's elements as they are stored, with how they lie there; None if they
            were not read.
        packed: The tensor of a class of its own in it, or None.
        stale_dtypes: The elements' dtype by the subject's place in the list, where the metadata has
            another one and is of the same save all the same, as far as this payload tells.
        is_unreached: True if a remote storage did not answer.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    values: NonFinite | None = None
    not_checked: str = ""
    is_read: bool = True
    is_blob: bool = False
    shape: tuple[int, ...] | None = None
    crc32: tuple[int, str, tuple[int, ...], tuple[int, ...], int] | None = None
    packed: PackedTensor | None = None
    quantizer: str = ""
    stale_dtypes: dict[int, str] = field(default_factory=dict)

    def error(self, code: str, subject: Subject, what: str, torch_does: str, hint: str) -> None:
        where = f"{printable(subject.file, 120)} at byte {subject.byte_offset:,}"
        self.findings.append(
            Finding(
                code,
                f"{subject.shown} in {where}: {what}",
                torch_does,
                hint,
                fqn=subject.fqn,
                file=subject.file,
                offsets=subject.offsets,
                sizes=subject.sizes,
                num_elements=None if subject.sizes is None else math.prod(subject.sizes),
            )
        )


@dataclass(slots=True, eq=False)
class PayloadTally:
    """What the places of a plan told whoever read them: sums, so that several can be added.

    Attributes:
        tried: Places that were read, or of which is known why they cannot be; shape (num_places,).
        read: Places that were read.
        crc32, has_crc32: Of the elements of each chunk, and whether it is known; shape
            (num_chunks,).
        findings: Of each place with an error.
        notes: Oddities, and the places that have them.
        values: NaN and infinities by tensor and box: with metadata of every rank's own, a box has a
            copy of each.
        shapes: Of chunks whose payload has another one than the metadata says.
        digests: Of the elements, by entry, where every rank has metadata of its own.
        packed: Places of tensors of a class of their own, by that class.
        quantized: Scales, by place.
        stale_dtypes: Of chunks whose elements have another dtype than the metadata says.
        skipped: Payloads that were not read, by file and reason.
        num_unread: How many of them should have been.
        blobs: Chunks in a safetensors blob, by file and offset of it.
    """

    tried: Mask
    read: Mask
    crc32: npt.NDArray[np.uint32]
    has_crc32: Mask
    findings: list[tuple[int, list[Finding]]] = field(default_factory=list)
    notes: dict[Note, list[int]] = field(default_factory=dict)
    values: dict[int, dict[tuple[int, ...], NonFinite]] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    digests: dict[int, object] = field(default_factory=dict)
    packed: dict[str, list[int]] = field(default_factory=dict)
    quantized: dict[int, str] = field(default_factory=dict)
    stale_dtypes: dict[int, str] = field(default_factory=dict)
    skipped: dict[tuple[str, str], int] = field(default_factory=dict)
    num_unread: int = 0
    blobs: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, plan: PayloadPlan) -> PayloadTally:
        """One of a plan of which nothing was read yet."""
        num_places, num_chunks = plan.num_places, checkpoint.num_chunks
        return cls(
            np.zeros(num_places, np.bool_),
            np.zeros(num_places, np.bool_),
            np.zeros(num_chunks, np.uint32),
            np.zeros(num_chunks, np.bool_),
        )

    def note_values(self, tensor: int, box: tuple[int, ...], found: NonFinite) -> None:
        """Note what a chunk holds; of several copies of one box that with the most counts."""
        boxes = self.values.setdefault(tensor, {})
        boxes[box] = max(boxes.get(box, found), found, key=lambda bad: bad.num_nan + bad.num_inf)

    def skip(self, path: str, reason: str, count: int) -> None:
        """Note payloads of a file that were not read."""
        self.skipped[path, reason] = self.skipped.get((path, reason), 0) + count


_WHAT: dict[str, tuple[str, str]] = {
    "values-nan": ("NaN", "NaN spreads to whatever is computed from it"),
    "values-inf": ("infinite", "the next step that uses it gives infinities or NaN"),
}


def value_findings(
    tensor: Tensor, found: NonFinite, file_at: Callable[[tuple[int, ...]], str | None]
) -> list[Finding]:
    """Findings of one tensor.

    Args:
        tensor: The tensor.
        found: What its chunks hold, in the tensor's indices.
        file_at: Raw path of the file that holds an element.
    """
    findings = []
    most = "up to " if (found.num_nan or found.num_inf) and _may_overlap(tensor) else ""
    for code, count, first in (
        ("values-nan", found.num_nan, found.first_nan),
        ("values-inf", found.num_inf, found.first_inf),
    ):
        if not count or first is None:
            continue
        noun, effect = _WHAT[code]
        where = f"the first at {format_shape(first)}" if first else "its only one"
        findings.append(
            Finding(
                code,
                f"{printable(tensor.fqn, 200)} ({tensor.dtype}) holds {most}"
                f"{plural(count, f'{noun} value')}, {where}",
                "loads them silently, as they were saved",
                f"{effect}: see whether an earlier checkpoint has it too",
                fqn=tensor.fqn,
                file=file_at(first),
                offsets=first,
                sizes=(1,) * len(first),
                num_elements=min(count, tensor.num_elements),
            )
        )
    return findings


def _may_overlap(tensor: Tensor) -> bool:
    """Whether chunks of different boxes share elements, so that some are counted twice."""
    cover = analyse(tensor.offsets, tensor.sizes, tensor.shape)
    return bool(cover.num_overlap) or not cover.complete


def file_at(checkpoint: Checkpoint, tensor: Tensor) -> Callable[[tuple[int, ...]], str | None]:
    """Finds the file with the chunk that holds an element."""

    def find(index: tuple[int, ...]) -> str | None:
        at = np.array(index, np.int64)
        holds = ((tensor.offsets <= at) & (at - tensor.offsets < tensor.sizes)).all(axis=1)
        chunks = np.flatnonzero(holds & (tensor.file >= 0))
        return checkpoint.files[int(tensor.file[chunks[0]])].path if len(chunks) else None

    return find
