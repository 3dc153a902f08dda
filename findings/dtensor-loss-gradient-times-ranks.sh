#!/usr/bin/env bash
# Guess:    F.mse_loss of predictions sharded by the batch (DTensor, Shard(0)) gives the gradient of the plain tensor, as
#           F.cross_entropy, F.l1_loss and ((x - y) ** 2).mean() do.
# Happens:  the loss is right and its gradient is the number of ranks times too large: each rank divides by its own number
#           of elements, and the mean over ranks is not undone. So too huber_loss, smooth_l1_loss, binary_cross_entropy and
#           soft_margin_loss. Where the batch does not divide, the loss is wrong as well: every rank weighs the same.
# Versions: torch 2.13.0
# Source:   torch/distributed/tensor/_decompositions.py (DecompShardingStrategy: placements come from tracing the
#           decomposition, then the fused op itself, and its backward op, run on each rank's shard with its own numel)
# Met by:   regression, distillation, diffusion and value heads on DTensor batches: the learning rate is scaled unseen, by
#           another factor after resuming on another number of ranks. Adam hides it until gradients are clipped.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

losses = {
    "mse_loss": F.mse_loss,
    "huber_loss": F.huber_loss,
    "binary_cross_entropy": lambda x, y: F.binary_cross_entropy(x.sigmoid(), y),
    "l1_loss": F.l1_loss,
    "(x - y) ** 2 mean": lambda x, y: ((x - y) ** 2).mean(),
}


def ratios(function, rows: int) -> tuple[float, float]:
    """The sharded loss over the plain one, and the largest gradient over the plain one's."""
    x, y = torch.linspace(0.5, 2, rows * 2).reshape(rows, 2), torch.zeros(rows, 2)
    plain = x.clone().requires_grad_()
    value = function(plain, y)
    value.backward()
    sharded = distribute_tensor(x, mesh, [Shard(0)]).requires_grad_()
    sharded_value = function(sharded, distribute_tensor(y, mesh, [Shard(0)]))
    sharded_value.backward()
    by_value = sharded_value.full_tensor() / value
    by_grad = (sharded.grad.full_tensor() / plain.grad).abs().max()
    return round(by_value.item(), 3), round(by_grad.item(), 3)


dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),))
even = {name: ratios(function, rows=6) for name, function in losses.items()}
uneven = ratios(F.mse_loss, rows=7)
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: loss and gradient are 1 times the plain ones")
    for name, (by_value, by_grad) in even.items():
        print(f"seen:  {name:21} on 3 ranks: loss x {by_value:g}, gradient x {by_grad:g}")
    print(f"       mse_loss of 7 rows on 3 ranks: loss x {uneven[0]:g}")
    threefold = ("mse_loss", "huber_loss", "binary_cross_entropy")
    as_stated = all(even[name] == (1, 3 if name in threefold else 1) for name in losses) and uneven[0] != 1
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 3 "$dir/run.py" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
