"""FSDP2 and torchao's optimizer of 8-bit states, saved and loaded back.

    torchrun --standalone --nproc-per-node 2 low_bit_adam.py OUT

Rank 0 prints how many of its states differ after `dcp.load` from those that were saved.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchao.optim import AdamW8bit


def plain(states: dict[str, Any]) -> dict[str, torch.Tensor]:
    found = {}
    for name, of_parameter in states.items():
        for slot, tensor in of_parameter.items():
            local = getattr(tensor, "_local_tensor", tensor)
            is_packed = type(local) is not torch.Tensor
            found[f"{name}.{slot}"] = local.dequantize() if is_packed else local.clone()
    return found


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*model, model):
        fully_shard(layer, mesh=mesh)
    optimizer = AdamW8bit(model.parameters(), lr=1e-3)

    def step() -> tuple[dict[str, Any], dict[str, Any]]:
        model(torch.randn(4, 64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return get_state_dict(model, optimizer)

    weights, state = step()
    dcp.save({"model": weights, "optim": state}, checkpoint_id=sys.argv[1])
    before = plain(state["state"])
    weights, state = step()
    dcp.load({"model": weights, "optim": state}, checkpoint_id=sys.argv[1])
    after = plain(state["state"])
    if not dist.get_rank():
        num_different = sum(not torch.equal(before[n], after[n]) for n in before)
        sys.stdout.write(f"{num_different}\n")
    dist.barrier()  # One that leaves early can end another.
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
