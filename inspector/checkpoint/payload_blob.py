"""A chunk inside the safetensors blob of a `.distcp` file, which torch itself cannot read back.

`FileSystemWriter(serialization_format=SerializationFormat.SAFETENSORS)` (torch 2.8 and later) ends
a rank's file with one safetensors blob, and gives every tensor in it the blob's offset and the
length of its own elements; `FileSystemReader` then unpickles what is no pickle.
"""

from __future__ import annotations

import math

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload_source import DataHandle, PayloadError, RangeSource
from inspector.checkpoint.safetensors_header import (
    Header,
    HeaderError,
    header_bytes,
    parse_header,
)
from inspector.checkpoint.text import format_shape

__all__ = ["in_blob"]


def in_blob(
    file: DataHandle, offset: int, length: int, fqn: str, dtype: str, sizes: tuple[int, ...]
) -> RangeSource | None:
    """Where the elements of a chunk lie, if its entry points at a safetensors blob; else None.

    Args:
        file: The data file.
        offset: Where the payload begins, by the metadata.
        length: Its bytes, by the metadata.
        fqn: Raw name of the tensor.
        dtype: The tensor's.
        sizes: The chunk's.

    Raises:
        PayloadError: The blob is damaged, or holds another tensor of this name or none.
        StorageError: It cannot be read.
    """
    # A payload of torch.save has a container around its elements.
    if length != math.prod(sizes) * (itemsize(dtype) or 0):
        return None
    try:
        num_bytes = header_bytes(RangeSource(file, offset, 9).read(0, 9))
    except HeaderError:
        return None
    try:
        header: Header = parse_header(RangeSource(file, offset + 8, num_bytes).read(0, num_bytes))
    except HeaderError as error:
        raise PayloadError(f"it lies in a safetensors blob, and {error}") from error
    tensor = next((t for t in header.tensors if t.name == fqn), None)
    if tensor is None:
        raise PayloadError("it should lie in a safetensors blob that does not hold it")
    if (tensor.dtype, tensor.shape) != (dtype, sizes):
        what = f"{tensor.dtype} of shape {format_shape(tensor.shape)}"
        raise PayloadError(f"in the safetensors blob it is {what}", code="payload-mismatch")
    return RangeSource(file, offset + header.data_offset + tensor.begin, tensor.end - tensor.begin)
