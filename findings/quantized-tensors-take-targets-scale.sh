#!/usr/bin/env bash
# Guess:    a quantised tensor (qint8) that goes through dcp.save and dcp.load comes back with its scale and zero point, as it
#           does through torch.save, load_state_dict and copy_.
# Happens:  the integers come back and the target's scale and zero point stay: with another scale in the target all numbers
#           are others. A fresh torch.ao.nn.quantized.Conv2d has scale 1 and zero point 0: its weights are off by the factor of
#           the scale, and the zero point is not taken off. Scales of each channel likewise.
#           No error. The scale is in the data file, but not in .metadata.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/filesystem.py (FileSystemReader.read_data copies into a narrowed view of the target:
#           copy_ sets the quantiser of the view alone)
# Met by:   resuming quantisation-aware training or serving int8 modules from a DCP checkpoint.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp

weight = torch.tensor([1.0, 2.0, -1.0])
saved = torch.quantize_per_tensor(weight, 0.1, 3, torch.qint8)


def make_target() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)


dcp.save({"w": saved}, checkpoint_id=sys.argv[1] + "/checkpoint")
through_dcp = {"w": make_target()}
dcp.load(through_dcp, checkpoint_id=sys.argv[1] + "/checkpoint")
torch.save(saved, sys.argv[1] + "/w.pt")
results = {
    "dcp.load": through_dcp["w"],
    "copy_": make_target().copy_(saved),
    "torch.load": torch.load(sys.argv[1] + "/w.pt", weights_only=False),
}
seen = {name: ([round(x, 4) for x in result.dequantize().tolist()], result.q_scale()) for name, result in results.items()}
print("torch", torch.__version__)
print("guess:", weight.tolist(), "with scale 0.1 by each")
for name, (values, scale) in seen.items():
    print(f"seen:  {name:10} {values}, scale {scale}")
as_stated = seen["dcp.load"] == ([13, 23, -7], 1.0)
as_stated &= all(seen[name] == (weight.tolist(), 0.1) for name in ("copy_", "torch.load"))
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
