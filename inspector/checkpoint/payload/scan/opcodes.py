"""What each opcode of a pickle does to the machine: `OPCODES`, by the name that `pickletools` has.

An opcode is given the machine and its argument as `genops` reads it; `OTHER` if the feed passed
over that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspector.checkpoint.payload.scan.feed import PickleError
from inspector.checkpoint.payload.scan.machine import (
    MARK,
    OTHER,
    Call,
    Global,
    Held,
    Machine,
    Persistent,
)

__all__ = ["OPCODES"]

_Opcode = Callable[[Machine, Any], object]


def _push(m: Machine, argument: Any) -> None:
    m.stack.append(argument)


def _push_int(m: Machine, argument: Any) -> None:
    # An integer of more than 16 bytes is no size and no offset.
    is_long = type(argument) is int and argument.bit_length() > 127
    m.stack.append(OTHER if is_long else argument)


def _push_line(m: Machine, _: Any) -> None:
    # raw-unicode-escape: a name could be written with escapes, so these are resolved.
    line = m.feed.lines[1]
    m.stack.append(OTHER if line is None else line.decode("raw-unicode-escape", "replace"))


def _constant(value: Any) -> _Opcode:
    return lambda m, _: m.stack.append(value)


def _empty(kind: Callable[[], Any]) -> _Opcode:
    return lambda m, _: m.stack.append(kind() if m.keep else Held())


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
        held = Held()
        m.hold(held, items)
        return held
    return OTHER


def _flat(m: Machine, inner: tuple[Any, ...]) -> Any:
    """A tuple as an item of one: as it is if it holds literals, else the names in it.

    So no tuple is deeper than two, and looking through one costs nothing.
    """
    if any(type(item) in _NAMED for item in inner):
        return Held(m.names_in(inner))
    return inner


def _tuple_mark(m: Machine, _: Any) -> None:
    m.stack.append(_as_tuple(m, m.pop_to_mark()))


def _list_mark(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.stack.append(items if m.keep else Held())
    m.hold(m.stack[-1], items)


def _other_mark(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.stack.append(Held())
    m.hold(m.stack[-1], items)


def _set_items(m: Machine, items: list[Any]) -> None:
    m.fill()
    target = m.top()
    m.hold(target, items)
    if m.keep and type(target) is dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A key that is no constant is not left out in silence: the dict holds something else.
            target[key if type(key) in _KEYS else OTHER] = value


def _dict_mark(m: Machine, _: Any) -> None:
    items = m.pop_to_mark()
    m.stack.append({} if m.keep else Held())
    _set_items(m, items)


def _set_item(m: Machine, _: Any) -> None:
    value, key = m.pop(), m.pop()
    _set_items(m, [key, value])


def _extend(m: Machine, items: list[Any]) -> None:
    m.fill()
    target = m.top()
    m.hold(target, items)
    if m.keep and type(target) is list:
        target.extend(items)


# MEMOIZE counts what PUT put; no pickler writes both, and where both stand, which value a later GET
# means depends on an order of events that is not followed here.
_BOTH = "two ways of remembering values, as no pickler writes"


def _put(m: Machine, index: Any) -> None:
    m.puts = True
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
    m.call(items[0], tuple(items[1:]))


def _new_obj(m: Machine, _: Any) -> None:
    args, kind = m.pop(), m.pop()
    m.make(kind, args)


def _new_obj_ex(m: Machine, _: Any) -> None:
    m.pop()
    _new_obj(m, None)


def _build(m: Machine, _: Any) -> None:
    state = m.pop()
    m.fill()
    m.hold(m.top(), [state])
    if m.keep and type(m.top()) is Call:
        m.top().state = state


def _extension(m: Machine, _: Any) -> None:
    m.tricks.add("an extension code of copyreg")
    m.stack.append(OTHER)


def _buffer(_machine: Machine, _argument: Any) -> None:
    raise PickleError("it needs a buffer from outside the file")


def _each(names: str, opcode: _Opcode) -> dict[str, _Opcode]:
    return dict.fromkeys(names.split(), opcode)


#: What each opcode does.
OPCODES: dict[str, _Opcode] = {
    **_each("PROTO FRAME STOP", _nothing),
    **_each("INT LONG BININT BININT1 BININT2 LONG1 LONG4", _push_int),
    **_each("FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING", _push),
    **_each("BINUNICODE SHORT_BINUNICODE BINUNICODE8", _push),
    **_each("BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8", _constant(OTHER)),
    **_each("EXT1 EXT2 EXT4", _extension),
    **_each("NEXT_BUFFER READONLY_BUFFER", _buffer),
    **_each("FROZENSET", _other_mark),
    **_each("APPENDS ADDITEMS", lambda m, _: _extend(m, m.pop_to_mark())),
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
    "EMPTY_LIST": _empty(list),
    "EMPTY_DICT": _empty(dict),
    "EMPTY_SET": _empty(Held),
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
    "PERSID": lambda m, pid: m.stack.append(Persistent(pid)),
    "BINPERSID": lambda m, _: m.stack.append(Persistent(m.pop())),
}
