#!/usr/bin/env bash
# Guess:    initialising a sharded model gives every row its own random numbers, as before sharding; on a CPU mesh too.
# Happens:  on a CPU mesh each rank fills its shard from its own default generator. With the same seed on all ranks (what
#           every recipe asks for, so that replicas agree) all shards get the same numbers: of a [4, 2] weight over two
#           ranks, rows 2 and 3 are rows 0 and 1 again. A warning speaks of incomplete support, not of repeated numbers.
# Versions: torch 2.13.0
# Source:   torch/distributed/tensor/_random.py (is_rng_supported_mesh: no random number tracker for a CPU mesh) and
#           torch/distributed/tensor/_dispatch.py, which then runs the operator on the local tensor
# Met by:   who initialises with gloo on CPU: tests, conversion jobs, FSDP2 with CPU offload from the meta device.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
with torch.device("meta"):
    model = torch.nn.Linear(2, 4, bias=False)
fully_shard(model)
model.to_empty(device="cpu")
torch.manual_seed(0)
model.reset_parameters()
sharded = model.weight.full_tensor().detach()
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    torch.manual_seed(0)
    plain = torch.nn.Linear(2, 4, bias=False).weight.detach()
    print("torch", torch.__version__)
    print("guess: 4 distinct rows, as in the plain module:", len(plain.unique(dim=0)))
    print(f"seen:  {len(sharded.unique(dim=0))} distinct rows:", [[round(v, 2) for v in row] for row in sharded.tolist()])
    as_stated = len(plain.unique(dim=0)) == 4 and torch.equal(sharded[:2], sharded[2:])
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py"
