#!/usr/bin/env bash
# Guess:    fully_shard over tensor parallelism on one dim is saved and loaded by DCP whatever the number of rows, as
#           each of the two is; or it is refused when the model is sharded.
# Happens:  fully_shard cuts the local piece of each tensor parallel rank, and describes that by _StridedShard, which for
#           numbers that do not divide names other rows. DCP records what it names beside what is held. 7 rows over
#           3 x 2 ranks: saving and loading on the same ranks says nothing, and row 6 keeps the values it had before;
#           loading it anywhere else raises. 13 rows: saving raises "overlapping chunks", once training is under way.
#           (11 rows over 5 x 2: two rows are not loaded, and one of them was not even written.) full_tensor() is right
#           each time.
# Versions: torch 2.13.0
# Source:   torch/distributed/fsdp/_fully_shard/_fsdp_param.py (_init_sharded_param: chunks of the local tensor),
#           torch/distributed/tensor/_utils.py (compute_local_shape_and_global_offset) and
#           torch/distributed/checkpoint/planner_helpers.py (_create_write_items_for_dtensor)
# Met by:   small weights (a router of 7 experts, biases), or a vocabulary that does not divide: of 50257 rows over 8 x 2
#           ranks, two hold what their placements do not say. Over 2 x 2 it never happens.
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
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

folder = sys.argv[1]
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (3, 2), mesh_dim_names=("dp", "tp"))


def weight(values: torch.Tensor) -> torch.Tensor:
    """A weight of one column with these values, over 3 x 2 ranks."""
    model = torch.nn.Sequential(torch.nn.Linear(1, len(values), bias=False))
    model[0].weight.data = values[:, None].clone()
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    return model[0].weight


def whole(sharded: torch.Tensor) -> list[int]:
    return sharded.full_tensor().flatten().int().tolist()


def outcome(action) -> str:
    try:
        action()
    except CheckpointException as error:
        text = str(error)
        return next((word for word in ("overlapping chunks", "mismatch sizes") if word in text), text)
    return "no error"


as_saved, save, load, loaded, load_whole = {}, {}, {}, {}, ""
for rows in (7, 13):
    path = f"{folder}/{rows}"
    saved = {"w": weight(torch.arange(float(rows)))}
    as_saved[rows] = whole(saved["w"])
    save[rows] = outcome(lambda: dcp.save(saved, checkpoint_id=path))
    if save[rows] == "no error":
        state = {"w": weight(torch.full((rows,), -1.0))}
        load[rows] = outcome(lambda: dcp.load(state, checkpoint_id=path))
        loaded[rows] = whole(state["w"])
        plain = {"w": torch.full((rows, 1), -1.0)}
        load_whole = outcome(lambda: dcp.load(plain, checkpoint_id=path, no_dist=True))
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: 0 to 6 saved and loaded, 0 to 12 too; or an error when the model is sharded")
    print(f"seen:   7 rows: full_tensor() {as_saved[7]}; save: {save[7]}; load: {load.get(7)}, gives {loaded.get(7)}")
    print(f"                loaded as a plain tensor: {load_whole}")
    print(f"       13 rows: full_tensor() {as_saved[13]}; save: {save[13]}")
    as_stated = (
        as_saved == {7: list(range(7)), 13: list(range(13))}
        and save == {7: "no error", 13: "overlapping chunks"}
        and load == {7: "no error"}
        and loaded == {7: [0, 1, 2, 3, 4, 5, -1]}
        and load_whole == "mismatch sizes"
    )
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 6 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
