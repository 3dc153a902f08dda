"""What a payload's pickle says, read without unpickling: nothing is called, hashed or imported.

`dcp.load` unpickles tensors with `weights_only=True` and bytes entries with
`weights_only=False`, that is, it runs whatever they name. Here the opcodes are walked by a
machine of our own that only notes names and, for a tensor, the shape of the calls: a REDUCE of a
global becomes a `Call` that holds both. There is no C unpickler under it, so a hostile memo
index, a hash that never ends or a nest of a million tuples costs nothing but its own bytes.

Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from inspector.checkpoint.payload.scan.machine import MAX_STACK, Feed, Machine, PickleError
from inspector.checkpoint.payload.scan.opcodes import TABLE

__all__ = ["Feed", "PickleError", "Scan", "scan"]


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


def scan(
    data: bytes | Feed,
    start: int = 0,
    *,
    keep: bool = False,
    weights_only: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Scan:
    """Walk the opcodes of one pickle.

    Args:
        data: The pickle, and perhaps more after it; a `Feed` is left after its end.
        start: Where it begins in `data` (0 of a feed).
        keep: Build its values (for a tensor's small pickle); otherwise only strings that may
            become names are kept.
        weights_only: True if torch would load it with `weights_only=True`.
        stop: Asked now and then; True gives up with `PickleError`.

    Raises:
        PickleError: It does not parse to its end; `unsafe` are the names seen until then.
    """
    feed = data if isinstance(data, Feed) else None
    first = b"" if isinstance(data, Feed) else data
    machine = Machine(first, start, keep, feed, weights_only=weights_only)
    try:
        root = _run(machine, stop)
    except PickleError as error:
        raise PickleError(str(error), machine.judgement()[1]) from error
    except (IndexError, struct.error) as error:
        what = "the pickle ends too early, or its opcodes do not fit"
        raise PickleError(what, machine.judgement()[1]) from error
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        what = f"the pickle is damaged ({type(error).__name__})"
        raise PickleError(what, machine.judgement()[1]) from error
    if feed is not None:
        feed.push_back(machine.data[machine.at :])
    unknown, unsafe = machine.judgement()
    return Scan(root if keep else None, machine.at, unknown, unsafe)


# Bytes that any opcode's own number takes, and more: texts are fetched as they come.
_AT_HAND = 64


def _run(machine: Machine, stop: Callable[[], bool] | None) -> Any:
    table, stack, count = TABLE, machine.stack, 0
    fed = machine.feed is not None
    while True:
        if fed and len(machine.data) - machine.at < _AT_HAND:
            fed = machine.fetch(_AT_HAND)
        opcode = machine.data[machine.at]
        machine.at += 1
        handler = table[opcode]
        if handler is None:
            raise PickleError(f"byte 0x{opcode:02x} is no pickle opcode")
        if handler(machine):
            return machine.root
        count += 1
        if not count & 0xFFFF and stop is not None and stop():
            raise PickleError("it was not read to its end")
        if len(stack) > MAX_STACK:
            raise PickleError("it holds more than any checkpoint's pickle should")
