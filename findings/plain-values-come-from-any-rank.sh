#!/usr/bin/env bash
# Guess:    values that each rank has of its own and that are no DTensors (BatchNorm statistics under FSDP2, the state of the
#           random number generator, a counter) are saved from one rank, the first, or each rank gets its own back.
# Happens:  of each name one rank's value is kept, and which rank it is depends on the sizes of all that was planned before it:
#           below, the generator's state is rank 0's, the counter and the statistics are rank 1's. Every rank gets these back,
#           without a warning: after resuming, all ranks draw the same dropout masks and the same shuffle, and rank 0
#           evaluates with statistics that it never had. DDP would have sent rank 0's buffers to all; FSDP2 does not.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/_dedup_save_plans.py (dedup_save_plans: the rank with the fewest bytes so far) and
#           default_planner.py (create_default_local_save_plan); dedup_save_to_lowest_rank=True makes it rank 0
# Met by:   who resumes from DCP with per-rank state. Name it by rank ("rng.3"), and average the statistics first.
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
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
rank = dist.get_rank()
model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
fully_shard(model)
torch.manual_seed(rank)
model(torch.randn(8, 2) + 10 * rank)  # each rank sees its own batch


def state_dict() -> dict:
    return {"rng": torch.get_rng_state(), "counter": 100 + rank, "model": get_model_state_dict(model)}


saved = state_dict()
own = {
    "rng": saved["rng"].clone(),
    "counter": saved["counter"],
    "running_mean": saved["model"]["1.running_mean"].clone(),
    "running_var": saved["model"]["1.running_var"].clone(),
}
seen = {}
for name, lowest in (("default", False), ("lowest rank", True)):
    planner = dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=lowest)
    dcp.save(saved, checkpoint_id=f"{sys.argv[1]}/{name}", planner=planner)
    loaded = state_dict()
    dcp.load(loaded, checkpoint_id=f"{sys.argv[1]}/{name}")
    came = {"rng": loaded["rng"], "counter": loaded["counter"]}
    came |= {key: loaded["model"][f"1.{key}"] for key in ("running_mean", "running_var")}
    is_mine = {key: bool(torch.equal(torch.as_tensor(came[key]), torch.as_tensor(own[key]))) for key in own}
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, is_mine)
    seen[name] = {key: [number for number, mine in enumerate(everyone) if mine[key]] for key in own}
    model.load_state_dict({**saved["model"], "1.running_mean": own["running_mean"], "1.running_var": own["running_var"]})
dist.destroy_process_group()
if rank == 0:
    print("torch", torch.__version__)
    print("guess: each value comes back as that of ranks [0], or each rank's own: [0, 1]")
    for name, ranks in seen.items():
        print(f"seen:  {name}: the value loaded is that of ranks", ranks)
    as_stated = seen["default"] == {"rng": [0], "counter": [1], "running_mean": [1], "running_var": [1]}
    as_stated &= all(ranks == [0] for ranks in seen["lowest rank"].values())
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
