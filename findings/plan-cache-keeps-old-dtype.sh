#!/usr/bin/env bash
# Guess:    with DefaultSavePlanner(enable_plan_caching=True) a tensor whose dtype changed between two saves is
#           recorded with its new dtype: the plan is compared before it is used again.
# Happens:  the comparison looks at names, sizes and offsets, not at the dtype. The second checkpoint holds
#           bfloat16 bytes and says float32 in .metadata. dcp.load works; a tool that trusts .metadata counts
#           twice the bytes, and dcp_to_torch_save writes a float32 tensor.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/planner_helpers.py (_compare_save_plans)
# Met by:   a run that saves float32 state on its way and bfloat16 weights at its end, in one process.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

folder = sys.argv[1]
for step, dtype in enumerate((torch.float32, torch.bfloat16)):
    planner = dcp.DefaultSavePlanner(enable_plan_caching=True)
    dcp.save({"w": torch.ones(1024, dtype=dtype)}, checkpoint_id=f"{folder}/{step}", planner=planner)
metadata = dcp.FileSystemReader(f"{folder}/1").read_metadata()
recorded = metadata.state_dict_metadata["w"].properties.dtype
entry = next(iter(metadata.storage_data.values()))
with open(f"{folder}/1/{entry.relative_path}", "rb") as file:
    payload = torch.load(file)
dcp_to_torch_save(f"{folder}/1", f"{folder}/1.pt")
exported = torch.load(f"{folder}/1.pt")["w"].dtype
print("torch", torch.__version__)
print("guess: the second checkpoint records bfloat16")
print(f"seen:  recorded {recorded}, stored {payload.dtype} ({entry.length} bytes for 1024 elements), exported {exported}")
as_stated = recorded == exported == torch.float32 and payload.dtype == torch.bfloat16
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
