#!/usr/bin/env bash
# Guess:    a sharded tensor is saved with all its shards wherever it stands in the state dict (or dcp.save refuses).
# Happens:  only dicts and lists are walked. A DTensor inside a tuple is pickled whole in a bytes entry, each rank with
#           its own shard, and of entries with one name one rank's is kept. After loading, every rank holds the shard of
#           the rank that wrote (here rank 0), and nothing is said at either end.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/_traverse.py (traverse_state_dict) and
#           torch/distributed/checkpoint/planner_helpers.py (_create_write_items: else -> BYTE_IO)
# Met by:   who keeps EMA pairs, (mean, var) or cached activations as tuples beside the model.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

folder = sys.argv[1]
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))


def sharded(values: torch.Tensor) -> torch.Tensor:
    return distribute_tensor(values, mesh, [Shard(0)])


seen = {}
for kind in (list, tuple):
    path = f"{folder}/{kind.__name__}"
    dcp.save({"ema": kind([sharded(torch.arange(4.0)), 1])}, checkpoint_id=path)
    state = {"ema": kind([sharded(torch.zeros(4)), 0])}
    dcp.load(state, checkpoint_id=path)
    seen[kind.__name__] = state["ema"][0].full_tensor().tolist()
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: [0.0, 1.0, 2.0, 3.0] each time")
    for name, values in seen.items():
        print(f"seen:  in a {name}: {values}")
    as_stated = list(seen.values()) == [[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 0.0, 1.0]]
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir"
