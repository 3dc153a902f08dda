"""A repair as a value: what would be done, why each step is sure, and what cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "Basis",
    "BytesEdit",
    "PlacedChunk",
    "RepairPlan",
    "RepairStep",
    "StepKind",
    "TakenPayload",
    "TensorEdit",
    "Unrepaired",
]

StepKind: TypeAlias = Literal[
    "metadata-name",
    "metadata-like",
    "file-name",
    "file-path",
    "byte-range",
    "storage-entry",
    "chunk-box",
    "chunk-duplicate",
    "dtype",
    "taken-from",
]
#: `proven` by what lies in the folder; `likely` and done only on request; `like` by the order of
#: another step's payloads; `from`: values of another step.
Basis: TypeAlias = Literal["proven", "likely", "like", "from"]


@dataclass(frozen=True, slots=True)
class RepairStep:
    """One thing that is mended.

    Attributes:
        kind: What is done.
        basis: On what ground.
        fqn: Raw name of the entry, or None.
        file: Raw path of the file, or None.
        before, after: What stands there, and what will, in a few printable words.
        why: Why it is sure, or how sure, in a printable sentence.
    """

    kind: StepKind
    basis: Basis
    fqn: str | None
    file: str | None
    before: str
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class Unrepaired:
    """What is wrong and stays so.

    Attributes:
        fqn: Raw name of the entry, or None.
        file: Raw path of the file, or None.
        code: The finding's code, or an empty string.
        why: Why it cannot be repaired, in a printable sentence.
        hint: What could be done about it, or an empty string.
    """

    fqn: str | None
    file: str | None
    code: str
    why: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """A chunk's box, and where its payload lies in the new folder."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    byte_offset: int
    byte_length: int


@dataclass(frozen=True, slots=True)
class TensorEdit:
    """All chunks of a tensor, in place of those that the metadata has.

    Attributes:
        fqn: Raw name.
        chunks: They.
        dtype: A new dtype, or None.
        transforms: Of the payloads; None leaves those that the metadata has.
    """

    fqn: str
    chunks: tuple[PlacedChunk, ...]
    dtype: str | None = None
    transforms: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class BytesEdit:
    """Where a bytes entry's payload lies in the new folder."""

    fqn: str
    file: str
    byte_offset: int
    byte_length: int
    transforms: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TakenPayload:
    """Bytes of another checkpoint: its file's path on this machine, and where they lie in it."""

    path: str
    byte_offset: int
    byte_length: int


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What would be done.

    Attributes:
        path: The checkpoint's folder.
        metadata: Path of the metadata file that the new one is made from, or None.
        steps: What is done, in order.
        unrepaired: What stays wrong.
        links: Name in the new folder by the name in the old one, where they differ.
        edits: Changes of the metadata.
        taken: Payloads of another checkpoint, in the order in which they are written.
        taken_name: The file that they go into.
        is_other_save: The metadata is of another save, whose marks are taken out of it.
    """

    path: str
    metadata: str | None
    steps: tuple[RepairStep, ...] = ()
    unrepaired: tuple[Unrepaired, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[TensorEdit | BytesEdit, ...] = ()
    taken: tuple[TakenPayload, ...] = ()
    taken_name: str = ""
    is_other_save: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing stays wrong, as far as is known before it is tried."""
        return bool(self.steps) and not self.unrepaired
