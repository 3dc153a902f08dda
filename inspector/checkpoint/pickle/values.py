"""A value of the pickle, checked, or described without trusting it.

What reaches these functions came out of the gate: stand-ins and plain values, of any type, sign
and size. Standard library only: this runs in the child process, beside the pickle.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from inspector.checkpoint.pickle.stand_ins import DType, Meta, Opaque, Properties, TensorMeta

__all__ = [
    "ABSURD",
    "PLAIN_KEYS",
    "BadEntry",
    "LaterKind",
    "are_boxes",
    "check_int",
    "check_ints",
    "describe",
    "is_of_later_torch",
    "is_path",
    "name_of",
    "provenance_of",
    "transforms_of",
]

#: Numbers from here on are absurd: no tensor, file or count reaches 4 EiB.
ABSURD = 1 << 62
_MAX_DIMS = 64
_INT = {int}
_PATH_PARTS = {str, int}

#: What may be a key besides text; torch's own state dicts may have numbers for names.
PLAIN_KEYS = frozenset({int, float, bool, bytes, type(None)})


class BadEntry(ValueError):
    """One entry cannot become a value; the message says why."""


class LaterKind(BadEntry):
    """One entry is made of classes that torch keeps for metadata, and that none known here has."""


def is_of_later_torch(value: Any) -> bool:
    """Whether a value is of a class of torch's own modules that is none of those known here."""
    name = getattr(type(value), "name", None) if isinstance(value, Opaque) else None
    return type(name) is str and name.startswith("torch.")


def is_path(parts: tuple[Any, ...]) -> bool:
    """Whether it may be a path into a nested state dict: names and numbers."""
    return {*map(type, parts)} <= _PATH_PARTS


def check_ints(values: Any, what: str) -> tuple[int, ...]:
    """A list of plain numbers, none negative or absurd, and not too many; raises `BadEntry`."""
    if type(values) not in (tuple, list):
        raise BadEntry(f"{what} is not a list of integers")
    if len(values) > _MAX_DIMS:
        raise BadEntry(f"{what} has {len(values)} dims")
    if not {*map(type, values)} <= _INT or (
        values and not 0 <= min(values) <= max(values) < ABSURD
    ):
        for value in values:
            check_int(value, what)
    return tuple(values)


def check_int(value: Any, what: str) -> int:
    """A plain number, neither negative nor absurd; raises `BadEntry`."""
    if type(value) is not int:
        raise BadEntry(f"{what} holds a {type(value).__name__}, not an integer")
    if value < 0:
        raise BadEntry(f"{what} holds a negative number ({_short_int(value)})")
    if value >= ABSURD:
        raise BadEntry(f"{what} holds an absurdly large number ({_short_int(value)})")
    return value


def _short_int(value: int) -> str:
    return str(value) if value.bit_length() < 128 else f"an integer of {value.bit_length()} bits"


def name_of(key: Any) -> str:
    """An fqn as text. torch allows any key; what is no string is shown as Python writes it."""
    if type(key) is str:
        return key
    if type(key) is int:
        return _short_int(key)
    if type(key) in PLAIN_KEYS:
        return repr(key)[:200]
    return f"<{type(key).__name__}>"


def are_boxes(boxes: list[Any], ndim: int) -> bool:
    """True if every box is a tuple of `ndim` plain integers within bounds."""
    if not boxes:
        return True
    if set(map(type, boxes)) != {tuple} or set(map(len, boxes)) != {ndim}:
        return False
    if ndim == 0:
        return True
    flat = list(chain.from_iterable(boxes))
    return set(map(type, flat)) == {int} and min(flat) >= 0 and max(flat) < ABSURD


def transforms_of(descriptors: Any) -> tuple[str, ...]:
    """The names of a payload's stream transforms; raises `BadEntry`."""
    if type(descriptors) in (list, tuple) and all(type(d) is str for d in descriptors):
        return tuple(d[:100] for d in descriptors)
    raise BadEntry


def describe(value: Any) -> str:
    """What a value is, without trusting it to print itself."""
    if value is None:
        return "nothing"
    if type(value) is dict:
        keys = [k[:30] for k in value if type(k) is str][:3]
        return f"a dict of {len(value)} keys" + (f" ({', '.join(keys)} ...)" if keys else "")
    if type(value) is DType:
        return f"torch.{value[:40]}"
    if type(value) is str:
        return f"the text {value[:40]!r}"
    if type(value) in (int, float, bool):
        return "a number" if type(value) is int and value.bit_length() > 64 else repr(value)
    name = getattr(type(value), "name", None) or type(value).__name__
    return f"a {name}"


def _text(value: Any) -> str | None:
    return value[:4096] if type(value) is str else None


def provenance_of(root: Meta, names: dict[str, str]) -> dict[str, Any]:
    """What tells which torch, or whose fork of it, wrote this."""
    storage_meta = root.get("storage_meta")
    entries = root.get("state_dict_metadata")
    first = next((e for e in entries.values() if isinstance(e, TensorMeta)), None)
    values = first.get("properties") if first is not None else None
    values = values.get("values") if isinstance(values, Properties) else None
    plans = root.rest.get("all_local_plans")
    extra = sorted(k[:60] for k in root.rest if type(k) is str)
    is_save_meta = storage_meta is not None and hasattr(storage_meta, "get")
    return {
        "modules": {str(name): module[:200] for name, module in names.items()},
        "fields": [key[:60] for key in getattr(root, "keys", ())][:50],
        "extra": extra[:50],
        "version": _text(root.get("version")),
        "num_plans": len(plans) if type(plans) is list and plans else None,
        "num_properties": len(values) if type(values) is tuple else None,
        "has_storage_meta": is_save_meta,
        "has_modules": is_save_meta and storage_meta.get("modules") is not None,
    }
