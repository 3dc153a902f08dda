"""Names under which one parameter may go: with wrappers in its path, with another prefix.

The rule this module keeps: names suggest and prove nothing. What is the same tensor is for its
content to say.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

__all__ = ["bare_name", "likely_renames"]

_Kind = TypeVar("_Kind")

# Names that wrappers put into the path of a parameter: DDP and DataParallel, torch.compile,
# FSDP1, activation checkpointing.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
# Changes of prefix that are tried on every name.
_MAX_CHANGES = 32


def bare_name(fqn: str) -> str:
    """A dotted name without the wrappers in it, wherever they stand."""
    if "mod" not in fqn:  # All of them have it; most names have none.
        return fqn
    return ".".join(part for part in fqn.split(".") if part not in _WRAPPERS)


def likely_renames(
    a: Mapping[str, _Kind],
    b: Mapping[str, _Kind],
    alike: Callable[[_Kind, _Kind], bool] = operator.eq,
) -> list[tuple[str, str]]:
    """Names that seem to be the same tensor's: by their wrappers, then by a common prefix.

    `module.layers.0.w` and `layers.0.w` are one name with and without a wrapper. Otherwise, the
    change of prefix that explains most names (`model.` to `backbone.`) is taken first, wrappers
    left aside. No name is used twice.

    Args:
        a: Names that only the one side has, with what they are (shape and dtype, say).
        b: Names that only the other has, likewise.
        alike: Whether two of these may be the same tensor's.

    Returns:
        Pairs of a name of `a` and one of `b`, in the order of `a`.
    """
    names_a, names_b = _by_bare_name(a), _by_bare_name(b)
    left_a = {bare: a[name] for bare, name in names_a.items()}
    left_b = {bare: b[name] for bare, name in names_b.items()}
    found: list[tuple[str, str]] = []

    def take(name_a: str, name_b: str) -> None:
        if name_b in left_b and alike(left_a[name_a], left_b[name_b]):
            found.append((names_a[name_a], names_b[name_b]))
            del left_a[name_a], left_b[name_b]

    for bare in list(left_a):
        take(bare, bare)
    votes, direct = _prefix_changes(left_a, left_b, alike)
    for (prefix_a, prefix_b), _ in votes.most_common(_MAX_CHANGES):
        for name in [n for n in left_a if n.startswith(prefix_a)]:
            take(name, prefix_b + name[len(prefix_a) :])
    for name, other in direct:
        if name in left_a:
            take(name, other)
    order = {name: i for i, name in enumerate(a)}
    return sorted(found, key=lambda pair: order[pair[0]])


def _by_bare_name(names: Iterable[str]) -> dict[str, str]:
    """Names by what they are without wrappers; those that share that stay as they are."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[bare_name(name)].append(name)
    lone = {bare: of_bare[0] for bare, of_bare in found.items() if len(of_bare) == 1}
    for of_bare in found.values():
        if len(of_bare) > 1:
            lone.update((name, name) for name in of_bare)
    return lone


def _prefix_changes(
    a: Mapping[str, _Kind], b: Mapping[str, _Kind], alike: Callable[[_Kind, _Kind], bool]
) -> tuple[Counter[tuple[str, str]], list[tuple[str, str]]]:
    """Prefixes that may have become one another, and how many names say so; and these names.

    A name of A and one of B say so if they, and no others, end alike.
    """
    ends_a, ends_b = _unique_ends(a), _unique_ends(b)
    votes: Counter[tuple[str, str]] = Counter()
    pairs: dict[tuple[str, str], None] = {}
    for end, name_a in ends_a.items():
        name_b = ends_b.get(end)
        if name_a is None or name_b is None or (name_a, name_b) in pairs:
            continue
        if alike(a[name_a], b[name_b]):
            pairs[name_a, name_b] = None
            votes[_without_common_end(name_a, name_b)] += 1
    return votes, list(pairs)


def _unique_ends(names: Iterable[str]) -> dict[str, str | None]:
    """Every end of a dotted name, and the name that has it; None if several have."""
    found: dict[str, str | None] = {}
    for name in names:
        at = -1
        for _ in range(64):
            end = name[at + 1 :]
            found[end] = None if end in found else name
            at = name.find(".", at + 1)
            if at < 0:
                break
    return found


def _without_common_end(a: str, b: str) -> tuple[str, str]:
    """What stands before the dotted parts that two names end with alike."""
    parts_a, parts_b = a.split("."), b.split(".")
    while parts_a and parts_b and parts_a[-1] == parts_b[-1]:
        parts_a.pop()
        parts_b.pop()
    return tuple(".".join(p) + "." if p else "" for p in (parts_a, parts_b))  # type: ignore[return-value]
