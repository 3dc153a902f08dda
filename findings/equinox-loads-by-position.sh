#!/usr/bin/env bash
# Guess:    equinox.tree_deserialise_leaves raises when the file was written by a model with other field names or more layers,
#           as it does for another shape or dtype.
# Happens:  the file is one array after the other without names. A model whose fields were renamed or set in another order
#           loads, with the weights of one in the other where the shapes agree, and a model with fewer layers loads the first
#           of them and leaves the rest of the file unread. In a dict it is the alphabet that decides: after renaming "key"
#           and "query" to "k" and "a" the weights are exchanged. No error.
# Versions: equinox 0.13.8, jax 0.10.2, numpy 2.4.6
# Source:   equinox/_serialisation.py (tree_serialise_leaves, tree_deserialise_leaves: leaves in the order of jax's tree, and
#           no look for the end of the file)
# Met by:   loading after a refactoring: the query, key and value projections of attention are of one shape.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" equinox==0.13.8 jax==0.10.2 numpy==2.4.6
export PYTHONPATH="$dir/lib" JAX_PLATFORMS=cpu
cat > "$dir/run.py" <<'PY'
import sys
from importlib.metadata import version

import equinox
import jax
import jax.numpy as jnp


class Attention(equinox.Module):
    query: jax.Array
    key: jax.Array


class Reordered(equinox.Module):
    key: jax.Array
    query: jax.Array


path = sys.argv[1] + "/model.eqx"


def try_(saved, like) -> object:
    equinox.tree_serialise_leaves(path, saved)
    try:
        return equinox.tree_deserialise_leaves(path, like)
    except RuntimeError as error:
        return type(error).__name__


zero, query, key = jnp.zeros(2), jnp.full(2, 1.0), jnp.full(2, 2.0)
reordered = try_(Attention(query=query, key=key), Reordered(key=zero, query=zero))
renamed = try_({"query": query, "key": key}, {"a": zero, "k": zero})
fewer = try_([query, key], [zero])
shape = try_([query], [jnp.zeros((2, 1))])
print("equinox", version("equinox"), "jax", jax.__version__)
print("guess: errors, or query [1, 1] and key [2, 2]")
print("seen:  fields in another order: query", reordered.query.tolist(), "key", reordered.key.tolist())
print("       query, key renamed to a, k:", {name: value.tolist() for name, value in renamed.items()})
print("       one layer of a file of two:", [value.tolist() for value in fewer], "; another shape:", shape)
as_stated = (reordered.query.tolist(), reordered.key.tolist()) == ([2, 2], [1, 1])
as_stated &= renamed["a"].tolist() == [2, 2] and renamed["k"].tolist() == [1, 1]
as_stated &= [value.tolist() for value in fewer] == [[1, 1]] and shape == "RuntimeError"
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 -W ignore "$dir/run.py" "$dir"
