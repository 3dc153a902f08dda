"""The stack and memo of a pickle, over symbols: what the opcodes of `payload_opcodes` work on.

Nothing is called, hashed or imported; a REDUCE of a global becomes a `Call` that holds both.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from inspector.checkpoint.pickle.gate import judge_global

__all__ = ["MARK", "MAX_STACK", "OTHER", "Call", "Global", "Machine", "Persistent", "PickleError"]


class PickleError(Exception):
    """The bytes are no pickle, a damaged one, or one that asks for too much.

    `unsafe` are the disallowed callables it had named until then: torch would have run them.
    """

    def __init__(self, message: str, unsafe: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unsafe = unsafe


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


class _Other:
    """A value that does not matter here."""

    __slots__ = ()


OTHER = _Other()
MARK = object()
_MAX_MEMO = 1 << 19
MAX_STACK = 1 << 21
_MAX_NAME = 500


_GETATTR = frozenset({Global("builtins", "getattr"), Global("__builtin__", "getattr")})


class Machine:
    """A pickle machine over symbols."""

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
            if stack[i] is MARK:
                items = stack[i + 1 :]
                del stack[i:]
                return items
        raise PickleError("the pickle's marks do not match")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise PickleError("the pickle's marks do not match")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is MARK:
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
        self.stack.append(self.memo.get(index, OTHER))

    # --- names and calls

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self.tricks.add("a name that the pickle computes")
            self.stack.append(OTHER)
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
        self.stack.append(Call(func, args) if self.keep else OTHER)

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
            self.stack.append(OTHER)

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
