"""Tensors that are the same under another name: proven by their content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from inspector.checkpoint.model import Checkpoint
from inspector.diff.structure import Kind, Structure

__all__ = ["proven_renames", "same_kind"]

# Parts of a name's end that are looked at; a name may have a million.
_MAX_PARTS = 16


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
    left_a, left_b = dict.fromkeys(names_a), dict.fromkeys(names_b)
    found = {}

    def take(name: str, other: str) -> None:
        found[name] = other
        del left_a[name], left_b[other]

    for name in names_a:
        other = likely.get(name)
        if other is not None and other in left_b:
            take(name, other)
    ends_a, ends_b = _by_end(left_a), _by_end(left_b)
    # Those that share most first: thousands of biases may be zero, and have one content.
    for count in sorted(ends_a.keys() & ends_b.keys(), reverse=True):
        for end, of_end in ends_a[count].items():
            others = iter(ends_b[count].get(end, ()))
            for name in of_end:
                if name not in left_a:
                    continue
                other = next((name_b for name_b in others if name_b in left_b), None)
                if other is None:
                    break
                take(name, other)
    if len(names_a) == len(names_b) == 1 and left_a:
        take(names_a[0], names_b[0])
    return found


def _by_end(names: Iterable[str]) -> dict[int, dict[str, list[str]]]:
    """Names by how many dotted parts are taken of their end, and by that end."""
    found: dict[int, dict[str, list[str]]] = defaultdict(dict)
    for name in names:
        at = len(name)
        for count in range(1, _MAX_PARTS + 1):
            at = name.rfind(".", 0, at)
            found[count].setdefault(name[at + 1 :], []).append(name)
            if at < 0:
                break
    return found
