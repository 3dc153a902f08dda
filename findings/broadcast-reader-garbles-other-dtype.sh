#!/usr/bin/env bash
# Guess:    dcp.load with BroadcastingTorchSaveReader casts a .pt file's float32 to the dtype of the tensor given, as dcp.load
#           of a checkpoint folder does.
# Happens:  rank 0 has the cast values; the others receive rank 0's float32 bytes into a float64 buffer and keep what comes of
#           it: two float32 make one float64, and the second half is memory that nobody wrote. No error.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/format_utils.py (BroadcastingTorchSaveReader.read_data: rank 0 broadcasts in the
#           file's dtype, the others receive in that of their state dict), and gloo, which takes a message shorter than asked
#           for
# Met by:   resuming in float32 from a half-precision .pt file, or in float64 to compare numbers. Load it in the file's dtype.
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
from torch.distributed.checkpoint.format_utils import BroadcastingTorchSaveReader, DynamicMetaLoadPlanner

dist.init_process_group("gloo")
is_coordinator = dist.get_rank() == 0
path = sys.argv[1] + "/weights.pt"
whole = torch.tensor([1.0, 2.0, 3.0, 4.0])
if is_coordinator:
    torch.save({"w": whole}, path)
dcp.save({"w": whole}, checkpoint_id=sys.argv[1] + "/folder")
seen = {}
for name in ("float32", "float64", "float64 of a folder"):
    state_dict = {"w": torch.zeros(4, dtype=getattr(torch, name.split()[0]))}
    if name.endswith("folder"):
        dcp.load(state_dict, checkpoint_id=sys.argv[1] + "/folder")
    else:
        reader = BroadcastingTorchSaveReader(coordinator_rank=0)
        dcp.load(state_dict, checkpoint_id=path, storage_reader=reader, planner=DynamicMetaLoadPlanner())
    seen[name] = [None, None]
    dist.all_gather_object(seen[name], state_dict["w"].tolist())
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: [1.0, 2.0, 3.0, 4.0] on both ranks")
    for name, (first, second) in seen.items():
        shown = second if second == first else f"{second[:2]} and two more, not written"
        print(f"seen:  into {name:19} rank 0: {first}, rank 1: {shown}")
    garbled = whole.view(torch.float64).tolist()
    as_stated = all(first == whole.tolist() for first, _ in seen.values())
    as_stated &= [second == whole.tolist() for _, second in seen.values()] == [True, False, True]
    as_stated &= seen["float64"][1][:2] == garbled
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
