"""The symbols that stand for a pickle's values, and what kind of value each is."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "OTHER",
    "UNHASHABLE",
    "Call",
    "Global",
    "Held",
    "Other",
    "Persistent",
    "kind_of",
    "other",
]


class Global(NamedTuple):
    """A name the pickle looks up; `name` may have dots (protocol 4)."""

    module: str
    name: str


class Call:
    """A call or an object the pickle asks for: what, with which arguments and state."""

    __slots__ = ("args", "func", "kind", "state")

    def __init__(self, func: Any, args: Any, kind: str = "object") -> None:
        self.func = func
        self.args = args
        self.kind = kind
        self.state: Any = None


class Persistent(NamedTuple):
    """A persistent id: in torch.save's pickles, a storage."""

    pid: Any


class Other:
    """A value that does not matter here but for its kind, which may be unknown."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Held:
    """A list, dict, set or made object where values are not kept: only the names it holds.

    `index` is where the pickle remembers it, -1 if nowhere. Only one that holds names is really
    remembered: the others are many, and all alike but for their kind. `has_keys_only` is whether
    all items of a list can be keys.
    """

    __slots__ = ("has_keys_only", "index", "kind", "names")

    def __init__(self, kind: str, names: frozenset[Global] | set[Global] = frozenset()) -> None:
        self.kind = kind
        self.names = names
        self.index = -1
        self.has_keys_only = True


#: Kinds of values that can be no key.
UNHASHABLE = frozenset({"list", "dict", "set", "bytearray", "mapping"})

_OTHERS: dict[str, Other] = {}


def other(kind: str) -> Other:
    """The one stand-in for values of a kind."""
    return _OTHERS.setdefault(kind, Other(kind))


#: A value of which nothing is known.
OTHER = other("")

_KINDS = {
    str: "text",
    int: "atom",
    float: "atom",
    bool: "atom",
    type(None): "atom",
    tuple: "tuple",
    list: "list",
    dict: "dict",
    Global: "name",
    Persistent: "storage",
}


def kind_of(value: Any) -> str:
    """The kind of a symbol's value.

    Returns:
        `text`, `bytes`, `bytearray`, `atom` (a number, True, None: what can be a key and holds
        nothing), `tuple`, `list`, `dict`, `set`, `frozenset`, `mapping` (what is filled as a dict
        is), `object`, `storage`, `name`; empty if it is not known.
    """
    found = _KINDS.get(type(value))
    return str(value.kind) if found is None else found
