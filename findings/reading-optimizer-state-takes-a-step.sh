#!/usr/bin/env bash
# Guess:    get_optimizer_state_dict(model, optimizer) only reads: calling it before the first step (to save step
#           0, or to get a target for dcp.load) leaves the training as it is.
# Happens:  on an optimizer without state it runs optimizer.step() with zero gradients and lr 0, and keeps what
#           that leaves behind. AdamW's step count is 1, so its bias correction is off by one in every later step;
#           Rprop's step size was initialised from lr 0 and crawls up from 1e-6.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/state_dict.py (_init_optim_state)
# Met by:   who saves at step 0, or looks for a checkpoint to resume from before the first step and finds none.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def train(kind: type, is_read_first: bool) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optim = kind(model.parameters())
    batch = torch.randn(8, 4)
    start = model.weight.detach().clone()
    if is_read_first:
        get_optimizer_state_dict(model, optim)
    for _ in range(3):
        optim.zero_grad()
        model(batch).pow(2).sum().backward()
        optim.step()
    return (model.weight.detach() - start).abs().max(), optim


print("torch", torch.__version__)
print("guess: the same three steps of training with and without the call")
as_stated = True
for kind in (torch.optim.AdamW, torch.optim.Rprop):
    (plain, _), (read, optim) = train(kind, False), train(kind, True)
    steps = next(iter(optim.state.values()))["step"]
    print(f"seen:  {kind.__name__}: weights moved {plain:.6f} without, {read:.6f} with; 3 steps count as {int(steps)}")
    as_stated &= bool(plain != read) and int(steps) == 4
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
