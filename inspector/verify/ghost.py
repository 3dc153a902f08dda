"""A module made from a checkpoint's names, wrapped by FSDP: its own state dict is what is loaded.

Only what torchrun runs imports this module. The module's parameters are named by number (`g0.p3`):
a tree with the checkpoint's own names fails for names like `type`, `a` beside `a.b`, or an empty
one. Parameters are made on the meta device and get memory when FSDP has cut them.

What cannot be a parameter goes the DTensor way: 0-d tensors (`fully_shard doesn't support scalar
parameters`), optimizer state, bytes entries; for FSDP1 all but the four floating types that its
flat parameters and gloo take; for FSDP2 any dtype that a small trial refuses (torch before 2.12:
whatever cannot require gradients).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor

from inspector.checkpoint.model import Tensor
from inspector.verify.targets import Grid, Targets, poison
from inspector.verify.torch_dcp import torch_dtype

__all__ = ["GhostTargets", "why_not_parameter"]

_STATE = re.compile(r"(?:\A|\.)(?:state|optim|optimizer)\.")
_FLAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
_GROUP = 4


def why_not_parameter(tensor: Tensor, grid: Grid, via: str) -> str:
    """Why a tensor cannot be an FSDP parameter, or an empty string."""
    if not tensor.shape:
        return "FSDP takes no 0-d parameters"
    if _STATE.search(tensor.fqn):
        return "it is optimizer state"
    if via == "fsdp1":
        if tensor.dtype not in _FLAT_DTYPES:
            return f"FSDP1 cannot flatten {tensor.dtype}"
        if tensor.num_elements == 0:
            return "FSDP1 cannot flatten a tensor without elements"
        return ""
    if 0 in tensor.shape[1:]:
        return "fully_shard does not keep the shape of a tensor without elements"
    return _trial(tensor.dtype, grid)


@cache
def _trial(dtype: str, grid: Grid) -> str:
    try:
        module = _module([[((2, 2), dtype)]])
        _shard(module, grid)
        get_model_state_dict(module)
    except Exception as error:
        return f"fully_shard of this torch refuses {dtype} ({str(error)[:120]})"
    return ""


class GhostTargets(Targets):
    """The state dict of a ghost module on one mesh, and DTensors for the rest."""

    def __init__(self, grid: Grid, via: str) -> None:
        super().__init__(grid)
        self._way = via
        self._names: dict[str, str] = {}
        self._tensors: list[Tensor] = []
        self._module: nn.Module | None = None

    def add(self, tensor: Tensor) -> None:
        """A parameter for a tensor, where it can be one; else a DTensor."""
        if why_not_parameter(tensor, self.grid, self._way):
            super().add(tensor)
        else:
            self._tensors.append(tensor)

    def build(self) -> None:
        """Make and wrap the module, once all tensors are there."""
        if not self._tensors:
            return
        groups: list[list[Tensor]] = []
        for tensor in sorted(self._tensors, key=lambda t: t.dtype):
            # One dtype to a unit: FSDP1's flat parameter can hold only one.
            if not groups or len(groups[-1]) == _GROUP or groups[-1][0].dtype != tensor.dtype:
                groups.append([])
            groups[-1].append(tensor)
        self._names = {
            f"g{g}.p{p}": tensor.fqn
            for g, group in enumerate(groups)
            for p, tensor in enumerate(group)
        }
        module = _module([[(t.shape, t.dtype) for t in group] for group in groups])
        self._module = (_flatten if self._way == "fsdp1" else _shard)(module, self.grid)
        self._take(is_new=True)

    def loaded(self) -> None:
        """Give the loaded state dict to the module, and take the module's own again."""
        if self._module is None:
            return
        own = {name: self.state[fqn] for name, fqn in self._names.items()}
        set_model_state_dict(self._module, own)
        self._take(is_new=False)

    def _take(self, is_new: bool) -> None:
        assert self._module is not None  # noqa: S101 - the callers looked
        dropped = set() if is_new else {f for f in self._names.values() if f not in self.state}
        for name, value in get_model_state_dict(self._module).items():
            fqn = self._names[name]
            if fqn in dropped:
                continue
            if is_new:
                local: Any = value.to_local() if isinstance(value, DTensor) else value
                if local.numel():
                    poison(local)
                self.via[fqn] = self._way
            self.state[fqn] = value


def _module(groups: list[list[tuple[tuple[int, ...], str]]]) -> nn.Module:
    root = nn.Module()
    for g, group in enumerate(groups):
        child = nn.Module()
        for p, (shape, name) in enumerate(group):
            dtype = torch_dtype(name)
            value = torch.empty(shape, dtype=dtype, device="meta")
            grad = value.is_floating_point() or value.is_complex()
            child.register_parameter(f"p{p}", nn.Parameter(value, requires_grad=grad))
        root.add_module(f"g{g}", child)
    return root


def _shard(module: nn.Module, grid: Grid) -> nn.Module:
    """FSDP2."""
    from torch.distributed.fsdp import fully_shard

    for child in module.children():
        fully_shard(child, mesh=grid.devices)
    fully_shard(module, mesh=grid.devices)
    return module.to_empty(device=grid.device)


def _flatten(module: nn.Module, grid: Grid) -> nn.Module:
    """FSDP1; on the CPU it works only with an explicit `device_id`."""
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    is_hybrid = grid.mesh.family == "hsdp"
    strategy = ShardingStrategy.HYBRID_SHARD if is_hybrid else ShardingStrategy.FULL_SHARD
    options: dict[str, Any] = {
        "device_mesh": grid.devices,
        "sharding_strategy": strategy,
        "device_id": grid.device,
        "use_orig_params": True,
        "param_init_fn": lambda m: m.to_empty(device=grid.device, recurse=False),
    }
    for name, child in list(module.named_children()):
        setattr(module, name, FullyShardedDataParallel(child, **options))
    return FullyShardedDataParallel(module, **options)
