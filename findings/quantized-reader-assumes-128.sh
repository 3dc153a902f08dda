#!/usr/bin/env bash
# Guess:    QuantizedHuggingFaceStorageReader takes the block size from the folder's config.json (weight_block_size), or
#           finds it from the shapes of weight and scales, or refuses scales whose shape does not fit blocks of 128.
# Happens:  it reads neither. With blocks of 64 every block of 128 x 128 is multiplied by a scale of the top left quarter of
#           the scales, and most scales are never used: the weights load with no error and are wrong by any factor. (Blocks
#           above 128 fail with an IndexError, as more scales are asked for than there are.) block_size=64 must be given.
# Versions: torch 2.13.0, safetensors 0.8.0
# Source:   torch/distributed/checkpoint/quantized_hf_storage.py (QuantizedHuggingFaceStorageReader._dequantize_tensor)
# Met by:   who loads a block-quantised model of another recipe than DeepSeek's into a sharded model.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import json
import sys
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.quantized_hf_storage import QuantizedHuggingFaceStorageReader

folder = Path(sys.argv[1], "model")
folder.mkdir()
tensors = {
    "l.weight": torch.ones(128, 256).to(torch.float8_e4m3fn),
    "l.weight_scale_inv": torch.arange(1.0, 9.0).reshape(2, 4),  # Blocks of 64 x 64.
}
safetensors.torch.save_file(tensors, folder / "model.safetensors")
index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
(folder / "model.safetensors.index.json").write_text(json.dumps(index))
config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}
(folder / "config.json").write_text(json.dumps(config))


def blocks(**arguments: int) -> list[list[float]]:
    state = {"l.weight": torch.zeros(128, 256)}
    reader = QuantizedHuggingFaceStorageReader(str(folder), **arguments)
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state["l.weight"][::64, ::64].tolist()


as_default, as_64 = blocks(), blocks(block_size=64)
print("torch", torch.__version__, "safetensors", safetensors.__version__)
print("guess: one value per block of 64:", tensors["l.weight_scale_inv"].tolist(), "or an error")
print("seen: ", as_default)
print("       with block_size=64:", as_64)
as_stated = as_default == [[1.0, 1.0, 2.0, 2.0]] * 2 and as_64 == tensors["l.weight_scale_inv"].tolist()
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
