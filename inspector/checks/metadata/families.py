"""Numbered families of modules that lack members: layers, blocks, and the experts of a router.

The rule this module keeps: numbering with holes is common and innocent. A `Sequential` numbers its
activations, U-Nets pool between their blocks, adapters sit on some layers, frozen layers may be
left out. So a hole is told only between blocks that are exactly alike (names and shapes), in a
family that is called as lists of layers are, and only with a reason besides: the optimizer has
state for what is missing, the ranks that wrote the family are those of one pipeline stage, or a
few are missing of many. Experts are counted against the rows of their router.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, TensorColumns
from inspector.checkpoint.text import format_shape, number_runs, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.metadata.optimizer import is_optimizer_state, split_state
from inspector.checks.metadata.tiling import chunk_volumes

__all__ = ["check_families"]

Shape = tuple[int, ...]

_LAYERS = re.compile(
    r"(?:\A|\.)(?:layers|layer|blocks|block|h|resblocks|(?:single_)?transformer_blocks"
    r"|(?:en|de)coder_layers)\.(\d{1,6})\."
)
_EXPERTS = re.compile(r"(?:\A|\.)experts\.(\d{1,6})\.")
_ROUTER = re.compile(
    r"(?:\A|\.)(?:router|gate)(?:\.(?:gate|classifier|layer|linear|proj))?(?:\.weight)?\Z"
)
# Adapters and the like, which sit on the layers that somebody chose.
_PARTIAL = re.compile(r"lora|adapter|ia3|prompt|hada|lokr|oft_|vera_|prefix|modules_to_save", re.I)
# What torch's own leaf modules call theirs; between such, a Sequential has activations.
_LEAF = frozenset(
    "weight bias running_mean running_var num_batches_tracked weight_g weight_v in_proj_weight "
    "in_proj_bias gamma beta scale".split()
)
_MIN_ALIKE = 3
_FEW_OF = 3
_MIN_LONE = 6
_MAX_NAMED = 8


@dataclass(slots=True)
class _Family:
    """Modules of one list: what each number holds."""

    members: dict[int, set[tuple[str, Shape]]] = field(default_factory=dict)
    tensors: list[int] = field(default_factory=list)
    member_of: list[int] = field(default_factory=list)

    def add(self, number: int, suffix: str, shape: Shape, index: int) -> None:
        self.members.setdefault(number, set()).add((suffix, shape))
        self.tensors.append(index)
        self.member_of.append(number)

    @property
    def missing(self) -> list[int]:
        """Numbers between the first and the last that nothing has."""
        first, last = min(self.members), max(self.members)
        if last - first > 2 * len(self.members):
            return []  # More is missing than there: nobody's list of layers.
        return [n for n in range(first, last + 1) if n not in self.members]


def check_families(checkpoint: Checkpoint) -> list[Finding]:
    """All `family-hole` findings."""
    columns = checkpoint.columns
    layers: dict[str, _Family] = {}
    routed = _Routed()
    for index, fqn in enumerate(columns.fqns):
        if is_optimizer_state(fqn):
            continue
        for prefix, number, suffix in _numbered(_LAYERS, fqn):
            if not (_is_partial(prefix) or _is_partial(suffix)):
                family = layers.setdefault(prefix, _Family())
                family.add(number, suffix, columns.shape(index), index)
        if "expert" in fqn or "gate" in fqn or "router" in fqn:
            routed.add(columns, index, fqn)
    holed = {prefix: family for prefix, family in layers.items() if family.missing}
    return [
        *(_holes(checkpoint, layers, holed, _with_state(columns)) if holed else ()),
        *routed.findings(columns, checkpoint.world_size),
    ]


def _with_state(columns: TensorColumns) -> dict[str, set[int]]:
    """The numbers that the optimizer has state for, by the name of the list."""
    found: dict[str, set[int]] = {}
    for fqn in columns.fqns:
        state = split_state(fqn)
        if state is not None:
            for prefix, number, _ in _numbered(_LAYERS, state.param):
                found.setdefault(prefix, set()).add(number)
    return found


@lru_cache(maxsize=1 << 16)
def _is_partial(name: str) -> bool:
    return _PARTIAL.search(name) is not None


def _numbered(pattern: re.Pattern[str], fqn: str) -> Iterator[tuple[str, int, str]]:
    for match in pattern.finditer(fqn):
        yield fqn[: match.start(1) - 1], int(match[1]), fqn[match.end() :]


# -- holes -------------------------------------------------------------------------------------


def _holes(
    checkpoint: Checkpoint,
    layers: dict[str, _Family],
    holed: dict[str, _Family],
    with_state: dict[str, set[int]],
) -> Iterator[Finding]:
    for prefix, family in holed.items():
        missing = family.missing
        if not missing or len(missing) > len(family.members):
            continue
        if not _are_alike(family) or _is_elsewhere(prefix, family, missing, layers):
            continue
        evidence = _evidence(checkpoint, prefix, family, missing, with_state)
        if evidence:
            yield _hole(checkpoint, prefix, family, missing, evidence)


def _are_alike(family: _Family) -> bool:
    """Whether the neighbours of every hole are blocks of one kind, of which there are several."""
    kinds = {number: frozenset(of) for number, of in family.members.items()}
    count = Counter(kinds.values())
    present = sorted(kinds)
    for before, after in pairwise(present):
        if after == before + 1:
            continue
        kind = kinds[before]
        if kind != kinds[after] or count[kind] < _MIN_ALIKE:
            return False
        names = {suffix for suffix, _ in kind}
        if names <= _LEAF:
            return False
    return True


def _is_elsewhere(
    prefix: str, family: _Family, missing: list[int], layers: dict[str, _Family]
) -> bool:
    """Whether another copy (of an average, of a stage) has what is missing, of the same kind."""
    kind = family.members[min(family.members)]
    return any(
        other != prefix and all(found.members.get(number) == kind for number in missing)
        for other, found in layers.items()
    )


def _evidence(
    checkpoint: Checkpoint,
    prefix: str,
    family: _Family,
    missing: list[int],
    with_state: dict[str, set[int]],
) -> str:
    """Why the hole is no numbering's own, in a phrase; empty if it may be."""
    for name, numbers in with_state.items():
        if _same_list(name, prefix) and numbers.issuperset(missing):
            return "the optimizer has state for what is missing"
    stage = _stage(checkpoint, family)
    if stage:
        return stage
    is_few = len(family.members) >= max(_FEW_OF * len(missing), _MIN_LONE)
    if is_few and not _is_regular(family, missing):
        return f"{len(family.members):,} others that are alike are there"
    return ""


def _same_list(a: str, b: str) -> bool:
    return a == b or a.endswith("." + b) or b.endswith("." + a)


def _is_regular(family: _Family, missing: list[int]) -> bool:
    """Whether what is missing comes at equal distances, as pooling between blocks does."""
    steps = {b - a for a, b in pairwise(missing)}
    middle = 2 * missing[0] == min(family.members) + max(family.members)
    return len(steps) == 1 if len(missing) > 1 else middle


def _stage(checkpoint: Checkpoint, family: _Family) -> str:
    """Whether the family was written as pipeline stages write it: each by ranks of its own."""
    columns, world = checkpoint.columns, checkpoint.world_size
    if world is None or world < 2:
        return ""
    ranks: dict[int, set[int]] = {}
    is_cut = True
    size = largest = 0
    for index, number in zip(family.tensors, family.member_of, strict=True):
        first, last = int(columns.chunk_start[index]), int(columns.chunk_start[index + 1])
        of_tensor = set(checkpoint.chunk_ranks(columns.file[first:last]).tolist()) - {-1}
        ranks.setdefault(number, set()).update(of_tensor)
        is_cut = is_cut and len(of_tensor) > 1
        size += columns.num_bytes[index]
        largest = max(largest, columns.num_bytes[index])
    mine = set().union(*ranks.values())
    if is_cut and any(a.isdisjoint(b) for a, b in pairwise(ranks.values())):
        return "ranks of their own wrote each, as pipeline stages do"
    # DCP gives a replicated tensor to the rank with the least bytes: where others had room, the
    # family was on these ranks alone.
    if len(mine) < world and size > largest + 2 * _bytes_of_others(checkpoint, mine):
        named = ", ".join(map(str, sorted(mine)[:_MAX_NAMED]))
        rank = "rank" if len(mine) == 1 else "ranks"
        return f"{rank} {named} of {world:,} wrote them all, as one pipeline stage does"
    return ""


def _bytes_of_others(checkpoint: Checkpoint, mine: set[int]) -> int:
    """Bytes of the elements that the busiest rank wrote which is not one of these."""
    columns = checkpoint.columns
    item = np.asarray([itemsize(dtype) or 0 for dtype, *_ in columns.properties], np.int64)
    of_chunk = np.repeat(item[columns.property_id], columns.num_chunks_of)
    ranks = checkpoint.chunk_ranks(columns.file)
    known = ranks >= 0
    size = chunk_volumes(columns)[known].astype(np.float64) * of_chunk[known]
    totals = np.bincount(ranks[known], size)
    totals[[rank for rank in mine if rank < len(totals)]] = 0
    return int(totals.max(initial=0))


def _hole(
    checkpoint: Checkpoint, prefix: str, family: _Family, missing: list[int], evidence: str
) -> Finding:
    return Finding(
        "family-hole",
        f"{printable(prefix, 120)}: {_list(missing)} {'is' if len(missing) == 1 else 'are'} "
        f"missing between {_list(sorted(family.members))}; {evidence}",
        "raises RuntimeError: Missing key in checkpoint state_dict, if the model has them",
        "no fault if the model has nothing there (or what was frozen was left out); else each "
        "pipeline rank has to save the state of all of its stages under their own names: take "
        "another checkpoint",
        fqn=checkpoint.columns.fqns[family.tensors[0]],
    )


def _list(numbers: Iterable[int]) -> str:
    """`0-3, 5, 7`."""
    runs = number_runs(numbers)
    more = f" and {len(runs) - _MAX_NAMED} more" if len(runs) > _MAX_NAMED else ""
    return ", ".join(runs[:_MAX_NAMED]) + more


# -- experts -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Layer:
    """One mixture of experts: its router, and what is beside it.

    Attributes:
        router: The router's tensor, and its shape.
        numbered: Numbers of the experts that are modules of their own.
        stacked: Tensors that hold all experts along their first dim, and their shapes.
        others: How many experts of other names there are (shared ones), by name.
        num_pieces: How many pieces the tensors of its experts lie in, at most.
    """

    router: tuple[int, Shape] | None = None
    numbered: dict[int, int] = field(default_factory=dict)
    stacked: list[tuple[int, Shape]] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    num_pieces: int = 1


class _Routed:
    """The mixtures of experts of a checkpoint, by the name of the module."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}

    def add(self, columns: TensorColumns, index: int, fqn: str) -> None:
        router = _ROUTER.search(fqn)
        if router is not None:
            shape = columns.shape(index)
            if len(shape) == 2:
                self._layer(fqn[: router.start()]).router = index, shape
            return
        at = fqn.find("expert")
        if at < 0:
            return
        start = fqn.rfind(".", 0, at) + 1
        layer = self._layer(fqn[: max(start - 1, 0)])
        name, _, rest = fqn[start:].partition(".")
        number = rest.partition(".")[0]
        shape = columns.shape(index)
        if name != "experts":
            size = int(number) + 1 if number.isdigit() else shape[0] if len(shape) > 2 else 1
            layer.others[name] = max(layer.others.get(name, 0), size)
            return
        layer.num_pieces = max(layer.num_pieces, int(columns.num_chunks_of[index]))
        if number.isdigit() and len(number) < 7:
            layer.numbered.setdefault(int(number), index)
        elif len(shape) > 2:
            layer.stacked.append((index, shape))

    def _layer(self, prefix: str) -> _Layer:
        return self._layers.setdefault(prefix, _Layer())

    def findings(self, columns: TensorColumns, world: int | None) -> Iterator[Finding]:
        """One finding for each number of experts and rows, however many layers have it."""
        found: dict[tuple[int, int, str], list[int]] = {}
        for layer in self._layers.values():
            short = _shortage(layer, world)
            if short is not None:
                index, num, why = short
                rows = layer.router[1][0] if layer.router else 0
                found.setdefault((num, rows, why), []).append(index)
        for (num, rows, why), indices in found.items():
            first = columns.fqns[indices[0]]
            more = f" ({plural(len(indices), 'layer')} like it)" if len(indices) > 1 else ""
            shape = format_shape(columns.shape(indices[0]))
            yield Finding(
                "family-hole",
                f"{printable(first, 120)} {shape}{more}: {plural(num, 'expert')}, and a router of "
                f"{rows:,} rows: {why}",
                "loads silently into a model that is made alike, with the same experts on every "
                "expert-parallel rank; raises ValueError (size) or RuntimeError (missing key) else",
                "expert-parallel ranks wrote theirs under one name, and one group's survived: save "
                "them as DTensors on the mesh with the ep axis, or under their global numbers; the "
                "others' weights are not here",
                fqn=first,
            )


def _shortage(layer: _Layer, world: int | None) -> tuple[int, int, str] | None:
    """The tensor to name, how many experts are there, and why some are missing; None if not."""
    if layer.router is None:
        return None
    shape = layer.router[1]
    rows = shape[0]
    if layer.numbered:
        index, num = next(iter(layer.numbered.values())), len(layer.numbered)
        missing = [n for n in range(rows) if n not in layer.numbered] if rows < 1e5 else []
        if 1 < num < rows and max(layer.numbered) == rows - 1 and len(missing) < num:
            return index, num, f"{_list(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        if max(layer.numbered) != num - 1:
            return None
    elif layer.stacked:
        index, sizes = layer.stacked[0]
        num = sizes[0]
        if rows in sizes or any(of[0] != num for _, of in layer.stacked):
            return None
    else:
        return None
    if not 1 <= num < rows or num in shape or num + sum(layer.others.values()) >= rows:
        return None
    parts, rest = divmod(rows, num)
    if rest or world is None or world < 2 or world % parts:
        return None
    if layer.num_pieces > world // parts:
        return None  # Ranks of more than one group hold them: the router has rows for no expert.
    return index, num, f"one of {parts:,} expert-parallel groups' of {plural(world, 'rank')}"
