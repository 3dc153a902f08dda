"""The element types that torch can store: name, size, and how numpy reads them.

Source: torch/csrc/api and `torch.dtype.itemsize` of torch 2.6 to 2.15.
"""

from __future__ import annotations

__all__ = ["ITEMSIZE", "SINCE", "itemsize", "short_name"]

#: Bytes per element by dtype name (without `torch.`). `float4_e2m1fn_x2` packs two values in
#: one element of one byte; `quint4x2` likewise. The sub-byte integers take a byte each.
ITEMSIZE: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "bcomplex32": 4,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
    **{f"bits{n}": 1 for n in ("1x8", "2x4", "4x2", "8")},
    "bits16": 2,
    **{f"uint{n}": 1 for n in range(1, 8)},
    **{f"int{n}": 1 for n in range(1, 8)},
}

#: The first torch that has them; the others are there from 2.3 on. Older ones cannot read metadata
#: that names them.
SINCE = {"float8_e8m0fnu": (2, 7), "float4_e2m1fn_x2": (2, 8), "bcomplex32": (2, 14)}

_ALIASES = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "chalf": "complex32",
    "cfloat": "complex64",
    "cdouble": "complex128",
    "short": "int16",
    "int": "int32",
    "long": "int64",
}

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def itemsize(dtype: str) -> int | None:
    """Bytes per element of a torch dtype name, or None if the name is not known."""
    return ITEMSIZE.get(dtype)


def canonical(name: str) -> str | None:
    """The full dtype name for a name torch knows (`half` is `float16`), else None."""
    name = _ALIASES.get(name, name)
    return name if name in ITEMSIZE else None


def short_name(dtype: str) -> str:
    """A column-sized dtype name: `bfloat16` is `bf16`, `float8_e4m3fn` is `f8_e4m3fn`."""
    for long, short in sorted(_SHORT.items(), key=lambda item: -len(item[0])):
        if dtype.startswith(long):
            return short + dtype[len(long) :]
    return dtype
