#!/usr/bin/env bash
# Guess:    dcp.load({"nets": {"actor": actor, "critic": critic}}) loads the two modules, as dcp.load({"actor": actor}) does
#           ("for each Stateful object", says its docstring; other dicts are walked to any depth), or raises.
# Happens:  only an object at the top level is asked for its state_dict. One level down, or in a list, the module is pickled
#           whole as one value; dcp.load unpickles another module and puts it into the dict, and the module that trains keeps
#           the values it was initialised with. No error and no warning, at saving or loading. So with optimizers, schedulers
#           and data loaders; the checkpoint holds code's class names instead of tensors and cannot be resharded.
# Versions: torch 2.13.0
# Source:   torch/distributed/checkpoint/state_dict_saver.py (_stateful_to_state_dict) and state_dict_loader.py (load): each
#           goes over the top-level values only
# Met by:   who groups models: GAN, actor and critic, teacher and student, an EMA copy. Flatten the names: "nets.actor".
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import torch
import torch.distributed.checkpoint as dcp


def module(value: float) -> torch.nn.Module:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    return layer


states = {
    "top level": lambda layer: {"actor": layer},
    "in a dict": lambda layer: {"nets": {"actor": layer}},
    "in a list": lambda layer: {"nets": [layer]},
}
weights, kinds = {}, {}
for name, state_dict in states.items():
    path = f"{sys.argv[1]}/{name}"
    dcp.save(state_dict(module(1)), checkpoint_id=path)
    live = module(0)
    dcp.load(state_dict(live), checkpoint_id=path)
    weights[name] = live.weight.item()
    metadata = dcp.FileSystemReader(path).read_metadata()
    kinds[name] = {key: type(entry).__name__ for key, entry in metadata.state_dict_metadata.items()}
print("torch", torch.__version__)
print("guess: the weight was 0 and is 1 after loading, each time; or an error")
for name in states:
    print(f"seen:  {name}: {weights[name]}, stored as {kinds[name]}")
as_stated = weights == {"top level": 1, "in a dict": 0, "in a list": 0} and kinds == {
    "top level": {"actor.weight": "TensorStorageMetadata"},
    "in a dict": {"nets.actor": "BytesStorageMetadata"},
    "in a list": {"nets": "BytesStorageMetadata"},
}
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
