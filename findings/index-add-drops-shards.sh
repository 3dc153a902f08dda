#!/usr/bin/env bash
# Guess:    x.index_add_(0, rows, values) of a DTensor sharded by rows adds to x, or raises "in-place operations that require
#           placement changes are not supported", as index_fill_, index_put_ and scatter_ do.
# Happens:  index_add_, index_copy_ and scatter_add_ compute on a gathered copy, throw it away and relabel x: its values are
#           as before, each rank still holds its own rows, and x says that it is replicated. full_tensor() then gives rank
#           0's rows on rank 0 and rank 1's on rank 1, and dcp.save, without an error, writes a checkpoint that cannot be
#           loaded (the metadata says 4 rows, the data has 2). Out of place (x.index_add) it is right.
# Versions: torch 2.13.0
# Source:   torch/distributed/tensor/_decompositions.py (DecompShardingStrategy.propagate_strategy does not tell
#           expand_to_full_mesh_op_strategy of inplace_op, so the check in _ops/utils.py is not made) and _dispatch.py
#           (_dispatch_fast_path_python_tail: the spec of x is replaced)
# Met by:   embedding updates, expert outputs summed by index_add_, caches filled by index_copy_, counts by scatter_add_.
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
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
whole = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
rows, values = (distribute_tensor(of, mesh, [Replicate()]) for of in (torch.tensor([0, 3]), torch.full((2, 1), 10.0)))
writes = {
    "index_add": lambda x: x.index_add(0, rows, values),
    "index_add_": lambda x: x.index_add_(0, rows, values),
    "index_copy_": lambda x: x.index_copy_(0, rows, values),
    "scatter_add_": lambda x: x.scatter_add_(0, rows[:, None], values),
    "index_put_": lambda x: x.index_put_((rows,), values),
}
seen = {}
for name, write in writes.items():
    x = distribute_tensor(whole, mesh, [Shard(0)])
    try:
        result = write(x)
        seen[name] = (tuple(x.shape), str(x.placements[0]), result.full_tensor().flatten().tolist())
    except RuntimeError as error:
        seen[name] = str(error).split(": ")[1].split(".")[0]
    if name == "index_add_":
        path = sys.argv[1] + "/checkpoint"
        dcp.save({"x": x}, checkpoint_id=path)
        try:
            dcp.load({"x": torch.zeros(4, 1)}, checkpoint_id=path)
            load = "no error"
        except CheckpointException as error:
            load = "mismatch sizes" if "mismatch sizes" in str(error) else str(error)
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: x stays S(0), and the sum is [11.0, 2.0, 3.0, 14.0] in place and out of place; or an error")
    for name, found in seen.items():
        print(f"seen:  {name:12} {found}")
    print("       after index_add_: dcp.save no error, dcp.load", load)
    lost = ((4, 1), "R", [1, 2])
    as_stated = seen["index_add"] == ((4, 1), "S(0)", [11, 2, 3, 14]) and load == "mismatch sizes"
    as_stated &= seen["index_add_"] == seen["index_copy_"] == seen["scatter_add_"] == lost
    as_stated &= seen["index_put_"] == "in-place operations that require placement changes are not supported"
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
