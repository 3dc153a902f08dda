#!/usr/bin/env bash
# Guess:    a convolution whose DTensor weight is cut by output channels gives what the whole weight gives, cut by channels,
#           as F.linear with such a weight does; or it raises.
# Happens:  each rank computes its own channels only, and the result says that it has all of them and is replicated: shape (2,
#           4, 8, 8), 2 channels in memory, and full_tensor() has 2, on each rank others. No error until something else counts
#           them; a mean over the channels is of a part, and differs by rank.
# Versions: torch 2.13.0
# Source:   torch/distributed/tensor/_ops/_conv_ops.py (convolution_rules: the output takes the input's placements, the
#           weight's are not asked)
# Met by:   tensor parallelism of convolutions by hand (audio and vision encoders); a model built for F.linear and extended.
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
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn import functional

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
image, kernel, matrix = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4, 8)
seen = {}
for name, weight, operation in (
    ("linear", matrix, functional.linear),
    ("conv2d", kernel, lambda x, w: functional.conv2d(x, w, padding=1)),
):
    result = operation(distribute_tensor(image, mesh, [Replicate()]), distribute_tensor(weight, mesh, [Shard(0)]))
    whole = result.full_tensor()
    expected = operation(image, weight)
    is_right = whole.shape == expected.shape and torch.allclose(whole, expected, atol=1e-5)
    seen[name] = (tuple(result.shape), str(result.placements[0]), tuple(result.to_local().shape), tuple(whole.shape), is_right)
means = [None, None]
dist.all_gather_object(means, round(whole.mean().item(), 4))
is_coordinator = dist.get_rank() == 0
dist.destroy_process_group()
if is_coordinator:
    print("torch", torch.__version__)
    print("guess: both right, 4 channels, the same on both ranks; mean of the convolution", round(expected.mean().item(), 4))
    for name, (shape, placement, local, of_whole, is_right) in seen.items():
        print(f"seen:  {name}: shape {shape} {placement}, local {local}, full_tensor {of_whole}, right: {is_right}")
    print("       mean of the convolution by rank:", means)
    as_stated = seen["linear"][4] and seen["conv2d"] == ((2, 4, 8, 8), "R", (2, 2, 8, 8), (2, 2, 8, 8), False)
    as_stated &= means[0] != means[1]
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
OMP_NUM_THREADS=1 python3 -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 "$dir/run.py" "$dir" \
    2> "$dir/err" || { cat "$dir/err"; exit 1; }
