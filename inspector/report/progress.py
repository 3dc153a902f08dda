"""Progress as one line on a terminal that is rewritten in place, and nothing anywhere else."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, TextIO

from inspector.checkpoint.text import format_bytes, format_seconds
from inspector.checkpoint.workers import BytesProgress
from inspector.report.fitting import bar

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CountLine", "PayloadLine", "ReadingLine", "TerminalLine"]

_QUIET_S = 0.5
_BAR_CELLS = 24


class TerminalLine:
    """One line of a terminal, rewritten in place; as a context manager it is cleared at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._shown = False
        self.is_terminal = stream.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def draw(self, text: str) -> None:
        """Show `text` instead of what was there, from half a second on."""
        if self.is_terminal and self.elapsed_s > _QUIET_S:
            width = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{text[: width - 1]}")
            self._stream.flush()
            self._shown = True


class ReadingLine(TerminalLine):
    """`reading the metadata: 45 % of 147.2 MiB`. A `Progress` callback that never cancels."""

    def __call__(self, num_done: int, num_bytes: int) -> bool:
        share = 100 * num_done // max(num_bytes, 1)
        self.draw(f"reading the metadata: {share} % of {format_bytes(num_bytes)}")
        return False


class PayloadLine(TerminalLine):
    """A bar with bytes, rate and time left, for whatever reads payloads; never cancels."""

    def __call__(self, progress: BytesProgress) -> bool:
        done, total = progress.bytes_done, progress.bytes_total
        share = done / total if total else 1.0
        rate = done / max(self.elapsed_s, 1e-3)
        left = format_seconds((total - done) / rate) if rate > 0 else "?"
        drawn = bar(share, _BAR_CELLS, ascii_only=True).replace(" ", "-")
        # Not every reading judges what it reads.
        wrong = getattr(progress, "num_wrong", 0)
        so_far = f"{wrong:,} wrong so far, " if wrong else ""
        self.draw(
            f"[{drawn}] {share:.0%} of {format_bytes(total)}, {so_far}{format_bytes(rate)}/s, "
            f"{left} left"
        )
        return False


class CountLine(TerminalLine):
    """`checking checkpoint 417 of 1,000`."""

    def __init__(self, stream: TextIO, what: str, total: int) -> None:
        super().__init__(stream)
        self._what = what
        self._total = total

    def show(self, num_done: int) -> None:
        """Show how many are done; the next one is under way."""
        self.draw(f"{self._what} {min(num_done + 1, self._total):,} of {self._total:,}")
