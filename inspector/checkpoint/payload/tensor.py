"""The tensor that a payload's pickle describes: element type, shape, strides, storage.

What torch.save writes for a tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset,
size, stride, requires_grad, hooks, metadata)`, `_v3` where the storage class does not tell the
dtype (then the storage's size is in bytes), `_rebuild_parameter` around one, and the storage as a
persistent id ("storage", class, record's key, device, size). Source: torch/_utils.py and
torch/serialization.py of torch 1.13 to 2.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from inspector.checkpoint.dtypes import canonical, itemsize
from inspector.checkpoint.payload.scan.calls import STORAGES, UNTYPED
from inspector.checkpoint.payload.scan.values import Call, Global, Persistent
from inspector.checkpoint.text import printable

__all__ = ["NoTensorError", "PackedTensor", "StoredTensor", "describe", "kind_of", "packed"]

_WRAPPERS = frozenset({"_rebuild_parameter", "_rebuild_parameter_with_state"})
_STRIDED = frozenset(
    {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"}
)
#: How many arguments each of torch's functions takes.
_NUM_ARGS = {
    "_rebuild_tensor": (4,),
    "_rebuild_tensor_v2": (6, 7),
    "_rebuild_tensor_v3": (7, 8),
    "_rebuild_qtensor": (7,),
}
#: Parts of a storage's persistent id: the format of before 1.6 has what it is a view of, too.
_NUM_PARTS = 5
_NUM_LEGACY_PARTS = 6
_PLAIN_TYPES = frozenset(
    {
        Global("torch._tensor", "Tensor"),
        Global("torch", "Tensor"),
        Global("torch.nn.parameter", "Parameter"),
        Global("torch.nn.parameter", "Buffer"),
    }
)


class NoTensorError(ValueError):
    """A pickle asks for a strided tensor in a way that torch does not make one."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A strided tensor over one record.

    Attributes:
        dtype: torch's name without `torch.`.
        shape: Its own shape, that of the chunk.
        strides: Elements from one index to the next, per dim.
        first: Where element [0, 0, ...] stands in the storage, in elements.
        key: Name of the record: `data/<key>`.
        storage_bytes: Bytes the pickle says the storage has.
        is_conj, is_neg: Lazy conjugation and negation that torch applies on reading.
        quantizer: What its integers stand for (`scale 0.5, zero point 10`); empty if they stand
            for themselves.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    key: str
    storage_bytes: int
    is_conj: bool = False
    is_neg: bool = False
    quantizer: str = ""

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def needed_bytes(self) -> int:
        """Bytes of storage up to and with the last element."""
        if 0 in self.shape:
            return 0
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return (self.first + last + 1) * (itemsize(self.dtype) or 0)

    @property
    def is_contiguous(self) -> bool:
        """True if the elements lie in C order without holes."""
        expected = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != expected:
                return 0 in self.shape
            expected *= n
        return True


_REBUILD_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")


def _call(root: Any) -> Call | None:
    """The call that makes what was pickled, without a Parameter around it; None if it is none."""
    for _ in range(4):
        if type(root) is not Call or type(root.func) is not Global or type(root.args) is not tuple:
            return None
        module, name = root.func
        if module != "torch._utils" or name not in _WRAPPERS or not root.args:
            return root
        root = root.args[0]
    return None


def describe(root: Any, *, is_legacy: bool = False) -> StoredTensor | None:
    """The strided tensor that the scanned pickle rebuilds, or None if it is none.

    Args:
        root: The pickle's value.
        is_legacy: It is of torch's format before 1.6.

    Raises:
        NoTensorError: It is one by its name, but torch would raise an error.
    """
    call = _call(root)
    if call is not None and call.func == _REBUILD_TYPE and len(call.args) >= 3:
        func, kind, args = call.args[:3]  # And its state.
        # A class of its own may mean anything.
        is_plain = type(kind) is Global and kind in _PLAIN_TYPES
        call = _call(Call(func, args)) if is_plain else None
    if call is None or call.func.module != "torch._utils":
        return None
    return _tensor(call.func.name, call.args, is_legacy)


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor of a class of its own, whose bytes mean what that class says.

    Attributes:
        kind: The class, or the function that rebuilds it: `torchao.optim.subclass_8bit...`.
        dtype: The element type that it shows to the outside, or None where that is not said.
        shape: Its shape, or None likewise.
    """

    kind: str
    dtype: str | None
    shape: tuple[int, ...] | None

    @property
    def package(self) -> str:
        """What has to be imported for it to load."""
        return self.kind.partition(".")[0]

    @property
    def why_unread(self) -> str:
        """Why its values cannot be told."""
        kind, package = printable(self.kind, 120), printable(self.package, 60)
        return f"it is a {kind}, whose values only {package} knows"


def packed(root: Any) -> PackedTensor | None:
    """The tensor subclass that the scanned pickle rebuilds, or None if it is none.

    `torch.Tensor.__reduce_ex__` writes a subclass as `_rebuild_from_type_v2(function, class, its
    arguments, state)`; the function is `_rebuild_wrapper_subclass` (class, dtype, size, strides,
    offset, layout, device, requires_grad) for one without a storage of its own.
    """
    call = _call(root)
    if call is None:
        return None
    module, name = call.func
    if call.func == _REBUILD_TYPE and len(call.args) >= 3:
        func, kind, inner = call.args[:3]
        if type(func) is not Global or type(kind) is not Global or kind in _PLAIN_TYPES:
            return None
        return PackedTensor(f"{kind.module}.{kind.name}"[:200], *_outside(func, inner))
    if module.partition(".")[0] in ("torch", "builtins", "__builtin__", "collections"):
        return None
    return PackedTensor(f"{module}.{name}"[:200], None, None)


def _outside(func: Global, args: Any) -> tuple[str | None, tuple[int, ...] | None]:
    """What a wrapper subclass, or a subclass with a storage, says of itself."""
    if func == Global("torch._utils", "_rebuild_wrapper_subclass"):
        if type(args) is tuple and len(args) >= 3 and type(args[1]) is Global:
            return canonical(args[1].name), _numbers(args[2])
        return None, None
    if func.module == "torch._utils" and type(args) is tuple:
        try:
            tensor = _tensor(func.name, args, False)
        except NoTensorError:
            return None, None
        return (tensor.dtype, tensor.shape) if tensor is not None else (None, None)
    return None, None


def kind_of(root: Any) -> str:
    """What the pickle holds, in a few words, for a payload that is no strided tensor."""
    if type(root) is Call and type(root.func) is Global:
        return f"{root.func.module}.{root.func.name}"[:200]
    if isinstance(root, (Persistent, Global, Call)):
        return "something else"
    return type(root).__name__.lstrip("_").lower()


def _tensor(function: str, args: tuple[Any, ...], is_legacy: bool) -> StoredTensor | None:
    if function not in _STRIDED:
        return None
    if len(args) not in _NUM_ARGS[function]:
        raise NoTensorError(f"{function} is called with {len(args)} arguments")
    kind, key, size = _storage(args[0], is_legacy)
    first, shape, strides = args[1], _numbers(args[2]), _numbers(args[3])
    if shape is None or strides is None or len(shape) != len(strides):
        raise NoTensorError("its sizes and strides are none")
    if not _natural(first):
        raise NoTensorError("where it begins in its storage is no number")
    flags: Any = None
    dtype = "uint8" if kind.name in UNTYPED else STORAGES.get(kind.name)
    size_unit = itemsize(dtype) if dtype else None
    if function == "_rebuild_tensor_v3":
        named = args[6]
        dtype = canonical(named.name) if type(named) is Global and named.module == "torch" else None
        flags = args[7] if len(args) > 7 else None
    elif function == "_rebuild_tensor_v2":
        flags = args[6] if len(args) > 6 else None
    if function.endswith(("_v2", "_v3")) and type(args[4]) is not bool:
        raise NoTensorError("whether it requires a gradient is neither true nor false")
    if size_unit is None:
        # What no version has written so far: later ones name new dtypes, over plain bytes.
        raise NoTensorError(f"its storage is a {kind.name[:80]!a}, which torch does not have")
    if dtype is None:
        return None
    if flags and type(flags) not in (dict, Call):
        raise NoTensorError("what it says of conjugation and negation is no dict")
    flags = flags if type(flags) is dict else {}
    return StoredTensor(
        dtype,
        shape,
        strides,
        first,
        str(key),
        size * size_unit,
        flags.get("conj") is True,
        flags.get("neg") is True,
        _quantizer(args[4]) if function == "_rebuild_qtensor" else "",
    )


def _storage(value: Any, is_legacy: bool) -> tuple[Global, str | int, int]:
    """A storage's class, its record's key and its size."""
    pid = value.pid if type(value) is Persistent else None
    if type(pid) is not tuple or not pid or pid[0] != "storage":
        raise NoTensorError("it is over no storage")
    num_parts = _NUM_LEGACY_PARTS if is_legacy else _NUM_PARTS
    if len(pid) != num_parts:
        raise NoTensorError(f"its storage is named in {len(pid)} parts, not {num_parts}")
    _, kind, key, _, size = pid[:5]
    if type(kind) is not Global or type(key) not in (str, int) or not _natural(size):
        raise NoTensorError("its storage has no class, no key or no size")
    return kind, key, size


def _quantizer(params: Any) -> str:
    """A quantizer's parameters: (scheme, scale, zero point), or (scheme, scales, points, axis)."""
    if type(params) is not tuple or len(params) < 3 or type(params[0]) is not Global:
        return "a quantizer that is not known"
    _, scale, zero_point = params[:3]
    if type(scale) is float and type(zero_point) is int:
        return f"scale {scale:.9g}, zero point {zero_point}"
    axis = params[3] if len(params) > 3 and type(params[3]) is int else "?"
    return f"scales of their own along dim {axis}"


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _numbers(value: Any) -> tuple[int, ...] | None:
    """A size or strides: a tuple, or torch.Size of one."""
    if type(value) is Call and value.func == Global("torch", "Size") and type(value.args) is tuple:
        value = value.args[0] if len(value.args) == 1 else None
    if type(value) is not tuple or len(value) > 64 or not all(map(_natural, value)):
        return None
    return value
