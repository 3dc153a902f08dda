"""`Mesh`: the ranks of a job as a grid with named axes: `hsdp:2x4`, `dp_shard:4,tp:2`.

The rule this module keeps: a mesh is row-major in its ranks, as `init_device_mesh` makes it
(torch/distributed/device_mesh.py): the last axis varies fastest. One grammar for every place where
a mesh is written:

    fsdp:8   hsdp:2x4                         a family, and the sizes of its axes
    dp_replicate:2,dp_shard:4,tp:2            axes by name, in mesh order
    dp_shard:8+dp_shard_mod_ep:2,ep:4         a second mesh over the same ranks, for the experts

The names are torch's and torchtitan's; any other identifier may stand beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import UsageError

__all__ = ["FAMILIES", "MAX_WORLD_SIZE", "Mesh", "kind_of"]

#: Axis names of each family, in mesh order. The first two say how tensors lie; the others are what
#: a checkpoint may have been written by.
FAMILIES: dict[str, tuple[str, ...]] = {
    "fsdp": ("shard",),
    "hsdp": ("replicate", "shard"),
    "hsdp_reversed": ("shard", "replicate"),
    "fsdp_tp": ("shard", "tensor"),
    "hsdp_tp": ("replicate", "shard", "tensor"),
    "ddp": ("replicate",),
    "tp": ("tensor",),
    "ddp_tp": ("replicate", "tensor"),
    "tp_fsdp": ("tensor", "shard"),
    "fsdp_ep": ("shard", "expert"),
    "hsdp_ep": ("replicate", "shard", "expert"),
}

MAX_WORLD_SIZE = 65_536

#: What axes of these names are for. Context parallel holds the same parameters on all of its ranks
#: and is folded into FSDP's axis, as torchtitan does; `dp` is FSDP's, as in torch's tutorials.
_KINDS = {
    "replicate": ("replicate", "dp_replicate", "ddp", "hsdp_replicate"),
    "shard": "shard dp_shard fsdp dp cp dp_cp dp_shard_cp dp_shard_mod_ep efsdp".split(),
    "tensor": ("tensor", "tp", "etp"),
    "expert": ("expert", "ep", "dp_shard_in_ep"),
    "stage": ("stage", "pp"),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}

_WORDS = {
    "replicate": "{} copies",
    "shard": "FSDP over {}",
    "tensor": "tensor parallel over {}",
    "expert": "expert parallel over {}",
    "stage": "{} pipeline stages",
}

_MAX_AXES = 8
_FAMILY = re.compile(r"([a-z_]+):(\d{1,9}(?:x\d{1,9})*)\Z", re.ASCII)
_AXIS = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,39}):(\d{1,9})\Z", re.ASCII)
_HINT = (
    "Write fsdp:S or hsdp:RxS (R replicas of S shards), for example fsdp:8 or hsdp:2x4, or axes in "
    "mesh order: dp_replicate:2,dp_shard:4,tp:2."
)


def kind_of(axis: str) -> str | None:
    """What an axis of this name is for.

    Returns:
        `replicate`, `shard` (FSDP; context parallel with it), `tensor`, `expert` or `stage`; None
        for a name that does not tell.
    """
    return _KIND_OF.get(axis.lower())


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh of ranks.

    Attributes:
        family: A key of `FAMILIES`; empty for axes by name.
        sizes: Size of each axis, in mesh order.
        names: Name of each axis where there is no family, else empty.
        experts: A second mesh over the same ranks that the experts' tensors lie on, or None.
    """

    family: str
    sizes: tuple[int, ...]
    names: tuple[str, ...] = ()
    experts: Mesh | None = None

    @classmethod
    def parse(cls, text: str) -> Mesh:
        """Reads `fsdp:8`, `hsdp:2x4`, `dp_replicate:2,dp_shard:4,tp:2` ...

        Raises:
            UsageError: The text is no mesh; the message says what is wrong with it.
        """
        shown = ascii(text if len(text) <= 40 else text[:37] + "...")
        first, plus, second = text.strip().partition("+")
        mesh = _parse_one(first, shown)
        if not plus:
            return mesh
        experts = _parse_one(second, shown)
        if experts.world_size != mesh.world_size:
            raise UsageError(
                f"{shown} is not a mesh: its first part has {mesh.world_size} ranks, its second "
                f"{experts.world_size}.",
                "Both are meshes of the same ranks. " + _HINT,
            )
        if "expert" not in experts.kinds:
            raise UsageError(
                f"{shown} is not a mesh: the part after + is the experts', and has no axis ep.",
                _HINT,
            )
        return cls(mesh.family, mesh.sizes, mesh.names, experts)

    @classmethod
    def named(cls, *axes: tuple[str, int]) -> Mesh:
        """A mesh of axes by name: `Mesh.named(("dp_shard", 4), ("tp", 2))`."""
        return cls("", tuple(size for _, size in axes), tuple(name for name, _ in axes))

    def __str__(self) -> str:
        if self.family:
            text = f"{self.family}:{'x'.join(map(str, self.sizes))}"
        else:
            text = ",".join(f"{n}:{size}" for n, size in zip(self.names, self.sizes, strict=True))
        return text if self.experts is None else f"{text}+{self.experts}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis names, in mesh order."""
        return FAMILIES[self.family] if self.family else self.names

    @property
    def kinds(self) -> tuple[str | None, ...]:
        """What each axis is for by its name, as of `kind_of`."""
        return tuple(map(kind_of, self.axes))

    @property
    def words(self) -> str:
        """`2 copies x FSDP over 4 x tensor parallel over 2`; the experts' mesh after it."""
        words = []
        for name, kind, size in zip(self.axes, self.kinds, self.sizes, strict=True):
            if name.lower() == "cp":
                words.append(f"context parallel over {size}, on which FSDP shards as well")
            else:
                words.append(_WORDS[kind].format(size) if kind else f"{name} over {size}")
        experts = "" if self.experts is None else f"; experts: {self.experts.words}"
        return " x ".join(words) + experts

    @property
    def world_size(self) -> int:
        return math.prod(self.sizes)

    @property
    def num_shards(self) -> int:
        """Product of the axes that FSDP shards over (1 where there is none)."""
        return self._size("shard")

    @property
    def num_replicas(self) -> int:
        """Product of the axes that replicate (1 where there is none)."""
        return self._size("replicate")

    @property
    def is_plain(self) -> bool:
        """`fsdp:S` or `hsdp:RxS`: every tensor is cut along its first dim, or not at all."""
        return self.family in ("fsdp", "hsdp") and self.experts is None

    def _size(self, kind: str) -> int:
        pairs = zip(self.kinds, self.sizes, strict=True)
        return math.prod(size for k, size in pairs if k == kind)

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Position of a rank along each axis.

        Raises:
            ValueError: No such rank.
        """
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is not in {self}")
        coordinate = []
        for size in reversed(self.sizes):
            rank, position = divmod(rank, size)
            coordinate.append(position)
        return tuple(reversed(coordinate))

    def rank(self, coordinate: Sequence[int]) -> int:
        """Rank at a position; the inverse of `coordinate`.

        Raises:
            ValueError: The position is not in the mesh.
        """
        rank = 0
        for position, size in zip(coordinate, self.sizes, strict=True):
            if not 0 <= position < size:
                raise ValueError(f"{tuple(coordinate)} is not in {self}")
            rank = rank * size + position
        return rank


def _parse_one(text: str, shown: str) -> Mesh:
    """A mesh without a second one. `shown` is how the whole text is named in what is said."""
    text = text.strip()
    family = _FAMILY.match(text.lower())
    parts = [_AXIS.match(part.strip()) for part in text.split(",")]
    if family is not None and (len(family[2].split("x")) > 1 or family[1] in FAMILIES):
        mesh = _of_family(family[1], tuple(int(n) for n in family[2].split("x")), shown)
    elif all(parts):
        mesh = _of_axes([(part[1], int(part[2])) for part in parts if part], shown)
    else:
        mixed = "," in text and "x" in text.partition(":")[2]
        why = ": a family (hsdp:2x4) has no other axes beside it" if mixed else ""
        raise UsageError(f"{shown} is not a mesh{why}.", _HINT)
    if 0 in mesh.sizes:
        raise UsageError(f"{shown} is not a mesh: an axis of size 0 has no ranks.", _HINT)
    if mesh.world_size > MAX_WORLD_SIZE:
        raise UsageError(f"{shown} has more than {MAX_WORLD_SIZE} ranks.", _HINT)
    return mesh


def _of_family(family: str, sizes: tuple[int, ...], shown: str) -> Mesh:
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UsageError(f"{shown} is not a mesh: the families are {known}.", _HINT)
    axes = FAMILIES[family]
    if len(sizes) != len(axes):
        wanted = " x ".join(axes)
        raise UsageError(
            f"{shown} is not a mesh: {family} has {len(axes)} "
            f"{'axis' if len(axes) == 1 else 'axes'} ({wanted}), not {len(sizes)}.",
            _HINT,
        )
    return Mesh(family, sizes)


def _of_axes(axes: list[tuple[str, int]], shown: str) -> Mesh:
    names = [name for name, _ in axes]
    if len(set(names)) < len(names):
        raise UsageError(f"{shown} is not a mesh: two axes have one name.", _HINT)
    if len(axes) > _MAX_AXES:
        raise UsageError(f"{shown} is not a mesh: it has more than {_MAX_AXES} axes.", _HINT)
    # A family or an axis with a slip of the pen would else silently be a mesh of copies.
    if not any(map(kind_of, names)):
        known = "dp_replicate, dp_shard, cp, tp, ep, pp"
        raise UsageError(
            f"{shown} is not a mesh: none of its axes has a known name ({known} ...), nor is it a "
            "family.",
            _HINT,
        )
    return Mesh.named(*axes)
