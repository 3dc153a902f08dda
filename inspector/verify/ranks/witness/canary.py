"""Canaries: bytes changed on purpose, in buffers of the job's own, that have to be reported.

EXACT means that a comparison looked and found nothing; so each job first sees that what looks does
find something. In every wave one byte is changed in a copy of what a rank holds, in a digest's
data, in a payload with a checksum, and in an entry that is saved and loaded again beside the
others. What does not report it ends the job: such a job has no verdict.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inspector.checkpoint.model import BytesEntry, Tensor
from inspector.errors import InspectError
from inspector.verify.ranks.compare import Local
from inspector.verify.ranks.stored import StoredReader
from inspector.verify.ranks.targets import Grid, Targets
from inspector.verify.ranks.torch_dcp import RawBytes

if TYPE_CHECKING:
    from inspector.verify.ranks.comparison import WaveComparison

__all__ = [
    "BlindError",
    "CopyCanaries",
    "SavedCanary",
    "require_scratch",
    "try_checksums",
    "try_comparison",
]

_NAME = "canary of hsdp-inspect"


class BlindError(InspectError):
    """A check of the job did not report what was wrong on purpose: its verdict means nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the job's own check failed: {what}",
            "this is a fault of hsdp-inspect or of this machine, not of the checkpoint",
        )


def try_comparison(comparison: WaveComparison, phase: str) -> int:
    """Change one byte in a copy of the smallest entry that this rank holds, and compare that.

    Returns:
        How many entries were tried: 1, or 0 if this rank holds none that is equal.

    Raises:
        BlindError: It was not reported.
    """
    held: dict[str, Any] = {f: local.data for f, local in comparison.locals.items()}
    held |= comparison.raw
    good = [f for f, data in held.items() if len(data) and comparison.tallies[f].verdict == "EXACT"]
    if not good:
        return 0
    fqn = min(good, key=lambda f: (len(held[f]), f))
    data = np.frombuffer(bytes(held[fqn]), np.uint8).copy()
    at = len(data) // 2
    data[at] ^= 1
    local = comparison.locals.get(fqn)
    index: tuple[int, ...] = (at,)
    if local is not None:
        inside = np.unravel_index(at // local.itemsize, local.sizes) if local.sizes else ()
        index = tuple(int(i) + o for i, o in zip(inside, local.offsets, strict=True))
    tally = comparison.against(fqn, data)
    if tally.verdict != "DIFFER" or not tally.num_different or tally.first_index != index:
        raise BlindError(f"{phase} did not report a byte that was changed on purpose")
    return 1


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
        has_copies = grid.mesh.num_replicas > 1
        is_first = grid.mesh.coordinate(grid.rank)[0] == 0
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
    """A copy of one entry with a changed byte, which is saved and loaded again beside the others.

    Args:
        targets: What is about to be saved; it gets the copy.
        tensors: The wave's tensors by name.
        entries: Its bytes entries.
        names: Names that are taken.
    """

    def __init__(
        self,
        targets: Targets,
        tensors: dict[str, Tensor],
        entries: dict[str, list[BytesEntry]],
        names: Collection[str],
    ) -> None:
        self.name = _NAME
        while self.name in names:
            self.name += "."
        self.fqn = ""
        self._tensor: Tensor | None = None
        self._entry: BytesEntry | None = None
        # The same on every rank: the state dict has the same names there.
        held = [tensors[f] for f in targets.state if f in tensors and tensors[f].num_elements]
        if held:
            tensor = min(held, key=lambda t: (t.num_bytes, t.fqn))
            self.fqn = tensor.fqn
            self._tensor = replace(tensor, fqn=self.name)
            self._copy(targets, tensor)
            return
        raw = [f for f in targets.state if f in entries and targets.local_bytes(f)]
        if raw:
            self.fqn = min(raw)
            self._entry = replace(entries[self.fqn][0], fqn=self.name)
            data = bytearray(targets.local_bytes(self.fqn) or b"")
            data[0] ^= 1
            targets.add_bytes(self._entry)
            targets.state[self.name].data = bytes(data)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The copy, if it is a tensor, by its name."""
        return {} if self._tensor is None else {self.name: self._tensor}

    def add(self, targets: Targets) -> None:
        """A place to load it into."""
        if self._tensor is not None:
            Targets.add(targets, self._tensor)
        elif self._entry is not None:
            targets.add_bytes(self._entry)

    def take(self, targets: Targets) -> Local | bytes | None:
        """What was loaded of it, out of the targets."""
        if not self.fqn:
            return None
        held: Local | bytes | None = (
            targets.local_bytes(self.name) if self._tensor is None else targets.local(self._tensor)
        )
        targets.drop({self.name})
        targets.via.pop(self.name, None)
        return held

    def try_reload(self, comparison: WaveComparison, held: Local | bytes | None) -> int:
        """Compare what was loaded of it with the original's bytes.

        Raises:
            BlindError: The changed byte was not reported where it is, or is there no more.
        """
        if not self.fqn:
            return 0
        data = held.data if isinstance(held, Local) else held
        if data is None:
            raise BlindError("the reload did not bring an entry that was saved")
        if not len(data):
            return 0
        loaded = np.frombuffer(bytes(data), np.uint8).copy()
        is_changed = not (isinstance(held, Local) and any(held.offsets))
        if is_changed:
            tally = comparison.against(self.fqn, loaded)
            if tally.verdict != "DIFFER" or tally.first_index is None or any(tally.first_index):
                raise BlindError("the reload did not bring a byte that was changed before the save")
            loaded[0] ^= 1
        # But for that byte it is the original.
        if comparison.against(self.fqn, loaded).verdict != "EXACT":
            raise BlindError("the reload did not bring what was saved")
        return int(is_changed)

    def _copy(self, targets: Targets, tensor: Tensor) -> None:
        local = targets.local(tensor)
        assert self._tensor is not None  # noqa: S101 - the caller has just set it
        Targets.add(targets, self._tensor)
        data = local.data.copy()
        if len(data) and not any(local.offsets):
            data[0] ^= 1
        targets.fill(self._tensor, data)
