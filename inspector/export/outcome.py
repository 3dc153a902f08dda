"""What came of an export: what was written, and what was not, with why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["ExportReport", "Kind", "Omission", "Verdict", "WrittenFile", "WrittenTensor"]

Kind: TypeAlias = Literal["bytes", "damaged", "not-exportable"]
Verdict: TypeAlias = Literal["written", "partial", "refused"]


@dataclass(frozen=True, slots=True)
class Omission:
    """What is not in the file that was written, or why nothing was.

    Attributes:
        fqn: Raw name; of a file or the checkpoint as a whole, its path.
        kind: `bytes` for a bytes entry, which is no tensor; `damaged`; `not-exportable` for what
            is whole, but whose values no other format holds.
        why: In words, printable.
        code: The finding's code where it is damaged, or an empty string.
    """

    fqn: str
    kind: Kind
    why: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was written: its name in OUT (empty if it is OUT), size and tensors."""

    name: str
    num_bytes: int
    num_tensors: int


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A tensor that was written.

    Attributes:
        fqn: Raw name in the checkpoint.
        name: Raw name in the file.
        dtype: As it was written.
        stored_dtype: As it is stored.
        shape: Of both.
        num_bytes: As it was written.
        file: Name of the file in OUT, empty if that is OUT.
        num_overflowed: Finite elements that became infinite in the new dtype.
    """

    fqn: str
    name: str
    dtype: str
    stored_dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    file: str
    num_overflowed: int = 0


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What came of it.

    Attributes:
        path: The checkpoint's.
        output: Where it was to go, raw.
        form: The format.
        verdict: `written`: all of it; `partial`: without what is damaged; `refused`: nothing.
        files, tensors: What was written, if anything was.
        left_out: What was not.
        num_checked: Payloads whose elements were held against a stored CRC32.
        num_unchecked: Payloads of which none was stored.
        leftovers: Temporary files of exports to this place that were killed or still run.
        stored_dtypes: Tensors whose metadata has another dtype than what is stored: that dtype.
    """

    path: str
    output: str
    form: str
    verdict: Verdict
    files: tuple[WrittenFile, ...] = ()
    tensors: tuple[WrittenTensor, ...] = ()
    left_out: tuple[Omission, ...] = ()
    num_checked: int = 0
    num_unchecked: int = 0
    leftovers: tuple[str, ...] = ()
    stored_dtypes: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files that were written."""
        return sum(file.num_bytes for file in self.files)

    @property
    def exit_code(self) -> int:
        """0: all is written; 1: something is damaged, or became infinite; 2: not exportable."""
        kinds = {item.kind for item in self.left_out}
        if "damaged" in kinds or any(tensor.num_overflowed for tensor in self.tensors):
            return 1
        return 2 if "not-exportable" in kinds else 0
