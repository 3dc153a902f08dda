#!/usr/bin/env bash
# Guess:    all_reduce with MAX over gloo gives NaN when any rank holds NaN, as torch.maximum and x.max() do; or it never
#           does.
# Happens:  it depends on which rank holds the NaN, and on where in the tensor it lies. Of one element on 3 ranks, rank 0's
#           NaN arrives and that of rank 1 or 2 is gone; of 3000 elements, each rank's NaN comes through in a third. MIN does
#           the same, in every floating dtype. So amax() of a sharded DTensor on a CPU mesh hides the NaN of a rank, while
#           the same call on the whole tensor shows it.
# Versions: torch 2.13.0
# Source:   torch/csrc/distributed/c10d/ProcessGroupGloo.cpp and gloo/math.h (max: std::max of a ring's segments; a
#           comparison with NaN is false, so the result depends on the order of the two)
# Met by:   a check of losses, gradient norms or weights for NaN by a MAX over ranks on the CPU, before a checkpoint is kept.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import math
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (3,))
loss, counts, amax = [], [], []
for owner in range(3):
    value = math.nan if rank == owner else float(rank)
    single = torch.tensor([value])
    dist.all_reduce(single, dist.ReduceOp.MAX)
    loss.append(single.item())
    many = torch.full((3000,), value, dtype=torch.bfloat16)
    dist.all_reduce(many, dist.ReduceOp.MIN)
    counts.append(int(many.isnan().sum()))
    amax.append(DTensor.from_local(torch.tensor([value]), mesh, [Shard(0)]).amax().full_tensor().item())
whole = torch.tensor([0.0, math.nan, 2.0]).amax().item()
dist.destroy_process_group()
if rank == 0:
    print("torch", torch.__version__)
    print("guess: NaN, whichever rank holds it; amax() of the whole tensor:", whole)
    print(f"seen:  MAX of one value with the NaN on rank 0, 1, 2: {loss}")
    print(f"       NaN of 3000 bfloat16 values after MIN: {counts}")
    print(f"       amax() of a sharded DTensor: {amax}")
    as_stated = math.isnan(loss[0]) and loss[1:] == [0.0, 1.0] and math.isnan(whole)
    as_stated &= all(0 < count < 3000 for count in counts) and not all(map(math.isnan, amax))
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 3 "$dir/run.py" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
