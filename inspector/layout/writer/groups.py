"""`TensorGroup`: the tensors by the mesh they lie on, where one mesh is not all that there is.

The rule this module keeps: experts and all others lie over the same ranks, each on a mesh of their
own; a mesh of several axes that cut as one would is one axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from inspector.layout.cuts import Cut
from inspector.layout.geometry import Ints
from inspector.layout.placements import Fit, Pattern, fit_of, to_strings

__all__ = ["AXIS_WORDS", "PlacementUse", "TensorGroup", "flat_pattern", "groups_of", "is_flat"]

#: torch's and torchtitan's words for what an axis is for.
AXIS_WORDS = {
    "replicate": "dp_replicate",
    "shard": "dp_shard",
    "tensor": "tp",
    "expert": "ep",
    "stage": "pp",
}


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors that lie on a mesh of their own over the same ranks.

    Attributes:
        what: `experts`, `dense` (all others), or `all` where there are no experts.
        axes: Name (what it looks like, None if nothing tells) and size of each axis of their mesh.
        placements: Placements along these axes, and how many tensors lie so, the most first.
        example: The first tensor, by its raw name.
    """

    what: str
    axes: tuple[tuple[str | None, int], ...]
    placements: tuple[tuple[tuple[str, ...], int], ...]
    example: str

    @property
    def num_tensors(self) -> int:
        return sum(num for _, num in self.placements)


@dataclass(frozen=True, slots=True)
class PlacementUse:
    """Tensors of one cut that are placed alike.

    Attributes:
        cut: Their cut.
        fit: Their placements.
        tensors: Their indices.
    """

    cut: Cut
    fit: Fit
    tensors: Ints


def groups_of(
    sizes: tuple[int, ...],
    kinds: Sequence[str | None],
    dense: Sequence[PlacementUse],
    experts: Sequence[PlacementUse],
    fqns: Sequence[str],
    *,
    experts_differ: bool,
) -> tuple[TensorGroup, ...]:
    """The tensors by mesh: beside experts the dense ones lie flat over the cutting axes.

    Args:
        sizes: Of the mesh that all were replayed on.
        kinds: What each of its axes looks like.
        dense: Tensors that are no experts, by their placements.
        experts: Experts, likewise.
        fqns: Raw name of every tensor.
        experts_differ: Whether experts are placed as no other tensor is.
    """
    own = [(None if k is None else AXIS_WORDS[k], n) for k, n in zip(kinds, sizes, strict=True)]
    result = []
    for what, uses in (("dense", dense), ("experts", experts)):
        if not uses:
            continue
        cut = [use for use in uses if use.cut.touched]
        merged: tuple[int, ...] = ()
        axes = own
        if what == "dense" and "expert" in kinds:
            merged = tuple(a for a, kind in enumerate(kinds) if kind != "replicate")
            name = "dp_shard"
        elif what == "experts" and "expert" in kinds:
            axes = [("dp_shard_mod_ep" if n == "dp_shard" else n, size) for n, size in own]
        elif what == "experts" and experts_differ:
            every = tuple(range(len(sizes)))
            if len(every) > 1 and all(is_flat(use, every, sizes) for use in cut):
                merged, name = every, "ep"
        if merged:
            joined = math.prod(sizes[a] for a in merged)
            axes = [own[a] for a in range(merged[0])] + [(name, joined)]
        counts: dict[tuple[str, ...], int] = {}
        for use in uses:
            pattern = use.fit.pattern
            if merged:
                flat = 0 if use.cut.touched else None
                pattern = Pattern((*pattern.dims[: merged[0]], flat))
            words = to_strings(pattern, [size for _, size in axes])
            counts[words] = counts.get(words, 0) + len(use.tensors)
        ranking = sorted(counts.items(), key=lambda item: -item[1])
        first = min(int(use.tensors.min()) for use in uses)
        label = what if experts else "all"
        result.append(TensorGroup(label, tuple(axes), tuple(ranking), fqns[first]))
    return tuple(result)


def is_flat(use: PlacementUse, axes: Sequence[int], sizes: tuple[int, ...]) -> bool:
    """Whether some axes cut a tensor's first dim as one longer axis would."""
    nested = flat_pattern(axes, len(sizes))
    if use.fit.pattern.flat or use.fit.pattern == nested:
        return True
    found = [fit_of(use.cut, sizes, pattern) for pattern in (nested, replace(nested, flat=True))]
    return any(f is not None and np.array_equal(f.cells, use.fit.cells) for f in found)


def flat_pattern(axes: Sequence[int], num_axes: int) -> Pattern:
    """Dim 0 cut by some axes, one after the other."""
    return Pattern(tuple(0 if a in axes else None for a in range(num_axes)))
