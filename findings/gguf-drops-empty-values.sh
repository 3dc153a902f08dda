#!/usr/bin/env bash
# Guess:    GGUFWriter writes the metadata that it is given: an empty string or an empty array comes back empty, as a
#           false bool and a zero come back. (The format has a length field for both.)
# Happens:  add_string and add_array return without a word when the value is empty. The key is absent from the file, so a
#           reader cannot tell "set to nothing" from "never set" and takes its default (a chat template, stop tokens).
# Versions: gguf 0.19.0, numpy 2.4.6
# Source:   gguf/gguf_writer.py (GGUFWriter.add_string, GGUFWriter.add_array)
# Met by:   converters and tools that copy the metadata of one GGUF file to another.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" gguf==0.19.0 numpy==2.4.6
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import gguf

path = sys.argv[1] + "/model.gguf"
writer = gguf.GGUFWriter(path, "llama")
writer.add_bool("x.bool", False)
writer.add_uint32("x.zero", 0)
writer.add_string("x.string", "")
writer.add_array("x.array", [])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
found = [key for key in gguf.GGUFReader(path).fields if key.startswith("x.")]
print("gguf", version("gguf"))
print("guess: x.bool, x.zero, x.string, x.array")
print("seen: ", ", ".join(found))
as_stated = found == ["x.bool", "x.zero"]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py" "$dir"
