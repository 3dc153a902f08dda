#!/usr/bin/env bash
# Guess:    a run saved with get_optimizer_state_dict and dcp.save can be resumed by the matching calls, also when a parameter
#           got no gradient so far (an unused head, an expert that no token reached): its state is empty.
# Happens:  the save is accepted. On resume the fresh optimizer's target holds state for that parameter (it was made up by a
#           step with zero gradients), so dcp.load raises "Missing key"; set_optimizer_state_dict raises as well unless
#           strict=False. With allow_partial_load=True it loads, and the parameter is said to have had one step.
#           optimizer.load_state_dict of plain torch takes the same state.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/state_dict.py (_init_optim_state, _split_optim_state_dict)
# Met by:   mixtures of experts, multi-task heads, staged unfreezing: the first resume fails.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

path = sys.argv[1] + "/ckpt"


def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "idle": torch.nn.Linear(2, 2)})
    return model, torch.optim.AdamW(model.parameters())


def said(call) -> str:
    try:
        call()
        return "loads"
    except BaseException as error:
        return str(error).strip().splitlines()[-1][:75]


model, optim = start()
model["used"](torch.ones(1, 2)).sum().backward()
optim.step()
saved = get_optimizer_state_dict(model, optim)
dcp.save({"optim": saved}, checkpoint_id=path)
seen = {}
model, fresh = start()
seen["optimizer.load_state_dict"] = said(lambda: fresh.load_state_dict(optim.state_dict()))
model, fresh = start()
seen["set_optimizer_state_dict"] = said(lambda: set_optimizer_state_dict(model, fresh, saved))
model, fresh = start()
state = {"optim": get_optimizer_state_dict(model, fresh)}
seen["dcp.load"] = said(lambda: dcp.load(state, checkpoint_id=path))
partial = dcp.DefaultLoadPlanner(allow_partial_load=True)
seen["dcp.load, partial"] = said(lambda: dcp.load(state, checkpoint_id=path, planner=partial))
steps = int(state["optim"]["state"]["idle.weight"]["step"])
print("torch", torch.__version__)
print("guess: all of them load")
for name, text in seen.items():
    print(f"seen:  {name:25} {text}")
print(f"       steps of the idle parameter: {steps}")
as_stated = [text[:7] for text in seen.values()] == ["loads", "Missing", "Runtime", "loads"] and steps == 1
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore "$dir/run.py" "$dir"
