#!/usr/bin/env bash
# Guess:    torch's rank-local Checkpointer (distributed.checkpoint._experimental) loads into given tensors what it loads
#           without them: the same numbers in the same places.
# Happens:  into given tensors it reads the bytes of the storage one after the other and takes them for a contiguous tensor.
#           Of a weight that was saved transposed, in channels_last or as some columns of another, the numbers come out in
#           other places, or are others. No error, and no key is reported missing. Without given tensors it is right.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/_experimental/checkpoint_reader.py (CheckpointReader._partial_read, load_tensor: size
#           and dtype are compared, the stride is not)
# Met by:   convolutions in channels_last, which is how vision models are trained; weights tied by transposing.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
from torch.distributed.checkpoint._experimental import make_sync_checkpointer

path = sys.argv[1] + "/checkpoint"
numbers = torch.arange(16.0)
convolution = torch.nn.Conv2d(2, 2, 2, bias=False)
convolution.weight.data = numbers.reshape(2, 2, 2, 2).clone()
state_dict = {
    "as made": numbers.reshape(4, 4),
    "transposed": numbers.reshape(4, 4).T,
    "two columns": numbers.reshape(4, 4)[:, 2:],
    "channels_last": convolution.to(memory_format=torch.channels_last).weight.detach(),
}
checkpointer = make_sync_checkpointer()
checkpointer.save(path, state_dict)
into = checkpointer.load(path, {name: torch.zeros(tensor.shape) for name, tensor in state_dict.items()})
alone = checkpointer.load(path)
checkpointer.close()
is_right = {name: torch.equal(into[name], tensor) for name, tensor in state_dict.items()}
alone_is_right = {name: torch.equal(alone[name], tensor) for name, tensor in state_dict.items()}
print("torch", torch.__version__)
print("guess: all are right")
print("seen:  loaded into given tensors", is_right)
print("       transposed, its first row:", into["transposed"][0].tolist(), "of", state_dict["transposed"][0].tolist())
print("       loaded without           ", alone_is_right)
as_stated = all(alone_is_right.values()) and [name for name in is_right if is_right[name]] == ["as made"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
