#!/usr/bin/env bash
# Guess:    HuggingFaceStorageReader follows model.safetensors.index.json, as transformers does: files that the index
#           does not name (shards of an earlier save, an adapter) are not part of the model.
# Happens:  the index is never opened. Every *.safetensors file of the folder is read, tensors that the index does not
#           know are in the metadata, and a leftover shard of a smaller model grows or shadows a tensor of the same
#           name. Here: a leftover [6, 2] beside the index's own [4, 2] makes the right target unloadable.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   torch/distributed/checkpoint/hf_storage.py (HuggingFaceStorageReader.read_metadata)
# Met by:   who saves twice into one folder (the writer leaves old shards there) or loads a folder with adapters.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import json
import os
import sys

import safetensors
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

path = f"{sys.argv[1]}/hf"
old = {"emb": torch.zeros(6, 2), "norm": torch.zeros(2), "head": torch.zeros(2)}
files = {"emb": 1, "norm": 2, "head": 3}
dcp.save(old, storage_writer=HuggingFaceStorageWriter(path, fqn_to_index_mapping=files))
new = {"emb": torch.ones(4, 2), "norm": torch.ones(2)}
dcp.save(new, storage_writer=HuggingFaceStorageWriter(path, fqn_to_index_mapping={"emb": 1, "norm": 2}))
with open(f"{path}/model.safetensors.index.json") as file:
    indexed = sorted(json.load(file)["weight_map"])
found = HuggingFaceStorageReader(path).read_metadata().state_dict_metadata
try:
    dcp.load({"emb": torch.zeros(4, 2)}, storage_reader=HuggingFaceStorageReader(path))
    said = "loads"
except BaseException as error:
    said = str(error).strip().splitlines()[-1]
print("torch", torch.__version__, "safetensors", safetensors.__version__)
print(f"guess: the reader finds {indexed}, emb [4, 2]")
print(f"seen:  {len([f for f in os.listdir(path) if f.endswith('.safetensors')])} files, reader finds {sorted(found)},"
      f" emb {list(found['emb'].size)}\n       {said}")
as_stated = indexed == ["emb", "norm"] and "head" in found and "Size mismatch" in said
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
