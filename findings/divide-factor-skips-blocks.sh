#!/usr/bin/env bash
# Guess:    model.set_gradient_divide_factor(1.0) on the root of an FSDP2 model makes every gradient the sum over ranks (the
#           losses are divided by the tokens of all ranks, say), as the root's set_requires_gradient_sync, set_reshard_after_
#           backward and others act on the whole model (recurse=True).
# Happens:  it acts on the root's own parameters only. Those of the blocks that were sharded one by one (in most models
#           nearly all) are still averaged: their gradients are the number of ranks too small beside the root's, which
#           clipping by the total norm then mixes. Neither the docstring nor a warning says so; there is no recurse.
# Versions: torch 2.13.0
# Source:   torch/distributed/fsdp/_fully_shard/_fully_shard.py (FSDPModule.set_gradient_divide_factor, and the deprecated
#           set_reduce_scatter_divide_factor, which calls it: only self._get_fsdp_state()._fsdp_param_groups)
# Met by:   token-weighted losses, sequences of different lengths, expert parallelism. Call it for every FSDPModule of
#           model.modules().
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard


def gradients(*chosen: str) -> dict[str, float]:
    """An element of each weight's gradient after a step with the factor 1 set on the modules of these names."""
    model = torch.nn.Sequential()
    model.block = torch.nn.Linear(1, 2, bias=False)
    model.head = torch.nn.Linear(2, 2, bias=False)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    fully_shard(model.block)
    fully_shard(model)
    for name, module in model.named_modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums; the values are the same
            if name in chosen:
                module.set_gradient_divide_factor(1.0)
    model(torch.ones(1, 1)).sum().backward()
    return {name: parameter.grad.full_tensor()[0, 0].item() for name, parameter in model.named_parameters()}


dist.init_process_group("gloo")
averaged, on_root, on_each = gradients(), gradients(""), gradients("", "block")
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: set on the root, both gradients are twice as large on 2 ranks")
    print("seen:  not set           ", averaged)
    print("       set on the root   ", on_root)
    print("       set on each module", on_each)
    as_stated = averaged == {"block.weight": 2, "head.weight": 1}
    as_stated &= on_root == {"block.weight": 2, "head.weight": 2} and on_each == {"block.weight": 4, "head.weight": 2}
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
