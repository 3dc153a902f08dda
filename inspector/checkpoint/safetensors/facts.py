"""`SafetensorsFacts`: what a safetensors checkpoint has that a DCP one has not, as values.

Its checks and the frameworks' evidence are made of it; names are raw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Misplaced", "SafetensorsFacts", "Unread"]


@dataclass(frozen=True, slots=True)
class Unread:
    """A file whose header cannot be read: its path, a finding's code, why, and what to do."""

    path: str
    code: str
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A tensor that the index places in a file that does not have it.

    `found` is the file that has it, or an empty string.
    """

    fqn: str
    path: str
    found: str


@dataclass(frozen=True, slots=True)
class SafetensorsFacts:
    """What a safetensors checkpoint has that a DCP one has not; what its checks are made of.

    Attributes:
        index: The index file, or an empty string.
        index_problem: Why it cannot be used, or an empty string.
        stale_index: Files that the index names, where none of them is there and the one file that
            is the whole checkpoint by its name was taken instead.
        total_size: Bytes of all tensors as the index says, or None.
        missing: Files that the index or the names of the others call for and that are not there,
            with how many tensors the index places in each (None if nothing tells).
        unread: Files whose header cannot be read.
        misplaced: Tensors that the index places in a file that does not have them.
        not_in_index: (tensor, file) that the index does not list, at most 1,000.
        escapes: Files outside the folder that the index names; they were not opened.
        data_offset: Where the elements begin, by file.
        is_sharded: The headers have DCP's sharding information.
        metadata: The `__metadata__` of the first file that has any, without the sharding.
        has_shards_below: The folder has a `sharded` folder, as DCP's consolidation leaves it.
    """

    index: str = ""
    index_problem: str = ""
    stale_index: tuple[str, ...] = ()
    total_size: int | None = None
    missing: dict[str, int | None] = field(default_factory=dict)
    unread: tuple[Unread, ...] = ()
    misplaced: tuple[Misplaced, ...] = ()
    not_in_index: tuple[tuple[str, str], ...] = ()
    escapes: tuple[str, ...] = ()
    data_offset: dict[str, int] = field(default_factory=dict)
    is_sharded: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    has_shards_below: bool = False

    @property
    def paths(self) -> frozenset[str]:
        """Every file that is part of the checkpoint."""
        unread = (unread.path for unread in self.unread)
        return frozenset({*self.data_offset, *self.missing, *unread})
