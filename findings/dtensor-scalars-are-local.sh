#!/usr/bin/env bash
# Guess:    a sharded DTensor behaves as the whole tensor: x.sum().item(), x.norm().item() and bool(x.isnan().any()) are
#           the same on every rank.
# Happens:  some are and some are not. sum, mean, max, norm, any and all end as a Partial DTensor, and item(), float() and
#           bool() take this rank's part of it, silently; std, median and argmax are of the whole tensor. A NaN check
#           sees the NaN on one rank only, and "if" then sends the ranks different ways.
# Versions: torch 2.13.0
# Source:   torch/distributed/tensor/_sharding_prop.py (propagate_op_sharding_non_cached: _local_scalar_dense, which is
#           item(), is left as it is and runs on the local tensor; full_tensor() reduces first)
# Met by:   who checks or logs sharded weights, gradients or a loaded checkpoint rank by rank.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
whole = torch.arange(6.0)
x = distribute_tensor(whole, mesh, [Shard(0)])
bad = distribute_tensor(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, float("nan")]), mesh, [Shard(0)])
mine = {
    "sum().item()": x.sum().item(),
    "max().item()": x.max().item(),
    "norm().item()": round(x.norm().item(), 3),
    "bool(isnan().any())": bool(bad.isnan().any()),
    "std().item()": round(x.std().item(), 3),
    "argmax().item()": x.argmax().item(),
    "sum().full_tensor().item()": x.sum().full_tensor().item(),
}
ranks: list[dict] = [{}, {}]
dist.all_gather_object(ranks, mine)
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: the same on both ranks: sum 15, max 5, norm 7.416, a NaN seen")
    for name in mine:
        print(f"seen:  {name:27} rank 0 {ranks[0][name]}, rank 1 {ranks[1][name]}")
    seen = [list(rank.values()) for rank in ranks]
    as_stated = seen[0] == [3.0, 2.0, 2.236, False, 1.871, 5, 15.0] and seen[1] == [12.0, 5.0, 7.071, True, 1.871, 5, 15.0]
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py"
