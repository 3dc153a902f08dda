#!/usr/bin/env bash
# Guess:    the float32 state dict that zero_to_fp32 merges from a DeepSpeed checkpoint holds every parameter of the model, as
#           exclude_frozen_parameters=False says.
# Happens:  of a stage 1 checkpoint the frozen parameters are missing, without an error or a warning; trained parameters and
#           buffers are there; with stages 2 and 3 nothing is missing. They are in the checkpoint
#           (mp_rank_00_model_states.pt), but the merge takes frozen ones only from an entry that stage 1 does not write.
#           load_state_dict then raises, or with strict=False keeps the weights of whatever model it is given.
# Versions: deepspeed 0.19.8, torch 2.13.0
# Source:   deepspeed/runtime/engine.py (DeepSpeedEngine._save_checkpoint: save_frozen_param asks
#           zero_optimization_partition_gradients(), which is stage 2 and up), deepspeed/utils/zero_to_fp32.py
#           (_zero2_merge_frozen_params returns where frozen_param_shapes is None)
# Met by:   fine-tuning with adapters or a frozen backbone under ZeRO-1.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
DS_BUILD_OPS=0 PYTHONPATH="$dir/lib" python3 -m pip install -q --no-compile --no-deps --target "$dir/lib" deepspeed==0.19.8 \
    einops==0.8.2 hjson==3.1.0 msgpack==1.2.4 packaging==26.4 psutil==7.2.2 py-cpuinfo==9.0.0 pydantic==2.14.4 \
    pydantic-core==2.50.5 annotated-types==0.8.0 typing-inspection==0.4.5 tqdm==4.70.1
export PYTHONPATH="$dir/lib" DS_ACCELERATOR=cpu
cat > "$dir/run.py" <<'PY'
import contextlib
import io
import sys
from importlib.metadata import version

import deepspeed
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint


def make_model() -> torch.nn.Sequential:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


deepspeed.ops.__compatible_ops__.clear()  # Nothing is to be compiled.
deepspeed.init_distributed("gloo")
expected = set(make_model().state_dict())
missing = {}
for stage in (1, 2, 3):
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine = deepspeed.initialize(model=make_model(), config=config)[0]
    engine.backward(engine(torch.randn(4, 4)).sum())
    engine.step()
    path = f"{sys.argv[1]}/{stage}"
    engine.save_checkpoint(path)
    with contextlib.redirect_stdout(io.StringIO()):
        merged = get_fp32_state_dict_from_zero_checkpoint(path, exclude_frozen_parameters=False)
    missing[stage] = sorted(expected - set(merged))
saved = torch.load(f"{sys.argv[1]}/1/global_step1/mp_rank_00_model_states.pt", weights_only=False)["module"]
print("deepspeed", version("deepspeed"), "torch", torch.__version__)
print("guess: nothing is missing")
for stage, names in missing.items():
    print(f"seen:  stage {stage}: missing {names}")
print("       in the stage 1 checkpoint itself:", sorted(set(saved) & {"0.weight", "0.bias"}))
as_stated = missing == {1: ["0.bias", "0.weight"], 2: [], 3: []} and {"0.weight", "0.bias"} <= set(saved)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 1 "$dir/run.py" "$dir" \
    > "$dir/out" 2> "$dir/err" || { cat "$dir/out" "$dir/err"; exit 1; }
grep -A 9 "^deepspeed 0" "$dir/out"
