"""A digest of a tensor's content that does not depend on how it is cut, packed or placed.

The digest is SHA-256 over the tensor's elements in row-major order, little-endian: what
`hashlib.sha256(t.contiguous().numpy().tobytes())` gives for a tensor that numpy knows
(`t.contiguous().view(torch.uint8)` for others). Dtype and shape are not hashed; they stand beside
it.

Why SHA-256: anyone can check it with tools that are there for good; no two contents with one
digest are known, by accident or by design, so a seal also tells what was changed on purpose; and
processors have instructions for it (SHA-NI, ARMv8), with which hashlib is faster than with any
other hash it has that still holds: 0.9 GiB/s a core where BLAKE2b makes 0.5. CRC32, which
torch's payloads carry, is made for transmission faults: one of 4 billion changes passes, and a
forger needs no luck. BLAKE3 would be faster and is in no standard library. A sum of hashes of the
elements, with each its index, would need no order of reading, but costs a hash an element; without
its index it would not see two elements swapped.

The price of one digest over all is that a tensor is hashed by one core; tensors are shared out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checkpoint.payload.open_files import OpenFiles
from inspector.checkpoint.payload.payload import open_payload, record_blocks, unpacked
from inspector.checkpoint.payload.source import PayloadError
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import printable
from inspector.checkpoint.workers import BytesProgress, Stop, run_workers
from inspector.errors import InspectError
from inspector.values.bits import BlockPlan, TensorBits

__all__ = [
    "Fingerprint",
    "Fingerprints",
    "entry_fingerprint",
    "fingerprints",
    "tensor_fingerprint",
]

_MAX_ENTRY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A digest, and how many bytes it stands for.

    Attributes:
        sha256: 64 hexadecimal digits.
        num_bytes: Bytes of elements (of content, for a bytes entry).
    """

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The fingerprints of a checkpoint.

    Attributes:
        tensors: By index of the tensor.
        entries: By index of the bytes entry.
        tensor_errors, entry_errors: Why there is none, by the same indices.
        is_cancelled: True if it was stopped; what is in neither was not looked at.
    """

    tensors: dict[int, Fingerprint] = field(default_factory=dict)
    entries: dict[int, Fingerprint] = field(default_factory=dict)
    tensor_errors: dict[int, InspectError] = field(default_factory=dict)
    entry_errors: dict[int, InspectError] = field(default_factory=dict)
    is_cancelled: bool = False


def tensor_fingerprint(
    checkpoint: Checkpoint,
    tensor: Tensor,
    files: OpenFiles,
    *,
    tick: Callable[[int], None] | None = None,
) -> Fingerprint:
    """The fingerprint of one tensor.

    Raises:
        PayloadError, MissingPackageError, StorageError: An element cannot be read; see
            `TensorBits.read`.
    """
    bits = TensorBits(checkpoint, tensor, files)
    plan = BlockPlan.of(tensor.shape, bits.itemsize)
    digest = hashlib.sha256()
    num_bytes = 0
    try:
        for number in range(plan.num_blocks):
            block = bits.read(*plan.box(number))
            digest.update(block.data)
            num_bytes += len(block)
            if tick is not None:
                tick(len(block))
    finally:
        files.forget()
    return Fingerprint(digest.hexdigest(), num_bytes)


def entry_fingerprint(
    checkpoint: Checkpoint,
    entry: BytesEntry,
    files: OpenFiles,
    *,
    tick: Callable[[int], None] | None = None,
) -> Fingerprint:
    """The fingerprint of a bytes entry: SHA-256 over the records that hold what was pickled.

    These are `data.pkl`, the records `data/*` of tensors in it, and `byteorder` if there are any,
    by name; of each its name, a zero byte, its size as eight bytes (little-endian), its bytes.
    Left out are the container and the records that tell of the writer (`version`,
    `.data/serialization_id`, alignment). Nothing is unpickled. Equal objects are mostly pickled
    to equal bytes, but need not be: a set of strings has another order in every process. A
    payload in torch's format of before 1.6 is hashed as it is.

    Raises:
        PayloadError, MissingPackageError, StorageError: It cannot be read.
    """
    if entry.file < 0:
        raise PayloadError("the metadata stores it nowhere", code="chunk-unstored")
    path = checkpoint.files[entry.file].path
    source = files.source(path, entry.byte_offset, entry.byte_length)
    if not entry.transforms:
        source.prefetch()
    inner = unpacked(source, entry.transforms, _MAX_ENTRY_BYTES)
    # As a tensor's: then a pickle is only parsed if it is small, and it need not be.
    payload = open_payload(inner, is_tensor=True)
    digest = hashlib.sha256()
    num_bytes = 0
    if payload.container == "legacy":
        for block in inner.blocks(0, inner.length):
            digest.update(block)
            num_bytes += len(block)
            if tick is not None:
                tick(len(block))
        return Fingerprint(digest.hexdigest(), num_bytes)
    has_tensors = any(record.short_name.startswith("data/") for record in payload.records)
    for record in sorted(payload.records, key=lambda r: r.short_name):
        name = record.short_name
        is_content = name == "data.pkl" or name.startswith("data/")
        if not is_content and not (has_tensors and name == "byteorder"):
            continue
        if record.deflated and record.num_bytes > _MAX_ENTRY_BYTES:
            raise PayloadError("a deflated record claims more bytes than it can need")
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(record.num_bytes.to_bytes(8, "little"))
        for block in record_blocks(inner, record):
            digest.update(block)
            num_bytes += len(block)
            if tick is not None:
                tick(len(block))
    return Fingerprint(digest.hexdigest(), num_bytes)


def fingerprints(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    tensors: Sequence[int] | None = None,
    entries: Sequence[int] | None = None,
    progress: Callable[[BytesProgress], bool] | None = None,
    workers: int = 2,
) -> Fingerprints:
    """The fingerprints of tensors and bytes entries, on all cores, in a few MiB of memory.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        tensors: Which tensors, by index (default: all).
        entries: Which bytes entries, by index (default: all).
        progress: Called about ten times a second, in the calling thread; True cancels.
        workers: Threads.

    Returns:
        What could be hashed, and for the rest why not. Cancelling returns what there is.
    """
    run = _Run(checkpoint, storage)
    chosen = checkpoint.tensor_order.tolist() if tensors is None else list(tensors)
    wanted = checkpoint.bytes_order.tolist() if entries is None else list(entries)
    sizes = checkpoint.columns.num_bytes
    run.bytes_total = sum(sizes[i] for i in chosen)
    run.bytes_total += sum(checkpoint.bytes_entries[i].byte_length for i in wanted)
    # The largest first, so that no core is left with one of them at the end.
    chosen.sort(key=lambda i: -sizes[i])
    tasks = [(True, i) for i in chosen] + [(False, i) for i in wanted]

    def poll() -> bool:
        return progress is not None and progress(BytesProgress(run.bytes_done, run.bytes_total))

    run_workers(tasks, lambda: _Hasher(run), run.stop, num_workers=workers, poll=poll)
    found = run.found
    done = len(found.tensors) + len(found.entries)
    done += len(found.tensor_errors) + len(found.entry_errors)
    return Fingerprints(
        found.tensors,
        found.entries,
        found.tensor_errors,
        found.entry_errors,
        is_cancelled=done < len(tasks),
    )


class _Run:
    """What the threads share."""

    def __init__(self, checkpoint: Checkpoint, storage: Storage) -> None:
        self.checkpoint = checkpoint
        self.storage = storage
        self.stop = Stop()
        self.found = Fingerprints()
        self.bytes_total = 0
        self._hashers: list[_Hasher] = []

    @property
    def bytes_done(self) -> int:
        return min(sum(h.bytes_done for h in self._hashers), self.bytes_total)

    def add(self, hasher: _Hasher) -> None:
        self._hashers.append(hasher)


class _Hasher:
    """One thread's work."""

    def __init__(self, run: _Run) -> None:
        self.bytes_done = 0
        self._run = run
        self._files = OpenFiles(run.storage)
        run.add(self)

    def close(self) -> None:
        self._files.close()

    def run(self, task: tuple[bool, int]) -> None:
        is_tensor, index = task
        checkpoint, found = self._run.checkpoint, self._run.found
        try:
            if is_tensor:
                tensor = checkpoint.columns.tensor(index)
                found.tensors[index] = tensor_fingerprint(
                    checkpoint, tensor, self._files, tick=self._tick
                )
            else:
                entry = checkpoint.bytes_entries[index]
                found.entries[index] = entry_fingerprint(
                    checkpoint, entry, self._files, tick=self._tick
                )
        except InspectError as error:
            self._run.stop.check()
            (found.tensor_errors if is_tensor else found.entry_errors)[index] = error

    def _tick(self, num_bytes: int) -> None:
        self.bytes_done += num_bytes
        self._run.stop.check()


def reason(error: InspectError) -> str:
    """Why something could not be read, printable."""
    return printable(error.message, 400) + (f" ({error.hint})" if error.hint else "")
