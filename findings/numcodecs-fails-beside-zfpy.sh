#!/usr/bin/env bash
# Guess:    installing zfpy, an optional codec of numcodecs (its extra is named zfpy), adds that codec.
# Happens:  with the zfpy that pip takes today, `import numcodecs` raises ValueError, whether the codec is asked for or
#           not, and with it `import zarr`, which says nothing of zfpy. numcodecs reads the version of zfpy as integers
#           between dots, and that version is 1.0.1.post0. Without zfpy, and with 1.0.1, all is well.
# Versions: numcodecs 0.16.6, zfpy 1.0.1.post0, zarr 3.1.6, numpy 2.4.6
# Source:   numcodecs/zfpy.py (the module's first lines; only ImportError is expected of it in numcodecs/__init__.py)
# Met by:   environments in which any package brings zfpy, at the first zarr array.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" numcodecs==0.16.6 zarr==3.1.6 numpy==2.4.6
python3 -m pip install -q --no-compile --no-deps --target "$dir/extra" zfpy==1.0.1.post0
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import importlib
import sys
from importlib.metadata import version

found = {}
for name in ("zfpy", "numcodecs", "zarr"):
    try:
        importlib.import_module(name)
        found[name] = "imported"
    except ImportError:
        found[name] = "not installed"
    except ValueError as error:
        found[name] = f"ValueError: {error}"
print(f"numcodecs {version('numcodecs')}:", found)
failed = "ValueError: invalid literal for int() with base 10: 'post0'"
expected = {"zfpy": "not installed", "numcodecs": "imported", "zarr": "imported"}
if sys.argv[1:] == ["beside"]:
    expected = {"zfpy": "imported", "numcodecs": failed, "zarr": failed}
sys.exit(found != expected)
PY
echo "guess: numcodecs and zarr are imported, with zfpy and without"
python3 "$dir/run.py" && PYTHONPATH="$dir/lib:$dir/extra" python3 "$dir/run.py" beside && echo "as stated" || {
    echo "CHANGED"
    exit 1
}
