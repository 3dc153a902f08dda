#!/usr/bin/env bash
# Guess:    set_optimizer_state_dict of two parameter groups (weight decay 0.1 and 0.0) into an optimizer with one
#           group raises, as optimizer.load_state_dict does ("different number of parameter groups").
# Happens:  it is accepted. All parameters get the LAST saved group's options: no weight decay anywhere. With
#           flatten_optimizer_state_dict=True the same checkpoint gives the FIRST group's: weight decay everywhere.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/state_dict.py (_split_optim_state_dict, _unflatten_optim_state_dict)
# Met by:   who resumes with another grouping of the parameters (a changed no-decay rule, another trainer).
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

model = torch.nn.Linear(2, 2)
saved = torch.optim.AdamW(
    [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
)
decay = {}
for is_flat in (False, True):
    options = StateDictOptions(flatten_optimizer_state_dict=is_flat)
    state = get_optimizer_state_dict(model, saved, options=options)
    resumed = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    set_optimizer_state_dict(model, resumed, state, options=options)
    decay[is_flat] = [group["weight_decay"] for group in resumed.param_groups]
try:
    torch.optim.AdamW(model.parameters()).load_state_dict(saved.state_dict())
    plain = "accepted"
except ValueError as error:
    plain = str(error)
print("torch", torch.__version__)
print("guess: an error, as from optimizer.load_state_dict:", plain)
print(f"seen:  no error; weight_decay of the one group {decay[False]}, flattened {decay[True]}")
as_stated = "number of parameter groups" in plain and decay == {False: [0.0], True: [0.1]}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
