"""`Mesh`: the ranks of a job as a grid with named axes, written `hsdp:2x4`.

The rule this module keeps: a mesh is row-major in its ranks, as `init_device_mesh` makes it
(torch/distributed/device_mesh.py): the last axis varies fastest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.errors import UsageError

__all__ = ["FAMILIES", "MAX_WORLD_SIZE", "Mesh"]

#: Axis names of each family, in mesh order. A job can be started for the first two; the others
#: are what a checkpoint may have been written by.
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

_TEXT = re.compile(r"([a-z_]+):(\d{1,9}(?:x\d{1,9})*)\Z")
_HINT = "Write fsdp:S or hsdp:RxS (R replicas of S shards), for example fsdp:8 or hsdp:2x4."


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh of ranks.

    Attributes:
        family: A key of `FAMILIES`.
        sizes: Size of each axis, in mesh order.
    """

    family: str
    sizes: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Mesh:
        """Reads `fsdp:8`, `hsdp:2x4`, `fsdp_tp:4x2` ...

        Raises:
            UsageError: The text is no mesh; the message says what is wrong with it.
        """
        shown = ascii(text if len(text) <= 40 else text[:37] + "...")
        match = _TEXT.match(text.strip().lower())
        if match is None:
            raise UsageError(f"{shown} is not a mesh.", _HINT)
        family, sizes = match[1], tuple(int(n) for n in match[2].split("x"))
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
        if 0 in sizes:
            raise UsageError(f"{shown} is not a mesh: an axis of size 0 has no ranks.", _HINT)
        if math.prod(sizes) > MAX_WORLD_SIZE:
            raise UsageError(f"{shown} has more than {MAX_WORLD_SIZE} ranks.", _HINT)
        return cls(family, sizes)

    def __str__(self) -> str:
        return f"{self.family}:{'x'.join(map(str, self.sizes))}"

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis names, in mesh order."""
        return FAMILIES[self.family]

    @property
    def world_size(self) -> int:
        return math.prod(self.sizes)

    @property
    def num_shards(self) -> int:
        """Size of the `shard` axis (1 where there is none)."""
        return self._size("shard")

    @property
    def num_replicas(self) -> int:
        """Size of the `replicate` axis (1 where there is none)."""
        return self._size("replicate")

    @property
    def can_launch(self) -> bool:
        """Whether `verify` and `plan` can be asked for this mesh (`fsdp`, `hsdp`)."""
        return self.family in ("fsdp", "hsdp")

    def _size(self, axis: str) -> int:
        return self.sizes[self.axes.index(axis)] if axis in self.axes else 1

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
