#!/usr/bin/env bash
# Guess:    an optimizer made after a forward pass without gradients (a sanity check, a compile warm-up, a first evaluation)
#           trains an FSDP2 model as one made before it does.
# Happens:  the root module keeps its parameters whole after a forward pass, so model.parameters() are not the shards then.
#           The optimizer holds those whole tensors, the gradients go to the shards, and step() finds no gradient: nothing
#           is ever trained, with no error and no warning. A checkpoint of it holds the first weights. Likewise a write to
#           the parameters (an initialiser under no_grad) is lost. model.reshard() before it helps.
# Versions: torch 2.13.0
# Source:   torch/distributed/fsdp/_fully_shard/_fsdp_state.py (FSDPState._lazy_init: with reshard_after_forward=None the root
#           is not resharded) and _fsdp_param.py (FSDPParam.to_unsharded)
# Met by:   who evaluates before training, or makes optimizers lazily. Wrapped blocks below the root are not concerned.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

data = torch.ones(1, 2)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    made = torch.nn.Linear(2, 2)
    fully_shard(made)
    return made


def weight(of: torch.nn.Module) -> torch.Tensor:
    return of.state_dict()["weight"].full_tensor().clone()


def trained(evaluate_first: bool, reshard: bool = False) -> float:
    """How far the weight moves in two steps."""
    made = model()
    if evaluate_first:
        with torch.no_grad():
            made(data)
    if reshard:
        made.reshard()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    before = weight(made)
    for _ in range(2):
        optimizer.zero_grad()
        made(data).sum().backward()
        optimizer.step()
    return round((weight(made) - before).abs().max().item(), 3)


dist.init_process_group("gloo")
moved = {"before": trained(False), "after": trained(True), "resharded": trained(True, reshard=True)}
zeroed = model()
with torch.no_grad():
    zeroed(data)
    zeroed.weight.zero_()
is_zero = weight(zeroed).count_nonzero().item() == 0
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: the weight moves by 0.2 wherever the optimizer was made, and zero_() gives zeros")
    print(f"seen:  optimizer made before the evaluation: {moved['before']}, after it: {moved['after']},")
    print(f"       after it and reshard(): {moved['resharded']}; all zeros after zero_(): {is_zero}")
    as_stated = moved == {"before": 0.2, "after": 0.0, "resharded": 0.2} and not is_zero
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
