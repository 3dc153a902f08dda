#!/usr/bin/env bash
# Guess:    get_model_state_dict(model, StateDictOptions(full_state_dict=True, cpu_offload=True)) of an FSDP2 model
#           is a snapshot: it is gathered and moved, so training on does not change it.
# Happens:  what is sharded is gathered into new memory; what is not sharded (BatchNorm's running mean, any
#           buffer) is the live tensor when it lies on the CPU already. A "best model so far" kept in a variable
#           is then a mixture: old weights with the newest buffers.
# Versions: torch 2.13.0
# Source:   torch/distributed/_state_dict_utils.py (_iterate_state_dict: a plain CPU tensor passes through)
# Met by:   who keeps a full state dict in memory (best model, EMA seed, async upload) in CPU or offloaded runs.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
fully_shard(model)
optim = torch.optim.SGD(model.parameters(), lr=0.1)
options = StateDictOptions(full_state_dict=True, cpu_offload=True)
snapshot = get_model_state_dict(model, options=options)
before = {name: value.clone() for name, value in snapshot.items()}
model(torch.randn(8, 4)).pow(2).sum().backward()
optim.step()
changed = sorted(name for name in snapshot if not torch.equal(snapshot[name], before[name]))
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: one training step later nothing in the snapshot has changed")
    print("seen:  changed:", ", ".join(changed) or "nothing")
    as_stated = changed == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py"
