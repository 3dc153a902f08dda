#!/usr/bin/env bash
# Guess:    ZipNN.compress(tensor) reads the tensor and returns bytes, as every compressor does.
# Happens:  a float32 or bfloat16 tensor is scrambled where it lies (its sign bits are moved), and so is what shares its
#           storage: the model whose weight it was. The bytes returned are right, so a test of decompress(compress(x))
#           passes; a second checkpoint of the same weights, or the next training step, has numbers of 1e38. A bytearray is
#           scrambled too; float16 and float8 tensors, numpy arrays and tensors that are not contiguous are left alone.
# Versions: zipnn 0.5.4, torch 2.13.0, numpy 2.4.6
# Source:   zipnn/zipnn.py (ZipNN.compress_torch: the tensor's own memory is handed to zipnn_core, which reorders its bits in
#           place), zipnn/util_torch.py
# Met by:   a training loop that compresses its live weights. Compress a clone.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" zipnn==0.5.4 torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from zipnn import ZipNN


def compressed(tensor: torch.Tensor) -> torch.Tensor:
    """What comes back from the compressed tensor."""
    return ZipNN(input_format="torch").decompress(ZipNN(input_format="torch").compress(tensor))


kept, is_right = {}, True
for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn):
    tensor = torch.linspace(1, 2, 1000).to(dtype)
    before = tensor.clone()
    is_right &= torch.equal(compressed(tensor).view(torch.uint8), before.view(torch.uint8))
    kept[str(dtype).removeprefix("torch.")] = torch.equal(tensor.view(torch.uint8), before.view(torch.uint8))
model = torch.nn.Linear(2, 2)
torch.nn.init.ones_(model.weight)
first, second = (compressed(model.weight.detach()).flatten().tolist() for _ in range(2))
print("zipnn", version("zipnn"), "torch", torch.__version__)
print("guess: the tensors keep their values; a weight of ones is compressed twice as ones")
print(f"seen:  what comes back is right: {is_right}; the tensor is as before: {kept}")
print(f"       a weight of ones, compressed twice: {first}, {second}")
as_stated = is_right and kept == {"float32": False, "bfloat16": False, "float16": True, "float8_e4m3fn": True}
as_stated &= first == [1.0] * 4 and second != first
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
