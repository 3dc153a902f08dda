"""A pickle's bytes as a file for `pickletools.genops`: at hand, or in blocks however long.

`genops` asks for a text or bytes value whole, as long as the pickle says it is. What is longer than
any name is passed over here instead: it gets an empty stand-in that claims to be as long, and the
reader is told by `passed`. Lines get one likewise where `genops` would resolve escapes in them or
refuse letters outside ASCII, which no unpickler does in a name (Python below 3.12.8).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

__all__ = ["Feed", "PickleError", "Whole"]


class PickleError(Exception):
    """The bytes are no pickle, a damaged one, or one that asks for too much.

    `unsafe` are the disallowed callables it had named until then: torch would have run them.
    """

    def __init__(self, message: str, unsafe: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.unsafe = unsafe


class _PassedOver(bytes):
    """Nothing, with the length of what was passed over."""

    claimed = 0

    def __len__(self) -> int:
        return self.claimed


# A name is short; a text that is longer is only data.
_MAX_TEXT = 4096
_PIECE = 64 << 10
_TOO_EARLY = "the pickle ends too early"
# A line that reads as an empty text, and as no number.
_NO_LINE = b"''\n"


class _Lines:
    """The last two lines of a file, and whether what was asked for last was not given.

    Attributes:
        passed: Set when a stand-in was given; whoever reads sets it back.
        lines: The lines as they stand there, without their ends; None for one of great length.
    """

    def __init__(self) -> None:
        self.passed = False
        self.lines: tuple[bytes | None, bytes | None] = (None, None)

    def _line(self, line: bytes | None) -> bytes:
        self.lines = (self.lines[1], line)
        if line is None or len(line) > _MAX_TEXT or b"\\" in line or not line.isascii():
            self.passed = True
            return _NO_LINE
        return line + b"\n"


class Whole(io.BytesIO, _Lines):
    """Pickles that are small and at hand."""

    def __init__(self, data: bytes) -> None:
        io.BytesIO.__init__(self, data)
        _Lines.__init__(self)

    def readline(self, size: int | None = -1, /) -> bytes:
        """A line with its end, or a stand-in.

        Raises:
            PickleError: It has no end.
        """
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise PickleError(_TOO_EARLY)
        return self._line(line[:-1])


class Feed(_Lines):
    """Bytes of one pickle after another, in blocks.

    Args:
        blocks: The bytes; each block is valid until the next one is asked for.

    Attributes:
        on_piece: Called now and then, before more bytes are taken: it may raise.
    """

    def __init__(self, blocks: Iterator[memoryview]) -> None:
        super().__init__()
        self._blocks = blocks
        self._block = memoryview(b"")
        self._data = b""
        self._at = 0
        self._before = 0
        self.on_piece: Callable[[], None] | None = None

    def tell(self) -> int:
        """How many bytes were taken."""
        return self._before + self._at

    def _next(self) -> None:
        """The next piece takes the place of the last one.

        Raises:
            PickleError: There is none.
        """
        if self.on_piece is not None:
            self.on_piece()
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                raise PickleError(_TOO_EARLY)
            self._block = block
        self._before += len(self._data)
        self._data, self._at = bytes(self._block[:_PIECE]), 0
        self._block = self._block[_PIECE:]

    def read(self, num_bytes: int) -> bytes:
        """So many bytes, or a stand-in of that length.

        Raises:
            PickleError: There are fewer.
        """
        at, end = self._at, self._at + num_bytes
        if end <= len(self._data) and num_bytes <= _MAX_TEXT:
            self._at = end
            return self._data[at:end]
        pieces, left = [], num_bytes
        while True:
            piece = self._data[self._at : self._at + left]
            self._at += len(piece)
            left -= len(piece)
            if num_bytes <= _MAX_TEXT:
                pieces.append(piece)
            if not left:
                break
            self._next()
        if num_bytes <= _MAX_TEXT:
            return b"".join(pieces)
        stand_in = _PassedOver()
        stand_in.claimed = num_bytes
        self.passed = True
        return stand_in

    def readline(self) -> bytes:
        """A line with its end, or a stand-in.

        Raises:
            PickleError: It has no end.
        """
        pieces, length = [], 0
        while (end := self._data.find(b"\n", self._at)) < 0:
            length += len(self._data) - self._at
            if length <= _MAX_TEXT:
                pieces.append(self._data[self._at :])
            self._at = len(self._data)
            self._next()
        length += end - self._at
        pieces.append(self._data[self._at : end])
        self._at = end + 1
        return self._line(b"".join(pieces) if length <= _MAX_TEXT else None)
