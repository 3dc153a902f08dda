#!/usr/bin/env bash
# Guess:    a row of pyarrow's FixedShapeTensorArray is the row of the array: array[0].to_numpy() equals
#           array.to_numpy_ndarray()[0]. Its docstring: "The resulting ndarray's shape matches the permuted shape".
# Happens:  of an array with a permutation the row has the right shape and its numbers in other places, silently. One gets a
#           permutation by from_numpy_ndarray of any batch that is not C-contiguous, which keeps the memory order and notes
#           the axes: images.transpose(0, 2, 3, 1). The whole array comes back right, also through Parquet. Of a batch with an
#           axis flipped (images[:, ::-1]) the whole array is wrong as well, since the stride's sign is taken for its size.
# Versions: pyarrow 26.0.1, numpy 2.4.6
# Source:   cpp/src/arrow/extension/fixed_shape_tensor.cc (FixedShapeTensorType::MakeTensor permutes the shape and then asks for
#           the strides of the permuted one) and pyarrow/array.pxi (FixedShapeTensorArray.from_numpy_ndarray: argsort of
#           -strides)
# Met by:   data sets of images or embeddings kept as tensors in Arrow or Parquet and read row by row. Call
#           np.ascontiguousarray before.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" pyarrow==26.0.1 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

images = np.arange(24.0).reshape(2, 3, 4)
batches = {
    "as made": images,
    "transposed": images.transpose(0, 2, 1),
    "transposed, contiguous": np.ascontiguousarray(images.transpose(0, 2, 1)),
    "flipped": images[:, ::-1],
}
is_right = {}
for name, batch in batches.items():
    pq.write_table(pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(batch)}), sys.argv[1] + "/x.parquet")
    array = pq.read_table(sys.argv[1] + "/x.parquet")["x"].combine_chunks()
    try:
        is_row_right = np.array_equal(array[0].to_numpy(), batch[0])
    except pa.ArrowInvalid:
        is_row_right = "raises"
    is_right[name] = {"whole": np.array_equal(array.to_numpy_ndarray(), batch), "row": is_row_right}
    if name == "transposed":
        row, shape = array[0].to_numpy(), array[0].to_numpy().shape
print("pyarrow", pa.__version__, "numpy", np.__version__)
print("guess: the whole array and its first row are right each time")
for name, of in is_right.items():
    print(f"seen:  {name:22} {of}")
print(f"       transposed, first row: shape {shape}, begins {row[0].tolist()}, not {batches['transposed'][0, 0].tolist()}")
right = {"whole": True, "row": True}
as_stated = is_right["as made"] == is_right["transposed, contiguous"] == right and shape == (4, 3)
as_stated &= is_right["transposed"] == {"whole": True, "row": False} and not is_right["flipped"]["whole"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
