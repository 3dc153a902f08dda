#!/usr/bin/env bash
# Guess:    litdata's `optimize` writes tensors of several dtypes or numbers of dims under one name, or raises.
# Happens:  if the first sample's tensor has one dim, of all samples only the bytes are stored, and they are read with the
#           dtype of the first: behind an empty row, which torch makes float32, [1, 2] comes back as four float32 numbers
#           near 0, and a matrix as a row, without an error. If the first sample's tensor has two dims, each keeps its own
#           dtype and shape.
# Versions: litdata 0.2.76, torch 2.13.0, numpy 2.4.6
# Source:   litdata/streaming/serializers.py (NoHeaderTensorSerializer), litdata/streaming/writer.py (BinaryWriter chooses
#           the serialisers by the first item)
# Met by:   lists of tokens or boxes of which the first is empty, and labels that are whole numbers in some samples only.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" torch==2.13.0 litdata==0.2.76 numpy==2.4.6
export PYTHONPATH="$dir/lib" HOME="$dir" TMPDIR="$dir"
export DATA_OPTIMIZER_CACHE_FOLDER="$dir/cache" DATA_OPTIMIZER_DATA_CACHE_FOLDER="$dir/data"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import litdata
import torch

ROW, MATRIX = torch.tensor([1, 2]), torch.tensor([[1, 2], [3, 4]])
SAMPLES = {"row": [torch.tensor([]), ROW, MATRIX], "matrix": [torch.zeros(0, 2), ROW, MATRIX]}


def sample(place):
    first, number = place
    return {"x": SAMPLES[first][number]}


def words(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tensor.tolist()}"


if __name__ == "__main__":
    print("litdata", version("litdata"))
    seen = {}
    for first, tensors in SAMPLES.items():
        folder = f"{sys.argv[1]}/{first}"
        places = [(first, number) for number in range(len(tensors))]
        litdata.optimize(sample, places, folder, chunk_size=100, num_workers=1, verbose=False)
        data = litdata.StreamingDataset(folder)
        seen[first] = [data[number]["x"] for number in range(len(data))]
        print(f"an empty {first} first")
        print("  guess:", *map(words, tensors), sep="  ")
        print("  seen: ", *map(words, seen[first]), sep="  ")
    wrong = [torch.tensor([]), ROW.view(torch.float32), MATRIX.flatten().view(torch.float32)]
    expected = {"row": wrong, "matrix": SAMPLES["matrix"]}
    as_stated = all(
        a.dtype == b.dtype and torch.equal(a, b)
        for first in SAMPLES
        for a, b in zip(seen[first], expected[first], strict=True)
    )
    print("as stated" if as_stated else "CHANGED")
    sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir" 2> "$dir/err" || { cat "$dir/err"; exit 1; }
