#!/usr/bin/env bash
# Guess:    a checkpoint saved by 2 ranks with use_collectives=False loads in one process (an evaluation, an export) as any
#           other does, or raises there.
# Happens:  no metadata names the whole: each rank writes its own, and rank N reads only that of rank N. In one process half of
#           the rows are loaded and the rest keep what memory held, without an error (allow_partial_load is False). On the
#           same 2 ranks a replicated target gets another half on each. The missing chunks are not looked for: the size of
#           the whole tensor is in each metadata, and nothing compares it with what was read.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/filesystem.py (FileSystemWriter.finish, FileSystemReader.read_metadata with
#           kwargs["rank"]) and planner_helpers.py (create_read_items_for_chunk_list)
# Met by:   who saves so because it scales better, and then loads with another layout or another number of ranks.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import logging
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

logging.disable(logging.WARNING)
path = sys.argv[1] + "/checkpoint"
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
rows = torch.arange(6.0)
dcp.save({"w": distribute_tensor(rows, mesh, [Shard(0)])}, checkpoint_id=path, use_collectives=False)
dist.barrier()
sharded, replicated = (distribute_tensor(torch.full((6,), -1.0), mesh, [to]) for to in (Shard(0), Replicate()))
dcp.load({"w": sharded}, checkpoint_id=path)
dcp.load({"w": replicated}, checkpoint_id=path)
same_layout = sharded.full_tensor().tolist()
other_layout = [None, None]
dist.all_gather_object(other_layout, replicated.to_local().tolist())
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    plain = {"w": torch.full((6,), -1.0)}
    dcp.load(plain, checkpoint_id=path, no_dist=True)
    one_process = plain["w"].tolist()
    print("torch", torch.__version__)
    print("guess: 0 to 5 everywhere, or an error")
    print(f"seen:  as saved {same_layout}; in one process {one_process}")
    print(f"       replicated, rank 0 {other_layout[0]}, rank 1 {other_layout[1]}")
    half, other_half = [0, 1, 2, -1, -1, -1], [-1, -1, -1, 3, 4, 5]
    as_stated = same_layout == rows.tolist() and one_process == half and other_layout == [half, other_half]
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
