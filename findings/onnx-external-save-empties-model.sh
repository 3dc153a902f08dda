#!/usr/bin/env bash
# Guess:    onnx.save_model(model, path, save_as_external_data=True) writes the model and leaves it in memory as it was: saved
#           a second time elsewhere it is whole again. Saved a second time to the same place, its data file is replaced.
# Happens:  it moves the weights out of the model in memory too. The second save, external or not, writes a file of a few
#           bytes that points to a data file which is not there, without an error; so the export that is checked, optimised
#           or quantised after saving has no weights. A model saved to the place of an older one appends its weights to the
#           old data file, which grows at every save (the docstring promises a FileExistsError).
# Versions: onnx 1.23.2, numpy 2.4.6
# Source:   onnx/__init__.py (save_model: convert_model_to_external_data and write_external_data_tensors work on the proto that
#           was given) and onnx/external_data_helper.py (save_external_data seeks to the end; convert_model_to_external_data
#           looks for the location in the working directory, not beside the model)
# Met by:   exports over 2 GB, where external data is the only way. Save a copy of the proto, to an empty folder.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" onnx==1.23.2 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = sys.argv[1]
external = {"save_as_external_data": True, "location": "weights.bin"}


def model(value: float) -> onnx.ModelProto:
    """x + w, with 1024 weights of this value."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in "xy")
    weight = numpy_helper.from_array(np.full(1024, value, np.float32), "w")
    return helper.make_model(helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight]))


def files(name: str) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in sorted(os.scandir(f"{folder}/{name}"), key=lambda it: it.name)}


def reads(name: str) -> str:
    try:
        return str(numpy_helper.to_array(onnx.load(f"{folder}/{name}/model.onnx").graph.initializer[0])[0])
    except onnx.checker.ValidationError:
        return "no weights"


for name in ("first", "second", "third", "again"):
    os.mkdir(f"{folder}/{name}")
exported = model(1)
onnx.save_model(exported, f"{folder}/first/model.onnx", **external)
left = len(exported.graph.initializer[0].raw_data)
onnx.save_model(exported, f"{folder}/second/model.onnx")
onnx.save_model(exported, f"{folder}/third/model.onnx", **external)
sizes = []
for step in (1, 2, 3):
    onnx.save_model(model(step), f"{folder}/again/model.onnx", **external)
    sizes.append(files("again")["weights.bin"])
print("onnx", onnx.__version__, "numpy", np.__version__)
print("guess: first, second and third have 4096 bytes of weights; weights.bin has 4096 bytes at every save")
print(f"seen:  first  {files('first')}: {reads('first')}; bytes left in memory: {left}")
print(f"       second {files('second')}: {reads('second')}")
print(f"       third  {files('third')}: {reads('third')}")
print(f"       weights.bin after 1, 2 and 3 saves of new models: {sizes}; reads {reads('again')}")
as_stated = [reads(name) for name in ("first", "second", "third", "again")] == ["1.0", "no weights", "no weights", "3.0"]
as_stated &= left == 0 and list(files("third")) == ["model.onnx"] and sizes == [4096, 8192, 12288]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
cd "$dir"
python3 -W ignore "$dir/run.py" "$dir"
