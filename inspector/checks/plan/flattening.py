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

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from inspector.checkpoint.text import format_shape, plural
from inspector.checks.plan.expected import ExpectedEntry

__all__ = [
    "OldFlattening",
    "is_old_listing",
    "old_flattening",
    "owner_of",
    "shape_hint",
    "taken_apart",
]

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


Shape = tuple[int, ...]

_SHARES = {2: "half", 3: "a third", 4: "a quarter", 8: "an eighth"}
_MAX_SHARDS = 65_536
_VOCABULARIES = ("embed", "wte", "vocab", "lm_head", "output", "tok_")


def shape_hint(fqn: str, saved: Shape, wanted: Shape) -> str:
    """What to do about a tensor of the shape `saved` where a model expects `wanted`."""
    num_saved, num_wanted = math.prod(saved), math.prod(wanted)
    if saved != wanted and sorted(saved) == sorted(wanted):
        return (
            "the same dims in another order: as of a transposed weight (Conv1D beside Linear, one "
            "framework's layout beside another's); if it is one, transpose it, for reshaping mixes "
            "its elements"
        )
    if num_saved == num_wanted:
        return f"the same {plural(num_saved, 'element')} in another shape: reshape one of the two"
    if len(wanted) == 1 and len(saved) > 1:
        share = _share(num_wanted, num_saved)
        if share:
            return (
                f"{num_wanted:,} is {share} of {_times(saved)}: the flat piece of one rank, as a "
                "state dict of FSDP1 holds it that was taken without SHARDED_STATE_DICT on "
                f"{num_saved // num_wanted:,} ranks; take it with "
                "FSDP.state_dict_type(model, StateDictType.SHARDED_STATE_DICT)"
            )
    if len(saved) == 1 and len(wanted) > 1:
        share = _share(num_saved, num_wanted)
        if share:
            num_ranks = num_wanted // num_saved
            return (
                f"{num_saved:,} is {share} of {_times(wanted)}: the checkpoint holds the flat "
                f"piece of one of {num_ranks:,} ranks, not the rest; it has to be saved anew, from "
                "a sharded or a full state dict"
            )
    dims = [d for d, sizes in enumerate(zip(saved, wanted, strict=False)) if len(set(sizes)) == 2]
    if len(saved) == len(wanted) and len(dims) == 1:
        (dim,) = dims
        share = _share(wanted[dim], saved[dim])
        is_vocabulary = dim == 0 and any(word in fqn.lower() for word in _VOCABULARIES)
        if is_vocabulary and not share:
            return (
                f"{plural(saved[0], 'row')} and {plural(wanted[0], 'row')}: a vocabulary that was "
                "padded or extended otherwise; pad the model's alike, or cut the tensor by a script"
            )
        if share:
            return (
                f"{wanted[dim]:,} is {share} of {saved[dim]:,} in dim {dim}: if that is one rank's "
                "shape, give the global one (what a DTensor's shape says); else the two are of "
                "different settings"
            )
        return f"only dim {dim} differs ({saved[dim]:,}, {wanted[dim]:,}): of different settings"
    return "the two are of different models or settings (vocabulary, hidden size, layers)"


def _share(part: int, whole: int) -> str:
    """`a quarter`, or nothing if it is no whole share."""
    if not 0 < part < whole or whole % part or whole // part > _MAX_SHARDS:
        return ""
    return _SHARES.get(whole // part, f"one {whole // part:,}th")


def _times(shape: Shape) -> str:
    """`512x16`."""
    return "x".join(map(str, shape)) if len(shape) < 6 else format_shape(shape)
