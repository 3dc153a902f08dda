#!/usr/bin/env bash
# Guess:    HuggingFaceStorageWriter given a step count beside the weights refuses it, or leaves it out.
# Happens:  dcp.save succeeds and lists the step in model.safetensors.index.json. The file begins with the pickled
#           integer and the safetensors part follows it, so no safetensors reader can open the file: all weights
#           in it are out of reach, and the first to notice is who loads.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   torch/distributed/checkpoint/filesystem.py (_write_files_from_queue: bytes first, then safetensors.save)
# Met by:   who passes the state dict that dcp.save took until now (with step, lr, rng) to the HF writer.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import json
import sys

import safetensors
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

folder = sys.argv[1]
dcp.save({"w": torch.ones(4), "step": 5}, storage_writer=HuggingFaceStorageWriter(f"{folder}/hf"))
with open(f"{folder}/hf/model.safetensors.index.json") as file:
    weight_map = json.load(file)["weight_map"]
path = f"{folder}/hf/{weight_map['w']}"
with open(path, "rb") as file:
    start = file.read(2)
try:
    safetensors.torch.load_file(path)
    said = "loads"
except safetensors.SafetensorError as error:
    said = str(error)
print("torch", torch.__version__, "safetensors", safetensors.__version__)
print("guess: dcp.save raises, or w can be read")
print(f"seen:  saved; index lists {sorted(weight_map)}; file begins with {start!r}; reading w: {said}")
as_stated = "header too large" in said and start == b"PK" and sorted(weight_map) == ["step", "w"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
