#!/usr/bin/env bash
# Guess:    save_pretrained of a PEFT model whose adapter is merged (merge_adapter, for fast generation) saves the adapter, as
#           it does for LoRA and the others.
# Happens:  of LN tuning (trained LayerNorms) it saves the norms of the base model: merging swaps the two, and the trained ones
#           lie where the base's were. The file loads without an error, and the training is gone. Saved after unmerge_adapter it
#           is right.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0, numpy 2.4.6
# Source:   peft/tuners/ln_tuning/layer.py (LNTuningLayer.merge swaps base_layer and ln_tuning_layers[name])
# Met by:   loops that merge for the evaluation and save the best adapter while it is merged.
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
from peft import LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn

torch.manual_seed(0)
BASE = nn.Sequential()
BASE.add_module("linear", nn.Linear(8, 8))
BASE.add_module("norm", nn.LayerNorm(8))
INPUT = torch.randn(4, 8)


def trained(config) -> PeftModel:
    """Return the base with an adapter whose weights are other than at the start, as after training."""
    model = get_peft_model(copy.deepcopy(BASE), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter))
    return model


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(INPUT)


def saved_and_loaded(model: PeftModel, folder: str) -> torch.Tensor:
    model.save_pretrained(folder)
    return output(PeftModel.from_pretrained(copy.deepcopy(BASE), folder).eval())


print("peft", version("peft"))
as_stated = True
for name, config in (
    ("LoRA", LoraConfig(r=2, target_modules=["linear"])),
    ("LN tuning", LNTuningConfig(target_modules=["norm"])),
):
    model = trained(config)
    wanted, base = output(model), output(BASE)
    unmerged = saved_and_loaded(model, f"{sys.argv[1]}/{name}/unmerged")
    model.merge_adapter()
    merged = saved_and_loaded(model, f"{sys.argv[1]}/{name}/merged")
    is_adapter, is_base = (torch.allclose(merged, other, atol=1e-5) for other in (wanted, base))
    print(f"{name}: saved while merged, guess: the adapter  seen:", "the adapter" if is_adapter else "the base" * is_base)
    as_stated = as_stated and torch.allclose(unmerged, wanted, atol=1e-5) and not torch.allclose(wanted, base, atol=1e-2)
    as_stated = as_stated and (is_adapter, is_base) == ((True, False) if name == "LoRA" else (False, True))
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
