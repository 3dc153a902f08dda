"""The metadata's entries on their way to the payloads that they mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_box, format_shape, printable
from inspector.repair.inventory import FoundPayload, Inventory
from inspector.repair.plan import Basis, RepairStep, StepKind

__all__ = ["Slot", "Slots", "slots_of"]


@dataclass(slots=True, eq=False)
class Slot:
    """One chunk or bytes entry, and the payload that it means.

    Attributes:
        fqn: Raw name.
        tensor: Index of the tensor, or -1 for a bytes entry.
        dtype: Of the tensor.
        offsets, sizes: The chunk's box; empty for a bytes entry.
        file: Raw path by the metadata, or None where it stores the chunk nowhere.
        offset, length: Where the payload lies by the metadata, in bytes.
        transforms: Stream transforms of the payload.
        payload: The payload that it means, once that is known.
        is_as_recorded: True if that is what the metadata says.
        trouble: Why it is not known, in a printable sentence.
    """

    fqn: str
    tensor: int
    dtype: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str | None
    offset: int
    length: int
    transforms: tuple[str, ...] = ()
    payload: FoundPayload | None = None
    is_as_recorded: bool = False
    trouble: str = ""

    @property
    def is_tensor(self) -> bool:
        """True for a chunk of a tensor."""
        return self.tensor >= 0

    @property
    def name(self) -> str:
        """Name and box, printable."""
        shown = printable(self.fqn, 200) or "''"
        return f"{shown} {format_box(self.offsets, self.sizes)}" if self.is_tensor else shown

    @property
    def words(self) -> str:
        """What it should be, for people."""
        return f"{self.dtype} {format_shape(self.sizes)}" if self.is_tensor else "a pickled object"

    @property
    def what(self) -> tuple[str, str, tuple[int, ...]]:
        """As `FoundPayload.what`, of the payload that fits it."""
        return ("tensor", self.dtype, self.sizes) if self.is_tensor else ("bytes", "", ())

    @property
    def range_words(self) -> str:
        """Where it lies by the metadata, for people."""
        if self.file is None:
            return "stored nowhere"
        return f"bytes {self.offset:,} to {self.offset + self.length:,} of {printable(self.file)}"

    def fits(self, payload: FoundPayload) -> bool:
        """Whether a payload is of its dtype and shape, or a pickled object as it is."""
        return payload.what == self.what

    def lies_at(self, payload: FoundPayload) -> bool:
        """Whether the metadata has the payload's own byte range."""
        return (payload.offset, payload.length) == (self.offset, self.length)


class Slots:
    """All entries, which payloads they mean, and under which name each file will lie."""

    def __init__(self, slots: Iterable[Slot], inventory: Inventory) -> None:
        self.all = list(slots)
        self.inventory = inventory
        #: The file of the folder that lies under a name in the new one, where they differ.
        self.links: dict[str, str] = {}
        self._claims: dict[tuple[str, int], Slot] = {}

    def by_name(self) -> dict[str, list[Slot]]:
        """The entries by the file that they name."""
        found: dict[str, list[Slot]] = defaultdict(list)
        for slot in self.all:
            if slot.file is not None:
                found[slot.file].append(slot)
        return found

    def file_of(self, name: str) -> str | None:
        """The file that lies under a name in the new folder; None for one that leads out."""
        return None if is_escape(name) else self.links.get(name, name)

    def name_of(self, file: str) -> str:
        """The name under which a file of the folder lies in the new one."""
        return next((name for name, other in self.links.items() if other == file), file)

    def claim(self, slot: Slot, payload: FoundPayload, *, as_recorded: bool = False) -> None:
        """Say that an entry means a payload."""
        slot.payload = payload
        slot.is_as_recorded = as_recorded
        slot.trouble = ""
        self._claims[payload.file, payload.offset] = slot

    def step(
        self, slot: Slot, payload: FoundPayload, why: str, basis: Basis = "proven"
    ) -> RepairStep:
        """Say that an entry means a payload, which its metadata does not; and tell of it."""
        before = slot.range_words
        self.claim(slot, payload)
        name = self.name_of(payload.file) if slot.file is None else slot.file
        after = f"bytes {payload.offset:,} to {payload.end:,} of {printable(name)}"
        kind: StepKind = "storage-entry" if slot.file is None else "byte-range"
        return RepairStep(kind, basis, slot.fqn, name, before, after, why)

    def release(self, slot: Slot) -> None:
        """Take that back."""
        if slot.payload is not None:
            self._claims.pop((slot.payload.file, slot.payload.offset), None)
        slot.payload = None
        slot.is_as_recorded = False

    def owner(self, payload: FoundPayload) -> Slot | None:
        return self._claims.get((payload.file, payload.offset))

    def unclaimed(self, file: str | None = None) -> list[FoundPayload]:
        """Payloads that no entry means, of one file or of all."""
        files = self.inventory.files if file is None else (file,)
        return [p for f in files for p in self.inventory.of(f) if self.owner(p) is None]


def slots_of(checkpoint: Checkpoint) -> list[Slot]:
    """Every chunk and bytes entry of a checkpoint, in the metadata's order."""
    found = []
    for tensor in checkpoint.tensors:
        boxes = zip(tensor.offsets.tolist(), tensor.sizes.tolist(), strict=True)
        for chunk, (offsets, sizes) in enumerate(boxes):
            file = int(tensor.file[chunk])
            found.append(
                Slot(
                    tensor.fqn,
                    tensor.index,
                    tensor.dtype,
                    tuple(offsets),
                    tuple(sizes),
                    checkpoint.files[file].path if file >= 0 else None,
                    int(tensor.byte_offset[chunk]),
                    int(tensor.byte_length[chunk]),
                    tensor.transforms,
                )
            )
    for entry in checkpoint.bytes_entries:
        path = checkpoint.files[entry.file].path if entry.file >= 0 else None
        found.append(
            Slot(
                entry.fqn, -1, "", (), (), path, entry.byte_offset, entry.byte_length,
                entry.transforms,
            )
        )  # fmt: skip
    return found
