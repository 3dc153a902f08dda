"""The stack and memo of a pickle, over symbols: what the opcodes work on.

Nothing is called, hashed or imported; a REDUCE of a global becomes a `Call` that holds both.
"""

from __future__ import annotations

from typing import Any

from inspector.checkpoint.payload.scan.calls import RESULTS, check_call, is_class, storage_of
from inspector.checkpoint.payload.scan.feed import Feed, PickleError, Whole
from inspector.checkpoint.payload.scan.names import (
    CALLS_ITS_ARGUMENTS,
    MAKES_A_CALLABLE,
    Use,
    is_listed,
    judge_name,
)
from inspector.checkpoint.payload.scan.values import (
    OTHER,
    UNHASHABLE,
    Call,
    Global,
    Held,
    Other,
    Persistent,
    kind_of,
    other,
)

__all__ = ["MARK", "MAX_STACK", "OTHER", "Call", "Global", "Held", "Machine", "Persistent"]


MARK = object()
_MAX_MEMO = 1 << 19
MAX_STACK = 1 << 21
_MAX_NAME = 500
_MAX_SIZE = 8
_MAX_HELD = 64
_MAX_WALKED = 3_000_000
_MAX_LITERAL = 100


_GETATTR = frozenset({Global("builtins", "getattr"), Global("__builtin__", "getattr")})
_TYPE = frozenset({Global("builtins", "type"), Global("__builtin__", "type")})
_RECONSTRUCT = frozenset(
    {Global("copyreg", "_reconstructor"), Global("copy_reg", "_reconstructor")}
)
_REBUILD_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
# Stands for a callable that the pickle makes: a bound method, functools.partial.
_COMPUTED = Global("", "a call of something that the pickle computes")
_LITERALS = (str, int, float, bool, type(None))
_HOLDERS = frozenset({Global, Held, tuple, list, dict, Call})


# What torch's reader for tensors makes objects of.
_MADE_OF_TENSORS = frozenset(
    "collections.OrderedDict collections.Counter torch.Size torch.nn.parameter.Parameter "
    "builtins.set builtins.bytearray builtins.complex".split()
)
_MAX_STORAGES = 1 << 17


class Machine:
    """A pickle machine over symbols.

    Args:
        feed: Where the opcodes come from.
        keep: Build its values.
        weights_only: True if torch would load it with `weights_only=True`.
    """

    def __init__(self, feed: Whole | Feed, *, keep: bool, weights_only: bool) -> None:
        self.feed = feed
        self.keep = keep
        self.weights_only = weights_only
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.num_memoized = 0
        self._num_put = 0
        self._put: set[int] = set()
        self.puts = False
        self.uses: dict[Global, Use] = {}
        self.tricks: set[str] = set()
        self._num_walked = 0
        #: Parts of the id and bytes of each storage that is named, by its key.
        self.storages: dict[str, tuple[int, int]] = {}
        self._unproven: set[Global] = set()
        self._odd: set[str] = set()

    def judgement(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that want a package, and those of code to be run."""
        unknown, unsafe = set(), set(self.tricks)
        for name, use in self.uses.items():
            is_getattr = name in _GETATTR and use == Use.HELD
            if name is _COMPUTED or (is_getattr and not self.weights_only):
                continue
            judged = judge_name(name.module, name.name, use, weights_only=self.weights_only)
            full = f"{name.module}.{name.name}"[:_MAX_NAME]
            if judged == "unsafe":
                unsafe.add(full)
            elif judged == "foreign":
                unknown.add(full)
        return tuple(sorted(unknown)), tuple(sorted(unsafe))

    def unproven(self) -> tuple[str, ...]:
        """Known names that torch may not find, or be called with these arguments."""
        names = set(self._odd)
        for name, use in self.uses.items():
            if name is _COMPUTED or name in _GETATTR or name in _TYPE:
                continue
            judged = judge_name(name.module, name.name, use, weights_only=self.weights_only)
            is_usual = name not in self._unproven and is_listed(name.module, name.name)
            if judged == "known" and not is_usual:
                names.add(f"{name.module}.{name.name}"[:_MAX_NAME])
        return tuple(sorted(names))

    def use(self, name: Global, use: Use) -> None:
        if use > self.uses.get(name, -1):
            self.uses[name] = use

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
        self._remember(index)
        # Where values are not kept only what may become a name needs remembering.
        kind = type(value)
        if kind is Held:
            value.index = index
        if (
            self.keep
            or kind is Global
            or (kind is str and len(value) <= _MAX_NAME)
            or (kind is Held and value.names)
            or (kind is tuple and any(type(v) in _HOLDERS for v in value) and self.names_in(value))
        ):
            if len(self.memo) >= _MAX_MEMO and (self.keep or kind is not str):
                raise PickleError("it remembers more than any checkpoint's pickle should")
            if len(self.memo) < _MAX_MEMO:
                # A text that is forgotten cannot be a name later: that would be told as a trick.
                self.memo[index] = value
        elif len(self.memo) < _MAX_MEMO // 2:
            self.memo[index] = other(kind_of(value))
        else:
            self.memo.pop(index, None)

    def _remember(self, index: int) -> None:
        """Note that there is a value, whatever it is. Picklers count from 0."""
        if index != self._num_put:
            if index > self._num_put and len(self._put) < _MAX_MEMO:
                self._put.add(index)
            return
        self._num_put += 1
        while self._num_put in self._put:
            self._put.remove(self._num_put)
            self._num_put += 1

    def get(self, index: int) -> None:
        # With too many to note them all, any may be there.
        is_there = 0 <= index < self._num_put or index in self._put or len(self._put) >= _MAX_MEMO
        if not is_there or (self.keep and index not in self.memo):
            raise PickleError("the pickle refers to a value that it does not have")
        self.stack.append(self.memo.get(index, OTHER))

    def hold(self, target: Any, items: list[Any]) -> None:
        """A list, dict or set takes items in, where values are not kept: note their names."""
        if type(target) is not Held:
            return
        for item in items:
            if type(item) not in _HOLDERS or (type(item) is Held and not item.names):
                continue
            names = self.names_in(item)
            if names and len(target.names) < _MAX_HELD and not names <= target.names:
                target.names = target.names | names
                if len(target.names) >= _MAX_HELD:
                    target.names = target.names | {_COMPUTED}
                if target.index >= 0 and self.memo.get(target.index) is not target:
                    self.put(target.index, target)

    def names_in(self, value: Any) -> set[Global]:
        """The names that a value holds, however deep; `_COMPUTED` for a callable that it made."""
        found: set[Global] = set()
        pending = [value]
        seen: set[int] = set()
        while pending:
            # Where values are kept all of them may be walked for every call.
            self._num_walked += self.keep
            if self._num_walked > _MAX_WALKED:
                raise PickleError("it asks for more calls than any checkpoint's pickle should")
            value = pending.pop()
            kind = type(value)
            if kind is Global:
                found.add(value)
            elif kind is Held:
                found |= value.names
            elif kind in (tuple, list, dict, Call):
                if id(value) in seen:
                    continue
                seen.add(id(value))
                if kind is dict:
                    pending += value.values()
                elif kind is Call:
                    if value.func is _COMPUTED:
                        found.add(_COMPUTED)
                    pending.append(value.args)
                else:
                    pending += value
        return found

    # --- names and calls

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self.tricks.add("a name that the pickle computes")
            self.stack.append(OTHER)
            return
        found = Global(module, name)
        self.use(found, Use.HELD)
        self.stack.append(found)

    def call(self, func: Any, args: Any) -> None:
        """REDUCE, INST and OBJ: the callable is called with the arguments."""
        if type(func) is not Global:
            self.tricks.add(_COMPUTED.name)
            self.made(func, args)
        elif func in _GETATTR:
            self.getattr(func, args)
        elif func in _TYPE and type(args) is tuple and len(args) == 1:
            self.stack.append(OTHER)  # the class of a value: a NoneType, mostly
        elif func in _RECONSTRUCT:
            self._reconstruct(args)
            self.made(func, args)
        elif f"{func.module}.{func.name}" in MAKES_A_CALLABLE:
            self.use(func, Use.CALLED)
            self.made(_COMPUTED, args)
        else:
            self._called(func, args)
            self._check(func, args)
            self.made(func, args)

    def _check(self, func: Global, args: Any) -> None:
        """Refuse a call that cannot work; note one of which that is not known."""
        if kind_of(args) not in ("tuple", ""):
            raise PickleError("it calls something with arguments that are no tuple")
        if func == _REBUILD_TYPE and type(args) is tuple:
            if len(args) != 4:
                raise PickleError("it makes a tensor of a class with too few or many arguments")
            if type(args[0]) is Global and type(args[2]) is tuple:
                self._check(args[0], args[2])
                return
        if type(args) is not tuple or not check_call(func, args):
            self._unproven.add(func)

    def _called(self, func: Global, args: Any) -> None:
        use = Use.CALLED_PLAIN if _is_plain(args) else Use.CALLED
        self.use(func, use)
        if use == Use.CALLED_PLAIN:
            return
        if func == _REBUILD_TYPE:
            # (function, class, its arguments, state): a call of that function.
            if type(args) is not tuple or len(args) < 3 or type(args[0]) is not Global:
                self.tricks.add(_COMPUTED.name)
            elif args[0] == _REBUILD_TYPE or args[0] in _GETATTR or args[0] in _RECONSTRUCT:
                self.tricks.add("a call of a call, as no pickler writes")
            else:
                self._called(args[0], args[2])
            return
        full = f"{func.module}.{func.name}"
        known = judge_name(func.module, func.name, use, weights_only=self.weights_only) == "known"
        if known and full not in CALLS_ITS_ARGUMENTS:
            return
        for name in self.names_in(args):
            if name is _COMPUTED:
                self.tricks.add(_COMPUTED.name)
            elif known or not self.weights_only:
                self.use(name, Use.CALLED)

    def _reconstruct(self, args: Any) -> None:
        # copyreg._reconstructor(class, base, state): base.__new__ and base.__init__ are called.
        if type(args) is not tuple or len(args) != 3 or type(args[0]) is not Global:
            self.tricks.add("an object of a class that the pickle computes")
            return
        self.use(args[0], Use.MADE)
        if type(args[1]) is Global:
            self.use(args[1], Use.CALLED)
        else:
            self.tricks.add("an object of a class that the pickle computes")

    def made(self, func: Any, args: Any) -> None:
        kind = "object"
        if type(func) is Global and func is not _COMPUTED:
            kind = RESULTS.get(f"{func.module}.{func.name}", kind)
        if self.keep:
            self.stack.append(Call(func, args, kind))
        else:
            names = self.names_in(args) if type(args) in (tuple, Held) else set()
            self.stack.append(Held(kind, names | {_COMPUTED} if func is _COMPUTED else names))

    def getattr(self, func: Global, args: Any) -> None:
        # Python 3.11 pickles an enum's member as getattr(Enum, "NAME"), protocols up to 3 a
        # nested class or a method as getattr(Outer, "inner"), and every protocol a bound method as
        # getattr(object, "method"). Any other attribute may be anything.
        owner, name = args if type(args) is tuple and len(args) == 2 else (None, None)
        is_name = type(name) is str and name.isidentifier() and not name.startswith("__")
        if (
            is_name
            and type(owner) is Global
            and owner.name.split(".")[-1].lstrip("_")[:1].isupper()
        ):
            found = Global(owner.module, f"{owner.name}.{name}")
            self.use(found, Use.HELD)
            self.stack.append(found)
        elif is_name and type(owner) in (Other, Call, Held):
            self.made(_COMPUTED, (owner,))
        else:
            self.tricks.add("builtins.getattr")
            self.stack.append(OTHER)

    def make(self, kind: Any, args: Any) -> None:
        """NEWOBJ: `kind.__new__(kind, *args)`."""
        if kind_of(args) not in ("tuple", ""):
            raise PickleError("it makes an object of arguments that are no tuple")
        if type(kind) is Global:
            self.use(kind, Use.MADE)
            self._check_made(kind, args)
        else:
            self.tricks.add("an object of a class that the pickle computes")
        self.made(kind, args)

    def _check_made(self, kind: Global, args: Any) -> None:
        judged = judge_name(kind.module, kind.name, Use.MADE, weights_only=self.weights_only)
        if judged != "known":
            return
        full = f"{kind.module}.{kind.name}"
        if not is_class(kind) or (self.weights_only and full not in _MADE_OF_TENSORS):
            raise PickleError(f"it makes an object of {full[:80]}, which is no class for that")
        if args != () and full in RESULTS:
            self._unproven.add(kind)

    # --- what fits what

    def expect(self, value: Any, kinds: frozenset[str], what: str) -> None:
        """Refuse a value that is known to be of none of these kinds."""
        kind = kind_of(value)
        if kind not in kinds and (kind or self.weights_only):
            raise PickleError(f"it {what}, which no unpickler does")

    def hashable(self, value: Any) -> None:
        """Refuse a key, or an item of a set, that can be none.

        Each tuple in it is looked at once: one that holds another twice, and so on, has no end.
        """
        if type(value) is not tuple:
            if kind_of(value) in UNHASHABLE:
                raise PickleError("it uses a list or a dict as a key, which no unpickler does")
            return
        pending, seen = [value], {id(value)}
        while pending:
            # As in `names_in`: where values are kept, all of them may be walked for every key.
            self._num_walked += self.keep
            if self._num_walked > _MAX_WALKED:
                raise PickleError("it asks for more keys than any checkpoint's pickle should")
            for item in pending.pop():
                if type(item) is not tuple:
                    self.hashable(item)
                elif id(item) not in seen:
                    seen.add(id(item))
                    pending.append(item)

    def build(self, inst: Any, state: Any) -> None:
        """BUILD: a state for an object; refused where it can have none."""
        kind, given = kind_of(inst), kind_of(state)
        if kind in ("", "name") and not self.weights_only:
            return
        if self.weights_only:
            is_fit = kind == "mapping" and given == "dict"
        elif kind == "mapping":
            is_fit = state is None or given in ("dict", "")
        else:
            is_fit = state is None or kind == "object"
            if kind == "object" and given in ("text", "atom", "list") and state is not None:
                self._odd.add("a state that is no dict")
        if not is_fit:
            raise PickleError("it gives a value a state that has none")

    def storage(self, pid: Any) -> None:
        """BINPERSID: a storage by its id."""
        found = storage_of(pid)
        if found is None:
            self._odd.add("a storage that the pickle computes")
            return
        key, size, is_usual = found
        if not is_usual and not self.weights_only:
            self._odd.add("a storage on a device of no usual name")
        if len(self.storages) < _MAX_STORAGES:
            # torch reads a storage once, by the first id that names it.
            self.storages.setdefault(key, (len(pid), size))

    def fill(self) -> None:
        if type(self.top()) is Global:
            self.tricks.add("a change to something that the pickle only names")


def _is_plain(args: Any) -> bool:
    """True for one short literal, as the member of an enum is written: `Precision("bf16")`."""
    if type(args) is not tuple or len(args) != 1:
        return False
    (value,) = args
    if type(value) is tuple:
        return len(value) <= _MAX_SIZE and all(
            _is_plain((v,)) for v in value if type(v) is not tuple
        )
    if type(value) is str:
        return len(value) <= _MAX_LITERAL and all(c.isalnum() or c in "_-.:+ " for c in value)
    return type(value) in _LITERALS
