"""What the names in a pickle become: inert stand-ins, and a few pure functions.

A stand-in holds what it was given and does nothing. Which name becomes which is `gate.py`'s
to say. Standard library only: this runs in the child process, beside the pickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

__all__ = [
    "BytesMeta",
    "Chunk",
    "DType",
    "EnumClass",
    "EnumMember",
    "Index",
    "Layout",
    "Meta",
    "NumpyDType",
    "Opaque",
    "Plan",
    "Properties",
    "SaveMeta",
    "StandIn",
    "Stored",
    "TensorMeta",
    "as_bytes",
    "as_default_mapping",
    "as_device",
    "as_layout",
    "as_mapping",
    "as_path",
    "as_scalar",
    "as_size",
    "collection_of",
]


class DType(str):
    """A torch dtype's name (`bfloat16`)."""

    __slots__ = ()


class Layout(str):
    """A torch layout's name (`torch.strided`)."""

    __slots__ = ()


class StandIn:
    """Stand-in of a class that torch is known to write: attributes, no behaviour.

    Subclasses name the attributes they expect (their slots); others are kept in `extra`.
    """

    __slots__ = ("extra",)
    fields: tuple[str, ...] = ()
    #: How many arguments torch's class takes, at least and at most.
    takes: tuple[int, int] = (0, 99)
    extra: dict[Any, Any]
    # torch's are dataclasses that are not frozen: one that is a key is an error there, too.
    __hash__ = None  # type: ignore[assignment]

    # No `__new__` of its own: a pickle makes millions of these, without calling `__init__`.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Called if the pickle calls the class, as torch's own never do; arguments are kept.

        Raises:
            TypeError: As torch's class would.
        """
        least, most = self.takes
        if not least <= len(args) + len(kwargs) <= most:
            raise TypeError(f"{type(self).__name__} is called with {len(args)} arguments")
        if args or kwargs:
            self.extra = {"__args__": args, **kwargs}

    def __setstate__(self, state: Any) -> None:
        """What `pickle` does for a class without one: torch's records have none but `Properties`.

        Raises:
            UnpicklingError: As there: a state that is no dict, nor two of them.
        """
        parts = state if type(state) is tuple and len(state) == 2 else (state,)
        for part in parts:
            if part is None:
                continue
            if type(part) is not dict:
                raise pickle.UnpicklingError("state is not a dictionary")
            self._take(part)

    def _take(self, state: dict[Any, Any]) -> None:
        extra = {}
        for key, value in state.items():
            if type(key) is str and key in self.fields:
                setattr(self, key, value)
            else:
                extra[key] = value
        if extra:
            self.extra = {**self.rest, **extra}

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, or `default` if the pickle did not set it."""
        return getattr(self, name, default)

    @property
    def rest(self) -> dict[Any, Any]:
        """What the pickle gave this record beyond its fields."""
        rest = getattr(self, "extra", None)
        return rest if type(rest) is dict else {}


class Chunk(StandIn):
    """`ChunkStorageMetadata`."""

    __slots__ = fields = ("offsets", "sizes")
    takes = (2, 2)

    def __setstate__(self, state: Any) -> None:
        # There are millions of these, so the common case goes straight; and the unpickler's
        # memo keeps every state dict to the end, so each is emptied once it is read.
        try:
            self.offsets = state["offsets"]
            self.sizes = state["sizes"]
            state.clear()
        except (KeyError, TypeError, IndexError):
            super().__setstate__(state)


class Index(StandIn):
    """`MetadataIndex`. Compared by identity, so that no hash of the pickle's making is computed."""

    __slots__ = fields = ("fqn", "index", "offset")
    takes = (1, 3)
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        try:
            self.fqn = state["fqn"]
            self.offset = state.get("offset")
            self.index = state.get("index")
            state.clear()
        except (KeyError, TypeError, AttributeError):
            super().__setstate__(state)


class Stored(StandIn):
    """`_StorageInfo`."""

    __slots__ = fields = ("length", "offset", "relative_path", "transform_descriptors")
    takes = (3, 4)

    def __setstate__(self, state: Any) -> None:
        try:
            self.relative_path = state["relative_path"]
            self.offset = state["offset"]
            self.length = state["length"]
            if len(state) > 3:
                self.transform_descriptors = state.get("transform_descriptors")
            state.clear()
        except (KeyError, TypeError, AttributeError):
            super().__setstate__(state)


class Meta(StandIn):
    """`Metadata` (and Megatron's `MCoreMetadata`). `state_keys` are the pickled fields in order."""

    __slots__ = (
        "keys",
        "planner_data",
        "state_dict_metadata",
        "storage_data",
        "storage_meta",
        "version",
    )
    takes = (1, 99)  # Megatron's has more.
    fields = ("planner_data", "state_dict_metadata", "storage_data", "storage_meta", "version")
    keys: tuple[str, ...]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.keys = tuple(map(str, state)) if type(state) is dict else ()


class TensorMeta(StandIn):
    """`TensorStorageMetadata`."""

    __slots__ = fields = ("chunks", "properties", "size")
    takes = (3, 3)

    def __setstate__(self, state: Any) -> None:
        try:
            self.properties = state["properties"]
            self.size = state["size"]
            self.chunks = state["chunks"]
            if len(state) > 3:
                super().__setstate__(state)
        except (KeyError, TypeError, IndexError):
            super().__setstate__(state)


class BytesMeta(StandIn):
    """`BytesStorageMetadata`."""

    __slots__ = ()
    takes = (0, 0)


class SaveMeta(StandIn):
    """`StorageMeta`."""

    __slots__ = fields = ("checkpoint_id", "load_id", "modules", "save_id")


class Properties(StandIn):
    """`TensorProperties`, whose state is a tuple of 5 (6 from torch 2.15 on)."""

    __slots__ = ("values",)

    def __setstate__(self, state: Any) -> None:
        self.values = state


class Plan(StandIn):
    """Planner classes (`SavePlan`, `WriteItem` ...) that Megatron-Core caches in the metadata."""

    __slots__ = ()


class EnumMember(NamedTuple):
    """A member of a known enum, by value or by name."""

    enum: str
    value: object


class EnumClass:
    """Stand-in of a known enum class: called with a value, gives the member."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, value: Any = None) -> EnumMember:
        return EnumMember(self.name, value)


class Opaque:
    """Stand-in of a class that is not known: holds its arguments, does nothing."""

    name = "?"

    def __new__(cls, *args: Any, **kwargs: Any) -> Opaque:
        """Keep the arguments; call nothing."""
        self = object.__new__(cls)
        self.args = args
        self.state = None
        return self

    args: tuple[Any, ...]
    state: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    # A pickle may fill any object as if it were a list, a set or a dict.
    def append(self, item: Any) -> None:
        """Drop an item."""

    def extend(self, items: Any) -> None:
        """Drop items."""

    def add(self, item: Any) -> None:
        """Drop an item."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class NumpyDType:
    """`numpy.dtype`: its code (`i8`) and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any = "?", *_: Any) -> None:
        self.code = code if type(code) is str else "?"
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, ...), as numpy.dtype.__reduce__ gives it; "|" and "=" do not occur
        # in a number of more than one byte.
        if type(state) is tuple and len(state) > 1 and type(state[1]) is str:
            self.order = state[1]


def as_scalar(dtype: Any = None, data: Any = b"", *_: Any) -> Any:
    """`numpy.core.multiarray.scalar`: an integer as Python's, anything else opaque.

    A job that works its offsets out with numpy has numpy's integers in `torch.Size`, and torch
    pickles them as they are. It takes no numpy bool there.
    """
    code = dtype.code if type(dtype) is NumpyDType else "?"
    if type(data) is str:  # protocol 2 and below
        data = data.encode("latin1", "replace")
    if code[:1] in ("i", "u") and type(data) is bytes and code[1:] == str(len(data)):
        order: Any = "big" if dtype.order == ">" else "little"
        return int.from_bytes(data, order, signed=code[0] == "i")
    return Opaque(dtype, data)


def as_size(items: Any = (), *_: Any) -> tuple[Any, ...]:
    """`torch.Size(items)`, which makes integers of bools, as torch does."""
    size = tuple(items)
    types = {*map(type, size)}
    return tuple(map(int, size)) if bool in types and types <= {int, bool} else size


def as_path(*parts: Any) -> str:
    """A path's parts as one string.

    Raises:
        TypeError: A part is no text, as `pathlib` raises.
    """
    if any(type(part) is not str for part in parts):
        raise TypeError("a part of a path is no text")
    return "/".join(parts).replace("//", "/")


def as_device(*args: Any) -> str:
    """`torch.device(...)` as its name (`cuda:0`)."""
    return ":".join(str(a) for a in args if type(a) in (str, int))


def as_layout(name: Any = "torch.strided") -> Layout:
    """What torch makes of a layout's name, `?` of anything else."""
    return Layout(name if type(name) is str else "?")


def as_bytes(text: Any = b"", encoding: Any = "latin1") -> bytes:
    """`_codecs.encode` and `bytes`, as protocols 0 to 2 write a bytes object."""
    if type(text) is bytes:
        return text
    if type(text) is str:
        return text.encode("latin1", "replace")
    raise pickle.UnpicklingError("a bytes object that is not made of text")


def as_mapping(*args: Any) -> dict[Any, Any]:
    """`dict(items)` and `OrderedDict(items)`; empty for anything but plain items."""
    items = args[0] if args and type(args[0]) in (list, tuple, dict) else ()
    return dict(items)


def as_default_mapping(*_args: Any) -> dict[Any, Any]:
    """An empty dict: the factory of a `defaultdict` is dropped."""
    return {}


def collection_of(kind: Callable[[Iterable[Any]], Any]) -> Callable[..., Any]:
    """Makes collections of a builtin kind, of plain items alone."""

    def make(*args: Any) -> Any:
        items = args[0] if args and type(args[0]) in (list, tuple, set, frozenset) else ()
        return kind(items)

    return make
