#!/usr/bin/env bash
# Guess:    set_model_state_dict with full_state_dict=True is strict by default, as without it: a state dict that lacks a
#           parameter raises "Missing key(s)", and with strict=False names it in missing_keys.
# Happens:  "All keys matched successfully", and the parameter keeps the value it had (a random one, or it stays on the meta
#           device). What is missing is filled from the model itself before load_state_dict looks; the caller's dict is
#           filled too, with the model's live parameter. It raises only with broadcast_from_rank0=True and strict.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/state_dict.py (_load_model_state_dict: state_dict.update(local_state_dict))
# Met by:   who starts a sharded model from one file (torch.load, safetensors) with a missing shard or a renamed layer.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import fully_shard


def load(full: bool, strict: bool, broadcast: bool = False) -> tuple[str, bool, list[str]]:
    """What loading a weight without its bias says, whether the bias is untouched, and the caller's keys afterwards."""
    model = torch.nn.Linear(2, 2)
    fully_shard(model)
    before = model.state_dict()["bias"].full_tensor().clone()
    shard = model.state_dict()["weight"].clone()
    state = {"weight": torch.ones(2, 2) if full else shard}
    options = StateDictOptions(full_state_dict=full, strict=strict, broadcast_from_rank0=broadcast)
    try:
        said = str(set_model_state_dict(model, state, options=options))
    except RuntimeError as error:
        said = "raises" if 'Missing key(s) in state_dict: "bias"' in str(error) else str(error)
    return said, torch.equal(before, model.state_dict()["bias"].full_tensor()), list(state)


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
sharded = load(full=False, strict=True)
full = load(full=True, strict=True)
lenient = load(full=True, strict=False)
broadcast = load(full=True, strict=True, broadcast=True)
dist.destroy_process_group()
print("torch", torch.__version__)
print("guess: raises:", sharded[0])
print(f"seen:  full_state_dict: {full[0]}; bias untouched: {full[1]}; keys of the caller's dict: {full[2]}")
print(f"       with strict=False: {lenient[0]}; with broadcast_from_rank0: {broadcast[0]}")
matched = "<All keys matched successfully>"
as_stated = sharded[0] == broadcast[0] == "raises" and full == (matched, True, ["weight", "bias"])
as_stated &= lenient[0] == matched
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
