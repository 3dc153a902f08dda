#!/usr/bin/env bash
# Guess:    the shape in a safetensors header is the tensor's shape in torch.
# Happens:  for torch.float4_e2m1fn_x2 (two 4-bit values a byte) the header counts the values and torch the bytes: torch's
#           [2, 4] is "F4" [2, 8] in the file and [2, 4] again when torch loads it. The same tensor in a DCP checkpoint
#           is recorded as [2, 4]. get_slice(...).get_shape() gives the file's view, get_tensor(...).shape torch's.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   safetensors' Rust binding (F4 counts values, so the last dimension is doubled on writing, halved on reading)
# Met by:   tools that compare headers with torch or DCP metadata, or compute bytes as elements x itemsize.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import json
import struct
import sys

import safetensors
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import safe_open, save_file

folder = sys.argv[1]
weight = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
save_file({"w": weight}, f"{folder}/w.safetensors")
with open(f"{folder}/w.safetensors", "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["w"]
with safe_open(f"{folder}/w.safetensors", "pt") as file:
    sliced, loaded = list(file.get_slice("w").get_shape()), list(file.get_tensor("w").shape)
dcp.save({"w": weight}, checkpoint_id=f"{folder}/dcp")
recorded = list(dcp.FileSystemReader(f"{folder}/dcp").read_metadata().state_dict_metadata["w"].size)
print("torch", torch.__version__, "safetensors", safetensors.__version__)
print("guess: [2, 4] everywhere")
print(f"seen:  header {header['dtype']} {header['shape']}, {header['data_offsets'][1]} bytes; get_shape {sliced}")
print(f"       get_tensor {loaded}, DCP {recorded}")
as_stated = header["shape"] == sliced == [2, 8] and loaded == recorded == [2, 4]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
