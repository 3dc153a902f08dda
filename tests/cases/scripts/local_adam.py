"""FSDP2 and an optimizer that keeps plain local tensors, saved and resumed on the same ranks.

    torchrun --standalone --nproc-per-node 4 local_adam.py OUT

Rank 0 prints how many optimizer tensors of all ranks are as they were.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


class LocalAdam(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            weight, grad = parameter.to_local(), parameter.grad.to_local()
            state = self.state[parameter]
            if not state:
                state.update(step=torch.tensor(0.0))
                state.update({n: torch.zeros_like(weight) for n in ("exp_avg", "exp_avg_sq")})
            state["step"] += 1
            state["exp_avg"].lerp_(grad, 0.1)
            state["exp_avg_sq"].lerp_(grad * grad, 0.01)
            weight.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt() + 1e-8, value=-0.01)


def trained(steps: int) -> tuple[nn.Module, LocalAdam]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer = LocalAdam(model.parameters())
    torch.manual_seed(1 + dist.get_rank())
    for _ in range(steps):
        model(torch.randn(4, 8)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def main() -> None:
    dist.init_process_group("gloo")
    model, optimizer = trained(5)
    state = get_optimizer_state_dict(model, optimizer)
    dcp.save({"model": get_model_state_dict(model), "optim": state}, checkpoint_id=sys.argv[1])
    fresh, resumed = trained(1)
    state = get_optimizer_state_dict(fresh, resumed)
    dcp.load({"optim": state}, checkpoint_id=sys.argv[1])
    set_optimizer_state_dict(fresh, resumed, state)
    same = [
        torch.equal(optimizer.state[p][slot], resumed.state[q][slot])
        for p, q in zip(model.parameters(), fresh.parameters(), strict=True)
        for slot in optimizer.state[p]
    ]
    counts = torch.tensor([sum(same), len(same)])
    dist.all_reduce(counts)
    if not dist.get_rank():
        sys.stdout.write("{} {}\n".format(*counts.tolist()))
    dist.barrier()  # One that leaves early can end another.
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
