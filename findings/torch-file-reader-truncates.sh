#!/usr/bin/env bash
# Guess:    reading a torch.save file through DCP (BroadcastingTorchSaveReader with DynamicMetaLoadPlanner) into a
#           smaller tensor raises a size mismatch, as dcp.load and load_state_dict do.
# Happens:  the planner makes its metadata from the target, so the sizes agree by construction; the reader then
#           narrows the file's tensor to it. A vocabulary of 8 rows loads into a model of 4: the first 4 rows.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/format_utils.py (DynamicMetaLoadPlanner.set_up_planner,
#           BroadcastingTorchSaveReader.read_data: narrow_tensor_by_index)
# Met by:   who starts a sharded job from a single .pt file with a changed vocabulary or hidden size.
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

folder = sys.argv[1]
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.save({"emb": torch.arange(16.0).reshape(8, 2)}, f"{folder}/model.pt")
state = {"emb": torch.zeros(4, 2)}
try:
    dcp.load(
        state,
        checkpoint_id=f"{folder}/model.pt",
        storage_reader=BroadcastingTorchSaveReader(),
        planner=DynamicMetaLoadPlanner(),
    )
    said = "no error"
except BaseException as error:
    said = repr(error)[:100]
dist.destroy_process_group()
print("torch", torch.__version__)
print("guess: [8, 2] does not load into [4, 2]")
print(f"seen:  {said}; emb = {state['emb'].flatten().tolist()}")
as_stated = said == "no error" and state["emb"].flatten().tolist() == list(range(8))
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
