"""What a payload's pickle says, read without unpickling: nothing is called, hashed or imported.

`dcp.load` unpickles tensors with `weights_only=True` and bytes entries with
`weights_only=False`, that is, it runs whatever they name. Here the opcodes that the standard
library's `pickletools.genops` gives are walked by a machine that only notes names and, for a
tensor, the shape of the calls: a REDUCE of a global becomes a `Call` that holds both. There is no
unpickler under it, so a hostile memo index, a hash that never ends or a nest of a million tuples
costs nothing but its own bytes.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from pickletools import genops
from typing import Any, NamedTuple

from inspector.checkpoint.payload.scan.feed import Feed, PickleError, Whole
from inspector.checkpoint.payload.scan.machine import MAX_STACK, Machine
from inspector.checkpoint.payload.scan.opcodes import OPCODES
from inspector.checkpoint.payload.scan.values import OTHER

__all__ = ["Feed", "PickleError", "Scan", "scan"]


class Scan(NamedTuple):
    """What a pickle names.

    Attributes:
        root: The pickled value as constants, `Global`, `Call` and `Persistent`; None where the
            scan was told not to keep values.
        end: How many bytes were taken, from the first pickle's on.
        unknown: Classes that are not known but are only made, not called: `module.Name`.
        unsafe: Callables outside the allow list, and tricks that no pickler writes.
        refused: Opcodes that torch's reader for tensors does not know, where it would read it.
        unproven: What is called with other arguments than usual: whether that loads is not known.
        storages: Parts of the id and bytes of each storage that it names, by the storage's key.
    """

    root: Any
    end: int
    unknown: tuple[str, ...]
    unsafe: tuple[str, ...]
    refused: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    storages: dict[str, tuple[int, int]] = {}


#: The opcodes of torch/_weights_only_unpickler.py, the same from torch 2.4 to 2.15.
_OF_TENSORS = frozenset(
    "GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "NONE NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 "
    "BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 "
    "PROTO STOP".split()
)


def scan(
    data: bytes | Whole | Feed,
    *,
    keep: bool = False,
    weights_only: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Scan:
    """Walk the opcodes of one pickle.

    Args:
        data: The pickle, and perhaps more after it; a file of them is left after its end.
        keep: Build its values (of a small pickle, as a tensor's); otherwise only strings that may
            become names are kept.
        weights_only: True if torch would load it with `weights_only=True`.
        stop: Asked now and then; True gives up with `PickleError`.

    Raises:
        PickleError: It does not parse to its end; `unsafe` are the names seen until then.
    """
    feed: Whole | Feed
    if isinstance(data, bytes):
        feed = Whole(data) if keep else Feed(iter([memoryview(data)]))
    else:
        feed = data
    machine = Machine(feed, keep=keep, weights_only=weights_only)

    def check() -> None:
        if len(machine.stack) > MAX_STACK:
            raise PickleError("it holds more than any checkpoint's pickle should")
        if stop is not None and stop():
            raise PickleError("it was not read to its end")

    if isinstance(feed, Feed):
        feed.on_piece = check
    refused: dict[str, None] = {}
    frame_end = 0
    try:
        # `genops` takes what has `read` and `readline`; it is declared for whole binary files.
        for opcode, argument, at in genops(feed):  # type: ignore[arg-type]
            # `at` is where the opcode begins; a frame reaches further than what says its length.
            begin, end = at or 0, feed.tell()
            if opcode.name == "FRAME" and argument is not None:
                end += argument
            if opcode.name == "FRAME" and frame_end <= begin:
                frame_end = end
            elif begin < frame_end < end:
                raise PickleError("an opcode goes on behind the end of its frame")
            if feed.passed:
                argument, feed.passed = OTHER, False
            if weights_only and opcode.name not in _OF_TENSORS:
                refused[opcode.name] = None
            OPCODES[opcode.name](machine, argument)
        root = machine.pop()
        if feed.tell() < frame_end:
            raise PickleError("its frame goes on behind its end")
    except PickleError as error:
        raise PickleError(str(error), machine.judgement()[1]) from error
    except IndexError as error:
        what = "the pickle ends too early, or its opcodes do not fit"
        raise PickleError(what, machine.judgement()[1]) from error
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        what = f"the pickle is damaged ({type(error).__name__})"
        raise PickleError(what, machine.judgement()[1]) from error
    unknown, unsafe = machine.judgement()
    return Scan(
        root if keep else None,
        feed.tell(),
        unknown,
        unsafe,
        tuple(refused),
        machine.unproven(),
        machine.storages,
    )
