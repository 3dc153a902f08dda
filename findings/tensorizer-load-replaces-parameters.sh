#!/usr/bin/env bash
# Guess:    tensorizer's load_into_module(model) fills the model's tensors as load_state_dict does: frozen weights stay frozen,
#           tied weights tied, buffers buffers, an optimizer made before goes on with them; another shape raises.
# Happens:  it registers a new Parameter for every name. Frozen weights require gradients again; tied weights come apart and
#           train apart; floating-point buffers are Parameters that require gradients, so BatchNorm raises in training; the
#           optimizer made before trains tensors that no model has. A tensor of another shape or dtype takes the place of the
#           model's, one that the file lacks keeps its values. No error, no warning.
# Versions: tensorizer 2.12.1, torch 2.13.0, numpy 2.4.6
# Source:   tensorizer/serialization.py (TensorDeserializer.load_into_module, _to_torch_parameter)
# Met by:   fine-tuning a model that tensorizer loaded.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 tensorizer==2.12.1 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from tensorizer import TensorDeserializer, TensorSerializer
from torch import nn


class Model(nn.Module):
    def __init__(self, rows: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, rows, bias=False)
        self.head.weight = self.embedding.weight
        self.norm.weight.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embedding(tokens)))


def facts(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, bool | str]:
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    try:
        model(torch.arange(8)).sum().backward()
        step = "runs"
    except RuntimeError as error:
        step = str(error).split(".")[0]
    return {
        "tied weights are one": model.embedding.weight is model.head.weight,
        "a frozen weight is frozen": not model.norm.weight.requires_grad,
        "the optimizer has the weights": id(model.embedding.weight) in known,
        "a training step": step,
    }


print("tensorizer", version("tensorizer"))
path = sys.argv[1] + "/model.tensors"
saved = Model()
serializer = TensorSerializer(path)
serializer.write_module(saved)
serializer.close()

as_stated = True
for how in ("load_state_dict", "load_into_module"):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if how == "load_state_dict":
        model.load_state_dict(saved.state_dict())
    else:
        with TensorDeserializer(path, device="cpu") as file:
            file.load_into_module(model)
    equal = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), saved.state_dict().values(), strict=True))
    seen = facts(model, optimizer)
    print("guess:" if how == "load_state_dict" else "seen: ", how, seen)
    as_stated = as_stated and equal
    if how == "load_state_dict":
        as_stated = as_stated and list(seen.values()) == [True, True, True, "runs"]
    else:
        as_stated = as_stated and list(seen.values())[:3] == [False] * 3 and "native_batch_norm" in str(seen["a training step"])

larger = Model(16)
with TensorDeserializer(path, device="cpu") as file:
    file.load_into_module(larger)
shape = tuple(larger.embedding.weight.shape)
print("an embedding of 16 rows into which 8 are loaded has the shape", shape, "(guess: raises)")
as_stated = as_stated and shape == (8, 4)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
