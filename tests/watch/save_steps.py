"""What torchrun runs: saves steps as a training does, and perhaps dies in the middle of one.

Arguments: the run's folder, the first step, the last, and the step in which rank 1 is killed (0:
in none). Each step is two checkpoints, the model's and a while later the optimizer's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

PAUSE_S = 0.3


class Dying(FileSystemWriter):
    """Rank 1 is killed when its data is written and nobody has heard of it."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        written = super().write_data(plan, planner)
        written.wait()
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def main(folder: str, first: int, last: int, killed: int) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def sharded(value: float) -> DTensor:
        return distribute_tensor(torch.full((64, 16), value), mesh, [Shard(0)])

    for step in range(first, last + 1):
        model = {"model": {"w": sharded(step)}}
        state = {"w": {"exp_avg": sharded(-step), "step": torch.tensor(float(step))}}
        for name, content in (("model", model), ("optimizer", {"optimizer": {"state": state}})):
            where = str(Path(folder, f"step-{step}", name))
            writer = (Dying if step == killed and name == "optimizer" else FileSystemWriter)(where)
            dcp.save(content, storage_writer=writer)
            time.sleep(PAUSE_S)
    dist.barrier()  # One that leaves early can end another.
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
