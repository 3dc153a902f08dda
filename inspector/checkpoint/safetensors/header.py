"""The header of a safetensors file or blob: names, dtypes, shapes and ranges.

Format: 8 bytes little endian with the header's length, the header as JSON (at most 100 MB), the
elements. https://github.com/huggingface/safetensors, safetensors/src/tensor.rs. What the package
refuses was run with its version 0.8.0. Standard library alone.

The rule this module keeps: the JSON is untrusted. What it may cost is bounded before it is
parsed, and one bad entry does not hide the others.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.json_bounds import over_bounds

__all__ = [
    "DTYPES",
    "MAX_HEADER_BYTES",
    "Header",
    "HeaderError",
    "Misplaced",
    "SafeTensor",
    "SafetensorsFacts",
    "Unread",
    "bounded_json",
    "header_bytes",
    "naturals",
    "parse_header",
]


@dataclass(frozen=True, slots=True)
class Unread:
    """A file whose header cannot be read: its path, a finding's code, why, and what to do."""

    path: str
    code: str
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A tensor that the index places in a file that does not have it.

    `found` is the file that has it, or an empty string.
    """

    fqn: str
    path: str
    found: str


@dataclass(frozen=True, slots=True)
class SafetensorsFacts:
    """What a safetensors checkpoint has that a DCP one has not, as values; names are raw.

    Its checks and the frameworks' evidence are made of it.

    Attributes:
        index: The index file, or an empty string.
        index_problem: Why it cannot be used, or an empty string.
        stale_index: Files that the index names, where none of them is there and the one file that
            is the whole checkpoint by its name was taken instead.
        total_size: Bytes of all tensors as the index says, or None.
        missing: Files that the index or the names of the others call for and that are not there,
            with how many tensors the index places in each (None if nothing tells).
        unread: Files whose header cannot be read.
        misplaced: Tensors that the index places in a file that does not have them.
        not_in_index: (tensor, file) that the index does not list, at most 1,000.
        escapes: Files outside the folder that the index names; they were not opened.
        data_offset: Where the elements begin, by file.
        is_sharded: The headers have DCP's sharding information.
        metadata: The `__metadata__` of the first file that has any, without the sharding.
        has_shards_below: The folder has a `sharded` folder, as DCP's consolidation leaves it.
    """

    index: str = ""
    index_problem: str = ""
    stale_index: tuple[str, ...] = ()
    total_size: int | None = None
    missing: dict[str, int | None] = field(default_factory=dict)
    unread: tuple[Unread, ...] = ()
    misplaced: tuple[Misplaced, ...] = ()
    not_in_index: tuple[tuple[str, str], ...] = ()
    escapes: tuple[str, ...] = ()
    data_offset: dict[str, int] = field(default_factory=dict)
    is_sharded: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    has_shards_below: bool = False

    @property
    def paths(self) -> frozenset[str]:
        """Every file that is part of the checkpoint."""
        unread = (unread.path for unread in self.unread)
        return frozenset({*self.data_offset, *self.missing, *unread})


MAX_HEADER_BYTES = 100_000_000
_MAX_DIMS = 64
# As for numbers in `.metadata`: no tensor reaches 4 EiB.
_ABSURD = 1 << 62

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
    "F4": "float4_e2m1fn_x2",
}
#: Types of the format that torch has no name for.
_NOT_TORCH = frozenset({"F6_E2M3", "F6_E3M2"})


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
    """A header.

    Attributes:
        tensors: Its tensors, in the order of the JSON.
        metadata: Its `__metadata__`.
        data_offset: Where the elements begin.
        faults: (name, what is wrong) of entries that are no tensor, or no tensor of torch's.
    """

    tensors: tuple[SafeTensor, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    data_offset: int = 8
    faults: tuple[tuple[str, str], ...] = ()


def header_bytes(start: bytes) -> int:
    """Length of the JSON, from a file's first 9 bytes or more.

    Raises:
        HeaderError: No safetensors header begins so.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:9] != b"{" or not 2 <= length <= MAX_HEADER_BYTES:
        raise HeaderError("no safetensors header begins here")
    return length


def bounded_json(text: bytes, repeated: list[str] | None = None) -> Any:
    """The value of a JSON text from a stranger.

    Args:
        text: UTF-8.
        repeated: Gets the names that occur twice in one object.

    Raises:
        HeaderError: It is none, or larger or deeper than a header can be.
    """
    over = over_bounds(text)
    if over:
        raise HeaderError(over)
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise HeaderError("it is not UTF-8") from error
    decoder = None if repeated is None else _noting(repeated)
    try:
        return json.loads(decoded, object_pairs_hook=decoder)
    except (ValueError, RecursionError) as error:
        raise HeaderError("it is no JSON") from error


def _noting(repeated: list[str]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            counts = Counter(name for name, _ in items)
            repeated.extend(name for name, count in counts.items() if count > 1)
        return found

    return pairs


def parse_header(text: bytes) -> Header:
    """The header from its JSON, without the eight bytes before it.

    Raises:
        HeaderError: It is damaged as a whole.
    """
    repeated: list[str] = []
    try:
        fields = bounded_json(text, repeated)
    except HeaderError as error:
        raise HeaderError(f"its safetensors header is damaged: {error}") from error
    if type(fields) is not dict:
        raise HeaderError("its safetensors header is no JSON object")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        raise HeaderError("its safetensors header holds a name that is no Unicode") from error
    metadata = fields.pop("__metadata__", {})
    faults = [(name, "it is listed twice in one header") for name in dict.fromkeys(repeated)]
    if type(metadata) is not dict or any(type(v) is not str for v in metadata.values()):
        faults.append(("__metadata__", "it holds something else than text"))
        metadata = {}
    tensors = []
    for name, value in fields.items():
        try:
            tensors.append(_tensor(name, value))
        except HeaderError as error:
            faults.append((name, str(error)))
    return Header(tuple(tensors), metadata, 8 + len(text), tuple(faults))


def _tensor(name: str, value: Any) -> SafeTensor:
    if type(value) is not dict:
        raise HeaderError("its entry in the header is no object")
    dtype = value.get("dtype")
    shape, place = naturals(value.get("shape")), naturals(value.get("data_offsets"))
    if type(dtype) is not str or shape is None or place is None or len(place) != 2:
        raise HeaderError("its dtype, shape or data_offsets are missing or damaged")
    begin, end = place
    if begin > end:
        raise HeaderError(f"it ends at byte {end:,}, before it begins ({begin:,})")
    known = DTYPES.get(dtype)
    size = itemsize(known) if known else None
    if known is None or size is None:
        what = "torch does not have" if dtype in _NOT_TORCH else "safetensors does not know"
        raise HeaderError(f"it is of dtype {dtype[:40]!r}, which {what}")
    if known == "float4_e2m1fn_x2":
        # The format counts values, torch elements of two.
        if not shape or shape[-1] % 2:
            raise HeaderError("it is of F4 with an odd number of values in a row")
        shape[-1] //= 2
    if math.prod(shape) * size != end - begin:
        raise HeaderError(
            f"it has {end - begin:,} bytes, {math.prod(shape) * size:,} by its dtype and shape"
        )
    return SafeTensor(name, known, tuple(shape), begin, end)


def naturals(values: Any) -> list[int] | None:
    """A JSON list of sizes or offsets; None if it is no such list."""
    if type(values) is not list or len(values) > _MAX_DIMS:
        return None
    return values if all(type(v) is int and 0 <= v < _ABSURD for v in values) else None
