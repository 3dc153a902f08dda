#!/usr/bin/env bash
# Guess:    an FSDP1 model with use_orig_params=True, LOCAL_STATE_DICT chosen, can be saved with dcp.save and loaded
#           again by the same ranks into the same model.
# Happens:  the state dict holds the flat parameter and, under each parameter's own name, the part that this rank has:
#           plain tensors of other lengths on each rank. DCP keeps one rank's of each name, so dcp.load raises "Size
#           mismatch" on all ranks. Even the model itself refuses the state dict that it just gave: unexpected key
#           _flat_param. What was saved is not lost: dcp.load of the entry _flat_param alone fills the model in place.
#           With use_orig_params=False all of it works.
# Versions: torch 2.13.0
# Source:   torch/distributed/fsdp/_state_dict_utils.py (_local_post_state_dict_hook adds the flat parameter, and takes
#           no name away; _local_pre_load_state_dict_hook)
# Met by:   runs that save "local" checkpoints for speed, as they come to resume.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import logging
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import StateDictType

logging.disable(logging.WARNING)
folder = sys.argv[1]
dist.init_process_group("gloo")


def outcome(action) -> str:
    try:
        action()
    except (CheckpointException, RuntimeError) as error:
        text = str(error)
        known = "Size mismatch", "Unexpected key(s)"
        return next((words for words in known if words in text), text)
    return "no error"


seen = {}
for own_names in (True, False):
    torch.manual_seed(0)
    model = FSDP(torch.nn.Linear(4, 3), device_id=torch.device("cpu"), use_orig_params=own_names)
    FSDP.set_state_dict_type(model, StateDictType.LOCAL_STATE_DICT)
    path = f"{folder}/{own_names}"
    saved = model.state_dict()
    lengths = {name: tuple(t.shape) for name, t in saved.items()}
    dcp.save(saved, checkpoint_id=path)
    state = model.state_dict()
    load = outcome(lambda: dcp.load(state, checkpoint_id=path))
    back = outcome(lambda: model.load_state_dict(model.state_dict()))
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(-1)
    state = {k: v for k, v in model.state_dict().items() if k == "_flat_param"}
    dcp.load(state, checkpoint_id=path)
    is_back = all(map(torch.equal, before, model.parameters()))
    seen[own_names] = lengths, load, back, is_back
everyone = [None] * dist.get_world_size()
dist.all_gather_object(everyone, seen)
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: no error")
    for rank, of_rank in enumerate(everyone):
        lengths, load, back, is_back = of_rank[True]
        print(f"seen:  rank {rank} saved {lengths}; dcp.load: {load}; model.load_state_dict: {back}")
        print(f"       _flat_param alone, loaded: the model is as it was: {is_back}")
    as_stated = all(r[True][1:] == ("Size mismatch", "Unexpected key(s)", True) for r in everyone)
    as_stated = as_stated and all(r[False][1:3] == ("no error", "no error") for r in everyone)
    print("       with use_orig_params=False:", sorted({r[False][1:3] for r in everyone}))
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
