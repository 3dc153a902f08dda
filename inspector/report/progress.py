"""Progress as one line on a terminal that is rewritten in place, and nothing anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from inspector.checkpoint.text import format_bytes

__all__ = ["ReadingLine"]

_QUIET_S = 0.5


class ReadingLine:
    """`reading the metadata: 45 % of 147.2 MiB`, from half a second on.

    An instance is a `Progress` callback; as a context manager it clears its line at the end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._shown = False
        self._is_terminal = stream.isatty()

    def __enter__(self) -> ReadingLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def __call__(self, num_done: int, num_bytes: int) -> bool:
        """Show how far the reading is; never cancels."""
        if self._is_terminal and time.monotonic() - self._started > _QUIET_S:
            share = 100 * num_done // max(num_bytes, 1)
            text = f"reading the metadata: {share} % of {format_bytes(num_bytes)}"
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._shown = True
        return False
