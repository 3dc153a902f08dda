#!/usr/bin/env bash
# Guess:    consolidating a sharded HF checkpoint (enable_consolidation=True) copies every tensor.
# Happens:  a 0-d tensor becomes 0 in the consolidated file: its empty shape is taken for an empty tensor and nothing
#           is copied into the zero-filled buffer. The shard beside it holds the right value. No warning.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   torch/distributed/checkpoint/_consolidate_hf_safetensors.py
#           (_write_sub_tensor_to_file_optimized: "if not tensor_shape ...: return")
# Met by:   models with a logit scale, a temperature, a quantiser's scale, BatchNorm's num_batches_tracked.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import glob
import sys

import safetensors
import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

folder = sys.argv[1]
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
writer = HuggingFaceStorageWriter(folder + "/hf", save_distributed=True, enable_consolidation=True)
dcp.save({"logit_scale": torch.tensor(2.5), "w": torch.tensor([2.5])}, storage_writer=writer)
dist.destroy_process_group()
sharded = safetensors.torch.load_file(glob.glob(folder + "/hf/sharded/*.safetensors")[0])
consolidated = safetensors.torch.load_file(glob.glob(folder + "/hf/*.safetensors")[0])
print("torch", torch.__version__, "safetensors", safetensors.__version__)
print("guess: logit_scale 2.5, w [2.5] in both")
print(f"seen:  sharded:      logit_scale {sharded['logit_scale'].item()}, w {sharded['w'].tolist()}")
print(f"       consolidated: logit_scale {consolidated['logit_scale'].item()}, w {consolidated['w'].tolist()}")
as_stated = (
    sharded["logit_scale"].item() == 2.5
    and consolidated["logit_scale"].item() == 0.0
    and consolidated["w"].tolist() == [2.5]
)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
