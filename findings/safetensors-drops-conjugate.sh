#!/usr/bin/env bash
# Guess:    safetensors.torch.save_file of x.conj() stores the conjugate, as torch.save does; tensors that it cannot store
#           as they are it refuses (non-contiguous, shared).
# Happens:  conj() is lazy: a bit on the tensor, the memory is x's. The memory is written and the bit is not, so x comes
#           back instead of its conjugate. The same with the lazy minus of x.conj().imag, and through DCP's
#           HuggingFaceStorageWriter. torch.save and dcp.save are right.
# Versions: safetensors 0.8.0, torch 2.13.0
# Source:   safetensors/torch.py (_flatten: data_ptr of the tensor, no resolve_conj() or resolve_neg())
# Met by:   models with complex buffers (rotary freqs_cis, FFT or state-space layers).
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import safetensors
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

folder = sys.argv[1]
source = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
x = source.conj()
save_file({"x": x}, f"{folder}/x.safetensors")
torch.save(x, f"{folder}/x.pt")
dcp.save({"x": x}, checkpoint_id=f"{folder}/dcp")
dcp.save({"x": x}, storage_writer=HuggingFaceStorageWriter(f"{folder}/hf"))
state = {"x": torch.zeros_like(source)}
dcp.load(state, checkpoint_id=f"{folder}/dcp")
seen = {
    "torch.save": torch.load(f"{folder}/x.pt"),
    "dcp.save": state["x"],
    "safetensors": load_file(f"{folder}/x.safetensors")["x"],
    "HF writer": load_file(f"{folder}/hf/model-00001-of-00001.safetensors")["x"],
}
print("safetensors", safetensors.__version__, "torch", torch.__version__)
print(f"guess: {x.tolist()} each time")
for name, value in seen.items():
    print(f"seen:  {name:11} {value.tolist()}")
as_stated = [torch.equal(value, x) for value in seen.values()] == [True, True, False, False]
as_stated &= torch.equal(seen["safetensors"], source)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py" "$dir"
