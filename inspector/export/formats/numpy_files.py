"""Tensors as numpy's `.npy`, and several of them as `.npz`.

Format: numpy/lib/format.py, version 1.0 (2.0 for a long header). A type that numpy lacks
(bfloat16, float8, complex32) stands as numpy itself saves ml_dtypes' arrays, as raw bytes of its
size (`|V2`, `|V1`): `array.view(ml_dtypes.bfloat16)` has the numbers, no bit changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from inspector.checkpoint.dtypes import itemsize
from inspector.errors import UsageError
from inspector.export.formats.files import (
    HINT,
    ExportItem,
    Frame,
    ItemRegion,
    PlannedFile,
    refuse_items,
)
from inspector.export.formats.zips import ZipRecord, zip_file

__all__ = ["is_raw", "npy_file", "npy_header", "npz_file"]

_ALIGN = 64
_KINDS = {"bool": "|b1", "uint8": "|u1", "int8": "|i1"}
_SUFFIX = ".npy"
_MAX_NAME_BYTES = 1 << 15


def _descr(dtype: str) -> str:
    """The name that numpy has for a type, raw bytes if it has none."""
    if dtype in _KINDS:
        return _KINDS[dtype]
    size = itemsize(dtype) or 1
    for kind, letter in (("float", "f"), ("uint", "u"), ("int", "i"), ("complex", "c")):
        if dtype == f"{kind}{8 * size}" and (letter != "c" or size >= 8):
            return f"<{letter}{size}"
    return f"|V{size}"


def is_raw(dtype: str) -> bool:
    """Whether numpy has no such type, so that it stands as raw bytes."""
    return _descr(dtype).startswith("|V")


def npy_header(dtype: str, shape: Sequence[int]) -> bytes:
    """What stands before the elements of a `.npy`, in row-major order."""
    sizes = "(" + ", ".join(map(str, shape)) + (",)" if len(shape) == 1 else ")")
    text = f"{{'descr': '{_descr(dtype)}', 'fortran_order': False, 'shape': {sizes}, }}"
    # Version 2 has four bytes for the header's length instead of two.
    version, room = (1, 2) if len(text) < (1 << 16) - 2 * _ALIGN else (2, 4)
    padding = -(8 + room + len(text) + 1) % _ALIGN
    length = len(text) + padding + 1
    head = b"\x93NUMPY" + bytes((version, 0)) + length.to_bytes(room, "little")
    return head + text.encode("ascii") + b" " * padding + b"\n"


def npy_file(items: Sequence[ExportItem]) -> list[PlannedFile]:
    """The one tensor as `.npy`.

    Raises:
        UsageError: There are several.
    """
    if len(items) != 1:
        raise UsageError(
            f"a .npy holds one tensor, and {len(items):,} were chosen",
            "--filter NAME chooses one; --format npz takes several",
        )
    head = npy_header(items[0].dtype, items[0].shape)
    region = ItemRegion(items[0], len(head))
    return [PlannedFile("", (region,), len(head) + items[0].num_bytes, partial(_header, head))]


def _header(head: bytes, crcs: Sequence[int]) -> Frame:
    yield 0, head


def npz_file(items: Sequence[ExportItem]) -> list[PlannedFile]:
    """All tensors as one `.npz`, not compressed, as `numpy.savez` writes it.

    Raises:
        UsageError: A name that no file in an archive may have.
    """
    names = {item.name for item in items}
    refuse_items(
        [(item.fqn, why) for item in items if (why := _why_not(item.name, names))], ".npz", HINT
    )
    records = [
        ZipRecord(item.name + _SUFFIX, npy_header(item.dtype, item.shape), item) for item in items
    ]
    return [zip_file("", records)]


def _why_not(name: str, names: set[str]) -> str:
    """Why a name is no member's: whoever unpacks the archive must not write elsewhere."""
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        return "its name is no Unicode"
    if not name or len(raw) > _MAX_NAME_BYTES:
        return "its name is empty, or too long for a zip archive"
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ".." in parts or name[1:2] == ":":
        return "unpacked, it would lie outside of the folder"
    if any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "a control character is in its name"
    if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in names:
        return "numpy takes it for another one, whose name is the same but for .npy"
    return ""
