"""Pickles that no torch wrote: built opcode by opcode, or by Python with a class of our own."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any


class Runs:
    """Pickles as a call of `os.system`, the way an attacker would write it."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch {marker}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def deep_tuples(depth: int) -> bytes:
    """`((((...),),),)`."""
    return b"\x80\x04)" + b"\x85" * depth + b"."


def exponential_hash(levels: int) -> bytes:
    """A dict whose key is a tuple that holds the one before it twice, and so on.

    Hashing it takes 2 ** levels steps.
    """
    steps = b"".join(b"h" + bytes([i, ord("h"), i]) + b"\x86\x940" for i in range(levels))
    return b"\x80\x04)\x940" + steps + b"}h" + bytes([levels]) + b"K\x01s."


BOMBS: dict[str, bytes] = {
    "deep tuples": deep_tuples(2_000_000),
    "deep lists": b"\x80\x04" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "exponential hash": exponential_hash(60),
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "text of 2**60": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "bytearray of 2**50": b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b"x.",
    "an integer of 2 GiB": b"\x80\x04\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\x01.",
    "a decimal of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "memo index 2**32-1": b"\x80\x04K\x01r" + struct.pack("<I", 0xFFFFFFFF) + b".",
    "a frame of 2**60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "a dict in itself as a key": b"\x80\x04}\x94h\x00K\x01s.",
    "mark without end": b"\x80\x04" + b"(" * 500_000 + b".",
    "stack underflow": b"\x80\x04a.",
    "unknown opcode": b"\x80\x04\xff.",
    "protocol 255": b"\x80\xffN.",
    "extension 1": b"\x80\x04\x82\x01.",
    "a persistent id": b"\x80\x04\x8c\x01xQ.",
    "a buffer that is not there": b"\x80\x05\x97.",
    "only STOP": b".",
    "random": bytes(range(256)) * 4,
}


class MakesFolder:
    """Pickles as a call of `os.mkdir`: where nothing holds it up, the folder is there."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)
