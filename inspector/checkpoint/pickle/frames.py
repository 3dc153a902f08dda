"""A pickle's frames: whether each ends where an opcode does.

From protocol 4 on a pickle says how many bytes to read ahead (PEP 3154). Where an opcode goes on
behind the end of its frame, CPython's C unpickler drops what it had of it, if it reads a file and
its buffer ended there, and goes on with other bytes than from memory; the one in Python refuses.
What such a file says is not one thing, and no pickler writes it.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["STRADDLED", "Framed", "StraddledError"]

STRADDLED = (
    "an opcode goes on behind the end of its frame, and not every reader of pickles makes the same "
    "of that"
)
_FRAME = b"\x95"
_LENGTH_BYTES = 8


class StraddledError(ValueError):
    """An opcode goes on behind the end of its frame."""


class _Readable(Protocol):
    def read(self, num_bytes: int = -1, /) -> bytes: ...

    def readline(self) -> bytes: ...


class Framed:
    """A file for `pickle.Unpickler` that gives what is asked for and never more.

    So a frame is asked for at once, and then nothing until it is used up: what is asked for next
    is one byte, the next opcode, or the rest of one that does not end with its frame.

    Args:
        file: What is read.
    """

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self._is_after_frame = False
        self._is_after_opcode = False
        self._frame_bytes = 0

    def read(self, num_bytes: int = -1, /) -> bytes:
        """So many bytes, fewer at the end.

        Raises:
            StraddledError: They are of an opcode that began in a frame.
        """
        self._begin(is_opcode=num_bytes == 1)
        data = self._file.read(num_bytes)
        if self._frame_bytes:
            self._frame_bytes, self._is_after_frame = 0, True
        elif self._is_after_opcode and num_bytes == _LENGTH_BYTES:
            self._frame_bytes = int.from_bytes(data, "little")
        self._is_after_opcode = data == _FRAME
        return data

    def readline(self) -> bytes:
        """A line with its end.

        Raises:
            StraddledError: As for `read`.
        """
        self._begin(is_opcode=False)
        self._is_after_opcode = False
        return self._file.readline()

    def _begin(self, *, is_opcode: bool) -> None:
        if self._is_after_frame and not is_opcode:
            raise StraddledError(STRADDLED)
        self._is_after_frame = False
