"""What a packed tensor's payload means, by its class: its elements as plain bytes.

Only the ranks import this module, and only for a tensor class whose package `--import` named. The
class unpacks itself (`dequantize`); DCP copies it into a plain target by the same class, so what is
proven is that every element came to its place.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import torch

from inspector.checkpoint.payload.array import raw_payload
from inspector.checkpoint.payload.payload import Payload
from inspector.checkpoint.payload.source import PayloadError, Source
from inspector.verify.failures import reason

__all__ = ["plain"]


class _Bytes:
    """Bytes in memory as a source."""

    def __init__(self, data: memoryview) -> None:
        self.length = len(data)
        self._data = data

    def read(self, offset: int, num_bytes: int) -> bytes:
        return bytes(self._data[offset : offset + num_bytes])

    def blocks(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
        yield self._data[offset : offset + num_bytes]


def plain(source: Source, dtype: str, sizes: tuple[int, ...]) -> tuple[Source, Payload]:
    """A packed tensor's elements in C order, as a source and a header that says so.

    Args:
        source: The payload, unpacked by stream transforms.
        dtype: The element type by the metadata.
        sizes: The chunk's sizes, likewise.

    Raises:
        PayloadError: Its class does not load, or does not say what it means.
    """
    data = b"".join(bytes(block) for block in source.blocks(0, source.length))
    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        values = tensor.dequantize() if hasattr(tensor, "dequantize") else None
    except Exception as error:
        raise PayloadError(f"its class does not unpack it: {reason(error)}") from error
    if values is None:
        raise PayloadError("its class has no `dequantize`, so what it means is not known")
    if type(values) is not torch.Tensor or tuple(values.shape) != sizes:
        raise PayloadError("its class gives no plain tensor of its shape")
    values = values.to(getattr(torch, dtype)).contiguous()
    elements = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    return _Bytes(memoryview(elements)), raw_payload(dtype, sizes, len(elements))
