#!/usr/bin/env bash
# Guess:    a checkpoint saved and loaded with flatten_state_dict=False gives back what was saved: the step, and the
#           tensors of the nested model.
# Happens:  only top-level tensors arrive. DefaultLoadPlanner makes a new top-level dict (flatten_sharded_tensors=True,
#           its default) and puts what it unpickles into that one, which nobody sees: step and nested tensors keep
#           the values they had. No error. With flatten_sharded_tensors=False as well, all is there.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/default_planner.py (DefaultLoadPlanner.set_up_planner, load_bytes) and
#           torch/distributed/checkpoint/_sharded_tensor_utils.py (_flatten_sharded_tensors)
# Met by:   who turns flattening off to keep one entry per component, and resumes at step 0 with a fresh model.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp

path = sys.argv[1] + "/ckpt"
saved = {"step": 5, "scale": torch.ones(1), "model": {"w": torch.ones(1)}}
dcp.save(saved, checkpoint_id=path, planner=dcp.DefaultSavePlanner(flatten_state_dict=False))


def load(**options: bool) -> list[float]:
    state = {"step": 0, "scale": torch.zeros(1), "model": {"w": torch.zeros(1)}}
    dcp.load(state, checkpoint_id=path, planner=dcp.DefaultLoadPlanner(flatten_state_dict=False, **options))
    return [state["step"], state["scale"].item(), state["model"]["w"].item()]


default, both_off = load(), load(flatten_sharded_tensors=False)
print("torch", torch.__version__)
print("guess: step 5, scale 1.0, model.w 1.0")
print("seen:  step {}, scale {}, model.w {}".format(*default))
print("       step {}, scale {}, model.w {} with flatten_sharded_tensors=False".format(*both_off))
as_stated = default == [0, 1.0, 0.0] and both_off == [5, 1.0, 1.0]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
