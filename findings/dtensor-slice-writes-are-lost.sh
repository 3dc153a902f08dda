#!/usr/bin/env bash
# Guess:    writing through a view of a sharded DTensor (w[2].zero_(), w[1:3].zero_()) writes to w, as it does for every
#           tensor; what cannot be done raises, as w[2] = 0 does.
# Happens:  a view that cuts the sharded dimension is taken of a gathered copy. The write goes there and is gone; nothing
#           is said. Across the other dimension (w[:, 0].zero_()) it works. So nn.Embedding(padding_idx=...) that is
#           initialised after fully_shard (from the meta device) has a padding row of random numbers.
# Versions: torch 2.13.0
# Source:   torch/distributed/tensor/_ops/_tensor_ops.py (select_int_strategy, gen_slice_strategy: unshard_tensor_dim) and
#           torch/nn/modules/sparse.py (Embedding._fill_padding_idx_with_zero: self.weight[self.padding_idx].fill_(0))
# Met by:   who initialises, prunes or patches rows of a sharded model: padding, new vocabulary rows, experts.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
writes = {
    "w[2].zero_()": lambda w: w[2].zero_(),
    "w[1:3].zero_()": lambda w: w[1:3].zero_(),
    "w.chunk(2)[0].zero_()": lambda w: w.chunk(2)[0].zero_(),
    "w[:, 0].zero_()": lambda w: w[:, 0].zero_(),
}
zeros = {}
for name, write in writes.items():
    w, plain = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]), torch.ones(4, 2)
    write(w), write(plain)
    zeros[name] = (int((plain == 0).sum()), int((w.full_tensor() == 0).sum()))
with torch.device("meta"):
    embedding = torch.nn.Embedding(4, 2, padding_idx=1)
fully_shard(embedding)
embedding.to_empty(device="cpu")
embedding.reset_parameters()
padding = [round(value, 2) for value in embedding.weight.full_tensor()[1].tolist()]
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: as many zeros as in a plain tensor; the padding row is [0.0, 0.0]")
    for name, (wanted, found) in zeros.items():
        print(f"seen:  {name:22} {found} of {wanted} zeros")
    print("seen:  padding row", padding)
    as_stated = list(zeros.values()) == [(2, 0), (4, 0), (4, 0), (4, 4)] and 0.0 not in padding
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py"
