"""`OldFlattening`: what `dcp.load` asks for when it takes a checkpoint for one of torch <= 2.3.

torch flattens a nested state dict into names. Since 2.4 every dict is taken apart; up to 2.3 a
dict or list without a tensor anywhere in it was kept as one object. `DefaultLoadPlanner` of today
flattens the old way instead if the checkpoint has a name that only that way gives, and then asks
for all names of that way (`create_local_plan`, torch/distributed/checkpoint/default_planner.py;
both ways: `_traverse.py` beside it).

The rule this module keeps: what a name alone does not tell (whether its dots are dicts) is taken
from where a planner wrote it down, and else it is said to be a guess. Empty dicts have no name, so
none of them is seen here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from inspector.checks.plan.expected import ExpectedEntry

__all__ = ["OldFlattening", "is_old_listing", "old_flattening", "owner_of", "taken_apart"]

Path = tuple[str | int, ...]

#: Dicts in dicts that are looked at; a name may have a million dots.
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class OldFlattening:
    """Names of the model as torch <= 2.3 makes them.

    Attributes:
        whole: The objects that are asked for whole, by name: the names of today that are in each.
        cause: One of them, which is in the checkpoint and no name of today.
        guessed: Those of which neither file says that they are one object; their names do.
    """

    whole: Mapping[str, tuple[str, ...]]
    cause: str
    guessed: frozenset[str] = field(default_factory=frozenset)


def old_flattening(
    wanted: Iterable[ExpectedEntry],
    tensors: Collection[str],
    objects: Collection[str],
    paths: Mapping[str, Path],
) -> OldFlattening | None:
    """How torch flattens a model's state dict for this checkpoint; None: as today.

    Args:
        wanted: The model's names, flattened as today.
        tensors: Names of the checkpoint's tensors.
        objects: Names of its other entries.
        paths: Where its planner found them in its nested state dict, for those in a dict or list.
    """
    names = {entry.fqn for entry in wanted}
    only_there = {fqn for fqn in objects if fqn not in names}
    if not only_there and all(fqn in names for fqn in tensors):
        return None
    found: dict[str, Path] = {}
    guessed: set[str] = set()
    with_tensors: set[Path] = set()
    for entry in wanted:
        path = entry.path or paths.get(entry.fqn)
        is_guess = False
        if path is None:
            owner = owner_of(entry.fqn, only_there)
            path, is_guess = (entry.fqn,), owner is not None
            if owner is not None:
                rest = entry.fqn[len(owner) + 1 :].split(".")
                path = (*paths.get(owner, (owner,)), *rest)
        if entry.kind == "tensor" or (entry.kind == "unknown" and entry.fqn in tensors):
            with_tensors.update(_owners(path))
            continue
        found[entry.fqn] = path
        if is_guess:
            guessed.add(entry.fqn)
    whole: dict[str, list[str]] = {}
    for fqn, path in found.items():
        top = next((owner for owner in _owners(path) if owner not in with_tensors), None)
        if top is not None:
            whole.setdefault(".".join(map(str, top)), []).append(fqn)
    there = set(tensors) | set(objects)
    cause = next((name for name in whole if name in there and name not in names), None)
    if cause is None:
        return None
    return OldFlattening(
        {name: tuple(fqns) for name, fqns in whole.items()},
        cause,
        frozenset(name for name, fqns in whole.items() if not guessed.isdisjoint(fqns)),
    )


def _owners(path: Path) -> Iterator[Path]:
    """The dicts and lists that hold a value, from the outermost on."""
    return (path[:n] for n in range(1, min(len(path), _MAX_DEPTH)))


def owner_of(fqn: str, objects: Collection[str]) -> str | None:
    """The longest of some names that a name begins with, dot for dot."""
    at = fqn.rfind(".")
    for _ in range(_MAX_DEPTH):
        if at <= 0:
            break
        if fqn[:at] in objects:
            return fqn[:at]
        at = fqn.rfind(".", 0, at)
    return None


def taken_apart(wanted: Iterable[str], there: Iterable[str]) -> dict[str, list[str]]:
    """Objects that are expected whole and of which the checkpoint has parts, by name.

    Args:
        wanted: Names that the model expects and the checkpoint lacks.
        there: Names that the checkpoint has and the model does not expect.
    """
    owners = set(wanted)
    found: dict[str, list[str]] = {}
    for fqn in there if owners else ():
        owner = owner_of(fqn, owners)
        if owner is not None:
            found.setdefault(owner, []).append(fqn)
    return found


def is_old_listing(parts: Mapping[str, list[str]]) -> bool:
    """Whether what is expected was flattened the way of torch <= 2.3.

    An optimizer has parameter groups, so a list of them is never empty: expected as one object, it
    tells so. Of any other list that cannot be told: it may just be empty.
    """
    return any(name.rpartition(".")[2] == "param_groups" for name in parts)
