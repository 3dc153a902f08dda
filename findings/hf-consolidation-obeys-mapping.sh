#!/usr/bin/env bash
# Guess:    consolidate_safetensors_files compares its mapping of names to files with the tensors of the shards: a tensor
#           that the mapping lacks is an error, and so is a name that no shard holds.
# Happens:  neither. A tensor that the mapping lacks is left out of every file and of the index, without an error. A name
#           that no shard holds (lm_head.weight of a model whose head is tied to its embedding, in an index taken from
#           another model) is written with an empty dtype: safetensors cannot open that file, nor any tensor in it, while
#           the save and the index look right. HuggingFaceStorageWriter with enable_consolidation does the second too.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   torch/distributed/checkpoint/_consolidate_hf_safetensors.py (_parse_input_metadata fills in only what both name;
#           _write_metadata writes the rest as it is)
# Met by:   who exports with the index of the base model after adding (adapters, new heads) or tying weights.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import json
import os
import sys
from importlib.metadata import version

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

folder = sys.argv[1]


def contents(path: str) -> tuple[list[str], list[str] | str]:
    """The names in the index and those in the file, or "unreadable"."""
    with open(f"{path}/model.safetensors.index.json") as file:
        index = sorted(json.load(file)["weight_map"])
    try:
        return index, sorted(load_file(f"{path}/model-00001-of-00001.safetensors"))
    except SafetensorError:
        return index, "unreadable"


state_dict = {"embedding": torch.ones(2, 2), "adapter": torch.ones(2)}
dcp.save(state_dict, storage_writer=HuggingFaceStorageWriter(f"{folder}/shards", save_distributed=True))
fewer, more = {"embedding": 1}, {"embedding": 1, "adapter": 1, "lm_head": 1}
seen = {}
for name, mapping in (("fewer", fewer), ("more", more)):
    os.mkdir(f"{folder}/{name}")
    consolidate_safetensors_files(f"{folder}/shards", f"{folder}/{name}", mapping)
    seen[name] = contents(f"{folder}/{name}")
writer = HuggingFaceStorageWriter(
    f"{folder}/writer", fqn_to_index_mapping=more, save_distributed=True, enable_consolidation=True
)
dcp.save(state_dict, storage_writer=writer)
seen["writer, more"] = contents(f"{folder}/writer")
print("torch", torch.__version__, "safetensors", version("safetensors"))
print("guess: an error where the mapping and the shards, which hold adapter and embedding, differ")
for name, (index, names) in seen.items():
    print(f"seen:  {name:13} no error; index {index}, file {names}")
unreadable = (["adapter", "embedding", "lm_head"], "unreadable")
as_stated = seen == {"fewer": (["embedding"], ["embedding"]), "more": unreadable, "writer, more": unreadable}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
