"""What a payload's pickle says, read without unpickling: nothing is called, hashed or imported.

`dcp.load` unpickles tensors with `weights_only=True` and bytes entries with
`weights_only=False`, that is, it runs whatever they name. Here the opcodes are walked by a
machine of our own that only notes names and, for a tensor, the shape of the calls: a REDUCE of a
global becomes a `Call` that holds both. There is no C unpickler under it, so a hostile memo
index, a hash that never ends or a nest of a million tuples costs nothing but its own bytes.

Opcodes: CPython's Lib/pickletools.py (protocols 0 to 5). Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from inspector.checkpoint.unpickle import judge_global

__all__ = ["Call", "Global", "Persistent", "PickleError", "Scan", "scan"]


class PickleError(Exception):
    """The bytes are no pickle, a damaged one, or one that asks for too much."""


class Global(NamedTuple):
    """A name the pickle looks up; `name` may have dots (protocol 4)."""

    module: str
    name: str


class Call:
    """A call or an object the pickle asks for: what, with which arguments and state."""

    __slots__ = ("args", "func", "state")

    def __init__(self, func: Any, args: Any) -> None:
        self.func = func
        self.args = args
        self.state: Any = None


class Persistent(NamedTuple):
    """A persistent id: in torch.save's pickles, a storage."""

    pid: Any


class Scan(NamedTuple):
    """What a pickle names.

    Attributes:
        root: The pickled value as constants, `Global`, `Call` and `Persistent`; None where the
            scan was told not to keep values.
        end: Where the pickle ends in the bytes given.
        unknown: Classes that are not known but are only made, not called: `module.Name`.
        unsafe: Callables outside the allow list, and tricks that no pickler writes.
    """

    root: Any
    end: int
    unknown: tuple[str, ...]
    unsafe: tuple[str, ...]


class _Other:
    """A value that does not matter here."""

    __slots__ = ()


_OTHER = _Other()
_MARK = object()
_MAX_MEMO = 1 << 19
_MAX_STACK = 1 << 21
_MAX_NAME = 500

_U16, _U32, _I32, _U64 = (struct.Struct(f) for f in ("<H", "<I", "<i", "<Q"))
_F64 = struct.Struct(">d")


def scan(
    data: bytes, start: int = 0, *, keep: bool = False, stop: Callable[[], bool] | None = None
) -> Scan:
    """Walk the opcodes of one pickle.

    Args:
        data: The pickle, and perhaps more after it.
        start: Where it begins.
        keep: Build its values (for a tensor's small pickle); otherwise only strings that may
            become names are kept.
        stop: Asked now and then; True gives up with `PickleError`.

    Raises:
        PickleError: It does not parse to its end.
    """
    machine = _Machine(data, start, keep)
    try:
        root = machine.run(stop)
    except (IndexError, struct.error) as error:
        raise PickleError("the pickle ends too early, or its opcodes do not fit") from error
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise PickleError(f"the pickle is damaged ({type(error).__name__})") from error
    unknown, unsafe = machine.judgement()
    return Scan(root if keep else None, machine.at, unknown, unsafe)


class _Machine:
    """A pickle machine over symbols. One method for each opcode, by its byte."""

    def __init__(self, data: bytes, start: int, keep: bool) -> None:
        self.data = data
        self.at = start
        self.keep = keep
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.num_memoized = 0
        self.puts = False
        self.memoizes = False
        self.named: set[Global] = set()
        self.called: set[Global] = set()
        self.tricks: set[str] = set()
        self.root: Any = None

    def run(self, stop: Callable[[], bool] | None) -> Any:
        data, table, stack, count = self.data, _TABLE, self.stack, 0
        while True:
            opcode = data[self.at]
            self.at += 1
            handler = table[opcode]
            if handler is None:
                raise PickleError(f"byte 0x{opcode:02x} is no pickle opcode")
            if handler(self):
                return self.root
            count += 1
            if not count & 0xFFFF and stop is not None and stop():
                raise PickleError("it was not read to its end")
            if len(stack) > _MAX_STACK:
                raise PickleError("it holds more than any checkpoint's pickle should")

    def judgement(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        unknown, unsafe = set(), set(self.tricks)
        for name in self.named - (_GETATTR - self.called):
            judged = judge_global(name.module, name.name, called=name in self.called)
            full = f"{name.module}.{name.name}"[:_MAX_NAME]
            if judged == "unsafe":
                unsafe.add(full)
            elif judged == "unknown":
                unknown.add(full)
        return tuple(sorted(unknown)), tuple(sorted(unsafe))

    # --- reading arguments

    def take(self, num_bytes: int) -> bytes:
        end = self.at + num_bytes
        if end > len(self.data):
            raise PickleError("the pickle ends too early")
        found = self.data[self.at : end]
        self.at = end
        return found

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleError("the pickle ends too early")
        found = self.data[self.at : end].decode("utf-8", "surrogateescape")
        self.at = end + 1
        return found

    def number(self, layout: struct.Struct) -> int:
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return int(value)

    def skip(self, num_bytes: int) -> None:
        if self.at + num_bytes > len(self.data):
            raise PickleError("the pickle ends too early")
        self.at += num_bytes

    # --- stack

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                items = stack[i + 1 :]
                del stack[i:]
                return items
        raise PickleError("the pickle's marks do not match")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("the pickle's marks do not match")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise PickleError("the pickle's marks do not match")
        return value

    def put(self, index: int, value: Any) -> None:
        # Where values are not kept only what may become a name needs remembering.
        if self.keep or type(value) in (str, Global):
            if len(self.memo) >= _MAX_MEMO:
                raise PickleError("it remembers more than any checkpoint's pickle should")
            self.memo[index] = value
        else:
            self.memo.pop(index, None)

    def get(self, index: int) -> None:
        if self.keep and index not in self.memo:
            raise PickleError("the pickle refers to a value that it does not have")
        self.stack.append(self.memo.get(index, _OTHER))

    # --- names and calls

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self.tricks.add("a name that the pickle computes")
            self.stack.append(_OTHER)
            return
        found = Global(module, name)
        self.named.add(found)
        self.stack.append(found)

    def call(self, func: Any, args: Any) -> None:
        """REDUCE, INST and OBJ: the callable is called with the arguments."""
        if type(func) is Global:
            if func in _GETATTR:
                self.getattr(func, args)
                return
            self.named.add(func)
            self.called.add(func)
        else:
            self.tricks.add("a call of something that the pickle computes")
        self.made(func, args)

    def made(self, func: Any, args: Any) -> None:
        self.stack.append(Call(func, args) if self.keep else _OTHER)

    def getattr(self, func: Global, args: Any) -> None:
        # Python 3.11 pickles an enum's member as getattr(Enum, "NAME"), protocols up to 3 a
        # nested class as getattr(Outer, "Inner"). Any other attribute may be anything.
        owner, name = args if type(args) is tuple and len(args) == 2 else (None, None)
        if (
            type(owner) is Global
            and type(name) is str
            and owner.name.rpartition(".")[2].lstrip("_")[:1].isupper()
            and name[:1].isupper()
        ):
            self.stack.append(Global(owner.module, f"{owner.name}.{name}"))
        else:
            self.tricks.add("builtins.getattr")
            self.stack.append(_OTHER)

    def make(self, kind: Any, args: Any) -> None:
        """NEWOBJ: `kind.__new__(kind, *args)`."""
        if type(kind) is Global:
            self.named.add(kind)
        else:
            self.tricks.add("an object of a class that the pickle computes")
        self.made(kind, args)

    def fill(self) -> None:
        if type(self.top()) is Global:
            self.tricks.add("a change to something that the pickle only names")


_GETATTR = frozenset({Global("builtins", "getattr"), Global("__builtin__", "getattr")})


def _stop(m: _Machine) -> bool:
    m.root = m.pop()
    return True


def _mark(m: _Machine) -> None:
    m.stack.append(_MARK)


def _discard(m: _Machine) -> None:
    m.stack.pop()


def _dup(m: _Machine) -> None:
    m.stack.append(m.top())


def _constant(value: Any) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        m.stack.append(value)

    return push


def _binary_int(layout: struct.Struct) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        m.stack.append(m.number(layout))

    return push


def _byte_int(m: _Machine) -> None:
    m.stack.append(m.data[m.at])
    m.at += 1


def _long(num_bytes: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        count = num_bytes(m)
        if count < 0:
            raise PickleError("the pickle is damaged (a negative length)")
        if count > 16:
            m.skip(count)
            m.stack.append(_OTHER)
        else:
            m.stack.append(int.from_bytes(m.take(count), "little", signed=True))

    return push


def _text_int(m: _Machine) -> None:
    text = m.line().rstrip("L")
    if text in ("00", "01"):
        m.stack.append(text == "01")
    else:
        m.stack.append(int(text) if len(text) <= 40 else _OTHER)


def _text_other(m: _Machine) -> None:
    m.line()
    m.stack.append(_OTHER)


def _text_unicode(m: _Machine) -> None:
    # raw-unicode-escape: a name could be written with escapes, so these are resolved.
    raw = m.line().encode("utf-8", "surrogateescape")
    m.stack.append(raw.decode("raw-unicode-escape", "replace"))


def _text_string(m: _Machine) -> None:
    text = m.line()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "\"'" or "\\" in text:
        # Quotes that hold escapes are written by no torch; what they mean is not worked out.
        m.stack.append(_OTHER)
    else:
        m.stack.append(text[1:-1])


def _length(layout: struct.Struct) -> Callable[[_Machine], int]:
    def read(m: _Machine) -> int:
        return m.number(layout)

    return read


def _one_byte(m: _Machine) -> int:
    m.at += 1
    return m.data[m.at - 1]


def _unicode(length: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        count = length(m)
        # A name is short; a text that is long is only data.
        if count > 4096 and not m.keep:
            m.skip(count)
            m.stack.append(_OTHER)
        else:
            m.stack.append(m.take(count).decode("utf-8", "surrogatepass"))

    return push


def _bytes(length: Callable[[_Machine], int], text: bool = False) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        count = length(m)
        if count < 0:
            raise PickleError("the pickle is damaged (a negative length)")
        if text and count <= 4096:
            # Protocol 1's strings are bytes, and serve as names all the same.
            m.stack.append(m.take(count).decode("utf-8", "surrogateescape"))
        else:
            m.skip(count)
            m.stack.append(_OTHER)

    return push


def _float(m: _Machine) -> None:
    m.stack.append(_F64.unpack_from(m.data, m.at)[0])
    m.at += 8


def _empty(kind: Callable[[], Any]) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        m.stack.append(kind() if m.keep else _OTHER)

    return push


def _tuple(count: int) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        items = m.stack[-count:]
        if len(items) < count or any(i is _MARK for i in items):
            raise PickleError("the pickle's marks do not match")
        m.stack[-count:] = [_as_tuple(m, items)]

    return push


def _as_tuple(m: _Machine, items: list[Any]) -> Any:
    # The arguments of getattr matter even where values are not kept.
    is_getattr = len(items) == 2 and type(items[0]) is Global
    return tuple(items) if m.keep or is_getattr else _OTHER


def _tuple_mark(m: _Machine) -> None:
    m.stack.append(_as_tuple(m, m.pop_to_mark()))


def _list_mark(m: _Machine) -> None:
    items = m.pop_to_mark()
    m.stack.append(items if m.keep else _OTHER)


def _set_items(m: _Machine, items: list[Any]) -> None:
    m.fill()
    target = m.top()
    if m.keep and type(target) is dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) in (str, int):
                target[key] = value


def _dict_mark(m: _Machine) -> None:
    items = m.pop_to_mark()
    m.stack.append({} if m.keep else _OTHER)
    _set_items(m, items)


def _set_item(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    _set_items(m, [key, value])


def _set_items_mark(m: _Machine) -> None:
    _set_items(m, m.pop_to_mark())


def _append(m: _Machine) -> None:
    item = m.pop()
    m.fill()
    if m.keep and type(m.top()) is list:
        m.top().append(item)


def _appends(m: _Machine) -> None:
    items = m.pop_to_mark()
    m.fill()
    if m.keep and type(m.top()) is list:
        m.top().extend(items)


def _other_mark(m: _Machine) -> None:
    m.pop_to_mark()
    m.stack.append(_OTHER)


def _put(index: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def put(m: _Machine) -> None:
        m.puts = True
        _check_memo(m)
        m.put(index(m), m.top())

    return put


def _memoize(m: _Machine) -> None:
    m.memoizes = True
    _check_memo(m)
    m.put(m.num_memoized, m.top())
    m.num_memoized += 1


def _check_memo(m: _Machine) -> None:
    # MEMOIZE counts what PUT put; no pickler writes both, and where both stand, which value a
    # later GET means depends on an order of events that is not followed here.
    if m.puts and m.memoizes:
        m.tricks.add("two ways of remembering values, as no pickler writes")


def _get(index: Callable[[_Machine], int]) -> Callable[[_Machine], None]:
    def get(m: _Machine) -> None:
        m.get(index(m))

    return get


def _text_index(m: _Machine) -> int:
    text = m.line()
    if len(text) > 20:
        raise PickleError("the pickle is damaged (a memo index)")
    return int(text)


def _global(m: _Machine) -> None:
    module = m.line()
    m.name(module, m.line())


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _reduce(m: _Machine) -> None:
    args, func = m.pop(), m.pop()
    m.call(func, args)


def _inst(m: _Machine) -> None:
    module = m.line()
    name = m.line()
    items = tuple(m.pop_to_mark())
    m.name(module, name)
    m.call(m.pop(), items)


def _obj(m: _Machine) -> None:
    items = m.pop_to_mark()
    m.call(items[0], tuple(items[1:]))


def _new_obj(m: _Machine) -> None:
    args, kind = m.pop(), m.pop()
    m.make(kind, args)


def _new_obj_ex(m: _Machine) -> None:
    m.pop()
    _new_obj(m)


def _build(m: _Machine) -> None:
    state = m.pop()
    m.fill()
    if m.keep and type(m.top()) is Call:
        m.top().state = state


def _persistent(m: _Machine) -> None:
    m.stack.append(Persistent(m.pop()))


def _text_persistent(m: _Machine) -> None:
    m.stack.append(Persistent(m.line()))


def _extension(num_bytes: int) -> Callable[[_Machine], None]:
    def push(m: _Machine) -> None:
        m.skip(num_bytes)
        m.tricks.add("an extension code of copyreg")
        m.stack.append(_OTHER)

    return push


def _skip(num_bytes: int) -> Callable[[_Machine], None]:
    def skip(m: _Machine) -> None:
        m.skip(num_bytes)

    return skip


def _buffer(m: _Machine) -> None:
    raise PickleError("it needs a buffer from outside the file")


_HANDLERS: dict[bytes, Callable[[_Machine], bool | None]] = {
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
    b"F": _text_other,
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
    b"\x8f": _empty(lambda: _OTHER),
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

_TABLE: list[Callable[[_Machine], bool | None] | None] = [None] * 256
for _byte, _handler in _HANDLERS.items():
    _TABLE[_byte[0]] = _handler
