"""What a checkpoint is loaded into: DTensors on a mesh, filled with poison. Needs torch.

The rule this module keeps: where a rank's shard lies is computed by our own geometry, and must be
what torch made of the same mesh and placements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import BytesEntry, Tensor
from inspector.layout.geometry import torch_chunk_bounds
from inspector.layout.mesh import Mesh
from inspector.verify.compare import POISON, Local
from inspector.verify.torch_dcp import RawBytes, torch_dtype

__all__ = ["Grid", "Targets", "bytes_view", "make_grid", "poison"]


@dataclass(frozen=True)
class Grid:
    """A mesh with torch's own behind it, and this rank's place in it."""

    mesh: Mesh
    devices: DeviceMesh
    rank: int
    device: torch.device

    @property
    def shard(self) -> int:
        """Which shard this rank holds."""
        return self.mesh.coordinate(self.rank)[-1]

    def box(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and sizes of this rank's part of a tensor cut by `Shard(0)`."""
        if not shape:
            return (), ()
        starts, lengths = torch_chunk_bounds(shape[0], self.mesh.num_shards)
        zeros = (0,) * (len(shape) - 1)
        return (int(starts[self.shard]), *zeros), (int(lengths[self.shard]), *shape[1:])

    def placements(self, shape: tuple[int, ...]) -> list[Any]:
        """Placements along the mesh's axes; a 0-d tensor is replicated."""
        if not shape:
            return [Replicate() for _ in self.mesh.sizes]
        return [Shard(0) if axis == "shard" else Replicate() for axis in self.mesh.axes]


def make_grid(mesh: Mesh, rank: int, device: torch.device) -> Grid:
    """The mesh over all ranks of the job."""
    devices = init_device_mesh(device.type, mesh.sizes, mesh_dim_names=mesh.axes)
    return Grid(mesh, devices, rank, device)


def bytes_view(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a contiguous tensor, without a copy, whatever its dtype."""
    size = tensor.element_size()
    view: Any = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    begin, num_bytes = int(tensor.storage_offset()) * size, tensor.numel() * size
    result: torch.Tensor = view.set_(tensor.untyped_storage(), begin, (num_bytes,), (1,))
    return result


def poison(tensor: torch.Tensor) -> None:
    """Fill a contiguous tensor's bytes, so that what is never written shows."""
    bytes_view(tensor).fill_(POISON)


@dataclass
class Targets:
    """The state dict of one wave on one mesh.

    Attributes:
        grid: The mesh.
        state: What `dcp.load` and `dcp.save` get.
        via: The way each entry goes, by fqn.
    """

    grid: Grid
    state: dict[str, Any] = field(default_factory=dict)
    via: dict[str, str] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> None:
        """A DTensor for a tensor."""
        grid = self.grid
        _, sizes = grid.box(tensor.shape)
        dtype: Any = torch_dtype(tensor.dtype)
        num_bytes = math.prod(sizes) * (itemsize(tensor.dtype) or 1)
        # Bytes first: every dtype can be poisoned, and the memory is aligned for all.
        raw = torch.empty(num_bytes, dtype=torch.uint8, device=grid.device).fill_(POISON)
        local = raw.view(dtype).view(sizes)
        stride = [1]
        for n in reversed(tensor.shape[1:]):
            stride.append(stride[-1] * max(n, 1))
        self.state[tensor.fqn] = DTensor.from_local(
            local,
            grid.devices,
            grid.placements(tensor.shape),
            run_check=False,
            shape=torch.Size(tensor.shape),
            stride=tuple(reversed(stride)) if tensor.shape else (),
        )
        self.via[tensor.fqn] = "dtensor"

    def add_bytes(self, entry: BytesEntry) -> None:
        """A place for a bytes entry."""
        self.state[entry.fqn] = RawBytes()
        self.via[entry.fqn] = "dtensor"

    def build(self) -> None:
        """Called when all entries were added."""

    def loaded(self) -> None:
        """Called when `dcp.load` has returned: what FSDP does with a loaded state dict."""

    def local(self, tensor: Tensor) -> Local:
        """What this rank holds of a tensor now, on the host.

        Raises:
            ValueError: torch made another shard than the mesh says.
        """
        value = self.state[tensor.fqn]
        shard = value.to_local() if isinstance(value, DTensor) else value
        offsets, sizes = self.grid.box(tensor.shape)
        if tuple(shard.shape) != sizes:
            raise ValueError(f"this rank holds {list(shard.shape)}, not {list(sizes)}")
        if shard.dtype != torch_dtype(tensor.dtype):
            raise TypeError(f"this rank holds {shard.dtype}, not torch.{tensor.dtype}")
        host = bytes_view(shard.detach().contiguous()).cpu().numpy()
        return Local(host, offsets, sizes, itemsize(tensor.dtype) or 1)

    def local_bytes(self, fqn: str) -> bytes | None:
        """A bytes entry as it came, or None if it did not."""
        value: RawBytes = self.state[fqn]
        return value.data

    def drop(self, fqns: set[str]) -> None:
        """Leave entries out of what follows."""
        for fqn in fqns:
            self.state.pop(fqn, None)
