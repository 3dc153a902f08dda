#!/usr/bin/env bash
# Guess:    on DeviceMesh("cpu", [1, 0]) FSDP2 or distribute_tensor give rank 1 the first rows, and dcp.save writes each row
#           where it belongs, whichever rank holds it.
# Happens:  the rows are handed out, and gathered again, in the order of the ranks in the process group, which is sorted;
#           dcp.save places them by the mesh's order. Training is right, full_tensor() is right, a resume on the same mesh
#           is right, and the checkpoint has its rows swapped: loaded on another mesh, exported, or read whole, the model
#           is another one, without an error.
# Versions: torch 2.13.0 (2.15.0 as well)
# Source:   torch/distributed/device_mesh.py (_init_one_process_group: the default group or new_group, which sorts ranks)
#           and torch/distributed/tensor/_utils.py (compute_local_shape_and_global_offset goes by the mesh coordinate)
# Met by:   meshes laid out by hand for the network's topology, so that neighbours on a ring or in a rack are neighbours in
#           the mesh.
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
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
whole = torch.tensor([[1.0], [2.0], [3.0], [4.0]])


def through_checkpoint(x, name):
    """What dcp.save writes of x, as one process reads it: one number a row."""
    path = f"{sys.argv[1]}/{name}"
    dcp.save({"x": x}, checkpoint_id=path)
    plain = {"x": torch.zeros(4, 1)}
    dcp.load(plain, checkpoint_id=path)
    return plain["x"].flatten().tolist()


def seen(ranks):
    mesh = DeviceMesh("cpu", ranks)
    x = distribute_tensor(whole, mesh, [Shard(0)])
    model = torch.nn.Linear(1, 4, bias=False)
    model.weight.data.copy_(whole)
    fully_shard(model, mesh=mesh)
    output = model(torch.ones(1, 1)).flatten().tolist()
    model.reshard()
    name = "".join(map(str, ranks))
    return {
        "full_tensor": x.full_tensor().flatten().tolist(),
        "its checkpoint": through_checkpoint(x, f"tensor{name}"),
        "FSDP2's output": output,
        "FSDP2's checkpoint": through_checkpoint(model.weight, f"model{name}"),
    }


in_order, swapped = seen([0, 1]), seen([1, 0])
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    right, other = [1, 2, 3, 4], [3, 4, 1, 2]
    print(f"guess: {[float(n) for n in right]} everywhere, whichever rank holds which rows")
    for what in in_order:
        print(f"seen:  {what:18} mesh [0, 1]: {in_order[what]}   mesh [1, 0]: {swapped[what]}")
    as_stated = set(map(tuple, in_order.values())) == {tuple(right)}
    as_stated &= swapped["full_tensor"] == swapped["FSDP2's output"] == right
    as_stated &= swapped["its checkpoint"] == swapped["FSDP2's checkpoint"] == other
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
