#!/usr/bin/env bash
# Guess:    torch.Size holds Python integers, whatever it was made of; shard offsets that numpy worked out leave
#           no trace in a checkpoint.
# Happens:  torch.Size turns bools into integers and keeps numpy's integers as numpy objects. dcp.save pickles
#           them into .metadata as calls of numpy's, 60 bytes a chunk where a number takes 2, and where torch is
#           installed without numpy, which it does not require, the checkpoint cannot be read.
# Versions: torch 2.13.0, numpy 2.4.6
# Source:   torch/csrc/Size.cpp; torch/distributed/tensor/_shards_wrapper.py
# Met by:   embedding tables and other shards placed by offsets from np.cumsum or np.arange, resumed or looked
#           at in a slimmer environment; readers that expect nothing but numbers in .metadata.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0
python3 -m pip install -q --no-compile --no-deps --target "$dir/extra" numpy==2.4.6
rm -rf "$dir/lib"/numpy "$dir/lib"/numpy.libs
cat > "$dir/write.py" <<'PY'
import sys

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

folder = sys.argv[1]
store = dist.FileStore(folder + "/store", 1)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
ends = np.cumsum([3, 5])
table = torch.arange(32.0).reshape(8, 4)
pieces = LocalShardsWrapper([table[:3], table[3:]], [(0, 0), (ends[0], 0)])
mesh = init_device_mesh("cpu", (1,))
whole = DTensor.from_local(pieces, mesh, [Shard(0)], run_check=False, shape=(8, 4), stride=(4, 1))
dcp.save({"table": whole}, checkpoint_id=folder + "/checkpoint")
size = torch.Size((np.int64(3), True))
print("torch", torch.__version__, "numpy", np.__version__)
print("seen: torch.Size((np.int64(3), True)) holds", [type(n).__name__ for n in size])
sys.exit([type(n) for n in size] != [np.int64, int])
PY
cat > "$dir/read.py" <<'PY'
import sys

import torch.distributed.checkpoint as dcp

try:
    metadata = dcp.FileSystemReader(sys.argv[1] + "/checkpoint").read_metadata()
except ModuleNotFoundError as error:
    print(f"seen: {sys.argv[2]}: ModuleNotFoundError: {error}")
    sys.exit(sys.argv[2] != "without numpy")
print(f"seen: {sys.argv[2]}:", [c.offsets for c in metadata.state_dict_metadata["table"].chunks])
sys.exit(sys.argv[2] != "with numpy")
PY
echo "guess: [int, int], and both environments read it"
run() { PYTHONNOUSERSITE=1 python3 -W ignore -S "$@"; }
if PYTHONPATH="$dir/lib:$dir/extra" run "$dir/write.py" "$dir" &&
    PYTHONPATH="$dir/lib:$dir/extra" run "$dir/read.py" "$dir" "with numpy" &&
    PYTHONPATH="$dir/lib" run "$dir/read.py" "$dir" "without numpy"; then
    echo "as stated"
else
    echo "CHANGED"
    exit 1
fi
