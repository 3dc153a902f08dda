"""A box of one tensor as `.npy`: the chunks that it lies in are read whole, for their CRC32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import numpy_dtype
from inspector.checkpoint.payload.cast import cast
from inspector.checkpoint.payload.crc import crc32
from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.storage.base import Storage, why
from inspector.errors import Cancelled, StorageError
from inspector.export.copying import Buffers, TensorCopy
from inspector.export.formats.files import PlannedFile
from inspector.export.formats.numpy_files import npy_header
from inspector.export.pieces import PieceReader
from inspector.export.target import OpenTarget
from inspector.values.bits import BlockPlan, ChunksByRow, TensorBits

__all__ = ["write_slice"]

_BLOCK_BYTES = 4 << 20

Box = tuple[tuple[int, ...], tuple[int, ...]]


def write_slice(
    checkpoint: Checkpoint,
    storage: Storage,
    tensor: Tensor,
    box: Box,
    shape: tuple[int, ...],
    output: str,
    *,
    dtype: str | None = None,
    progress: Callable[[int, int], bool] | None = None,
) -> int:
    """Write a box.

    Args:
        checkpoint: Whose tensor it is.
        storage: Its folder.
        tensor: The tensor.
        box: Offsets and sizes.
        shape: Of the array: the box's, perhaps without dims of one index.
        output: Where to; the caller has asked `refuse_target`.
        dtype: What floating point elements are written as; None as they are.
        progress: Told bytes done and in all; True cancels.

    Returns:
        How many finite elements became infinite.

    Raises:
        PayloadError, MissingPackageError: It is damaged, or its values are a class's own.
        StorageError: It cannot be read or written.
        Cancelled: `progress` said so.
    """
    dtype = dtype or tensor.dtype
    chunks = ChunksByRow(tensor).at(*box)
    size, out_size = itemsize(tensor.dtype) or 1, itemsize(dtype) or 1
    elements = math.prod(box[1])
    total = int(tensor.byte_length[chunks].sum()) + elements * out_size
    done = 0

    def tick(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None and progress(min(done, total), total):
            raise Cancelled("it was stopped, and nothing was written")

    head = npy_header(dtype, shape)
    num_bytes = len(head) + elements * out_size
    planned = PlannedFile("", (), num_bytes, lambda crcs: ())
    with OpenTarget(output, [planned]) as target, OpenFiles(storage) as files:
        reader, buffers = PieceReader(checkpoint, storage), Buffers()
        try:
            for chunk in chunks:
                whole = TensorCopy(_as_tensor(tensor, chunk), tensor.dtype, _BLOCK_BYTES)
                for number in range(whole.plan.num_blocks):
                    tick(whole.copy(number, reader, buffers, None))
        finally:
            reader.close()
        try:
            file = target.files[0]
            file.write(0, head)
            bits = TensorBits(checkpoint, tensor, files)
            plan = BlockPlan.of(box[1], max(size, out_size), _BLOCK_BYTES)
            num_lost = 0
            crcs = []
            for number in range(plan.num_blocks):
                offsets, sizes = plan.box(number)
                inside = tuple(a + b for a, b in zip(offsets, box[0], strict=True))
                data = bits.read(inside, sizes)
                if dtype != tensor.dtype:
                    out = buffers.get(2, math.prod(sizes) * out_size)
                    source = data.view(numpy_dtype(tensor.dtype))
                    num_lost += cast(source, out.view(numpy_dtype(dtype)))
                    data = out
                crcs.append(crc32(data.data))
                file.write(len(head) + plan.start(number) * out_size, data.data)
                tick(len(data))
            file.sync()
            for number, crc in enumerate(crcs):
                again = buffers.get(0, math.prod(plan.box(number)[1]) * out_size)
                file.readinto(len(head) + plan.start(number) * out_size, again.data)
                if crc32(again.data) != crc:
                    raise StorageError("what was written is not what was read")
        except OSError as error:
            raise StorageError(f"cannot write {target.shown}: {why(error)}") from error
        target.publish(overwrite=False)
    return num_lost


def _as_tensor(tensor: Tensor, chunk: int) -> Tensor:
    """A chunk as a tensor of its own."""
    one = slice(chunk, chunk + 1)
    return replace(
        tensor,
        shape=tuple(tensor.sizes[chunk].tolist()),
        offsets=np.zeros_like(tensor.offsets[one]),
        sizes=tensor.sizes[one],
        file=tensor.file[one],
        byte_offset=tensor.byte_offset[one],
        byte_length=tensor.byte_length[one],
    )
