#!/usr/bin/env bash
# Guess:    an optimizer's state_dict() saved by dcp.save and turned into a .pt file by dcp_to_torch_save
#           gives the moments back, or load_state_dict complains.
# Happens:  the parameter ids come back as "0", "1" instead of 0, 1. load_state_dict accepts that without a
#           word, files the moments under the strings and leaves every parameter without state: AdamW
#           restarts from zero moments.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/_traverse.py (traverse_state_dict: str(key)) and
#           torch/optim/optimizer.py (Optimizer.load_state_dict: a key that is no parameter id is kept as it is)
# Met by:   who converts a DCP checkpoint to one torch file and resumes from it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

folder = sys.argv[1]
model = torch.nn.Linear(2, 2)
optim = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 2)).sum().backward()
optim.step()
before = list(optim.state_dict()["state"])
dcp.save({"optim": optim.state_dict()}, checkpoint_id=f"{folder}/ckpt")
dcp_to_torch_save(f"{folder}/ckpt", f"{folder}/ckpt.pt")
state = torch.load(f"{folder}/ckpt.pt", weights_only=False)["optim"]
resumed = torch.optim.AdamW(model.parameters())
resumed.load_state_dict(state)  # says nothing
with_state = sum(p in resumed.state for p in model.parameters())
print("torch", torch.__version__)
print("guess: the ids survive, 2 of 2 parameters have their moments again")
print(f"seen:  ids {before} -> {list(state['state'])}; {with_state} of 2 parameters have moments; no error")
as_stated = before == [0, 1] and list(state["state"]) == ["0", "1"] and with_state == 0
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
