"""Canaries: bytes changed on purpose, in buffers of the job's own, that have to be reported.

EXACT means that a comparison looked and found nothing; so each job first sees that what looks does
find something. In every wave a byte is changed in a copy of what a rank holds (of a tensor and of
a bytes entry: the first, one in the middle, the last), in a digest's data and in a payload with a
checksum; and entries that are in no checkpoint are saved and loaded again beside the others. What
does not report it ends the job: such a job has no verdict.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inspector.checkpoint.model import Tensor
from inspector.errors import InspectError
from inspector.verify.ranks.bits import POISON, Bytes, Local, Region, RegionTally, index_in
from inspector.verify.ranks.stored import StoredReader
from inspector.verify.ranks.targets import Grid, Targets
from inspector.verify.ranks.torch_dcp import RawBytes

if TYPE_CHECKING:
    from inspector.verify.ranks.wave import WaveComparison

__all__ = [
    "BlindError",
    "CopyCanaries",
    "SavedCanary",
    "require_scratch",
    "try_checksums",
    "try_comparison",
]

_NAME = "canary of hsdp-inspect"
#: Of what a rank holds, so much is copied.
_MAX_COPY_BYTES = 1 << 20
_REGION_BYTES = (5 << 19) + 3


class BlindError(InspectError):
    """A check of the job did not report what was wrong on purpose: its verdict means nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the job's own check failed: {what}",
            "this is a fault of hsdp-inspect or of this machine, not of the checkpoint",
        )


def try_comparison(comparison: WaveComparison, phase: str) -> int:
    """Change a byte in a copy of the smallest tensor, and bytes entry, of a rank, and compare that.

    Of a large one its first rows stand for it.

    Returns:
        How many bytes were changed: 0 if this rank holds no entry that is equal.

    Raises:
        BlindError: One was not reported.
    """
    _try_region(phase)
    count = 0
    for held in (comparison.locals, comparison.raw):
        sizes = {f: len(h.data if isinstance(h, Local) else h) for f, h in held.items()}
        good = [f for f, n in sizes.items() if n and comparison.tallies[f].verdict == "EXACT"]
        if not good:
            continue
        fqn = min(good, key=lambda f: (sizes[f], f))
        whole: Local | bytes = held[fqn]
        local = None
        if isinstance(whole, Local):
            local = whole.head(_MAX_COPY_BYTES)
            data = local.data
        else:
            data = np.frombuffer(whole, np.uint8)
        for at in sorted({0, len(data) // 2, len(data) - 1}):
            changed = data.copy()
            changed[at] ^= 1
            tally = comparison.against(fqn, changed)
            if tally.verdict != "DIFFER" or tally.first_index != _index(local, at):
                raise BlindError(f"{phase} did not report a byte that was changed on purpose")
            count += 1
    return count


def _index(local: Local | None, at: int) -> tuple[int, ...]:
    """The index in its entry of the element whose byte stands at `at`."""
    if local is None:
        return (at,)
    return index_in(at // local.itemsize, local.sizes, local.offsets)


def _try_region(phase: str) -> None:
    """The same in a private buffer of several of the pieces in which a region is compared."""
    stored = np.resize(np.arange(251, dtype=np.uint8), _REGION_BYTES)
    for at in (0, _REGION_BYTES // 2, _REGION_BYTES - 1):
        changed = stored.copy()
        changed[at] ^= 1
        tally = RegionTally(_NAME, _REGION_BYTES)
        size = (_REGION_BYTES,)
        Region(Local(changed, (0,), size, 1), (0,), size, tally, "").feed(stored)
        if tally.verdict != "DIFFER" or tally.num_different != 1 or tally.first_index != (at,):
            raise BlindError(f"{phase} did not report a byte that was changed on purpose")


class CopyCanaries:
    """Private buffers that go through the comparison of copies with the entries of a wave.

    Some are the same on every rank, some differ by one byte.

    Attributes:
        state: What stands for them in a state dict.
        raw: This rank's bytes of each.
    """

    def __init__(self, grid: Grid) -> None:
        self.state: dict[str, Any] = {}
        self.raw: dict[str, bytes] = {}
        self._torn: set[str] = set()
        if grid.mesh.world_size == 1:
            return
        has_copies = grid.has_copies
        is_first = grid.is_first_copy
        # Small data are hashed, large ones summed up: both ways.
        for size in (64, 1 << 14):
            for kind in ("cut", "whole"):
                for word in ("same", "torn"):
                    name = f"{_NAME}: {kind}, {word}, {size}"
                    data = bytearray(np.arange(size, dtype=np.uint8).tobytes())
                    if word == "torn":
                        data[size // 2] ^= is_first if kind == "cut" else grid.rank == 0
                        if kind == "whole" or has_copies:
                            self._torn.add(name)
                    self.state[name] = torch.empty(1) if kind == "cut" else RawBytes()
                    self.raw[name] = bytes(data)

    def take(self, torn: set[str]) -> int:
        """Take them out of what was reported.

        Returns:
            How many reports were due: 0 where there is one rank.

        Raises:
            BlindError: One that differs was not reported, or one that does not was.
        """
        reported = torn & self.state.keys()
        torn -= reported
        if reported != self._torn:
            raise BlindError("the digests of replicas do not tell copies that differ by one byte")
        return len(self._torn)


def try_checksums(reader: StoredReader) -> int:
    """Change one byte of a payload in memory, under its CRC32.

    Raises:
        BlindError: It was not reported, or the same payload without a change was.
    """
    file = io.BytesIO()
    torch.save(torch.arange(64, dtype=torch.uint8), file)
    data = file.getvalue()
    at = data.index(bytes(range(64)))
    changed = data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :]
    told = [reader.is_corrupt(payload) for payload in (data, changed)]
    if told[0] is None:
        return 0  # This torch was told to write none (`set_crc32_options`).
    if told != [False, True]:
        raise BlindError("the checksums of payloads do not tell a byte that was changed")
    return 1


def require_scratch(reader: Any, scratch: str) -> None:
    """What was saved is loaded again: from the scratch folder, and from nowhere else.

    Raises:
        BlindError: The reader lies elsewhere.
    """
    path, root = os.path.realpath(str(reader.path)), os.path.realpath(scratch)
    if os.path.commonpath([path, root]) != root or path == root:
        raise BlindError("the reload would not read what was saved")


class SavedCanary:
    """A tensor and a bytes entry of the job's own, saved and loaded again beside a wave's entries.

    Args:
        targets: What is about to be saved; it gets them.
        names: Names that are taken.
        salt: A number that no other save of the job has.
    """

    def __init__(self, targets: Targets, names: Collection[str], salt: int) -> None:
        name = _NAME
        while name in names or f"{name}: bytes" in names:
            name += "."
        rows = 8 * targets.grid.mesh.world_size  # Some of them for every rank of every mesh.
        box = np.zeros((0, 1), np.int64)
        none = np.zeros(0, np.int64)
        self.tensor = Tensor(
            -1, name, "uint8", (rows,), box, box, none.astype(np.int32), none, none
        )
        self._raw = f"{name}: bytes"
        self.names = frozenset((name, self._raw))
        self._pattern = ((np.arange(rows) * 7 + salt) % 251).astype(np.uint8)
        self.add(targets)
        targets.fill(self.tensor, self._part(targets))
        targets.state[self._raw].data = self._pattern.tobytes()

    def add(self, targets: Targets) -> None:
        """A place for them."""
        Targets.add(targets, self.tensor)
        targets.state[self._raw] = RawBytes()
        targets.via[self._raw] = "dtensor"

    def forget(self, targets: Targets) -> None:
        """Once they are saved: what lies in memory still is not what was saved."""
        targets.fill(self.tensor, np.full(len(self._part(targets)), POISON, np.uint8))
        targets.state[self._raw].data = None

    def try_reload(self, targets: Targets) -> int:
        """See that they were loaded, and take them out of the targets.

        Returns:
            How many were: 2.

        Raises:
            BlindError: One is not there, or not as it was saved.
        """
        tensor, raw = targets.local(self.tensor).data, targets.local_bytes(self._raw)
        targets.drop(set(self.names))
        for name in self.names:
            targets.via.pop(name, None)
        if raw is None or raw != self._pattern.tobytes():
            raise BlindError("the reload did not bring a bytes entry as it was saved")
        if not np.array_equal(tensor, self._part(targets)):
            raise BlindError("the reload did not bring a tensor as it was saved")
        return len(self.names)

    def _part(self, targets: Targets) -> Bytes:
        """This rank's part of the tensor."""
        (first,), (count,) = targets.grid.box(self.tensor)
        return self._pattern[first : first + count]
