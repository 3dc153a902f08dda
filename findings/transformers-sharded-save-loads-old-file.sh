#!/usr/bin/env bash
# Guess:    save_pretrained into a folder that holds an earlier save replaces it: from_pretrained gives the new weights.
# Happens:  old shards are removed, the old model.safetensors is not. If the first save was one file and the second is
#           sharded (a smaller max_shard_size, a model that grew), from_pretrained finds model.safetensors first and
#           loads the OLD weights, without a warning. (The other way round a stale index stays.)
# Versions: transformers 5.24.0, torch 2.13.0, safetensors 0.8.0
# Source:   transformers/modeling_utils.py (save_pretrained: only names with -00001-of-0000N are cleaned;
#           _get_resolved_checkpoint_files: the single file is tried before the index)
# Met by:   who overwrites a "best" or "latest" folder in place.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 transformers==5.24.0 \
    safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import os
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

transformers.utils.logging.disable_progress_bar()
path = sys.argv[1] + "/best"
config = LlamaConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=32
)
model = LlamaForCausalLM(config)
torch.nn.init.constant_(model.model.norm.weight, 1.0)
model.save_pretrained(path)
torch.nn.init.constant_(model.model.norm.weight, 2.0)
model.save_pretrained(path, max_shard_size="10KB")
loaded = LlamaForCausalLM.from_pretrained(path).model.norm.weight[0].item()
print("transformers", transformers.__version__, "torch", torch.__version__)
print("guess: norm 1.0 saved, 2.0 saved over it, 2.0 loaded")
print(f"seen:  {loaded} loaded; in the folder:", ", ".join(sorted(f for f in os.listdir(path) if "safetensors" in f)))
as_stated = loaded == 1.0 and "model-00001-of-00002.safetensors" in os.listdir(path)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
