"""The device and the process group of one rank. Needs torch.

With as many GPUs as ranks each rank has its own and nccl; object collectives still go over gloo.
With fewer, ranks share them: nccl refuses that (`Duplicate GPU detected`), so the group is gloo,
which is all that loading and saving need, and the device is set before a mesh is made, since
`DeviceMesh` would otherwise ask for GPU number LOCAL_RANK.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from inspector.errors import UsageError
from inspector.verify.spec import JobSpec

__all__ = ["start"]


def start(spec: JobSpec) -> torch.device:
    """Join the process group; the device that this rank's shards are on.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    timeout = timedelta(seconds=spec.timeout_s)
    if spec.device != "cuda":
        dist.init_process_group("gloo", timeout=timeout)
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
    device = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(device)
    torch.cuda.init()  # type: ignore[no-untyped-call]
    backend = "cpu:gloo,cuda:nccl" if spec.backend == "nccl" else "gloo"
    dist.init_process_group(backend, timeout=timeout)
    return device
