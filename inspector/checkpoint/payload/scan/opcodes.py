"""What each opcode of a pickle does to the machine: `OPCODES`, by the name that `pickletools` has.

An opcode is given the machine and its argument as `genops` reads it; `OTHER` if the feed passed
over that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from inspector.checkpoint.payload.scan.feed import PickleError
from inspector.checkpoint.payload.scan.machine import MARK, Machine
from inspector.checkpoint.payload.scan.values import (
    OTHER,
    UNHASHABLE,
    Call,
    Global,
    Held,
    Persistent,
    kind_of,
    other,
)

__all__ = ["OPCODES"]

_Opcode = Callable[[Machine, Any], object]


_TEXT, _LONG, _BYTES, _BYTEARRAY = map(other, ("text", "atom", "bytes", "bytearray"))
_PROTOCOLS = range(6)
_MAX_INDEX = 1 << 20
# As PyOS_string_to_double and PyLong_FromString read it in base 0: eight is no digit after a zero.
_FLOAT = re.compile(rb"[+-]?(((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)|inf(inity)?|nan)\Z", re.IGNORECASE)
_INT = re.compile(rb"([+-]?(0|[1-9]\d*)|0[01])L?\Z")


def _push(m: Machine, argument: Any) -> None:
    m.stack.append(argument)


def _push_text(m: Machine, argument: Any) -> None:
    m.stack.append(argument if type(argument) is str else _TEXT)


def _push_string(m: Machine, argument: Any) -> None:
    # A text of Python 2, which torch reads as UTF-8; `genops` as Latin 1.
    if type(argument) is str:
        argument = argument.encode("latin-1").decode()
    m.stack.append(argument if type(argument) is str else _TEXT)


def _push_int(m: Machine, argument: Any) -> None:
    # An integer of more than 16 bytes is no size and no offset.
    is_long = type(argument) is int and argument.bit_length() > 127
    m.stack.append(_LONG if is_long else argument)


def _push_int_line(m: Machine, argument: Any) -> None:
    line = m.feed.lines[1]
    if line is None or not _INT.match(line):
        raise PickleError("a number in it is written as no pickler writes one")
    _push_int(m, argument)


def _push_float_line(m: Machine, argument: Any) -> None:
    line = m.feed.lines[1]
    if (
        line is None
        or not _FLOAT.match(line)
        or (math.isinf(argument) and b"n" not in line.lower())
    ):
        raise PickleError("a number in it is written as no pickler writes one, or is too large")
    m.stack.append(argument)


def _push_line(m: Machine, _: Any) -> None:
    # raw-unicode-escape: a name could be written with escapes, so these are resolved.
    line = m.feed.lines[1]
    m.stack.append(_TEXT if line is None else line.decode("raw-unicode-escape"))


def _protocol(m: Machine, argument: Any) -> None:
    if argument not in _PROTOCOLS and not m.weights_only:
        raise PickleError(f"it is of protocol {argument}, which no Python reads")


def _constant(value: Any) -> _Opcode:
    return lambda m, _: m.stack.append(value)


def _empty(make: Callable[[], Any], kind: str) -> _Opcode:
    return lambda m, _: m.stack.append(make() if m.keep else Held(kind))


def _nothing(_machine: Machine, _argument: Any) -> None:
    pass


def _tuple(count: int) -> _Opcode:
    def push(m: Machine, _: Any) -> None:
        items = m.stack[-count:]
        if len(items) < count or any(i is MARK for i in items):
            raise PickleError("the pickle's marks do not match")
        m.stack[-count:] = [_as_tuple(m, items)]

    return push


_KEYS = (str, int, float, bool, type(None))
_NAMED = (Global, Held, tuple)
_MAX_SIZE = 8


def _as_tuple(m: Machine, items: list[Any]) -> Any:
    if m.keep:
        return tuple(items)
    # Where values are not kept, what a call is given matters all the same: names, a literal.
    if len(items) <= _MAX_SIZE:
        return tuple([_flat(m, item) if type(item) is tuple else item for item in items])
    if any(type(item) in _NAMED for item in items):
        held = Held("tuple")
        m.hold(held, items)
        return held
    return other("tuple")


def _flat(m: Machine, inner: tuple[Any, ...]) -> Any:
    """A tuple as an item of one: as it is if it holds literals, else the names in it.

    So no tuple is deeper than two, and looking through one costs nothing.
    """
    if any(type(item) in _NAMED for item in inner):
        return Held("tuple", m.names_in(inner))
    return inner


def _tuple_mark(m: Machine, _: Any) -> None:
    m.stack.append(_as_tuple(m, m.pop_to_mark()))


def _list_mark(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.stack.append(items if m.keep else Held("list"))
    m.hold(m.stack[-1], items)
    _note_items(m.stack[-1], items)


def _note_items(target: Any, items: list[Any]) -> None:
    """Note in a list whose items are not kept that not all of them can be keys."""
    if type(target) is Held and any(type(i) is not str and kind_of(i) in UNHASHABLE for i in items):
        target.has_keys_only = False


def _frozen_set(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    for item in items:
        m.hashable(item)
    m.stack.append(Held("frozenset"))
    m.hold(m.stack[-1], items)


_FILLED = frozenset({"dict", "mapping", "object"})
_DICTS = frozenset({"dict", "mapping"})
_EXTENDED = frozenset({"list", "object"})
_LISTS = frozenset({"list"})
_ADDED_TO = frozenset({"set", "object"})


def _set_items(m: Machine, items: list[Any]) -> None:
    m.fill()
    target = m.top()
    if len(items) % 2:
        raise PickleError("it sets a key without a value")
    if items or m.weights_only:
        m.expect(target, _DICTS if m.weights_only else _FILLED, "sets items of what is no dict")
    for key in items[::2]:
        m.hashable(key)
    m.hold(target, items)
    if m.keep and type(target) is dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A key that is no constant is not left out in silence: the dict holds something else.
            target[key if type(key) in _KEYS else OTHER] = value


def _dict_mark(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.stack.append({} if m.keep else Held("dict"))
    _set_items(m, items)


def _set_item(m: Machine, _: Any) -> None:
    value, key = m.pop(), m.pop()
    _set_items(m, [key, value])


def _extend(m: Machine, items: list[Any]) -> None:
    m.fill()
    target = m.top()
    if items or m.weights_only:
        m.expect(target, _LISTS if m.weights_only else _EXTENDED, "adds to what is no list")
    m.hold(target, items)
    _note_items(target, items)
    if m.keep and type(target) is list:
        target.extend(items)


def _add_items(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.fill()
    for item in items:
        m.hashable(item)
    if items:
        m.expect(m.top(), _ADDED_TO, "adds to what is no set")
    m.hold(m.top(), items)


# MEMOIZE counts what PUT put; no pickler writes both, and where both stand, which value a later GET
# means depends on an order of events that is not followed here.
_BOTH = "two ways of remembering values, as no pickler writes"


def _put(m: Machine, index: Any) -> None:
    m.puts = True
    # CPython makes room for all numbers up to this one; torch's reader for tensors has a dict.
    if index > max(m.feed.tell(), _MAX_INDEX) and not m.weights_only:
        raise PickleError("it remembers a value under a number that no pickler comes to")
    if m.num_memoized:
        m.tricks.add(_BOTH)
    m.put(index, m.top())


def _memoize(m: Machine, _: Any) -> None:
    if m.puts:
        m.tricks.add(_BOTH)
    m.put(m.num_memoized, m.top())
    m.num_memoized += 1


def _name_lines(m: Machine) -> None:
    # As they stand there: `genops` would resolve escapes, which no unpickler does.
    module, name = m.feed.lines
    text = ("utf-8", "surrogateescape")
    m.name(module and module.decode(*text), name and name.decode(*text))


def _stack_global(m: Machine, _: Any) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _reduce(m: Machine, _: Any) -> None:
    args, func = m.pop(), m.pop()
    m.call(func, args)


def _inst(m: Machine, _: Any) -> None:
    items = tuple(m.pop_to_mark())
    _name_lines(m)
    m.call(m.pop(), items)


def _obj(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.call(items[0], tuple(items[1:]))  # IndexError for none, which ends the scan.


def _new_obj(m: Machine, _: Any) -> None:
    args, kind = m.pop(), m.pop()
    m.make(kind, args)


def _new_obj_ex(m: Machine, _: Any) -> None:
    if kind_of(m.pop()) not in ("dict", ""):
        raise PickleError("it makes an object with keywords that are no dict")
    _new_obj(m, None)


def _build(m: Machine, _: Any) -> None:
    state = m.pop()
    m.fill()
    m.build(m.top(), state)
    m.hold(m.top(), [state])
    if m.keep and type(m.top()) is Call:
        m.top().state = state


def _extension(m: Machine, _: Any) -> None:
    m.tricks.add("an extension code of copyreg")
    m.stack.append(OTHER)


def _buffer(_machine: Machine, _argument: Any) -> None:
    raise PickleError("it needs a buffer from outside the file")


def _by_text(_machine: Machine, _argument: Any) -> None:
    raise PickleError("it names a storage by a text")


def _by_id(m: Machine, _: Any) -> None:
    pid = m.pop()
    m.storage(pid)
    m.stack.append(Persistent(pid))


def _each(names: str, opcode: _Opcode) -> dict[str, _Opcode]:
    return dict.fromkeys(names.split(), opcode)


#: What each opcode does.
OPCODES: dict[str, _Opcode] = {
    **_each("FRAME STOP", _nothing),
    "PROTO": _protocol,
    **_each("BININT BININT1 BININT2 LONG1 LONG4", _push_int),
    **_each("INT LONG", _push_int_line),
    "FLOAT": _push_float_line,
    "BINFLOAT": _push,
    **_each("STRING BINSTRING SHORT_BINSTRING", _push_string),
    **_each("BINUNICODE SHORT_BINUNICODE BINUNICODE8", _push_text),
    **_each("BINBYTES SHORT_BINBYTES BINBYTES8", _constant(_BYTES)),
    "BYTEARRAY8": _constant(_BYTEARRAY),
    **_each("EXT1 EXT2 EXT4", _extension),
    **_each("NEXT_BUFFER READONLY_BUFFER", _buffer),
    "FROZENSET": _frozen_set,
    "ADDITEMS": _add_items,
    "APPENDS": lambda m, _: _extend(m, m.pop_to_mark()),
    **_each("PUT BINPUT LONG_BINPUT", _put),
    **_each("GET BINGET LONG_BINGET", lambda m, index: m.get(index)),
    "UNICODE": _push_line,
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": _constant(MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.stack.append(m.top()),
    "EMPTY_LIST": _empty(list, "list"),
    "EMPTY_DICT": _empty(dict, "dict"),
    "EMPTY_SET": lambda m, _: m.stack.append(Held("set")),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _tuple_mark,
    "LIST": _list_mark,
    "DICT": _dict_mark,
    "APPEND": lambda m, _: _extend(m, [m.pop()]),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: _set_items(m, m.pop_to_mark()),
    "MEMOIZE": _memoize,
    "GLOBAL": lambda m, _: _name_lines(m),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "INST": _inst,
    "OBJ": _obj,
    "NEWOBJ": _new_obj,
    "NEWOBJ_EX": _new_obj_ex,
    "BUILD": _build,
    "PERSID": _by_text,
    "BINPERSID": _by_id,
}
