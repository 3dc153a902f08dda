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

from inspector.checkpoint.payload.machine import MAX_STACK, Machine, PickleError
from inspector.checkpoint.payload.opcodes import TABLE

__all__ = ["PickleError", "Scan", "scan"]


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
        PickleError: It does not parse to its end; `unsafe` are the names seen until then.
    """
    machine = Machine(data, start, keep)
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
    unknown, unsafe = machine.judgement()
    return Scan(root if keep else None, machine.at, unknown, unsafe)


def _run(machine: Machine, stop: Callable[[], bool] | None) -> Any:
    data, table, stack, count = machine.data, TABLE, machine.stack, 0
    while True:
        opcode = data[machine.at]
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
