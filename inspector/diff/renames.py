"""Tensors that are the same under another name: proven by their content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from inspector.checkpoint.model import Checkpoint
from inspector.diff.structure import Kind, Structure

__all__ = ["proven_renames", "same_kind"]


def same_kind(structure: Structure) -> tuple[list[int], list[int]]:
    """The tensors that only one side names and that may be one on the other: A's, and B's.

    They have elements, and the other side has one of that shape and dtype.
    """
    a, b = structure.a.checkpoint, structure.b.checkpoint
    kinds_a = {i: _kind(a, i) for i in structure.tensors_only_in_a}
    kinds_b = {i: _kind(b, i) for i in structure.tensors_only_in_b}
    common = {kind for kind in kinds_a.values() if 0 not in kind[0]} & set(kinds_b.values())
    return (
        [i for i, kind in kinds_a.items() if kind in common],
        [i for i, kind in kinds_b.items() if kind in common],
    )


def _kind(checkpoint: Checkpoint, index: int) -> Kind:
    return checkpoint.columns.shape(index), checkpoint.columns.dtype(index)


def proven_renames(
    structure: Structure, digests_a: Mapping[int, str], digests_b: Mapping[int, str]
) -> list[tuple[str, str]]:
    """Pairs of names whose tensors have the same shape, dtype and SHA-256, in A's order.

    Where several tensors have one content (biases that are all zero), a pair that the names
    suggest comes first; after it, those whose names end alike; and what is left over is paired
    only if there is one on each side.
    """
    a, b = structure.a.checkpoint, structure.b.checkpoint
    likely = dict(structure.likely_renamed)
    groups: dict[tuple[Kind, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for index, digest in digests_a.items():
        groups[_kind(a, index), digest][0].append(a.columns.fqns[index])
    for index, digest in digests_b.items():
        groups[_kind(b, index), digest][1].append(b.columns.fqns[index])
    found = {}
    for names_a, names_b in groups.values():
        found.update(_paired(names_a, names_b, likely))
    return [(name, found[name]) for name in structure.only_in_a if name in found]


def _paired(names_a: list[str], names_b: list[str], likely: Mapping[str, str]) -> dict[str, str]:
    left = dict.fromkeys(names_b)
    found = {}
    for name in names_a:
        other = likely.get(name)
        if other is not None and other in left:
            found[name] = other
            del left[other]
    for name in names_a:
        if name in found or not left:
            continue
        best = max(left, key=lambda other: _common_end(name, other))
        if _common_end(name, best) or len(names_a) == len(names_b) == 1:
            found[name] = best
            del left[best]
    return found


def _common_end(a: str, b: str) -> int:
    """How many dotted parts two names end with alike."""
    count = 0
    for x, y in zip(reversed(a.split(".")), reversed(b.split(".")), strict=False):
        if x != y:
            break
        count += 1
    return count
