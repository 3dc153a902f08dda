"""A dtype in the metadata that is not the stored elements', both being of one save.

`DefaultSavePlanner(enable_plan_caching=True)` takes the plan of an earlier save again where names,
sizes and offsets agree; it does not compare dtypes. What is stored is right, and `dcp.load` gives
it to a target of its own dtype bit for bit (run with torch 2.13, also for float16 and bfloat16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import Source
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding

__all__ = ["is_stale_dtype", "stale_dtype", "stale_dtypes"]

# A zip archive's end record without a comment, as torch writes it.
_ZIP_END = 22


def is_stale_dtype(
    dtype: str, sizes: tuple[int, ...] | None, tensor: StoredTensor, source: Source
) -> bool:
    """Whether the metadata is wrong in the dtype alone, by one payload.

    It is where elements of another dtype fill the entry's range to its last byte: the metadata
    knows where this very payload ends.

    Args:
        dtype: By the metadata.
        sizes: The chunk's, likewise.
        tensor: What the payload says of itself.
        source: The payload's bytes.

    Raises:
        StorageError: They cannot be read.
    """
    if tensor.dtype == dtype or tensor.shape != sizes or not tensor.num_elements:
        return False
    widths = itemsize(tensor.dtype), itemsize(dtype)
    if None in widths:
        return False
    if widths[0] == widths[1] and not (_is_float(tensor.dtype) and _is_float(dtype)):
        return False  # Nobody trains in int32 and goes on in float32: that is damage.
    return source.read(max(source.length - _ZIP_END, 0), 4) == b"PK\x05\x06"


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


def stale_dtype(
    checkpoint: Checkpoint, index: int, stored: str, chunks: Sequence[int], *, by_head: bool
) -> Finding:
    """The warning about one tensor.

    Args:
        checkpoint: Whose tensor it is.
        index: The tensor.
        stored: The dtype of its elements.
        chunks: Which of its chunks are stored so; the first is named.
        by_head: One payload's head was read, and of the others the sizes alone.
    """
    tensor = checkpoint.columns.tensor(index)
    first = chunks[0]
    offsets, sizes = tensor.box(first)
    path = checkpoint.files[int(tensor.file[first])].path
    where = f"{printable(path, 120)} at byte {int(tensor.byte_offset[first]):,}"
    if len(chunks) > 1:
        how = " by their sizes" if by_head else ""
        where = f"{plural(len(chunks), 'chunk')}{how}, the first in {where}"
    else:
        where = f"in {where}"
    return Finding(
        "payload-mismatch",
        f"{printable(tensor.fqn, 120)}: its elements are {stored}, {tensor.dtype} by the metadata "
        f"({where}); the bytes end where the metadata says, so both are of one save",
        f"casts to the target's type silently: exact into {stored}; what makes its tensors by the "
        f"metadata (dcp_to_torch_save) makes {tensor.dtype} of it",
        "all data is there: a save with plan caching (enable_plan_caching=True) keeps the dtype of "
        f"the first save; load into {stored}, and save once without the cache",
        fqn=tensor.fqn,
        file=path,
        offsets=offsets,
        sizes=sizes,
        num_elements=tensor.num_elements if len(chunks) == tensor.num_chunks else None,
        severity="warning",
    )


def stale_dtypes(
    checkpoint: Checkpoint, stored: Mapping[int, str], read: frozenset[int]
) -> list[Finding]:
    """What payloads with another dtype than the metadata's are, one finding for each tensor.

    Elements of another size prove that payload and metadata are of one save. Where the size is
    the same, the whole tensor has to be stored so: files of another save that were put in the
    place of some would show in some of its chunks alone.

    Args:
        checkpoint: Whose they are.
        stored: The dtype of the elements by chunk of `TensorColumns`, where `is_stale_dtype`.
        read: The chunks that were read.
    """
    columns = checkpoint.columns
    by_tensor: dict[int, dict[str, list[int]]] = {}
    for chunk, dtype in sorted(stored.items()):
        index = int(columns.chunk_start.searchsorted(chunk, "right")) - 1
        number = chunk - int(columns.chunk_start[index])
        by_tensor.setdefault(index, {}).setdefault(dtype, []).append(number)
    found = []
    for index, dtypes in by_tensor.items():
        tensor, begin = columns.tensor(index), int(columns.chunk_start[index])
        num_read = sum(
            begin + chunk in read and bool(tensor.sizes[chunk].all())
            for chunk in range(tensor.num_chunks)
        )
        for dtype, chunks in dtypes.items():
            if itemsize(dtype) != itemsize(tensor.dtype) or len(chunks) == num_read:
                found.append(stale_dtype(checkpoint, index, dtype, chunks, by_head=False))
            else:
                found.append(_mixed(checkpoint, index, dtype, chunks, num_read))
    return found


def _mixed(
    checkpoint: Checkpoint, index: int, stored: str, chunks: Sequence[int], num_read: int
) -> Finding:
    tensor = checkpoint.columns.tensor(index)
    first = chunks[0]
    offsets, sizes = tensor.box(first)
    path = checkpoint.files[int(tensor.file[first])].path
    return Finding(
        "payload-mismatch",
        f"{printable(tensor.fqn, 120)}: the elements of {len(chunks):,} of its "
        f"{plural(num_read, 'chunk')} are {stored}, {tensor.dtype} by the metadata and in the "
        f"others; the first is in {printable(path, 120)} at byte "
        f"{int(tensor.byte_offset[first]):,}",
        "casts them to the target's type silently",
        "file and .metadata are of different saves: restore both from one; else take another "
        "checkpoint",
        fqn=tensor.fqn,
        file=path,
        offsets=offsets,
        sizes=sizes,
    )
