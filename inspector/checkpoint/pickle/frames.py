"""A pickle's frames: whether each ends where an opcode does.

From protocol 4 on a pickle says how many bytes to read ahead (PEP 3154). Where an opcode goes on
behind the end of its frame, CPython's C unpickler drops what it had of it, if it reads a file and
its buffer ended there, and goes on with other bytes than from memory; the one in Python refuses.
What such a file says is not one thing, and no pickler writes it.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

__all__ = ["STRADDLED", "Framed", "NotSplicedError", "Opcodes", "StraddledError"]

STRADDLED = (
    "an opcode goes on behind the end of its frame, and not every reader of pickles makes the same "
    "of that"
)
_FRAME = b"\x95"
_LENGTH_BYTES = 8
_MAX_REST = 4096


class StraddledError(ValueError):
    """An opcode goes on behind the end of its frame."""


class NotSplicedError(Exception):
    """The file is not one that can be read in bulk, for whatever reason."""


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


class Opcodes:
    """A file's opcodes without the FRAMEs, which say only how much to read ahead.

    Args:
        fd: The open file, at its start.
        num_bytes: Its size.
        digest: Of `hashlib`: what is read goes into it as well.

    Attributes:
        protocol: Of the pickle.
        at: How many bytes of them were read.
        cuts: Where frames began, of those not taken.
        num_unframed: Bytes behind the last frame, once all is read.
        is_over: Whether all is read.
    """

    def __init__(self, fd: int, num_bytes: int, digest: Any) -> None:
        start = os.read(fd, 2)
        if len(start) < 2 or start[:1] != b"\x80" or start[1] not in (4, 5):
            raise NotSplicedError
        self.protocol = start[1]
        self.at = self.num_unframed = 0
        self.cuts: list[int] = []
        self.is_over = False
        self._fd, self._num_bytes, self._digest = fd, num_bytes, digest
        self._left = 0
        self._rest: memoryview | None = None
        if digest is not None:
            digest.update(start)

    def read_into(self, view: memoryview) -> int:
        """Read as much as there is room for, or all that is left; how much that was.

        Raises:
            NotSplicedError: It has no frames, or not what it should have in one.
        """
        done = 0
        while done < len(view) and not self.is_over:
            if self._rest is not None:
                count = min(len(self._rest), len(view) - done)
                view[done : done + count] = self._rest[:count]
                self._rest = self._rest[count:]
                self.is_over = not self._rest
            elif self._left:
                part = view[done : done + self._left]
                count = os.readv(self._fd, [part])
                if not count:
                    raise NotSplicedError
                if self._digest is not None:
                    self._digest.update(part[:count])
                self._left -= count
            else:
                count = 0
                self._begin_frame()
            done += count
            self.at += count
        return done

    def _begin_frame(self) -> None:
        header = os.read(self._fd, 9)
        if len(header) == 9 and header[:1] == b"\x95":
            self.cuts.append(self.at)
            self._left = int.from_bytes(header[1:], "little")
            if self.at + self._left > self._num_bytes:
                raise NotSplicedError
        else:
            # A few last bytes may stand without a frame; then what follows the pickle, if anything.
            header += os.read(self._fd, _MAX_REST)
            if len(header) >= _MAX_REST:
                raise NotSplicedError
            self.num_unframed = len(header)
            self._rest = memoryview(header)
            self.is_over = not header
        if self._digest is not None:
            self._digest.update(header)
