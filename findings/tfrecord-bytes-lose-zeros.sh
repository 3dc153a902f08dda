#!/usr/bin/env bash
# Guess:    the package tfrecord gives back the byte strings of a feature as they were written.
# Happens:  a feature of one string comes back as bytes, whole. One of several comes back as a NumPy array of fixed
#           width, which pads with zero bytes and takes all that end a string for padding: packed little-endian numbers,
#           tensors and images that end in zeros are shorter, without an error.
# Versions: tfrecord 1.14.6, numpy 2.4.6
# Source:   tfrecord/reader.py (process_feature: np.array(value, dtype=bytes))
# Met by:   data sets that keep several encoded tensors or images under one name of an example.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" tfrecord==1.14.6 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import struct
import sys
from importlib.metadata import version

import tfrecord

path = sys.argv[1] + "/data.tfrecord"
numbers = [struct.pack("<i", number) for number in (1, 2, 70000)]
writer = tfrecord.TFRecordWriter(path)
writer.write({"one": (numbers[0], "byte"), "several": (numbers, "byte")})
writer.close()
(example,) = tfrecord.tfrecord_loader(path, None, {"one": "byte", "several": "byte"})
one, several = bytes(example["one"]), [bytes(value) for value in example["several"]]
print("tfrecord", version("tfrecord"))
print(f"guess: {numbers[0]!r}, {numbers}")
print(f"seen:  {one!r}, {several}")
as_stated = one == numbers[0] and several == [b"\x01", b"\x02", b"p\x11\x01"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py" "$dir"
