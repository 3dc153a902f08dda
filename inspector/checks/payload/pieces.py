"""Payloads of other shapes than the metadata says that tell by their shapes how they came to be.

`DTensor.from_local` with shards of other lengths than `torch.chunk` cuts, and without a check,
records the boxes that the shards should have had: `[0:2]` and `[2:4]` for one row and three. So
does `fully_shard` over tensor parallelism where the rows do not divide. The data is there; only
the boxes are wrong.

Where a tensor recorded as one whole chunk holds fewer rows (or columns), it is as a sharded DTensor
is after an in-place operation that relabelled it as replicated: one rank's piece was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints, Tensor
from inspector.checkpoint.text import format_box, format_shape, printable
from inspector.checks.findings import Finding
from inspector.checks.payload.judgement import STALE
from inspector.layout.geometry import unique

__all__ = ["places_in_order", "with_pieces"]

Shape = tuple[int, ...]

_MAX_NAMED = 4
_PIECE = (
    "it may be one rank's piece of a sharded DTensor, the rest of which was not written: in-place "
    "index_add_, index_copy_ and scatter_add_ relabel one as replicated (seen with torch 2.13); "
    f"without _ they do not; {STALE}"
)


def with_pieces(
    checkpoint: Checkpoint, findings: Iterable[Finding], shapes: Mapping[int, Shape]
) -> list[Finding]:
    """The findings; of those about such payloads, the hint says what is stored.

    Args:
        checkpoint: What they are about.
        findings: All of them.
        shapes: The shape that a payload has, by chunk of `TensorColumns`, where it is not the
            one in the metadata.
    """
    columns = checkpoint.columns
    starts = columns.chunk_start
    hints: dict[str, str] = {}
    for index in {int(np.searchsorted(starts, chunk, "right")) - 1 for chunk in shapes}:
        tensor = columns.tensor(index)
        first = int(starts[index])
        real = [
            shapes.get(first + chunk, tuple(tensor.sizes[chunk].tolist()))
            for chunk in range(tensor.num_chunks)
        ]
        places = places_in_order(tensor.shape, tensor.offsets, real)
        if places is not None:
            hints[tensor.fqn] = _hint(checkpoint, tensor, real, places)
        elif _is_piece(tensor.shape, real):
            hints[tensor.fqn] = _PIECE
    return [
        replace(finding, hint=hints[finding.fqn])
        if finding.code == "payload-mismatch" and finding.fqn in hints
        else finding
        for finding in findings
    ]


def places_in_order(shape: Shape, offsets: Ints, shapes: Sequence[Shape]) -> list[Shape] | None:
    """Where each piece begins if they follow one another along one dim; None if they do not.

    They have to be recorded so too, and to fill the tensor exactly.

    Args:
        shape: The tensor's.
        offsets: Recorded lower corner of each piece, shape (num_pieces, ndim).
        shapes: That of each piece.
    """
    cut = [d for d in range(len(shape)) if (offsets[:, d] != 0).any()]
    if len(cut) != 1 or any(len(piece) != len(shape) for piece in shapes):
        return None
    dim = cut[0]
    for piece in shapes:
        if piece[:dim] + piece[dim + 1 :] != shape[:dim] + shape[dim + 1 :]:
            return None
    starts = offsets[:, dim]
    if len(unique(starts)) < len(starts):
        return None
    if sum(piece[dim] for piece in shapes) != shape[dim]:
        return None
    places: list[Shape] = [()] * len(shapes)
    at = 0
    for chunk in np.argsort(starts).tolist():
        # An empty piece starts at the end, as torch records it: where it lies between two others,
        # it would have the offset of the next, and so its storage entry.
        start = at if shapes[chunk][dim] else shape[dim]
        places[chunk] = tuple(start if d == dim else 0 for d in range(len(shape)))
        at += shapes[chunk][dim]
    return places


def _is_piece(shape: Shape, shapes: Sequence[Shape]) -> bool:
    """Whether one payload alone is stored, shorter than the tensor in one dim."""
    if len(shapes) != 1 or len(shapes[0]) != len(shape):
        return False
    shorter = [(a, b) for a, b in zip(shapes[0], shape, strict=True) if a != b]
    return len(shorter) == 1 and shorter[0][0] < shorter[0][1]


def _hint(checkpoint: Checkpoint, tensor: Tensor, shapes: list[Shape], places: list[Shape]) -> str:
    order = sorted(range(len(places)), key=lambda chunk: places[chunk])
    named = [
        f"{format_box(places[chunk], shapes[chunk])} is in "
        f"{printable(checkpoint.files[int(tensor.file[chunk])].path, 60)} at byte "
        f"{int(tensor.byte_offset[chunk]):,}"
        for chunk in order[:_MAX_NAMED]
    ]
    more = f", and {len(order) - _MAX_NAMED:,} more" if len(order) > _MAX_NAMED else ""
    return (
        f"all data is there: in the order of their offsets the pieces fill "
        f"{format_shape(tensor.shape)} exactly ({', '.join(named)}{more}). The boxes are wrong, as "
        "DTensor.from_local(..., run_check=False) records them of shards that torch.chunk would "
        "not cut so, and fully_shard over tensor parallelism of rows that do not divide: give "
        "torch.load the bytes of each piece and join them, or save again from "
        "tensors that distribute_tensor cuts"
    )
