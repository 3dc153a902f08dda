"""The process group of the ranks: joining it, and whether the copies of a shard agree in it.

With as many GPUs as ranks each rank has its own and nccl; object collectives still go over gloo.
With fewer, ranks share them: nccl refuses that (`Duplicate GPU detected`), so the group is gloo,
which is all that loading and saving need, and the device is set before a mesh is made, since
`DeviceMesh` would otherwise ask for GPU number LOCAL_RANK.

What is sent is a digest of 16 bytes for each entry, as uint8: gloo refuses fp8, int16 and the
wider unsigned types.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from inspector.checkpoint.payload.crc import crc32
from inspector.errors import UsageError
from inspector.verify.machine import free_memory
from inspector.verify.ranks.bits import Bytes, Local
from inspector.verify.spec import MEETING, JobSpec

if TYPE_CHECKING:
    from inspector.verify.ranks.targets import Targets

__all__ = ["digest", "disagreeing", "start", "with_memory"]

_DIGEST = struct.Struct("<IIQ")
_SMALL = 1 << 12
_BLOCK = 1 << 20

#: How long a rank waits in a collective for the others. Whether they still move is the front end's
#: to judge: one that is slow, and tells or reads something all the time, is not dead.
_GROUP_TIMEOUT_S = 86400.0

#: Of the memory that is free, so much is the ranks' to hold tensors in (as in `preflight`).
_SHARE = 0.5
_LEAST_BYTES = 64 << 20


def start(spec: JobSpec) -> torch.device:
    """Join the process group; the device that this rank's shards are on.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    timeout = timedelta(seconds=max(spec.timeout_s, _GROUP_TIMEOUT_S))
    if spec.device != "cuda":
        dist.init_process_group("gloo", timeout=timeout, **_meeting())
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or not count:
        raise UsageError("this interpreter's torch sees no GPU", "take --device cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if spec.backend == "nccl" and local_size > count:
        raise UsageError(
            f"nccl needs a GPU for each rank: there are {count} for {local_size}",
            "take the gloo backend, with which ranks can share a GPU",
        )
    if spec.via == "fsdp1" and local_size > count:
        raise UsageError(
            f"FSDP1 does not work where ranks share a GPU: there are {count} for {local_size}",
            "take --via fsdp2 or dtensor, or --device cpu",
        )
    device = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(device)
    torch.cuda.init()  # type: ignore[no-untyped-call]
    backend = "cpu:gloo,cuda:nccl" if spec.backend == "nccl" else "gloo"
    dist.init_process_group(backend, timeout=timeout, **_meeting())
    if spec.backend == "nccl":
        _try_nccl(device)
    return device


def _try_nccl(device: torch.device) -> None:
    """Send something over nccl, which a job may otherwise never do, before it says that it did.

    Raises:
        RuntimeError: What came back is not what was sent.
    """
    told = torch.full((1,), dist.get_rank() + 1, dtype=torch.int64, device=device)
    dist.all_reduce(told)
    size = dist.get_world_size()
    if int(told.item()) != size * (size + 1) // 2:
        raise RuntimeError(f"nccl summed {size} ranks up to {int(told.item())}")


def with_memory(spec: JobSpec, device: torch.device) -> JobSpec:
    """The job with what a rank may hold, measured here where the job does not say it.

    It is the least of all ranks': they go through the same waves.
    """
    if spec.memory_bytes:
        return spec
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    share = int(free_memory() * _SHARE) // num_ranks
    if device.type == "cuda":
        # That of this very device, however it was found and whoever else computes on it.
        free = int(torch.cuda.mem_get_info(device)[0])
        share = min(share, int(free * _SHARE) // -(-num_ranks // torch.cuda.device_count()))
    least = torch.tensor([max(share, _LEAST_BYTES)], dtype=torch.int64)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return dataclasses.replace(spec, memory_bytes=int(least.item()))


def _meeting() -> dict[str, Any]:
    """By what the ranks find each other: a file, where the job has one, else what torchrun says."""
    path = os.environ.get(MEETING)
    if not path:
        return {}
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(path, size)  # type: ignore[attr-defined, unused-ignore]
    return {"store": store, "rank": rank, "world_size": size}


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

    Shards are compared among the ranks that hold the same box; 0-d tensors and bytes entries over
    all ranks.

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
    if not targets.grid.mesh.is_plain:
        torn |= _compare_cells(cut, digests(cut), targets)
    elif targets.grid.mesh.num_replicas > 1:
        group = targets.grid.devices.get_group("replicate")
        torn |= _compare(cut, digests(cut), group)
    return torn


def _compare_cells(names: list[str], digests: list[bytes], targets: Targets) -> set[str]:
    """The names whose copies differ, each compared among the ranks that hold one box of it."""
    if not names:
        return set()
    rows = _gather(names, digests, None).numpy()
    torn = set()
    for i, name in enumerate(names):
        cells = targets.grid.cells(name)
        _, first, cell = np.unique(cells, return_index=True, return_inverse=True)
        if (rows[:, i] != rows[first[cell], i]).any():
            torn.add(name)
    return torn


def _gather(names: list[str], digests: list[bytes], group: Any) -> torch.Tensor:
    """Everybody's digests, shape (num_ranks, num_names, size of one)."""
    mine = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8)
    others = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(others, mine, group=group)
    return torch.stack(others).view(len(others), len(names), _DIGEST.size)


def _compare(names: list[str], digests: list[bytes], group: Any) -> set[str]:
    if not names:
        return set()
    rows = _gather(names, digests, group)
    differs = (rows != rows[0]).any(dim=2).any(dim=0)
    return {names[i] for i in torch.nonzero(differs).flatten().tolist()}
