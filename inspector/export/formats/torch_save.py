"""A file as `torch.save` writes a state dict, without torch: `torch.load` reads it.

Format: torch/serialization.py and torch/_utils.py of torch 1.13 to 2.15: a zip archive with
`data.pkl`, `byteorder`, one record `data/N` for each tensor at a multiple of 64 bytes (so that
`mmap=True` works), and `version`. The pickle is of protocol 2 and names what torch's own does, so
`weights_only=True` takes it. Types of torch 2.1 and later that have no storage class of their own
(float8, the wider unsigned integers) stand as torch writes those, and load there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from inspector.checkpoint.text import printable
from inspector.errors import UsageError
from inspector.export.formats.files import ExportItem, PlannedFile, refuse_items
from inspector.export.formats.zips import ZipRecord, zip_file

__all__ = ["nested", "torch_file"]

_STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
#: Those of `torch.storage._new_dtypes()`: a storage of bytes, and the dtype by its name.
_UNTYPED = frozenset(
    {"uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e5m2"}
    | {"float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"}
    | {"bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"}
)
_ALIGN = 64
_FOLDER = "archive"


def torch_file(state: Mapping[str, Any], items: Sequence[ExportItem]) -> list[PlannedFile]:
    """The file of a state dict.

    Args:
        state: What is pickled: dicts and lists of `ExportItem`s and of plain values.
        items: The items in it.

    Raises:
        UsageError: A dtype that torch has no such tensor of.
    """
    refuse_items(
        [
            (item.fqn, f"a file of torch.save has no dtype {printable(item.dtype, 40)}")
            for item in items
            if item.dtype not in _STORAGES and item.dtype not in _UNTYPED
        ],
        "a file of torch.save",
        "leave them out with --filter '!NAME'",
    )
    numbers = {item.fqn: number for number, item in enumerate(items)}
    pickled = _Pickler(numbers).dump(state)
    records = [
        ZipRecord(f"{_FOLDER}/data.pkl", pickled, align=_ALIGN),
        ZipRecord(f"{_FOLDER}/byteorder", b"little", align=_ALIGN),
        *(
            ZipRecord(f"{_FOLDER}/data/{number}", b"", item, _ALIGN)
            for number, item in enumerate(items)
        ),
        ZipRecord(f"{_FOLDER}/version", b"3\n", align=_ALIGN),
    ]
    return [zip_file("", records)]


def nested(flat: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """The dicts and lists that were flattened, as the checkpoint's planner wrote down their paths.

    Args:
        flat: By name.
        paths: By name; one without is a key of the outermost dict.

    Raises:
        UsageError: Two paths do not go together.
    """
    root: dict[str, Any] = {}
    for name, value in flat.items():
        path = paths.get(name, (name,))
        here: Any = root
        for key, following in zip(path, [*path[1:], None], strict=True):
            inner: Any = value if following is None else [] if type(following) is int else {}
            here = _step(here, key, inner, name, is_last=following is None)
    return root


def _step(here: Any, key: str | int, inner: Any, name: str, *, is_last: bool) -> Any:
    """Go into what is at `key`, after putting `inner` there if nothing is."""
    is_list = type(here) is list
    if is_list != (type(key) is int) or type(here) not in (list, dict):
        raise UsageError(
            f"the path of {printable(name, 120)} goes through another entry",
            "without --nested every entry stands under its flat name",
        )
    if is_list and isinstance(key, int):
        here.extend([None] * (key + 1 - len(here)))
        is_there = here[key] is not None
    else:
        is_there = key in here
    if is_there and (is_last or type(here[key]) not in (list, dict)):
        raise UsageError(f"the path of {printable(name, 120)} is that of another entry, too")
    if not is_there:
        here[key] = inner
    return here[key]


class _Pickler:
    """Writes a pickle of protocol 2; knows dicts, lists, plain values and items."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers = numbers
        self._known: dict[tuple[str, str], int] = {}
        self._out = bytearray()

    def dump(self, value: Any) -> bytes:
        """The pickle of a value."""
        self._out = bytearray(b"\x80\x02")
        self._put(value)
        return bytes(self._out + b".")

    def _put(self, value: Any) -> None:
        kind = type(value)
        if kind is ExportItem:
            self._tensor(value)
        elif kind is dict:
            self._out += b"}("
            for key, item in value.items():
                self._put(key)
                self._put(item)
            self._out += b"u"
        elif kind in (list, tuple):
            self._out += b"](" if kind is list else b"("
            for item in value:
                self._put(item)
            self._out += b"e" if kind is list else b"t"
        elif value is None:
            self._out += b"N"
        elif kind is bool:
            self._out += b"\x88" if value else b"\x89"
        elif kind is int:
            self._int(value)
        elif kind is float:
            self._out += b"G" + struct.pack(">d", value)
        elif kind is str:
            data = value.encode("utf-8", "surrogatepass")
            self._out += b"X" + struct.pack("<I", len(data)) + data
        else:
            raise TypeError(f"no plain value: {kind}")

    def _int(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._out += b"J" + struct.pack("<i", value)
            return
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(data) < 256:
            self._out += b"\x8a" + bytes([len(data)]) + data
        else:
            self._out += b"\x8b" + struct.pack("<i", len(data)) + data

    def _global(self, module: str, name: str) -> None:
        known = self._known.get((module, name))
        if known is not None:
            self._out += b"h" + bytes([known])
            return
        self._out += f"c{module}\n{name}\n".encode()
        self._known[module, name] = number = len(self._known)
        self._out += b"q" + bytes([number])

    def _tensor(self, item: ExportItem) -> None:
        """`_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`, or `_v3`."""
        kind = _STORAGES.get(item.dtype)
        shape = item.shape
        self._global("torch._utils", "_rebuild_tensor_v2" if kind else "_rebuild_tensor_v3")
        self._out += b"(("
        self._put("storage")
        if kind:
            self._global("torch", kind)
        else:
            self._global("torch.storage", "UntypedStorage")
        self._put(str(self._numbers[item.fqn]))
        self._put("cpu")
        self._put(item.num_elements if kind else item.num_bytes)
        self._out += b"tQ"
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= max(size, 1)
        for value in (0, shape, tuple(reversed(strides)), False):
            self._put(value)
        self._global("collections", "OrderedDict")
        self._out += b")R"
        if not kind:
            self._global("torch", item.dtype)
        self._out += b"tR"
