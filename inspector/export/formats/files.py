"""Files that are to be written: which tensor lies where in them, and what stands around it.

All sizes are known before a byte is read, so every tensor has its place from the start, and many
can be written at once. What depends on checksums (a zip's headers) is made at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.text import plural, printable
from inspector.errors import UsageError

__all__ = ["HINT", "ExportItem", "Frame", "ItemRegion", "PlannedFile", "refuse_items"]

#: Bytes and where they go in the file.
Frame = Iterable[tuple[int, bytes]]

_MAX_NAMED = 3

#: What to do about names and dtypes that a format does not hold.
HINT = "leave them out with --filter '!NAME', rename them, or write another --format"


@dataclass(frozen=True, slots=True)
class ExportItem:
    """A tensor that is to be written; a line, as there may be a hundred thousand.

    Attributes:
        index: In the checkpoint's columns.
        fqn: Raw name there.
        shape: Its shape.
        stored_dtype: As it is stored.
        name: What it is called in the file, raw.
        dtype: What it is written as.
    """

    index: int
    fqn: str
    shape: tuple[int, ...]
    stored_dtype: str
    name: str
    dtype: str

    @property
    def itemsize(self) -> int:
        return itemsize(self.dtype) or 1

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.num_elements * self.itemsize


@dataclass(frozen=True, slots=True)
class ItemRegion:
    """Where an item's elements go."""

    item: ExportItem
    offset: int


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file.

    Attributes:
        name: Of the file in the folder that is written; empty if the file is all there is.
        regions: The tensors in it, in the order of their bytes.
        num_bytes: Its size.
        frame: What stands around the tensors, from their CRC32 in the order of `regions`.
    """

    name: str
    regions: tuple[ItemRegion, ...]
    num_bytes: int
    frame: Callable[[Sequence[int]], Frame]


def refuse_items(bad: Sequence[tuple[str, str]], what: str, hint: str) -> None:
    """Say no to names or dtypes that a format does not hold.

    Raises:
        UsageError: There are some.
    """
    if not bad:
        return
    shown = "; ".join(
        f"{printable(name, 120) or repr(name)}: {why}" for name, why in bad[:_MAX_NAMED]
    )
    more = f"; and {len(bad) - _MAX_NAMED:,} more" if len(bad) > _MAX_NAMED else ""
    raise UsageError(f"{what} cannot hold {plural(len(bad), 'tensor')}: {shown}{more}", hint)
