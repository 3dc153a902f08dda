#!/usr/bin/env bash
# Guess:    what torch.save wrote of a plain CPU tensor without an error, torch.load reads.
# Happens:  not if the tensor is a view of a buffer whose size is no multiple of its item size: 12 bytes of a buffer of 13
#           taken as float32, or 4 of 5 float32 taken as float64. torch.save writes the whole buffer, rounds its length down
#           to whole items where it notes it, and torch.load raises since the two differ. The numbers can be had only by
#           mending the file. dcp.save of the tensor is right; inside a tuple or an object, which it pickles, it has the same
#           end.
# Versions: torch 2.13.0
# Source:   torch/serialization.py (_save, persistent_id: storage_numel is the byte count divided by the item size, without a
#           look at the rest; _load, load_tensor: the record's size is compared)
# Met by:   weights that are views of a file or message read into one uint8 buffer (headers are of any length), and of packed
#           or communication buffers. clone() before saving.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

received = torch.arange(13, dtype=torch.uint8)
whole = torch.arange(12, dtype=torch.uint8)
tensors = {
    "12 of 12 bytes as float32": whole.view(torch.float32),
    "12 of 13 bytes as float32": received[:12].view(torch.float32),
    "4 of 5 float32 as float64": torch.arange(5.0)[:4].view(torch.float64),
    "the same, cloned": torch.arange(5.0)[:4].view(torch.float64).clone(),
}
seen = {}
for number, (name, tensor) in enumerate(tensors.items()):
    path = f"{sys.argv[1]}/{number}"
    torch.save(tensor, path + ".pt")
    dcp.save({"tensor": tensor, "tuple": (tensor,)}, checkpoint_id=path)
    into = torch.zeros_like(tensor)
    dcp.load({"tensor": into}, checkpoint_id=path)
    try:
        plain = torch.equal(torch.load(path + ".pt"), tensor)
    except RuntimeError as error:
        plain = str(error).split(" for ")[0]
    try:
        in_tuple = {"tuple": (into,)}
        dcp.load(in_tuple, checkpoint_id=path)
        pickled = torch.equal(in_tuple["tuple"][0], tensor)
    except CheckpointException:
        pickled = "raises"
    seen[name] = (plain, torch.equal(into, tensor), pickled)
print("torch", torch.__version__)
print("guess: all come back equal")
for name, (plain, alone, pickled) in seen.items():
    print(f"seen:  {name}: torch.load {plain}; dcp.load {alone}, in a tuple {pickled}")
right = (True, True, True)
as_stated = seen["12 of 12 bytes as float32"] == seen["the same, cloned"] == right
for name in ("12 of 13 bytes as float32", "4 of 5 float32 as float64"):
    as_stated &= str(seen[name][0]).startswith("record size") and seen[name][1:] == (True, "raises")
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
