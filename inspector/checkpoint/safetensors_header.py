"""The header of a safetensors file or blob: names, dtypes, shapes and ranges.

Format: 8 bytes little endian with the header's length, the header as JSON (at most 100 MB), the
elements. https://github.com/huggingface/safetensors, safetensors/src/tensor.rs. Standard library.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from inspector.checkpoint.dtypes import itemsize

__all__ = [
    "DTYPES",
    "MAX_HEADER_BYTES",
    "Header",
    "HeaderError",
    "SafeTensor",
    "header_bytes",
    "parse_header",
]

MAX_HEADER_BYTES = 100_000_000

#: torch's dtype name by safetensors' own.
DTYPES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


class HeaderError(Exception):
    """The bytes are no safetensors header; the message says why."""


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor: `begin` and `end` are bytes from the start of the elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header: its tensors, its `__metadata__`, and where the elements begin."""

    tensors: tuple[SafeTensor, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    data_offset: int = 8


def header_bytes(start: bytes) -> int:
    """Length of the JSON, from a file's first 9 bytes or more.

    Raises:
        HeaderError: No safetensors header begins so.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
        raise HeaderError("no safetensors header begins here")
    return length


def parse_header(text: bytes, *, total_bytes: int | None = None) -> Header:
    """The header from its JSON.

    Args:
        text: The JSON, without the eight bytes before it.
        total_bytes: Length of the elements if known; ranges past it are an error.

    Raises:
        HeaderError: It is damaged, or its ranges do not fit its shapes.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HeaderError("its safetensors header is no JSON") from error
    if type(fields) is not dict:
        raise HeaderError("its safetensors header is no JSON object")
    metadata = fields.pop("__metadata__", {})
    if type(metadata) is not dict:
        metadata = {}
    tensors = tuple(_tensor(name, value, total_bytes) for name, value in fields.items())
    strings = {k: v for k, v in metadata.items() if type(v) is str}
    return Header(tensors, strings, 8 + len(text))


def _tensor(name: str, value: Any, total_bytes: int | None) -> SafeTensor:
    if type(value) is not dict:
        raise HeaderError("its safetensors header holds no tensor description")
    dtype = value.get("dtype")
    shape, place = _naturals(value.get("shape")), _naturals(value.get("data_offsets"))
    if type(dtype) is not str or shape is None or place is None or len(place) != 2:
        raise HeaderError("its safetensors header holds a damaged tensor description")
    begin, end = place
    known = DTYPES.get(dtype)
    size = itemsize(known) if known else None
    if begin > end or (total_bytes is not None and end > total_bytes):
        raise HeaderError("its safetensors header places a tensor outside the file")
    if size is not None and end - begin != math.prod(shape) * size:
        raise HeaderError(
            "its safetensors header gives a tensor bytes that its shape does not need"
        )
    return SafeTensor(name, known or dtype.lower(), tuple(shape), begin, end)


def _naturals(values: Any) -> list[int] | None:
    if type(values) is not list or len(values) > 64:
        return None
    return values if all(type(v) is int and 0 <= v < 1 << 63 for v in values) else None
