"""The opcodes of pickle, each as a function on a `Machine`: `TABLE`, by the opcode's byte.

Opcodes: CPython's Lib/pickletools.py, protocols 0 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from inspector.checkpoint.payload.scan.machine import (
    MARK,
    OTHER,
    Call,
    Global,
    Held,
    Machine,
    Persistent,
    PickleError,
)

__all__ = ["TABLE"]

_U16, _U32, _I32, _U64 = (struct.Struct(f) for f in ("<H", "<I", "<i", "<Q"))
_F64 = struct.Struct(">d")


def _stop(m: Machine) -> bool:
    m.root = m.pop()
    return True


def _mark(m: Machine) -> None:
    m.stack.append(MARK)


def _discard(m: Machine) -> None:
    m.stack.pop()


def _dup(m: Machine) -> None:
    m.stack.append(m.top())


def _constant(value: Any) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        m.stack.append(value)

    return push


def _binary_int(layout: struct.Struct) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        m.stack.append(m.number(layout))

    return push


def _byte_int(m: Machine) -> None:
    m.stack.append(m.data[m.at])
    m.at += 1


def _long(num_bytes: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        count = num_bytes(m)
        if count < 0:
            raise PickleError("the pickle is damaged (a negative length)")
        if count > 16:
            m.skip(count)
            m.stack.append(OTHER)
        else:
            m.stack.append(int.from_bytes(m.take(count), "little", signed=True))

    return push


def _text_int(m: Machine) -> None:
    text = m.line().rstrip("L")
    if text in ("00", "01"):
        m.stack.append(text == "01")
    else:
        m.stack.append(int(text) if len(text) <= 40 else OTHER)


def _text_float(m: Machine) -> None:
    text = m.line()
    m.stack.append(float(text) if len(text) <= 40 else OTHER)


def _text_unicode(m: Machine) -> None:
    # raw-unicode-escape: a name could be written with escapes, so these are resolved.
    raw = m.line().encode("utf-8", "surrogateescape")
    m.stack.append(raw.decode("raw-unicode-escape", "replace"))


def _text_string(m: Machine) -> None:
    text = m.line()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "\"'" or "\\" in text:
        # Quotes that hold escapes are written by no torch; what they mean is not worked out.
        m.stack.append(OTHER)
    else:
        m.stack.append(text[1:-1])


def _length(layout: struct.Struct) -> Callable[[Machine], int]:
    def read(m: Machine) -> int:
        return m.number(layout)

    return read


def _one_byte(m: Machine) -> int:
    m.at += 1
    return m.data[m.at - 1]


def _unicode(length: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        count = length(m)
        # A name is short; a text that is long is only data.
        if count > 4096 and not m.keep:
            m.skip(count)
            m.stack.append(OTHER)
        else:
            m.stack.append(m.take(count).decode("utf-8", "surrogatepass"))

    return push


def _bytes(length: Callable[[Machine], int], text: bool = False) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        count = length(m)
        if count < 0:
            raise PickleError("the pickle is damaged (a negative length)")
        if text and count <= 4096:
            # Protocol 1's strings are bytes, and serve as names all the same.
            m.stack.append(m.take(count).decode("utf-8", "surrogateescape"))
        else:
            m.skip(count)
            m.stack.append(OTHER)

    return push


def _float(m: Machine) -> None:
    m.stack.append(_F64.unpack_from(m.data, m.at)[0])
    m.at += 8


def _empty(kind: Callable[[], Any]) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        m.stack.append(kind() if m.keep else Held())

    return push


def _tuple(count: int) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
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


def _tuple_mark(m: Machine) -> None:
    m.stack.append(_as_tuple(m, m.pop_to_mark()))


def _list_mark(m: Machine) -> None:
    items = m.pop_to_mark()
    m.stack.append(items if m.keep else Held())
    m.hold(m.stack[-1], items)


def _set_items(m: Machine, items: list[Any]) -> None:
    m.fill()
    target = m.top()
    m.hold(target, items)
    if m.keep and type(target) is dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A key that is no constant is not left out in silence: the dict holds something else.
            target[key if type(key) in _KEYS else OTHER] = value


def _dict_mark(m: Machine) -> None:
    items = m.pop_to_mark()
    m.stack.append({} if m.keep else Held())
    _set_items(m, items)


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    _set_items(m, [key, value])


def _set_items_mark(m: Machine) -> None:
    _set_items(m, m.pop_to_mark())


def _append(m: Machine) -> None:
    item = m.pop()
    m.fill()
    m.hold(m.top(), [item])
    if m.keep and type(m.top()) is list:
        m.top().append(item)


def _appends(m: Machine) -> None:
    items = m.pop_to_mark()
    m.fill()
    m.hold(m.top(), items)
    if m.keep and type(m.top()) is list:
        m.top().extend(items)


def _other_mark(m: Machine) -> None:
    items = m.pop_to_mark()
    m.stack.append(Held())
    m.hold(m.stack[-1], items)


def _put(index: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def put(m: Machine) -> None:
        m.puts = True
        _check_memo(m)
        m.put(index(m), m.top())

    return put


def _memoize(m: Machine) -> None:
    m.memoizes = True
    _check_memo(m)
    m.put(m.num_memoized, m.top())
    m.num_memoized += 1


def _check_memo(m: Machine) -> None:
    # MEMOIZE counts what PUT put; no pickler writes both, and where both stand, which value a
    # later GET means depends on an order of events that is not followed here.
    if m.puts and m.memoizes:
        m.tricks.add("two ways of remembering values, as no pickler writes")


def _get(index: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def get(m: Machine) -> None:
        m.get(index(m))

    return get


def _text_index(m: Machine) -> int:
    text = m.line()
    if len(text) > 20:
        raise PickleError("the pickle is damaged (a memo index)")
    return int(text)


def _global(m: Machine) -> None:
    module = m.line()
    m.name(module, m.line())


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _reduce(m: Machine) -> None:
    args, func = m.pop(), m.pop()
    m.call(func, args)


def _inst(m: Machine) -> None:
    module = m.line()
    name = m.line()
    items = tuple(m.pop_to_mark())
    m.name(module, name)
    m.call(m.pop(), items)


def _obj(m: Machine) -> None:
    items = m.pop_to_mark()
    m.call(items[0], tuple(items[1:]))


def _new_obj(m: Machine) -> None:
    args, kind = m.pop(), m.pop()
    m.make(kind, args)


def _new_obj_ex(m: Machine) -> None:
    m.pop()
    _new_obj(m)


def _build(m: Machine) -> None:
    state = m.pop()
    m.fill()
    m.hold(m.top(), [state])
    if m.keep and type(m.top()) is Call:
        m.top().state = state


def _persistent(m: Machine) -> None:
    m.stack.append(Persistent(m.pop()))


def _text_persistent(m: Machine) -> None:
    m.stack.append(Persistent(m.line()))


def _extension(num_bytes: int) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        m.skip(num_bytes)
        m.tricks.add("an extension code of copyreg")
        m.stack.append(OTHER)

    return push


def _skip(num_bytes: int) -> Callable[[Machine], None]:
    def skip(m: Machine) -> None:
        m.skip(num_bytes)

    return skip


def _buffer(m: Machine) -> None:
    raise PickleError("it needs a buffer from outside the file")


_HANDLERS: dict[bytes, Callable[[Machine], bool | None]] = {
    b"\x80": _skip(1),
    b"\x95": _skip(8),
    b".": _stop,
    b"(": _mark,
    b"0": _discard,
    b"1": lambda m: (m.pop_to_mark(), None)[1],
    b"2": _dup,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"I": _text_int,
    b"L": _text_int,
    b"J": _binary_int(_I32),
    b"K": _byte_int,
    b"M": _binary_int(_U16),
    b"\x8a": _long(_one_byte),
    b"\x8b": _long(_length(_I32)),
    b"F": _text_float,
    b"G": _float,
    b"S": _text_string,
    b"T": _bytes(_length(_I32), text=True),
    b"U": _bytes(_one_byte, text=True),
    b"B": _bytes(_length(_U32)),
    b"C": _bytes(_one_byte),
    b"\x8e": _bytes(_length(_U64)),
    b"\x96": _bytes(_length(_U64)),
    b"V": _text_unicode,
    b"X": _unicode(_length(_U32)),
    b"\x8c": _unicode(_one_byte),
    b"\x8d": _unicode(_length(_U64)),
    b"]": _empty(list),
    b"}": _empty(dict),
    b")": _constant(()),
    b"\x8f": _empty(Held),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"t": _tuple_mark,
    b"l": _list_mark,
    b"d": _dict_mark,
    b"s": _set_item,
    b"u": _set_items_mark,
    b"a": _append,
    b"e": _appends,
    b"\x90": _appends,
    b"\x91": _other_mark,
    b"p": _put(_text_index),
    b"q": _put(_one_byte),
    b"r": _put(_length(_U32)),
    b"\x94": _memoize,
    b"g": _get(_text_index),
    b"h": _get(_one_byte),
    b"j": _get(_length(_U32)),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"i": _inst,
    b"o": _obj,
    b"\x81": _new_obj,
    b"\x92": _new_obj_ex,
    b"b": _build,
    b"Q": _persistent,
    b"P": _text_persistent,
    b"\x82": _extension(1),
    b"\x83": _extension(2),
    b"\x84": _extension(4),
    b"\x97": _buffer,
    b"\x98": _buffer,
}

#: What each opcode does; True ends the pickle, None is no opcode.
TABLE: list[Callable[[Machine], bool | None] | None] = [None] * 256
for _byte, _handler in _HANDLERS.items():
    TABLE[_byte[0]] = _handler
