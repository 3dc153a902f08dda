#!/usr/bin/env bash
# Guess:    dcp.async_save writes what dcp.save writes of the same state dict.
# Happens:  of a lazily conjugated tensor (x.conj(), x.mH) it writes x, and of one with the negative bit (x.conj().imag) the
#           number with the other sign: staging copies the bytes of the storage and not the two bits. dcp.save is right. No
#           warning; resolve_conj() and resolve_neg() before saving help.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/_state_dict_stager.py (StateDictStager._offload_tensor)
# Met by:   complex weights and spectra (FNO layers, rotary tables, state space models, Fourier features) once saving is
#           made asynchronous.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
x = torch.tensor([1 + 2j])
state = {"conj": x.conj(), "imag": x.conj().imag}
dcp.save(state, checkpoint_id=sys.argv[1] + "/save")
dcp.async_save(state, checkpoint_id=sys.argv[1] + "/async").result()
seen = {}
for kind in ("save", "async"):
    loaded = {"conj": torch.zeros(1, dtype=torch.complex64), "imag": torch.zeros(1)}
    dcp.load(loaded, checkpoint_id=f"{sys.argv[1]}/{kind}")
    seen[kind] = {name: tensor.item() for name, tensor in loaded.items()}
dist.destroy_process_group()
print("torch", torch.__version__)
print("guess: both", {name: tensor.item() for name, tensor in state.items()})
print("seen:  save ", seen["save"])
print("       async", seen["async"])
as_stated = seen["save"] == {"conj": 1 - 2j, "imag": -2.0} and seen["async"] == {"conj": 1 + 2j, "imag": 2.0}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
