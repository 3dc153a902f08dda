"""What a checkpoint is loaded into: DTensors on a mesh, filled with poison. Needs torch.

The rule this module keeps: where a rank's shard lies is computed by our own geometry, and must be
what torch made of the same mesh and placements.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import BytesEntry, Tensor
from inspector.errors import InspectError
from inspector.layout.geometry import Ints, torch_chunk_bounds
from inspector.layout.mesh import Mesh
from inspector.layout.target.placement import TargetPlacement
from inspector.layout.target.rules import TargetPlacements
from inspector.verify.ranks.bits import POISON, Bytes, Local
from inspector.verify.ranks.torch_dcp import RawBytes, torch_dtype

__all__ = [
    "GhostTargets",
    "Grid",
    "Targets",
    "bytes_view",
    "leave_compiler",
    "make_grid",
    "poison",
    "why_not_parameter",
]


@dataclass(frozen=True)
class Grid:
    """A mesh with torch's own behind it, and this rank's place in it."""

    mesh: Mesh
    devices: DeviceMesh
    rank: int
    device: torch.device
    #: On a mesh that is not plain: how tensors lie, and torch's mesh for each that they lie on.
    rules: TargetPlacements | None = None
    more: dict[Mesh, DeviceMesh] = field(default_factory=dict, compare=False)
    #: Tensors of the checkpoint that were asked for, by fqn.
    _known: dict[str, TargetPlacement] = field(default_factory=dict, compare=False)

    def lies(self, tensor: Tensor) -> TargetPlacement:
        """How a tensor lies on a mesh that is not plain."""
        assert self.rules is not None  # noqa: S101 - the callers looked
        if tensor.index < 0:  # One of the job's own.
            return self.rules.by_rule(tensor.shape)
        if tensor.fqn not in self._known:
            self._known[tensor.fqn], _ = self.rules.of(tensor.fqn, tensor.shape, tensor.index)
        return self._known[tensor.fqn]

    def cells(self, fqn: str) -> Ints:
        """Equal numbers for ranks that hold the same box of a tensor; the mesh is not plain."""
        assert self.rules is not None  # noqa: S101 - the callers looked
        lies = self._known.get(fqn) or self.rules.by_rule((1,))
        cells = np.zeros(self.mesh.world_size, dtype=np.int64)
        for dim in lies.cut_dims:
            cells = cells * math.prod(lies.shards(dim)) + lies.piece_of_rank(dim)
        return cells

    @property
    def has_copies(self) -> bool:
        """Whether ranks hold the same box of a tensor that lies by FSDP's rule."""
        if self.rules is None:
            return self.mesh.num_replicas > 1
        return len(np.unique(self.cells(""))) < self.mesh.world_size

    @property
    def is_first_copy(self) -> bool:
        """Whether this rank is the first of those that hold its box."""
        if self.rules is None:
            return self.mesh.coordinate(self.rank)[0] == 0
        cells = self.cells("")
        return int(np.flatnonzero(cells == cells[self.rank])[0]) == self.rank

    @property
    def fsdp_axis(self) -> int:
        """The axis that FSDP shards over, on a mesh that is not plain (`why_not_fsdp2`)."""
        assert self.rules is not None  # noqa: S101 - the callers looked
        return self.rules.meshes[0].kinds.index("shard")

    @property
    def num_parts(self) -> int:
        """Into how many pieces a tensor may be saved."""
        return self.mesh.num_shards if self.rules is None else self.mesh.world_size

    @property
    def shard(self) -> int:
        """Which shard this rank holds."""
        return self.mesh.coordinate(self.rank)[-1]

    def box(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and sizes of this rank's part of a tensor: on a plain mesh cut by `Shard(0)`."""
        shape = tensor.shape
        if self.rules is not None:
            return self.lies(tensor).box(self.rank, shape)
        if not shape:
            return (), ()
        starts, lengths = torch_chunk_bounds(shape[0], self.mesh.num_shards)
        zeros = (0,) * (len(shape) - 1)
        return (int(starts[self.shard]), *zeros), (int(lengths[self.shard]), *shape[1:])

    def held_bytes(self, tensor: Tensor) -> int:
        """Bytes of this rank's part of a tensor."""
        _, sizes = self.box(tensor)
        return math.prod(sizes) * (tensor.num_bytes // max(tensor.num_elements, 1))

    def devices_of(self, tensor: Tensor) -> DeviceMesh:
        """The mesh that a tensor lies on."""
        return self.devices if self.rules is None else self.more[self.lies(tensor).mesh]

    def placements(self, tensor: Tensor) -> list[Any]:
        """Placements along the mesh's axes; a 0-d tensor is replicated."""
        if self.rules is not None:
            lies = self.lies(tensor)
            found = _placements(lies)
            _require_alike(lies, tensor.shape, self.rank, self.more[lies.mesh], tuple(found))
            return found
        if not tensor.shape:
            return [Replicate() for _ in self.mesh.sizes]
        return [Shard(0) if axis == "shard" else Replicate() for axis in self.mesh.axes]


def _placements(lies: TargetPlacement) -> list[Any]:
    """As torch composes FSDP over tensor parallelism."""
    found: list[Any] = []
    for axis, dim in enumerate(lies.dims):
        factor = lies.split_factor(axis)
        if dim is None:
            found.append(Replicate())
        elif factor > 1:
            found.append(_StridedShard(dim, split_factor=factor))
        else:
            found.append(Shard(dim))
    return found


@cache
def _require_alike(
    lies: TargetPlacement,
    shape: tuple[int, ...],
    rank: int,
    devices: DeviceMesh,
    placements: tuple[Any, ...],
) -> None:
    """See that this torch lays strided shards as we do: older ones laid some of them otherwise.

    Raises:
        InspectError: It does not; what it loads would be compared with the wrong rows.
    """
    if all(lies.split_factor(axis) == 1 for axis in range(len(lies.dims))):
        return
    sizes, offsets = compute_local_shape_and_global_offset(shape, devices, placements)
    if (tuple(offsets), tuple(sizes)) != lies.box(rank, shape):
        raise InspectError(
            f"torch {torch.__version__} lays {list(shape)} under {', '.join(lies.to_strings())} "
            "otherwise than FSDP over tensor parallelism does",
            "take a newer torch, or a mesh without a tensor axis",
        )


def make_grid(
    mesh: Mesh, rank: int, device: torch.device, rules: TargetPlacements | None = None
) -> Grid:
    """The mesh over all ranks of the job; with `rules` the meshes that tensors lie on."""

    def devices(of: Mesh) -> DeviceMesh:
        return init_device_mesh(device.type, of.sizes, mesh_dim_names=of.axes)

    if rules is None:
        return Grid(mesh, devices(mesh), rank, device)
    more = {of: devices(of) for of in rules.meshes}
    return Grid(mesh, next(iter(more.values())), rank, device, rules, more)


def leave_compiler() -> None:
    """Spare a rank the import of torch's compiler: it takes as long as a third of torch itself.

    The first DTensor brings it in, for its constructor to be marked as not to be compiled
    (`torch._compile._disable_dynamo`). A rank compiles nothing, so the constructor may be its own
    marked one. A torch that does it otherwise is left as it is.
    """
    for method in (DTensor.__new__, DTensor.__init__):
        made = getattr(method, "__wrapped__", None)
        if made is not None and not hasattr(made, "__dynamo_disable"):
            setattr(made, "__dynamo_disable", made)


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
        _, sizes = grid.box(tensor)
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
            grid.devices_of(tensor),
            grid.placements(tensor),
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
        offsets, sizes = self.grid.box(tensor)
        if tuple(shard.shape) != sizes:
            raise ValueError(f"this rank holds {list(shard.shape)}, not {list(sizes)}")
        if shard.dtype != torch_dtype(tensor.dtype):
            raise TypeError(f"this rank holds {shard.dtype}, not torch.{tensor.dtype}")
        host = bytes_view(shard.detach().contiguous()).cpu().numpy()
        return Local(host, offsets, sizes, itemsize(tensor.dtype) or 1)

    def fill(self, tensor: Tensor, data: Bytes) -> None:
        """Put bytes into this rank's part of a tensor that went as a DTensor."""
        shard = self.state[tensor.fqn].to_local()
        if len(data):
            bytes_view(shard).copy_(torch.from_numpy(data))

    def local_bytes(self, fqn: str) -> bytes | None:
        """A bytes entry as it came, or None if it did not."""
        value: RawBytes = self.state[fqn]
        return value.data

    def drop(self, fqns: set[str]) -> None:
        """Leave entries out of what follows."""
        for fqn in fqns:
            self.state.pop(fqn, None)


_STATE = re.compile(r"(?:\A|\.)(?:state|optim|optimizer)\.")
_FLAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
_GROUP = 4


def why_not_parameter(tensor: Tensor, grid: Grid, via: str) -> str:
    """Why a tensor cannot be an FSDP parameter, or an empty string."""
    if not tensor.shape:
        return "FSDP takes no 0-d parameters"
    if _STATE.search(tensor.fqn):
        return "it is optimizer state"
    if via == "fsdp1":
        if tensor.dtype not in _FLAT_DTYPES:
            return f"FSDP1 cannot flatten {tensor.dtype}"
        if tensor.num_elements == 0:
            return "FSDP1 cannot flatten a tensor without elements"
        return ""
    if grid.rules is not None and grid.lies(tensor).dims[grid.fsdp_axis] != 0:
        return "fully_shard cuts dim 0 unless told otherwise"
    if 0 in tensor.shape[1:]:
        return "fully_shard does not keep the shape of a tensor without elements"
    return _trial(tensor.dtype, grid)


@cache
def _trial(dtype: str, grid: Grid) -> str:
    try:
        module = _module([[((2, 2), dtype)]])
        _shard(module, grid)
        get_model_state_dict(module)
    except Exception as error:
        return f"fully_shard of this torch refuses {dtype} ({str(error)[:120]})"
    return ""


class GhostTargets(Targets):
    """The state dict of a ghost module on one mesh, and DTensors for the rest."""

    def __init__(self, grid: Grid, via: str) -> None:
        super().__init__(grid)
        self._way = via
        self._names: dict[str, str] = {}
        self._tensors: list[Tensor] = []
        self._module: nn.Module | None = None

    def add(self, tensor: Tensor) -> None:
        """A parameter for a tensor, where it can be one; else a DTensor."""
        if why_not_parameter(tensor, self.grid, self._way):
            super().add(tensor)
        else:
            self._tensors.append(tensor)

    def build(self) -> None:
        """Make and wrap the module, once all tensors are there."""
        if not self._tensors:
            return
        groups: list[list[Tensor]] = []
        for tensor in sorted(self._tensors, key=lambda t: t.dtype):
            # One dtype to a unit: FSDP1's flat parameter can hold only one.
            if not groups or len(groups[-1]) == _GROUP or groups[-1][0].dtype != tensor.dtype:
                groups.append([])
            groups[-1].append(tensor)
        self._names = {
            f"g{g}.p{p}": tensor.fqn
            for g, group in enumerate(groups)
            for p, tensor in enumerate(group)
        }
        module = _module([[(t.shape, t.dtype) for t in group] for group in groups])
        if self.grid.rules is not None:
            for g, group in enumerate(groups):
                for p, tensor in enumerate(group):
                    _parallelize(module.get_submodule(f"g{g}"), f"p{p}", tensor, self.grid)
        self._module = (_flatten if self._way == "fsdp1" else _shard)(module, self.grid)
        self._take(is_new=True)

    def loaded(self) -> None:
        """Give the loaded state dict to the module, and take the module's own again."""
        if self._module is None:
            return
        own = {name: self.state[fqn] for name, fqn in self._names.items()}
        set_model_state_dict(self._module, own)
        self._take(is_new=False)

    def _take(self, is_new: bool) -> None:
        assert self._module is not None  # noqa: S101 - the callers looked
        dropped = set() if is_new else {f for f in self._names.values() if f not in self.state}
        for name, value in get_model_state_dict(self._module).items():
            fqn = self._names[name]
            if fqn in dropped:
                continue
            if is_new:
                local: Any = value.to_local() if isinstance(value, DTensor) else value
                if local.numel():
                    poison(local)
                self.via[fqn] = self._way
            self.state[fqn] = value


def _module(groups: list[list[tuple[tuple[int, ...], str]]]) -> nn.Module:
    root = nn.Module()
    for g, group in enumerate(groups):
        child = nn.Module()
        for p, (shape, name) in enumerate(group):
            dtype = torch_dtype(name)
            value = torch.empty(shape, dtype=dtype, device="meta")
            grad = value.is_floating_point() or value.is_complex()
            child.register_parameter(f"p{p}", nn.Parameter(value, requires_grad=grad))
        root.add_module(f"g{g}", child)
    return root


def _parallelize(module: nn.Module, name: str, tensor: Tensor, grid: Grid) -> None:
    """Make a parameter that tensor axes cut a DTensor on them, as `parallelize_module` does."""
    lies, data = grid.lies(tensor), module.get_parameter(name)
    names = tuple(n for n, k in zip(lies.mesh.axes, lies.mesh.kinds, strict=True) if k == "tensor")
    dims = [lies.dims[lies.mesh.axes.index(n)] for n in names]
    if all(dim is None for dim in dims):
        return
    how = [Replicate() if dim is None else Shard(dim) for dim in dims]
    mesh = grid.devices[names]
    sizes, _ = compute_local_shape_and_global_offset(data.shape, mesh, how)
    local = torch.empty(sizes, dtype=data.dtype, device="meta")
    value = DTensor.from_local(
        local, mesh, how, run_check=False, shape=data.shape, stride=data.stride()
    )
    module.register_parameter(name, nn.Parameter(value, requires_grad=data.requires_grad))


def _shard(module: nn.Module, grid: Grid) -> nn.Module:
    """FSDP2; on a mesh of several axes over those that replicate and shard."""
    devices = grid.devices
    if grid.rules is not None:
        (mesh,) = grid.rules.meshes
        pairs = zip(mesh.axes, mesh.kinds, strict=True)
        devices = devices[tuple(n for n, kind in pairs if kind in ("replicate", "shard"))]
    for child in module.children():
        fully_shard(child, mesh=devices)
    fully_shard(module, mesh=devices)
    return module.to_empty(device=grid.device)


def _flatten(module: nn.Module, grid: Grid) -> nn.Module:
    """FSDP1; on the CPU it works only with an explicit `device_id`."""
    is_hybrid = grid.mesh.family == "hsdp"
    strategy = ShardingStrategy.HYBRID_SHARD if is_hybrid else ShardingStrategy.FULL_SHARD
    options: dict[str, Any] = {
        "device_mesh": grid.devices,
        "sharding_strategy": strategy,
        "device_id": grid.device,
        "use_orig_params": True,
        "param_init_fn": lambda m: m.to_empty(device=grid.device, recurse=False),
    }
    for name, child in list(module.named_children()):
        setattr(module, name, FullyShardedDataParallel(child, **options))
    return FullyShardedDataParallel(module, **options)
