"""Small checkpoints with any tensors in any chunks, written with torch's own classes."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from inspector.checkpoint.find.locate import folder_of, read_checkpoint
from inspector.diff.model import Diff, Side, TensorDiff
from inspector.diff.structure import compare_structure
from inspector.diff.values import compare_values

Box = tuple[tuple[int, ...], tuple[int, ...]]

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32,
    torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def whole(shape: Sequence[int]) -> list[Box]:
    """One chunk."""
    return [((0,) * len(shape), tuple(shape))]


def shards(shape: Sequence[int], dim: int, num: int) -> list[Box]:
    """`Shard(dim)` over `num` ranks, the empty ones left out."""
    step = -(-shape[dim] // num)
    found = []
    for start in range(0, shape[dim], step):
        offsets, sizes = [0] * len(shape), list(shape)
        offsets[dim], sizes[dim] = start, min(step, shape[dim] - start)
        found.append((tuple(offsets), tuple(sizes)))
    return found


def tiling(shape: Sequence[int], seed: int, num_cuts: int = 6) -> list[Box]:
    """The whole cut in two again and again, anywhere: mostly no grid."""
    rng = random.Random(seed)  # noqa: S311
    boxes = whole(shape)
    for _ in range(num_cuts):
        offsets, sizes = boxes.pop(rng.randrange(len(boxes)))
        dims = [d for d, n in enumerate(sizes) if n > 1]
        if not dims:
            boxes.append((offsets, sizes))
            continue
        dim = rng.choice(dims)
        at = rng.randrange(1, sizes[dim])
        first, rest, begin = list(sizes), list(sizes), list(offsets)
        first[dim], rest[dim], begin[dim] = at, sizes[dim] - at, offsets[dim] + at
        boxes += [(offsets, tuple(first)), (tuple(begin), tuple(rest))]
    rng.shuffle(boxes)
    return boxes


def part(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    return tensor[tuple(slice(o, o + n) for o, n in zip(*box, strict=True))]


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def write(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    cuts: Mapping[str, list[Box]] | None = None,
    entries: Mapping[str, object] | None = None,
    *,
    num_files: int = 3,
    strided: bool = False,
) -> Path:
    """A checkpoint with these tensors in these chunks (default: one each).

    Args:
        folder: Where to.
        tensors: By name.
        cuts: The boxes of each.
        entries: The bytes entries.
        num_files: The chunks are dealt out to so many data files.
        strided: Keep the views' strides, instead of making them contiguous.
    """
    folder.mkdir(parents=True)
    files = [bytearray() for _ in range(num_files)]
    described: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    count = 0

    def place(index: MetadataIndex, data: bytes) -> None:
        nonlocal count
        number = count % num_files
        count += 1
        stored[index] = _StorageInfo(f"__{number}_0.distcp", len(files[number]), len(data))
        files[number] += data

    for fqn, tensor in tensors.items():
        boxes = (cuts or {}).get(fqn, whole(tensor.shape))
        chunks = [ChunkStorageMetadata(torch.Size(o), torch.Size(n)) for o, n in boxes]
        described[fqn] = TensorStorageMetadata(
            TensorProperties(dtype=tensor.dtype), tensor.size(), chunks
        )
        for box in boxes:
            chunk = part(tensor, box)
            # `clone` keeps strides where it can; a view's storage would come whole.
            chunk = chunk.clone() if strided else chunk.clone().contiguous()
            place(MetadataIndex(fqn, torch.Size(box[0])), saved(chunk))
    for fqn, value in (entries or {}).items():
        described[fqn] = BytesStorageMetadata()
        place(MetadataIndex(fqn), saved(value))
    for number, data in enumerate(files):
        (folder / f"__{number}_0.distcp").write_bytes(data)
    metadata = Metadata(state_dict_metadata=described, storage_data=stored)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def place_of(folder: Path, fqn: str, offsets: Sequence[int] | None = None) -> tuple[Path, int, int]:
    """File, offset and length of a payload (the first, or the one at `offsets`)."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    wanted = None if offsets is None else torch.Size(offsets)
    info = next(
        v for k, v in metadata.storage_data.items() if k.fqn == fqn and wanted in (None, k.offset)
    )
    return folder / info.relative_path, info.offset, info.length


def side(folder: Path | str) -> Side:
    storage = folder_of(str(folder))
    return Side(read_checkpoint(storage), storage)


def diff_of(a: Path, b: Path, **options: Any) -> Diff:
    return compare_values(compare_structure(side(a), side(b)), **options)


def only(diff: Diff) -> TensorDiff:
    (found,) = diff.tensors
    return found


def sample(dtype: torch.dtype, shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Random values, whatever the type."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, tuple(shape), generator=generator).bool()
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype)
    if dtype.is_floating_point:
        # float8_e8m0fnu holds powers of two alone.
        values = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
        return (values.abs() + 0.5 if dtype == torch.float8_e8m0fnu else values).to(dtype)
    count = int(torch.tensor(shape).prod()) if shape else 1
    raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=generator).to(torch.uint8)
    return raw.view(dtype).reshape(tuple(shape))


def raw_bits(tensor: torch.Tensor) -> bytes:
    """The elements' bytes, as hashlib would be given them."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def flipped(tensor: torch.Tensor, position: int, bit: int = 0) -> torch.Tensor:
    """A copy with one bit of one element flipped."""
    raw = bytearray(raw_bits(tensor))
    raw[position * tensor.element_size() + bit // 8] ^= 1 << bit % 8
    return torch.frombuffer(raw, dtype=torch.uint8).view(tensor.dtype).reshape(tensor.shape)


RESAVE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, zeros
rank, world, store, source, target = sys.argv[1:]
rank, world = int(rank), int(world)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
state = {}
for fqn, found in dcp.FileSystemReader(source).read_metadata().state_dict_metadata.items():
    if not isinstance(found, TensorStorageMetadata):
        state[fqn] = None
    elif len(found.size):
        dtype = found.properties.dtype
        state[fqn] = zeros(found.size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    else:
        state[fqn] = torch.zeros((), dtype=found.properties.dtype)
dcp.load(state, checkpoint_id=source)
dcp.save(state, checkpoint_id=target)
dist.barrier()
dist.destroy_process_group()
"""


def resave(source: Path, target: Path, world: int, scratch: Path) -> Path:
    """Load a checkpoint under FSDP over so many processes, and save it again: torch's own work."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RESAVE, str(rank), str(world), str(scratch / "store"),
             str(source), str(target)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]  # fmt: skip
    assert [rank.wait(120) for rank in ranks] == [0] * world
    return target
