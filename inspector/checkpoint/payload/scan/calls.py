"""Whether what a pickle asks for can be made, as far as its symbols tell.

A pickle whose checksum is right can still ask for what no unpickler does: an item for a number, a
list as a key, a function with too few arguments. What cannot be is refused here; what is called
with arguments that are not of the usual form is told, for whether it loads is then not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from inspector.checkpoint.dtypes import canonical, itemsize
from inspector.checkpoint.payload.scan.feed import PickleError
from inspector.checkpoint.payload.scan.values import UNHASHABLE, Global, Held, Persistent, kind_of

__all__ = ["RESULTS", "STORAGES", "UNTYPED", "check_call", "is_class", "storage_of"]

#: The element type by the name of a storage's class.
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
#: Classes of storages of bytes.
UNTYPED = frozenset({"UntypedStorage", "_UntypedStorage"})
_NONE_TYPES = (type(None),)
_DEVICE = re.compile(r"(cpu|meta|(cuda|hip|xpu|mps|hpu|npu|xla|mtia|privateuseone)(:\d{1,3})?)\Z")
_CODECS = frozenset({"latin1", "latin-1", "utf-8", "utf8", "ascii"})
_NUMPY_DTYPE = re.compile(r"[<>|=]?([?bBhHiIlLqQefdgFDGOSUVmMc]|[biufcOSUVmM]\d{1,4})\Z")
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?(E[+-]?\d+)?|\.\d+|Infinity|NaN)\Z")
_LAYOUTS = re.compile(r"torch\.(strided|sparse_(coo|csr|csc|bsr|bsc)|_mkldnn|jagged)\Z")
_NUMBER = (int, float, bool)

#: What a call of a known name gives: see `kind_of`.
RESULTS = {
    **dict.fromkeys(
        ("collections.OrderedDict", "collections.defaultdict", "collections.Counter"), "mapping"
    ),
    **{
        f"{module}.{name}": kind
        for module in ("builtins", "__builtin__")
        for name, kind in {
            "set": "set",
            "frozenset": "frozenset",
            "list": "list",
            "tuple": "tuple",
            "dict": "dict",
            "bytearray": "bytearray",
            **dict.fromkeys(("bytes", "complex", "int", "long", "float", "bool", "range"), "atom"),
            **dict.fromkeys(("xrange", "str", "unicode"), "atom"),
        }.items()
    },
    "_codecs.encode": "atom",
    "torch.Size": "tuple",
    "torch.device": "atom",
    "decimal.Decimal": "atom",
    "fractions.Fraction": "atom",
    "uuid.UUID": "object",
}

# Functions among the known names: of these no object can be made.
_FUNCTION = re.compile(
    r"(_rebuild_\w+|_reconstruct(or)?|_mareconstruct|_array_reconstructor|_frombuffer|scalar|encode"
    r"|_get_layout|_compile|getLogger|__newobj__|__pyx_unpickle_\w+|__\w+_ctor|_unpickle|iter)\Z"
)
_TORCH_CLASSES = frozenset({"Size", "Tensor", "device", "Generator"})


def is_class(name: Global) -> bool:
    """False for a known name of a function or a value, of which no object can be made."""
    if name.module == "torch":
        return name.name in _TORCH_CLASSES
    return _FUNCTION.match(name.name) is None


def storage_of(pid: Any) -> tuple[str, int, bool] | None:
    """The key and bytes of the storage that an id names, and whether its place is a usual one.

    None where the scan does not know the id. Source: `persistent_load` in torch.serialization.

    Raises:
        PickleError: torch takes no such id.
    """
    if type(pid) is not tuple:
        if kind_of(pid) in ("tuple", ""):
            return None
        raise PickleError("it names a storage by something else than torch does")
    if len(pid) not in (5, 6) or pid[0] != "storage":
        raise PickleError("it names something else than a storage where torch names one")
    _, kind, key, location, size = pid[:5]
    if type(kind) is not Global or kind.module.partition(".")[0] != "torch":
        raise PickleError("it names a storage without a class")
    if type(key) not in (str, int) or type(size) is not int or size < 0:
        raise PickleError("it names a storage without a key or a size")
    dtype = "uint8" if kind.name in UNTYPED else STORAGES.get(kind.name)
    if dtype is None:
        raise PickleError(f"it names a storage of {kind.name[:80]!a}, which torch does not have")
    is_usual = type(location) is str and _DEVICE.match(location) is not None
    return str(key), size * (itemsize(dtype) or 0), is_usual


# -- calls -------------------------------------------------------------------------------------


def check_call(name: Global, args: tuple[Any, ...]) -> bool:
    """Whether a call of a known name with these arguments is of a form that works.

    Raises:
        PickleError: It cannot work.
    """
    full = f"{name.module}.{name.name}"
    check = _CHECKS.get(full)
    if check is not None:
        return check(args)
    module = name.module.partition(".")[0]
    if module == "numpy" and name.name.startswith("__pyx_unpickle_"):
        return len(args) == 3 and type(args[0]) is Global and type(args[1]) is int
    if module == "numpy" and name.name in _NUMPY:
        return _NUMPY[name.name](args)
    if name.module in ("builtins", "exceptions") and name.name.endswith(("Error", "Exception")):
        return True
    if module == "datetime":
        return _datetime(name.name, args)
    if module == "pathlib":
        return all(type(part) is str for part in args)
    # A member of an enum, by its value.
    return len(args) == 1 and type(args[0]) in (int, str) and full.startswith("torch.distributed.")


def _no_more_than(count: int, *kinds: str) -> Callable[[tuple[Any, ...]], bool]:
    """None, or up to `count` values of some kinds."""

    def check(args: tuple[Any, ...]) -> bool:
        return len(args) <= count and all(kind_of(value) in kinds for value in args)

    return check


def _encode(args: tuple[Any, ...]) -> bool:
    if len(args) not in (1, 2) or any(kind_of(v) not in ("text", "") for v in args):
        raise PickleError("it encodes what is no text")
    if len(args) == 2 and args[1] not in _CODECS:
        return False
    text, codec = args[0], args[1] if len(args) == 2 else "utf-8"
    if type(text) is str:
        text.encode(codec)  # Raises a ValueError, as in torch.
    return True


def _set(args: tuple[Any, ...]) -> bool:
    """What a set is made of; protocols before 4 give it a list of the items."""
    if not args:
        return True
    items = args[0]
    if type(items) in (list, tuple):
        return len(args) == 1 and all(kind_of(item) not in UNHASHABLE for item in items)
    if type(items) is Held and not items.has_keys_only:
        return False
    return len(args) == 1 and kind_of(items) in ("list", "tuple", "set", "frozenset", "text")


def _bytearray(args: tuple[Any, ...]) -> bool:
    if len(args) == 2 and type(args[0]) is str and args[1] in _CODECS:
        args[0].encode(args[1])
        return True
    return not args or (len(args) == 1 and kind_of(args[0]) in ("bytes", "atom", "list"))


def _size(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and type(args[0]) in (tuple, list) and all(
        type(n) is int for n in args[0]
    )  # fmt: skip


def _device(args: tuple[Any, ...]) -> bool:
    if not args or type(args[0]) is not str or not _DEVICE.match(args[0]):
        return False
    return len(args) == 1 or (len(args) == 2 and type(args[1]) is int and ":" not in args[0])


def _layout(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and type(args[0]) is str and _LAYOUTS.match(args[0]) is not None


def _range(args: tuple[Any, ...]) -> bool:
    return 1 <= len(args) <= 3 and all(type(n) is int for n in args) and args[2:] != (0,)


def _default_dict(args: tuple[Any, ...]) -> bool:
    return not args or (len(args) == 1 and type(args[0]) in (Global, *_NONE_TYPES))


def _numbers(args: tuple[Any, ...]) -> bool:
    return len(args) <= 2 and all(type(n) in _NUMBER for n in args)


def _decimal(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and type(args[0]) is str and _DECIMAL.match(args[0]) is not None


def _fraction(args: tuple[Any, ...]) -> bool:
    if len(args) == 2 and all(type(n) is int for n in args):
        return bool(args[1] != 0)
    return (
        len(args) == 1
        and type(args[0]) is str
        and re.match(r"-?\d+(/[1-9]\d*)?\Z", args[0]) is not None
    )


def _deque(args: tuple[Any, ...]) -> bool:
    return not args or (
        len(args) <= 2
        and kind_of(args[0]) in ("tuple", "list")
        and (len(args) == 1 or args[1] is None or (type(args[1]) is int and args[1] >= 0))
    )


def _pattern(args: tuple[Any, ...]) -> bool:
    """A pattern of letters, digits and what means nothing in one; others may be none."""
    if len(args) != 2 or type(args[0]) is not str or type(args[1]) is not int:
        return False
    return args[1] == re.UNICODE and re.fullmatch(r"[\w /.,:;=-]*", args[0]) is not None


def _reconstructor(args: tuple[Any, ...]) -> bool:
    return len(args) == 3 and type(args[0]) is Global


def _rebuild(function: str) -> Callable[[tuple[Any, ...]], bool]:
    counts = {
        "_rebuild_tensor": (4,),
        "_rebuild_tensor_v2": (6, 7),
        "_rebuild_tensor_v3": (7, 8),
        "_rebuild_qtensor": (7,),
    }[function]

    def check(args: tuple[Any, ...]) -> bool:
        if len(args) not in counts:
            raise PickleError(f"{function} is called with {len(args)} arguments")
        storage, first, size, stride = args[:4]
        if type(storage) is not Persistent:
            if kind_of(storage) in ("", "object", "storage"):
                return False
            raise PickleError("it makes a tensor over no storage")
        if type(first) is not int or first < 0:
            raise PickleError("it makes a tensor that begins nowhere in its storage")
        if type(size) is not tuple or type(stride) is not tuple:
            return False
        if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in size + stride):
            raise PickleError("it makes a tensor whose sizes and strides are none")
        return _fits(storage.pid, first, size, stride) and (
            function == "_rebuild_tensor" or _rest(function, args)
        )

    return check


def _fits(pid: Any, first: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements lie in their storage, by the number of those that its id says."""
    if type(pid) is not tuple or type(pid[1]) is not Global:
        return False
    if pid[1].name in UNTYPED:
        return True  # In bytes, of what the caller knows.
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 not in size and first + last >= pid[4]:
        raise PickleError("it makes a tensor that is larger than its storage")
    return True


def _rest(function: str, args: tuple[Any, ...]) -> bool:
    """The arguments after the strides: a flag, hooks, and what more there is."""
    if function == "_rebuild_qtensor":
        return type(args[5]) is bool
    if type(args[4]) is not bool:
        raise PickleError("it makes a tensor that requires a gradient neither truly nor falsely")
    at = 7 if function == "_rebuild_tensor_v3" else 6
    if len(args) > at and kind_of(args[at]) not in ("dict", "mapping", "") and args[at]:
        raise PickleError("what it says of a tensor's conjugation and negation is no dict")
    if function == "_rebuild_tensor_v3":
        return type(args[6]) is Global and canonical(args[6].name) is not None
    return True


def _parameter(args: tuple[Any, ...]) -> bool:
    if len(args) not in (3, 4):
        raise PickleError(f"a parameter is made of {len(args)} arguments")
    return kind_of(args[0]) in ("object", "") and type(args[1]) is bool


_CHECKS: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    **{
        f"torch._utils.{name}": _rebuild(name)
        for name in (
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_qtensor",
        )
    },
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _no_more_than(1, "dict", "mapping"),
    "collections.Counter": _no_more_than(1, "dict", "mapping"),
    "collections.defaultdict": _default_dict,
    "collections.deque": _deque,
    "decimal.Decimal": _decimal,
    "fractions.Fraction": _fraction,
    "copyreg._reconstructor": _reconstructor,
    "copy_reg._reconstructor": _reconstructor,
    "torch._utils._rebuild_wrapper_subclass": lambda args: len(args) == 8,
    "logging.getLogger": _no_more_than(1, "text"),
    "re._compile": _pattern,
    "types.SimpleNamespace": _no_more_than(0),
    "argparse.Namespace": _no_more_than(0),
    "random.Random": _no_more_than(0),
    **{
        f"{module}.{name}": check
        for module in ("builtins", "__builtin__")
        for name, check in {
            "bytearray": _bytearray,
            "bytes": _no_more_than(1, "bytes", "list"),
            "complex": _numbers,
            "range": _range,
            "xrange": _range,
            "slice": lambda args: 1 <= len(args) <= 3,
            **dict.fromkeys(("set", "frozenset"), _set),
            **dict.fromkeys(
                ("list", "tuple"),
                _no_more_than(1, "list", "tuple", "set", "frozenset", "text", "dict"),
            ),
            "dict": _no_more_than(1, "dict", "mapping"),
            "object": _no_more_than(0),
            **dict.fromkeys(("int", "long", "float", "bool"), _numbers),
            "str": _no_more_than(1, "text"),
            "unicode": _no_more_than(1, "text"),
        }.items()
    },
}


def _datetime(name: str, args: tuple[Any, ...]) -> bool:
    if name == "timedelta":
        return len(args) <= 3 and all(type(n) is int for n in args)
    if name == "timezone":
        return len(args) == 1 and kind_of(args[0]) == "object"
    is_bytes = bool(args) and kind_of(args[0]) in ("bytes", "atom") and type(args[0]) is not int
    return is_bytes and len(args) <= 2


def _reconstruct(args: tuple[Any, ...]) -> bool:
    return len(args) == 3 and type(args[0]) is Global and kind_of(args[1]) == "tuple"


def _numpy_dtype(args: tuple[Any, ...]) -> bool:
    is_named = bool(args) and type(args[0]) is str and _NUMPY_DTYPE.match(args[0]) is not None
    return is_named and len(args) <= 3 and all(type(flag) in (bool, int) for flag in args[1:])


def _numpy_scalar(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and kind_of(args[0]) in ("object", "")


_NUMPY: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "_reconstruct": _reconstruct,
    "dtype": _numpy_dtype,
    "scalar": _numpy_scalar,
    "_frombuffer": lambda args: len(args) == 4,
    **dict.fromkeys(
        ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
        lambda args: len(args) <= 2,
    ),
}
