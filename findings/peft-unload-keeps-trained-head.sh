#!/usr/bin/env bash
# Guess:    unload() of a PEFT model gives the base model back ("Return the base model by removing all the PEFT modules", without
#           merging), as disable_adapter() shows it: every weight as it was.
# Happens:  what LoRA itself added is gone, and a head under modules_to_save stays the trained one, though the wrapper holds
#           the original beside it: the model is neither the base nor the tuned one. No warning.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, numpy 2.4.6
# Source:   peft/tuners/tuners_utils.py (BaseTuner.unload), peft/utils/other.py
#           (ModulesToSaveWrapper.unload_and_optionally_merge_module returns the trained module whatever `merge` is)
# Met by:   programs that take one adapter off and put the next on, or compare a tuned model with its base.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 transformers==5.24.0 peft==0.21.2 numpy==2.4.6
export PYTHONPATH="$dir/lib" HF_HUB_OFFLINE=1
cat > "$dir/run.py" <<'PY'
import copy
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
base = nn.Sequential()
base.add_module("body", nn.Linear(8, 8))
base.add_module("head", nn.Linear(8, 2))
inputs = torch.randn(4, 8)

model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["body"], modules_to_save=["head"])).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.rand_like(parameter))  # as after training
    tuned = model(inputs)
    with model.disable_adapter():
        disabled = model(inputs)
    plain = model.unload()
    unloaded = plain(inputs)
    wanted = base(inputs)

before = base.state_dict()
same = {name: torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items()}
print("peft", version("peft"))
print("with the adapter disabled, the base's output:", torch.allclose(disabled, wanted))
print("after unload(), the base's output: guess: True  seen:", torch.allclose(unloaded, wanted))
print("after unload(), weights as in the base: guess: all  seen:", same)
as_stated = torch.allclose(disabled, wanted) and not torch.allclose(unloaded, wanted) and not torch.allclose(unloaded, tuned)
as_stated = as_stated and same == {"body.weight": True, "body.bias": True, "head.weight": False, "head.bias": False}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
