"""A payload's elements as a numpy array: one chunk, or a box of a whole tensor.

Only the bytes between the first and the last element asked for are read, so a few rows of a large
chunk cost a few rows. Element types that numpy lacks are ml_dtypes' (bfloat16, float8); complex32
comes as complex64, and packed ones (float4, quint4x2) are refused by name.
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.payload import (
    Payload,
    in_blob,
    open_payload,
    record_blocks,
    unpacked,
)
from inspector.checkpoint.payload.source import (
    MissingPackageError,
    PackedPayloadError,
    PayloadError,
    RangeSource,
    Source,
    open_file,
)
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.storage.base import Storage
from inspector.errors import StorageError

__all__ = ["numpy_dtype", "payload_array", "raw_payload", "read_box", "read_chunk", "unpack_limit"]

Box = tuple[slice, ...]
Array = npt.NDArray[Any]

_NUMPY = frozenset(
    {"bool", "float16", "float32", "float64", "complex64", "complex128"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_ML_DTYPES = frozenset(
    "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu".split()
)
_QUANTIZED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
_SPAN_BYTES = 64 << 20


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of a torch dtype name (`complex64` for complex32; quantised: the integers).

    Raises:
        PayloadError: numpy has no such type.
        MissingPackageError: ml_dtypes is not installed.
    """
    if dtype in _NUMPY:
        return np.dtype(dtype)
    if dtype in _QUANTIZED:
        return np.dtype(_QUANTIZED[dtype])
    if dtype == "complex32":
        return np.dtype(np.complex64)
    if dtype in _ML_DTYPES:
        try:
            import ml_dtypes  # lazy: few dtypes take it
        except ImportError as error:
            raise MissingPackageError(
                f"values of {dtype} need the ml_dtypes package", "pip install ml-dtypes"
            ) from error
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype))
        return found
    why = f"values of {dtype} cannot be shown: numpy has no such type"
    raise PayloadError(why, is_foreign=True)


def unpack_limit(dtype: str, sizes: tuple[int, ...]) -> int:
    """Most bytes that a payload of such a chunk may unpack to: its elements, and a header."""
    return math.prod(sizes) * (itemsize(dtype) or 16) + (1 << 20)


def raw_payload(dtype: str, sizes: tuple[int, ...], num_bytes: int) -> Payload:
    """Bare elements in C order, as in a safetensors file, as if they were a payload's record."""
    strides, step = [], 1
    for n in reversed(sizes):
        strides.append(step)
        step *= n
    size = step * (itemsize(dtype) or 0)
    tensor = StoredTensor(dtype, sizes, tuple(reversed(strides)), 0, "0", size)
    return Payload("zip", (Record("data/data/0", 0, num_bytes, num_bytes, 0, False),), tensor)


def payload_array(source: Source, payload: Payload, box: Box | None = None) -> Array:
    """The elements of a payload, or of a box of it, as a new array.

    Raises:
        PayloadError: It holds no tensor, or not the bytes for it.
        StorageError: It cannot be read.
    """
    tensor, record = payload.tensor, payload.data
    if tensor is None or (record is None and tensor.num_elements):
        what = "it holds no tensor" if tensor is None else "it holds no elements"
        raise PayloadError(payload.problem or what)
    target = numpy_dtype(tensor.dtype)
    box = tuple(slice(0, n) for n in tensor.shape) if box is None else box
    ranges = [range(n)[s] for n, s in zip(tensor.shape, box, strict=True)]
    shape = tuple(len(r) for r in ranges)
    result = np.empty(shape, target)
    if record is None or 0 in shape:
        return result
    if tensor.needed_bytes > record.num_bytes:
        raise PayloadError("it holds fewer bytes than its shape needs", code="payload-mismatch")
    _read_into(result, source, payload, record, [r.start for r in ranges])
    if tensor.is_conj:
        np.conjugate(result, out=result)
    if tensor.is_neg:
        np.negative(result, out=result)
    return result


def _read_into(
    out: Array, source: Source, payload: Payload, record: Record, start: list[int]
) -> None:
    """Fill `out` with the box that starts at `start`, its span of bytes at once if not too long."""
    tensor = payload.tensor
    assert tensor is not None  # noqa: S101 - the caller looked
    size = itemsize(tensor.dtype) or 1
    first = tensor.first + sum(i * s for i, s in zip(start, tensor.strides, strict=True))
    extent = sum((n - 1) * s for n, s in zip(out.shape, tensor.strides, strict=True)) + 1
    # A packed payload is read through for every range, so it is better read once.
    packed = record.deflated or not isinstance(source, RangeSource)
    if extent * size > _SPAN_BYTES and extent > 2 * out.size and not packed:
        widest = max(range(out.ndim), key=lambda d: tensor.strides[d] if out.shape[d] > 1 else -1)
        for i in range(out.shape[widest]):
            part = (slice(None),) * widest + (slice(i, i + 1),)
            inner = [*start[:widest], start[widest] + i, *start[widest + 1 :]]
            _read_into(out[part], source, payload, record, inner)
        return
    data = _span(source, record, first * size, extent * size)
    stored = _stored_dtype(tensor.dtype, payload.byteorder)
    strides = [s * stored.itemsize for s in tensor.strides]
    # numpy checks that these strides stay inside the buffer.
    view: Array = np.ndarray(out.shape, stored, data.data, 0, strides)
    if tensor.dtype == "complex32":
        out.real, out.imag = view["re"], view["im"]
    else:
        out[...] = view


def _stored_dtype(dtype: str, byteorder: str) -> np.dtype[Any]:
    order: Literal["<", ">"] = ">" if byteorder == "big" else "<"
    if dtype == "complex32":
        return np.dtype([("re", f"{order}f2"), ("im", f"{order}f2")])
    found = numpy_dtype(dtype)
    if found.itemsize == 1:
        return found
    if dtype == "bfloat16":
        if byteorder == "big":
            raise PayloadError("bfloat16 values in big-endian order cannot be shown")
        return found
    swapped: np.dtype[Any] = found.newbyteorder(order)
    return swapped


def _span(source: Source, record: Record, begin: int, length: int) -> npt.NDArray[np.uint8]:
    """A range of a record's bytes, in memory of its own (and so aligned)."""
    data = np.empty(length, np.uint8)
    done = at = 0
    if record.deflated:
        blocks = record_blocks(source, record)
    else:
        blocks = source.blocks(record.data_offset + begin, length)
        at = begin
    for block in blocks:
        skip = max(begin - at, 0)
        part = np.frombuffer(block, np.uint8)[skip : skip + length - done]
        data[done : done + len(part)] = part
        done += len(part)
        at += len(block)
        if done == length:
            break
    if done < length:
        raise StorageError("the payload ends before its elements do")
    return data


def read_chunk(
    checkpoint: Checkpoint, storage: Storage, tensor: Tensor, chunk: int, box: Box | None = None
) -> Array:
    """The elements of one chunk of a tensor, or of a box of it (in the chunk's own indices).

    Raises:
        PayloadError: The payload cannot be read as this chunk.
        MissingPackageError: It needs a package that is not installed.
        StorageError: The file cannot be read.
    """
    index = int(tensor.file[chunk])
    if index < 0:
        raise PayloadError("the metadata stores this chunk nowhere")
    path = checkpoint.files[index].path
    if is_escape(path):
        raise StorageError("its file lies outside the checkpoint folder, and was not opened")
    sizes = tuple(tensor.sizes[chunk].tolist())
    length = int(tensor.byte_length[chunk])
    with closing(open_file(storage, path)) as file:
        if box is None or all(range(n)[s] == range(n) for s, n in zip(box, sizes, strict=True)):
            file.announce([(int(tensor.byte_offset[chunk]), length)])
        ranged = RangeSource(file, int(tensor.byte_offset[chunk]), length)
        if checkpoint.format == "safetensors":
            return payload_array(ranged, raw_payload(tensor.dtype, sizes, length), box)
        if not tensor.transforms:
            blob = in_blob(
                file, int(tensor.byte_offset[chunk]), length, tensor.fqn, tensor.dtype, sizes
            )
            if blob is not None:
                return payload_array(blob, raw_payload(tensor.dtype, sizes, length), box)
            ranged.prefetch()
        source = unpacked(ranged, tensor.transforms, unpack_limit(tensor.dtype, sizes))
        payload = open_payload(source, is_tensor=True)
        if payload.packed is not None and not payload.problem:
            raise PackedPayloadError(payload.packed.why_unread, payload.packed.kind)
        tensor_differs = payload.tensor is None or payload.tensor.shape != sizes
        if tensor_differs and not payload.problem:
            raise PayloadError(
                "it holds another tensor than the metadata says", code="payload-mismatch"
            )
        return payload_array(source, payload, box)


def read_box(
    checkpoint: Checkpoint, storage: Storage, tensor: Tensor, box: Box
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """A box of a whole tensor, put together from its chunks.

    Args:
        checkpoint: Where it is.
        storage: Its folder.
        tensor: The tensor.
        box: One slice per dim, steps of one.

    Returns:
        The elements, and a mask of those that some chunk holds (False: a gap).

    Raises:
        PayloadError, MissingPackageError, StorageError: As `read_chunk`.
    """
    ranges = [range(n)[s] for n, s in zip(tensor.shape, box, strict=True)]
    shape = tuple(len(r) for r in ranges)
    result = np.zeros(shape, numpy_dtype(tensor.dtype))
    filled = np.zeros(shape, np.bool_)
    low = np.array([r.start for r in ranges], np.int64)
    high = low + np.array(shape, np.int64)
    first = np.maximum(tensor.offsets, low)
    last = np.minimum(tensor.offsets + tensor.sizes, high)
    for chunk in np.flatnonzero((first < last).all(axis=1) & (tensor.file >= 0)).tolist():
        bounds = list(zip(first[chunk].tolist(), last[chunk].tolist(), strict=True))
        origin = tensor.offsets[chunk].tolist()
        inside = tuple(slice(a - o, b - o) for (a, b), o in zip(bounds, origin, strict=True))
        target = tuple(
            slice(a - r.start, b - r.start) for (a, b), r in zip(bounds, ranges, strict=True)
        )
        result[target] = read_chunk(checkpoint, storage, tensor, chunk, inside)
        filled[target] = True
    return result, filled
