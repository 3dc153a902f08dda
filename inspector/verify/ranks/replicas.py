"""Whether the copies of a shard agree. Needs torch.

What is sent is a digest of 16 bytes for each entry, as uint8: gloo refuses fp8, int16 and the
wider unsigned types.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from inspector.verify.ranks.compare import Bytes, Local
from inspector.verify.ranks.targets import Targets

try:
    from isal.isal_zlib import crc32
except ImportError:  # Slower, and as right.
    from zlib import crc32

__all__ = ["digest", "disagreeing"]

_DIGEST = struct.Struct("<IIQ")
_SMALL = 1 << 12
_BLOCK = 1 << 20


def digest(data: Bytes | bytes) -> bytes:
    """16 bytes that differ if the data differ by accident.

    Small data are hashed; large ones are summed up (CRC32, and the 64-bit sum of their words), at
    the speed of memory: they were compared bit for bit with the stored bytes already.
    """
    if len(data) <= _SMALL:
        return hashlib.blake2b(bytes(data), digest_size=_DIGEST.size).digest()
    view = np.frombuffer(data, np.uint8)
    crc, total = 0, 0
    for begin in range(0, len(view), _BLOCK):
        block = view[begin : begin + _BLOCK]
        crc = crc32(block.data, crc)
        words = block[: len(block) // 8 * 8]
        if words.ctypes.data % 8 == 0:
            total += int(words.view(np.uint64).sum(dtype=np.uint64))
    return _DIGEST.pack(crc, len(view) & 0xFFFFFFFF, total & 0xFFFFFFFFFFFFFFFF)


def disagreeing(
    targets: Targets, locals_: dict[str, Local], raw: dict[str, bytes], variants: set[str]
) -> set[str]:
    """The entries whose copies differ between ranks that should hold the same.

    Shards are compared along the replicate axis; 0-d tensors and bytes entries over all ranks.

    Args:
        targets: The wave, the same on every rank.
        locals_: This rank's shards.
        raw: This rank's bytes entries.
        variants: Entries of which each rank may hold its own.
    """
    cut, whole = [], []
    for fqn, value in targets.state.items():
        if isinstance(value, torch.Tensor) and value.dim():
            cut.append(fqn)
        elif fqn not in variants:
            whole.append(fqn)

    def digests(names: list[str]) -> list[bytes]:
        # What this rank does not hold still takes its place among the digests.
        held = (locals_[f].data if f in locals_ else raw.get(f, b"missing") for f in names)
        return [digest(data) for data in held]

    torn = _compare(whole, digests(whole), None)
    if targets.grid.mesh.num_replicas > 1:
        group = targets.grid.devices.get_group("replicate")
        torn |= _compare(cut, digests(cut), group)
    return torn


def _compare(names: list[str], digests: list[bytes], group: Any) -> set[str]:
    if not names:
        return set()
    mine = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
    others = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(others, mine, group=group)
    rows = torch.stack(others).view(len(others), len(names), _DIGEST.size)
    differs = (rows != rows[0]).any(dim=2).any(dim=0)
    return {names[i] for i in torch.nonzero(differs).flatten().tolist()}
