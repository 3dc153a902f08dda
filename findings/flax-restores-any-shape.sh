#!/usr/bin/env bash
# Guess:    flax.serialization.from_bytes(target, data) raises when an array has another shape or dtype than the target's, or
#           a name that the target lacks, as it does for a name that is missing and for a list of another length.
# Happens:  the target's arrays are not looked at: (4,) comes back in the place of (2, 2), float32 in that of bfloat16, and
#           from a larger model's file a smaller one takes what it knows. Names beyond the target's are dropped silently. The
#           model then fails far from the load, or broadcasts a bias of the wrong size and trains on.
# Versions: flax 0.12.8, jax 0.10.2, numpy 2.4.6
# Source:   flax/serialization.py (from_state_dict, _restore_dict: only names missing in the file raise)
# Met by:   resuming after a change of the model's width or precision.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" flax==0.12.8 jax==0.10.2 numpy==2.4.6
export PYTHONPATH="$dir/lib" JAX_PLATFORMS=cpu
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

saved = serialization.to_bytes({"w": jnp.arange(4.0), "b": jnp.ones(1), "layers": [jnp.ones(2), jnp.ones(2)]})
layers = [jnp.zeros(2), jnp.zeros(2)]
targets = {
    "another shape": {"w": jnp.zeros((2, 2)), "b": jnp.zeros(3), "layers": layers},
    "another dtype": {"w": jnp.zeros(4, jnp.bfloat16), "b": jnp.zeros(1), "layers": layers},
    "a name less": {"w": jnp.zeros(4), "layers": layers},
    "a name more": {"w": jnp.zeros(4), "b": jnp.zeros(1), "layers": layers, "scale": jnp.zeros(1)},
    "a list of 1": {"w": jnp.zeros(4), "b": jnp.zeros(1), "layers": layers[:1]},
}
seen = {}
for name, target in targets.items():
    try:
        loaded = serialization.from_bytes(target, saved)
        seen[name] = (loaded["w"].shape, loaded["w"].dtype.name, sorted(loaded))
    except ValueError as error:
        seen[name] = type(error).__name__
broadcast = np.zeros(3) + serialization.from_bytes(targets["another shape"], saved)["b"]
print("flax", version("flax"), "jax", jax.__version__, "numpy", np.__version__)
print("guess: an error of each")
for name, found in seen.items():
    print(f"seen:  target with {name}: {found}")
print("       a bias of 1 restored into one of 3 and added:", broadcast.tolist())
as_stated = seen["another shape"] == seen["another dtype"] == ((4,), "float32", ["b", "layers", "w"])
as_stated &= seen["a name less"] == ((4,), "float32", ["layers", "w"])
as_stated &= seen["a name more"] == seen["a list of 1"] == "ValueError" and broadcast.tolist() == [1, 1, 1]
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py"
